//! Folders in the order in which data flows: a module uses only those above it (design: style.md, Layout).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From top to bottom. `telemetry` is a leaf that imports nothing of ours; everybody may use it.
const ORDER: [&str; 7] = ["api", "budget", "store", "lease", "queue", "smtp", "worker"];

/// What each module may use.
fn allowed(module: &str) -> Vec<&'static str> {
    match module {
        "telemetry" => Vec::new(),
        // The two halves of the product never import each other.
        "controller" => vec!["api", "budget", "store", "lease", "queue", "telemetry"],
        "worker" => vec!["api", "store", "lease", "queue", "smtp", "telemetry"],
        "cli" => vec!["api", "store", "lease", "queue", "smtp", "worker", "controller", "telemetry"],
        _ => {
            let at = ORDER.iter().position(|name| *name == module).expect("a module with a place in the order");
            ORDER[..at].iter().copied().chain(["telemetry"]).collect()
        }
    }
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

/// The modules of ours that a source names: `crate::name` and `use crate::{name, ...}`.
fn used(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in sources(&root) {
        let inside = file.strip_prefix(&root).expect("a source of ours");
        let module = inside.components().next().expect("a name").as_os_str().to_string_lossy();
        let module = module.trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let allowed = allowed(module);
        let text = fs::read_to_string(&file).expect("a readable source");
        for name in used(&text).into_iter().filter(|name| name != module && !allowed.contains(&&**name)) {
            wrong.push(format!("{} uses {name}", inside.display()));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_reader_of_imports_sees_both_spellings() {
    let text = "use crate::{\n    api::{Server, Tls},\n    lease::Timing,\n    store,\n};\nlet x = crate::queue::depth();\n// crate::worker\n";
    assert_eq!(used(text), ["api", "lease", "store", "queue"]);
}
