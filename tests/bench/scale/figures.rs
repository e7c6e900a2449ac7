//! The figures: as lines, as JSON, and what of them is not as it should be.

use std::{fs, path::Path};

use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// It only explains others.
    Nothing,
    /// No more than this, with 10,000 pods.
    AtMost(f64),
}

/// One figure.
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    /// With so many pods.
    pub pods: usize,
    /// `None`: it took longer than anybody waits.
    pub value: Option<f64>,
    pub wanted: Wanted,
}

impl Figure {
    /// The bound, where there is one.
    pub fn bound(&self) -> Option<f64> {
        match self.wanted {
            Wanted::Nothing => None,
            Wanted::AtMost(bound) => Some(bound),
        }
    }

    /// One line, with what is wanted beside it.
    pub fn line(&self) {
        let text = |value: f64| format!("{} {:<4}", short(value), self.unit);
        let value = self.value.map_or_else(|| "endless     ".into(), text);
        let wanted = self.bound().map_or_else(String::new, text);
        let is_more = self.bound().is_some_and(|bound| self.value.is_none_or(|value| value > bound));
        let mark = if is_more { " more" } else { "" };
        println!("{:<54} {:>7} {value:>14} {wanted:>14}{mark}", self.name, self.pods);
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "unit": self.unit, "pods": self.pods, "value": self.value, "wanted": self.bound() })
    }
}

/// What stands above the lines.
pub fn head() {
    println!("{:<54} {:>7} {:>14} {:>14}", "", "pods", "measured", "wanted, most");
}

/// Three digits that count.
pub fn short(value: f64) -> String {
    let digits = if value >= 99.5 { 0 } else { usize::from(value < 9.95) + 1 };
    format!("{value:.digits$}")
}

/// Writes them all to `scale.json`.
pub fn write(folder: &Path, figures: &[Figure], about: &Value) {
    let all: Vec<Value> = figures.iter().map(Figure::json).collect();
    let text = serde_json::to_string_pretty(&json!({ "about": about, "figures": all })).expect("JSON");
    fs::write(folder.join("scale.json"), text).expect("target/bench can be written");
}
