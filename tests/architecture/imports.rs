//! Which source of the product takes names from which other one.
//!
//! A small reader of `mod`, `use` and paths, without the compiler. Re-exports are looked through: whoever imports
//! `smtp::Reply` takes it from the file that defines it, and a `pub use` takes nothing by itself. Tests inside of a file
//! are left out, since nothing is built on them, and so are methods, which no path names.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::tokens;

/// From a file to another: the names that the first takes.
pub type Arrows = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// How many re-exports are followed to find a name; more are a circle of re-exports.
const DEEPEST: usize = 16;

/// All sources of a crate, each by the path of its module.
pub struct Sources(BTreeMap<Vec<String>, Source>);

struct Source {
    file: String,
    children: BTreeSet<String>,
    items: BTreeSet<String>,
    imports: Vec<Import>,
    /// What stands anywhere but in imports, as [`tokens`] gives it.
    rest: Vec<String>,
}

/// One name that a `use` brings.
#[derive(Debug, PartialEq, Eq)]
struct Import {
    path: Vec<String>,
    /// What it is called here; `*` for all names of a module.
    name: String,
    is_public: bool,
}

/// What a path stands for.
enum Found {
    Module(Vec<String>),
    /// Something that the file of this module defines.
    Item(Vec<String>),
}

impl Sources {
    /// `files` are paths below `src` with their texts.
    pub fn read(files: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(files.into_iter().map(|(file, text)| (module_of(&file), Source::read(file, &text))).collect())
    }

    pub fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::new();
        for (module, source) in &self.0 {
            let imported = source.imports.iter().filter(|import| !import.is_public || source.says(&import.name));
            for path in imported.map(|import| import.path.clone()).chain(source.paths()) {
                let Some(Found::Item(owner)) = self.find(module, &path, 0) else { continue };
                let other = &self.0[&owner].file;
                if *other != source.file {
                    let names = arrows.entry(source.file.clone()).or_default().entry(other.clone()).or_default();
                    names.extend(path.last().cloned());
                }
            }
        }
        arrows
    }

    /// What a path in a module stands for; none when it leads out of the crate.
    fn find(&self, module: &[String], path: &[String], depth: usize) -> Option<Found> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.below(Vec::new(), rest, depth),
            "self" => self.below(module.to_vec(), rest, depth),
            "super" => self.below(parent(module)?, rest, depth),
            name if self.0[module].knows(name) => self.below(module.to_vec(), path, depth),
            _ => None,
        }
    }

    fn below(&self, mut module: Vec<String>, path: &[String], depth: usize) -> Option<Found> {
        let source = self.0.get(&module).filter(|_| depth < DEEPEST)?;
        let Some((name, rest)) = path.split_first() else { return Some(Found::Module(module)) };
        match name.as_str() {
            "self" => return self.below(module, rest, depth),
            "super" => return self.below(parent(&module)?, rest, depth),
            "*" => return Some(Found::Item(module)),
            _ => {}
        }
        if source.children.contains(name) {
            module.push(name.clone());
            return self.below(module, rest, depth);
        }
        if let Some(import) = source.imports.iter().find(|import| import.name == *name) {
            return match self.find(&module, &import.path, depth + 1)? {
                Found::Module(other) => self.below(other, rest, depth + 1),
                item @ Found::Item(_) => Some(item),
            };
        }
        let all = source.imports.iter().filter(|import| import.name == "*" && !source.items.contains(name));
        let globs = all.filter_map(|import| match self.find(&module, &import.path, depth + 1) {
            Some(Found::Item(other)) if self.0[&other].knows(name) => Some(other),
            _ => None,
        });
        match globs.into_iter().next() {
            Some(other) => self.below(other, path, depth + 1),
            None => Some(Found::Item(module)),
        }
    }
}

impl Source {
    fn read(file: String, text: &str) -> Self {
        let mut source =
            Self { file, children: BTreeSet::new(), items: BTreeSet::new(), imports: Vec::new(), rest: Vec::new() };
        let tokens = without_tests(tokens(text));
        let mut at = 0;
        while at < tokens.len() {
            let next = tokens.get(at + 1).map_or("", String::as_str);
            match tokens[at].as_str() {
                "use" => {
                    let is_public = at > 0 && matches!(tokens[at - 1].as_str(), "pub" | ")");
                    let end = tokens[at..].iter().position(|token| token == ";").map_or(tokens.len(), |end| at + end);
                    source.import(&tokens[at + 1..end], &[], is_public);
                    at = end;
                }
                "mod" if tokens.get(at + 2).is_some_and(|token| token == ";") => {
                    source.children.insert(next.to_owned());
                    at += 2;
                }
                token => {
                    if matches!(token, "struct" | "enum" | "fn" | "trait" | "type" | "const" | "static") {
                        source.items.insert(next.to_owned());
                    }
                    source.rest.push(token.to_owned());
                }
            }
            at += 1;
        }
        source
    }

    /// Reads what stands behind a `use`, or in the braces of one.
    fn import(&mut self, tree: &[String], before: &[String], is_public: bool) {
        let Some((first, rest)) = tree.split_first() else { return };
        let own = first.split("::").filter(|name| !name.is_empty()).map(str::to_owned);
        let mut path: Vec<String> = before.iter().cloned().chain(own).collect();
        match rest {
            [colons, brace, inner @ .., _] if colons == "::" && brace == "{" => {
                for tree in at_commas(inner) {
                    self.import(tree, &path, is_public);
                }
            }
            [colons, star] if colons == "::" && star == "*" => {
                path.push("*".into());
                self.imports.push(Import { path, name: "*".into(), is_public });
            }
            _ => {
                if path.last().is_some_and(|name| name == "self") && path.len() > 1 {
                    path.pop();
                }
                let name = rest.last().or(path.last()).cloned().unwrap_or_default();
                self.imports.push(Import { path, name, is_public });
            }
        }
    }

    fn knows(&self, name: &str) -> bool {
        let imported = self.imports.iter().any(|import| import.name == name);
        self.children.contains(name) || self.items.contains(name) || imported
    }

    /// Whether the name stands anywhere but in imports.
    fn says(&self, name: &str) -> bool {
        self.rest.iter().any(|token| token.split("::").next() == Some(name))
    }

    fn paths(&self) -> impl Iterator<Item = Vec<String>> {
        let paths = self.rest.iter().filter(|token| token.len() > 2 && token.contains("::"));
        paths.map(|path| path.split("::").map(str::to_owned).collect())
    }
}

/// Without the modules of tests that stand in the file itself.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(tokens.len());
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_module = token == "{" && kept.len() > 1 && kept[kept.len() - 2] == "mod";
        kept.push(token);
        if is_module && kept[kept.len() - 2] == "tests" {
            let mut depth = 1;
            while depth > 0
                && let Some(inner) = tokens.next()
            {
                depth += i32::from(inner == "{") - i32::from(inner == "}");
            }
        }
    }
    kept
}

fn at_commas(tokens: &[String]) -> Vec<&[String]> {
    let mut depth = 0;
    let parts = tokens.split(|token| {
        depth += i32::from(token == "{") - i32::from(token == "}");
        token == "," && depth == 0
    });
    parts.collect()
}

fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

fn parent(module: &[String]) -> Option<Vec<String>> {
    Some(module.split_last()?.1.to_vec())
}

/// The sets of files that take from each other, whichever way round.
pub fn circles(arrows: &Arrows) -> BTreeSet<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        arrows.keys().map(|file| (file, reachable(arrows, file))).collect();
    let together = |file: &String| -> BTreeSet<String> {
        let others = reached[file].iter().filter(|other| reached.get(**other).is_some_and(|back| back.contains(file)));
        others.map(|other| (*other).clone()).collect()
    };
    arrows.keys().map(together).filter(|circle| !circle.is_empty()).collect()
}

fn reachable<'a>(arrows: &'a Arrows, from: &String) -> BTreeSet<&'a String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        for other in arrows.get(file).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(other) {
                next.push(other);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let files = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
        let circles = circles(&Sources::read(files).arrows());
        circles.into_iter().map(|circle| circle.into_iter().collect()).collect()
    }

    #[test]
    fn a_circle_is_seen_however_the_names_are_imported() {
        let lib = ("lib.rs", "pub mod queue; pub mod smtp;");
        let queue = ("queue/mod.rs", "mod a; mod b; mod c; pub use a::One; pub use c::*;");
        for (a, b) in [
            ("use super::b::Two; struct One;", "use super::a::One; struct Two;"),
            ("use super::{b::{Two, Other as Third}, x}; struct One;", "use crate::queue::One; struct Two;"),
            ("use super::b; struct One(b::Two);", "use crate::{queue::{self}}; struct Two(queue::One);"),
            ("struct One(super::b::Two);", "fn two(_: crate::queue::One) {}"),
            ("use super::b::*; struct One;", "use super::super::queue::One as First; struct Two;"),
        ] {
            let files = [lib, queue, ("queue/a.rs", a), ("queue/b.rs", b), ("queue/c.rs", ""), ("smtp.rs", "")];
            assert_eq!(found(&files), [["queue/a.rs", "queue/b.rs"]], "{a} and {b}");
        }
        let around = [
            ("queue/a.rs", "use super::b::Two; struct One;"),
            ("queue/b.rs", "use super::Three; struct Two;"),
            ("queue/c.rs", "use super::One; struct Three;"),
        ];
        let files = [&[lib, queue, ("smtp.rs", "")], &around[..]].concat();
        assert_eq!(found(&files), [["queue/a.rs", "queue/b.rs", "queue/c.rs"]]);
    }

    #[test]
    fn a_parent_that_only_declares_and_exports_its_children_takes_nothing_from_them() {
        let child = ("dead/look.rs", "use super::Letter; pub struct Head;");
        let lib = ("lib.rs", "mod dead;");
        let declares = "mod look; pub use look::Head; pub struct Letter;";
        assert_eq!(found(&[lib, ("dead.rs", declares), child]), [[""; 0]; 0]);
        let takes = "mod look; pub use look::Head; pub struct Letter(Head);";
        assert_eq!(found(&[lib, ("dead.rs", takes), child]), [["dead.rs", "dead/look.rs"]]);
        let private = "mod look; use look::Head; pub struct Letter;";
        assert_eq!(found(&[lib, ("dead.rs", private), child]), [["dead.rs", "dead/look.rs"]]);
    }

    #[test]
    fn tests_comments_and_texts_take_nothing() {
        let a = "// use super::b::Two;\nstruct One; const TEXT: &str = \"super::b::Two\";\n#[cfg(test)]\nmod tests { use crate::b::Two; }";
        let files = [("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", "use crate::a::One; struct Two;")];
        assert_eq!(found(&files), [[""; 0]; 0]);
    }
}
