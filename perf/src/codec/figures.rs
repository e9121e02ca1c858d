//! What was measured, against its bar: a table for people, one JSON object for programs.
//!
//! A figure that was not measured is absent from both. Bars are those of the level that ran; most levels have none.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};

use super::row::Row;

/// A bar: the level that it is for, a key, and the least that is good.
type Bar = (&'static str, &'static str, f64);

const BARS: &[Bar] = &[
    ("avx512-gfni", "encode_4k_vs_stock", 3.2),
    ("avx512-gfni", "encode_16k_vs_stock", 2.8),
    ("avx512-gfni", "encode_segment_vs_stock", 3.0),
    ("avx512-gfni", "decode_4k_vs_stock", 22.0),
    ("avx512-gfni", "decode_64k_vs_stock", 8.0),
    ("avx512-gfni", "decode_64k_gb_per_s", 7.0),
    ("avx512-gfni", "rows_3_gb_per_s", 20.0),
    ("avx512-gfni", "seal_vs_aws_lc", 0.97),
    ("avx512-gfni", "tree_vs_blake3", 0.97),
    ("avx512-gfni", "pipeline_gb_per_s", 1.4),
    ("avx512-gfni", "inverse_gb_per_s", 2.0),
    ("avx2", "seal_vs_aws_lc", 0.97),
    ("avx2", "packet_vs_aws_lc", 0.97),
    ("avx2", "encode_4k_vs_stock", 1.3),
    ("avx2", "encode_16k_vs_stock", 1.3),
    ("avx2", "decode_4k_vs_stock", 6.0),
    ("avx2", "decode_64k_vs_stock", 3.0),
];

/// The measured values by key, in the order of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    level: &'static str,
    cpu: String,
    keys: Vec<String>,
    values: BTreeMap<String, f64>,
    /// The beginnings of the hashes of outputs, by row.
    outputs: BTreeMap<&'static str, String>,
}

impl Figures {
    pub(super) fn new(level: &'static str, cpu: String) -> Self {
        Self {
            level,
            cpu,
            keys: Vec::new(),
            values: BTreeMap::new(),
            outputs: BTreeMap::new(),
        }
    }

    /// How many times as fast as the peer ours was.
    pub(super) fn set_ratio(&mut self, row: &Row, ratio: f64) {
        self.set(format!("{}_vs_{}", row.name, row.peer), ratio);
    }

    /// GB of user data a second, ours and the peer's.
    pub(super) fn set_speeds(&mut self, row: &Row, ours: f64, peer: f64) {
        self.set(format!("{}_gb_per_s", row.name), ours);
        self.set(format!("{}_{}_gb_per_s", row.name, row.peer), peer);
    }

    /// What both sides wrote.
    pub(super) fn set_output(&mut self, row: &Row, output: &blake3::Hash) {
        self.outputs
            .insert(row.name, output.to_hex()[..16].to_owned());
    }

    fn set(&mut self, key: String, value: f64) {
        self.keys.push(key.clone());
        self.values.insert(key, value);
    }

    /// A figure, if it was measured.
    pub fn value(&self, key: &str) -> Option<f64> {
        self.values.get(key).copied()
    }

    /// One object with a number for each figure, the level, the CPU, and the hash of each row's output.
    pub fn json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        object.insert("level".to_owned(), self.level.into());
        object.insert("cpu".to_owned(), self.cpu.as_str().into());
        object.insert("optimized".to_owned(), (!cfg!(debug_assertions)).into());
        for (key, value) in &self.values {
            object.insert(key.clone(), (*value).into());
        }
        for (row, output) in &self.outputs {
            object.insert(format!("{row}_output"), output.as_str().into());
        }
        object.into()
    }

    /// A line for each figure, with its bar.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(["", "measured", "bar", ""]);
        for key in &self.keys {
            let Some(value) = self.value(key) else {
                continue;
            };
            let bar = BARS
                .iter()
                .find(|(level, name, _)| *level == self.level && name == key);
            let (wanted, verdict) = match bar {
                Some(&(_, _, least)) if value >= least => (format!(">= {least}"), "met"),
                Some((_, _, least)) => (format!(">= {least}"), "MISSED"),
                None => (String::new(), ""),
            };
            table.add_row([
                key.clone(),
                format!("{value:.2}"),
                wanted,
                verdict.to_owned(),
            ]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}, {}\n{table}", self.cpu, self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::ROWS;
    use super::*;

    #[test]
    fn every_bar_is_of_a_figure_and_a_level() {
        for (level, key, _) in BARS {
            let known = |row: &Row| {
                let ratio = format!("{}_vs_{}", row.name, row.peer);
                *key == ratio || *key == format!("{}_gb_per_s", row.name)
            };
            assert!(ROWS.iter().any(known), "{key}");
            let refused = level.parse::<strand_codec::Level>();
            assert_ne!(
                refused.err(),
                Some(strand_codec::LevelError::Unknown),
                "{level}"
            );
        }
    }

    #[test]
    fn a_bar_is_that_of_the_level() {
        let row = &ROWS[0];
        for (level, verdict) in [("avx512-gfni", "MISSED"), ("avx2", "met"), ("ssse3", "")] {
            let mut figures = Figures::new(level, "a CPU".to_owned());
            figures.set_ratio(row, 2.0);
            let table = figures.table();
            assert!(table.contains(verdict) && table.contains("encode_4k_vs_stock"));
            assert_eq!(table.contains("MISSED"), verdict == "MISSED");
            assert_eq!(figures.json()["encode_4k_vs_stock"], 2.0);
            assert!(figures.json().get("encode_16k_vs_stock").is_none());
        }
    }
}
