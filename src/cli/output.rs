//! How results are printed: as a table for people, or as JSON for programs.

use std::{borrow::Cow, io::Write as _};

use serde::Serialize;

use super::error::CliError;

/// What results look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people; may change between versions.
    Table,
    /// For programs: one JSON document.
    Json,
}

impl Output {
    /// Prints `value` as JSON, or what `table` makes of it.
    pub fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        let text = match self {
            Self::Table => table(value),
            Self::Json => {
                let mut text = json(value)?;
                text.push('\n');
                text
            }
        };
        print(&text)
    }
}

/// Results that are printed page by page, since there may be more of them than memory.
pub struct Pages {
    output: Output,
    begun: bool,
}

impl Pages {
    /// Nothing is printed yet.
    pub fn new(output: Output) -> Self {
        Self { output, begun: false }
    }

    /// Prints one page: the elements of a JSON list, or rows of a table, whose headings come once.
    pub fn print<T: Serialize>(&mut self, page: &[T], table: impl FnOnce(&[T]) -> Table) -> Result<(), CliError> {
        let first = !std::mem::replace(&mut self.begun, true);
        let text = match self.output {
            Output::Table => table(page).text(first),
            Output::Json => {
                let mut text = String::new();
                for (number, element) in page.iter().enumerate() {
                    text.push_str(if first && number == 0 { "[\n" } else { ",\n" });
                    text.push_str(&json(element)?);
                }
                text
            }
        };
        print(&text)
    }

    /// Prints what ends the list; `table` stands for one without rows.
    pub fn end(self, table: &Table) -> Result<(), CliError> {
        match (self.output, self.begun) {
            (Output::Table, true) => Ok(()),
            (Output::Table, false) => print(&table.render()),
            (Output::Json, true) => print("\n]\n"),
            (Output::Json, false) => print("[]\n"),
        }
    }
}

fn json(value: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string_pretty(value)
        .map_err(|error| CliError::Failed(format!("cannot write the result as JSON: {error}")))
}

/// As much of a payload as a table shows.
pub fn excerpt(payload: &str) -> Cow<'_, str> {
    const MOST: usize = 4_096;
    match payload.char_indices().nth(MOST) {
        None => Cow::Borrowed(payload),
        Some((end, _)) => {
            Cow::Owned(format!("{} … ({} bytes in all; -o json shows them)", &payload[..end], payload.len()))
        }
    }
}

/// Writes to standard output. A reader that went away (`| head`) is not an error.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Columns of text, each as wide as its widest cell, two spaces apart.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row. Control characters are shown as `?`: what came from outside must not drive the terminal.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl ToString>) {
        self.rows.push(cells.into_iter().map(|cell| shown(&cell.to_string())).collect());
    }

    /// Whether there is nothing but the headings.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The text, each line ended.
    pub fn render(&self) -> String {
        self.text(true)
    }

    /// The same, with the headings or without.
    fn text(&self, headings: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in self.rows.iter().skip(usize::from(!headings)) {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                line.push_str(cell);
                // Nothing comes after the last: one long cell must not make all lines as long.
                if at + 1 < row.len() {
                    line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn shown(text: &str) -> String {
    let text = if text.is_empty() { "-" } else { text };
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A span of time in its two largest units, as kubectl prints ages.
pub fn age(span: std::time::Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.subsec_millis()),
        1..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m{}s", seconds / 60, seconds % 60),
        7_200..172_800 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_shown() {
        let mut table = Table::new(&["ID", "REASON"]);
        table.row(["a-long-id", "x\u{1b}[2Jy"]);
        table.row(["b", ""]);
        assert_eq!(table.render(), "ID         REASON\na-long-id  x?[2Jy\nb          -\n");
    }

    #[test]
    fn a_cell_of_any_length_is_shown() {
        let long = "x".repeat(70_000);
        let mut table = Table::new(&["FIELD", "VALUE"]);
        table.row([&long, "short"]);
        table.row(["payload", &long]);
        let text = table.render();
        assert!(text.contains(&format!("{long}  short\n")) && text.len() < 5 * long.len(), "{}", text.len());
    }

    #[test]
    fn ages_have_two_units() {
        let ages = [5, 90, 200, 8_000, 200_000].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5s", "90s", "3m20s", "2h13m", "2d7h"]);
    }
}
