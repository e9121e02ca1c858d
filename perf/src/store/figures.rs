//! What was measured, against its bar: a table for people, one JSON object for programs.
//!
//! A figure that was not measured is absent from both.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};

/// Which side of the bar is good.
#[derive(Clone, Copy, Debug)]
enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// Context for the others.
    None,
}

/// All keys in the order of the table, what they mean and what is wanted.
const KEYS: &[(&str, &str, Bar)] = &[
    ("raw_write_gb_per_s", "raw write, GB/s", Bar::None),
    (
        "put_2m_vs_raw",
        "put 2.2 MiB / raw write",
        Bar::AtLeast(0.8),
    ),
    (
        "put_64k_vs_raw",
        "put 64 KiB, 64 callers / raw write",
        Bar::AtLeast(0.6),
    ),
    (
        "group_raw_us",
        "raw 256 KiB write + fdatasync, us",
        Bar::None,
    ),
    (
        "put_4k_vs_group_raw",
        "put 4 KiB, 64 callers / 64 a raw group",
        Bar::AtLeast(0.4),
    ),
    ("put_4k_per_s", "put 4 KiB, 64 callers, a second", Bar::None),
    (
        "put_4k_p99_vs_group",
        "put 4 KiB, p99 / raw group time",
        Bar::AtMost(5.0),
    ),
    ("fdatasync_us", "lone fdatasync, us", Bar::None),
    (
        "lone_put_vs_fdatasync",
        "lone put of 4 KiB / lone fdatasync",
        Bar::AtMost(2.5),
    ),
    (
        "get_hot_gb_per_s",
        "get 64 KiB of 1 GiB at random, GB/s",
        Bar::AtLeast(8.0),
    ),
    ("get_hot_p99_us", "the same, p99, us", Bar::AtMost(50.0)),
    ("raw_read_gb_per_s", "raw read, cold, GB/s", Bar::None),
    (
        "get_cold_vs_raw",
        "get 2.2 MiB, cold / raw read",
        Bar::AtLeast(0.8),
    ),
    (
        "disk_per_piece_576",
        "disk / body, 576 B",
        Bar::AtMost(1.85),
    ),
    ("disk_per_piece_2k", "disk / body, 2 KiB", Bar::AtMost(1.25)),
    (
        "disk_per_piece_64k",
        "disk / body, 64 KiB",
        Bar::AtMost(1.02),
    ),
    (
        "index_bytes_per_piece",
        "index, bytes a piece, worst",
        Bar::AtMost(24.0),
    ),
    (
        "rebuild_s_per_million",
        "open from footers, s a million",
        Bar::AtMost(5.0),
    ),
    (
        "rss_over_budget",
        "memory / budget + 32 MiB + index",
        Bar::AtMost(1.0),
    ),
];

/// The measured values by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    pieces: u64,
    values: BTreeMap<&'static str, f64>,
}

impl Figures {
    /// How many pieces the filled store held.
    pub fn set_pieces(&mut self, pieces: u64) {
        self.pieces = pieces;
    }

    /// Enters a figure.
    ///
    /// # Panics
    ///
    /// If no such key is known, or the value is no number.
    pub fn set(&mut self, key: &'static str, value: f64) {
        assert!(KEYS.iter().any(|known| known.0 == key), "{key} is unknown");
        assert!(value.is_finite(), "{key} is {value}");
        self.values.insert(key, value);
    }

    /// Enters a figure if it is the largest yet.
    pub fn set_max(&mut self, key: &'static str, value: f64) {
        let known = self.value(key).unwrap_or(f64::NEG_INFINITY);
        self.set(key, value.max(known));
    }

    /// A figure, if it was measured.
    pub fn value(&self, key: &str) -> Option<f64> {
        self.values.get(key).copied()
    }

    /// One object with a number for each figure.
    pub fn json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        object.insert("pieces".to_owned(), self.pieces.into());
        object.insert("optimized".to_owned(), (!cfg!(debug_assertions)).into());
        for (key, value) in &self.values {
            object.insert((*key).to_owned(), (*value).into());
        }
        object.into()
    }

    /// A line for each figure, with its bar.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(["", "measured", "bar", ""]);
        for (key, text, bar) in KEYS {
            let Some(value) = self.value(key) else {
                continue;
            };
            let (wanted, is_met) = match *bar {
                Bar::AtLeast(least) => (format!(">= {least}"), Some(value >= least)),
                Bar::AtMost(most) => (format!("<= {most}"), Some(value <= most)),
                Bar::None => (String::new(), None),
            };
            let verdict = match is_met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let digits = if value >= 100.0 { 0 } else { 3 };
            let value = format!("{value:.digits$}");
            table.add_row([(*text).to_owned(), value, wanted, verdict.to_owned()]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_absent() {
        let mut figures = Figures::default();
        figures.set_pieces(7);
        figures.set_max("get_cold_vs_raw", 0.75);
        figures.set_max("get_cold_vs_raw", 0.5);
        let json = figures.json();
        assert_eq!(json["get_cold_vs_raw"], 0.75);
        assert_eq!(json["pieces"], 7);
        assert!(json.get("put_2m_vs_raw").is_none());
        let table = figures.table();
        assert!(table.contains("MISSED") && !table.contains("2.2 MiB / raw write"));
    }
}
