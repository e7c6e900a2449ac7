//! The order of the modules (see the crate's rustdoc): a module uses only those above it, no two files take from each other,
//! and no file is too long to be read at once.

mod imports;
mod requirements;
mod tokens;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use imports::{Sources, circles};

/// From top to bottom. `telemetry` is a leaf that imports nothing of ours; everybody below may use it.
const ORDER: [&str; 14] = [
    "telemetry",
    "system",
    "api",
    "budget",
    "store",
    "lease",
    "rate",
    "delivery_log",
    "mail",
    "queue",
    "smtp",
    "controller",
    "worker",
    "cli",
];

/// What is above and yet not to be used: the two halves of the product never import each other, and only one sends.
const FORBIDDEN: [(&str, &str); 3] = [("worker", "controller"), ("worker", "budget"), ("controller", "smtp")];

/// The only ones that know Kubernetes. Workers and the command line need no token.
const KUBERNETES: [&str; 2] = ["api", "controller"];

/// Sources that decide and do nothing else: clock and randomness are arguments, and nothing waits.
const PURE: [&str; 89] = [
    "api/mail_server.rs",
    "api/server.rs",
    "api/spec.rs",
    "api/spec/queue.rs",
    "api/spec/retry.rs",
    "api/spec/entry.rs",
    "api/reason.rs",
    "api/record.rs",
    "budget.rs",
    "lease/holder.rs",
    "lease/holder/slots.rs",
    "lease/holder/sync.rs",
    "lease/holder/withheld.rs",
    "lease/quarantine.rs",
    "lease/recovery.rs",
    "lease/recovery/action.rs",
    "lease/recovery/decide.rs",
    "lease/recovery/mirror.rs",
    "lease/recovery/restore.rs",
    "lease/recovery/unlisted.rs",
    "lease/state/ledger.rs",
    "mail/address.rs",
    "mail/compose.rs",
    "mail/compose/headers.rs",
    "mail/compose/long_text.rs",
    "mail/compose/message.rs",
    "mail/compose/parts.rs",
    "mail/encoded.rs",
    "mail/fields.rs",
    "mail/header.rs",
    "mail/json.rs",
    "mail/model.rs",
    "mail/parse.rs",
    "mail/raw.rs",
    "mail/seven_bit.rs",
    "queue/attempts.rs",
    "queue/audit.rs",
    "queue/claim/decide.rs",
    "queue/envelope.rs",
    "queue/header.rs",
    "queue/patience.rs",
    "queue/recover/case.rs",
    "queue/retry.rs",
    "queue/schedule.rs",
    "queue/settle/ending.rs",
    "queue/stage.rs",
    "smtp/offers.rs",
    "smtp/reply.rs",
    "smtp/reply_reader.rs",
    "smtp/reply_text.rs",
    "smtp/reply_text/phrases.rs",
    "smtp/reply_text/wait.rs",
    "smtp/send/encoder.rs",
    "smtp/table.rs",
    "controller/drive/saturation.rs",
    "controller/drive/idle.rs",
    "controller/drive/shares.rs",
    "controller/observe/evidence.rs",
    "controller/observe/liveness.rs",
    "controller/observe/topology.rs",
    "controller/plan/candidates.rs",
    "controller/plan/decide.rs",
    "controller/plan/lenders.rs",
    "controller/plan/ownership.rs",
    "controller/plan/pool.rs",
    "controller/plan/relay.rs",
    "controller/plan/selection.rs",
    "controller/plan/server.rs",
    "controller/plan/succession.rs",
    "controller/publish/release.rs",
    "controller/status/compose.rs",
    "controller/status/conditions/mod.rs",
    "controller/status/conditions/queue.rs",
    "controller/status/conditions/ready.rs",
    "controller/status/conditions/servers.rs",
    "controller/status/conditions/slots.rs",
    "controller/status/conditions/store.rs",
    "controller/status/conditions/verdict.rs",
    "controller/status/conditions/workers.rs",
    "controller/status/debts.rs",
    "controller/status/facts.rs",
    "controller/status/mail_server.rs",
    "controller/status/measured.rs",
    "controller/status/mirror.rs",
    "controller/status/notes.rs",
    "worker/guard.rs",
    "worker/outcome.rs",
    "worker/suspects.rs",
    "worker/withhold.rs",
];

/// How many lines a file may have.
const LONGEST: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// A source as the lists here name it.
fn name(file: &Path) -> String {
    file.strip_prefix(root()).expect("a source of ours").to_string_lossy().into_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether `module` may use `other`.
fn may_use(module: &str, other: &str) -> bool {
    let place = |name: &str| ORDER.iter().position(|known| *known == name);
    let above = place(other) < place(module) && place(other).is_some();
    above && !FORBIDDEN.contains(&(module, other))
}

/// Every source with its module; `lib.rs` and `main.rs` belong to none.
fn modules() -> Vec<(String, PathBuf)> {
    let root = root();
    let of = |file: PathBuf| {
        let first = file.strip_prefix(&root).expect("a source of ours").components().next().expect("a name");
        (first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned(), file)
    };
    sources(&root).into_iter().map(of).filter(|(module, _)| !matches!(&**module, "lib" | "main")).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// A source without its comments.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    lines.join("\n")
}

/// The modules of ours that a source names: `crate::name` and `use crate::{name, ...}`.
fn used(text: &str) -> Vec<String> {
    let code = code(text);
    let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                letter if start && letter.is_alphanumeric() => {
                    names.push(word(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn modules_use_only_those_above_them() {
    let mut wrong = BTreeSet::new();
    for (module, file) in modules() {
        for name in used(&read(&file)).iter().filter(|name| **name != module && !may_use(&module, name)) {
            wrong.insert(format!("{} uses {name}", file.display()));
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn no_two_files_take_from_each_other() {
    let files: Vec<(String, String)> =
        sources(&root()).iter().map(|file| (name(file), read(file))).filter(|(name, _)| name != "main.rs").collect();
    let arrows = Sources::read(files).arrows();
    let mut told = String::new();
    for circle in circles(&arrows) {
        for (file, others) in arrows.iter().filter(|(file, _)| circle.contains(*file)) {
            for (other, names) in others.iter().filter(|(other, _)| circle.contains(*other)) {
                let _ = writeln!(told, "{file} takes from {other}: {names:?}");
            }
        }
        told.push('\n');
    }
    assert!(told.is_empty(), "files that take from each other:\n{told}");
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    let long = sources(&root()).into_iter().filter(|file| read(file).lines().count() > LONGEST);
    let long: BTreeSet<String> = long.map(|file| name(&file)).collect();
    assert!(long.is_empty(), "files of more than {LONGEST} lines: {long:?}");
}

#[test]
fn every_module_has_a_place_in_the_order() {
    let text = read(&root().join("lib.rs"));
    let declared: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared, BTreeSet::from(ORDER));
    let found: BTreeSet<String> = modules().into_iter().map(|(module, _)| module).collect();
    assert_eq!(found, declared.into_iter().map(str::to_owned).collect());
}

#[test]
fn only_the_api_types_and_the_controller_know_kubernetes() {
    let mut wrong = BTreeSet::new();
    for (module, file) in modules().into_iter().filter(|(module, _)| !KUBERNETES.contains(&&**module)) {
        let code = code(&read(&file));
        if code.contains("kube::") || code.contains("k8s_openapi") {
            wrong.insert(format!("{module}: {}", file.display()));
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn what_decides_has_no_clock_no_randomness_and_no_connection() {
    for name in PURE {
        let text = code(&read(&root().join(name)));
        let (product, _) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
        for word in ["::now()", ".elapsed()", "rand::", "tokio::", "redis::", "std::net::", "std::fs", "async fn"] {
            assert!(!product.contains(word), "{name} has {word}");
        }
    }
}

#[test]
fn what_happens_to_mail_goes_by_the_clock_of_redis() {
    // Where nothing was heard of it yet, and for what a person does to dead letters, whose dates are for people.
    let exempt = ["queue/handle.rs", "cli/dead.rs"].map(|name| root().join(name));
    for (_, file) in modules().into_iter().filter(|(_, file)| !exempt.contains(file)) {
        assert!(!code(&read(&file)).contains("UnixMillis::now()"), "{} asks a clock of its own", file.display());
    }
}

#[test]
fn the_reader_of_imports_sees_both_spellings() {
    let text = "use crate::{\n    api::{Server, Tls},\n    lease::Timing,\n    store,\n};\nlet x = crate::queue::depth();\n// crate::worker\n";
    assert_eq!(used(text), ["api", "lease", "store", "queue"]);
}
