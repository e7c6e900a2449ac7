//! `docs/requirements.md` names tests for every row; they are there, and the rows that are missing are named as missing.

use std::path::Path;

use super::{read, sources};

/// What stands in backticks in a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_has_tests_and_they_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code: String =
        ["src", "tests"].iter().flat_map(|folder| sources(&root.join(folder))).map(|file| read(&file)).collect();
    let text = read(&root.join("docs/requirements.md"));
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let mut numbers = Vec::new();
    for row in &rows {
        let Ok(number) = row[1].parse::<u32>() else { continue };
        numbers.push(number);
        let tests: Vec<&str> = quoted(row[3]).filter(|word| !word.starts_with("make ")).collect();
        assert!(!tests.is_empty(), "row {number} has no test");
        for test in tests {
            let is_there =
                if test.contains('/') { root.join(test).is_file() } else { code.contains(&format!("fn {test}(")) };
            assert!(is_there, "row {number}: there is no {test}");
        }
    }
    let missing = text.lines().find(|line| line.starts_with("Not there yet:")).expect("what is missing");
    let is_named = |row: &u32| missing.contains(&format!(" {row} ")) || missing.contains(&format!(" {row},"));
    // 40 to 46 are named together.
    let untold: Vec<u32> = (1..40).filter(|row| !numbers.contains(row) && !is_named(row)).collect();
    assert!(untold.is_empty(), "rows {untold:?} have no test and are not named as missing");
}
