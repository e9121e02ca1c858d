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

/// A figure: its key, what is wanted, what it means.
#[derive(Clone, Copy, Debug)]
struct Key {
    name: &'static str,
    bar: Bar,
    text: &'static str,
}

/// All keys in the order of the table.
#[rustfmt::skip] // One line a key.
const KEYS: &[Key] = &[
    told("raw_write_gb_per_s", "raw write, GB/s"),
    at_least("put_2m_vs_raw", 0.8, "put 2.2 MiB / raw write"),
    at_least("put_64k_vs_raw", 0.6, "put 64 KiB, 64 callers / raw write"),
    told("group_raw_us", "raw 256 KiB write + fdatasync, us"),
    at_least("put_4k_vs_group_raw", 0.4, "put 4 KiB, 64 callers / 64 a raw group"),
    told("put_4k_per_s", "put 4 KiB, 64 callers, a second"),
    at_most("put_4k_p99_vs_group", 5.0, "put 4 KiB, p99 / raw group time"),
    told("fdatasync_us", "lone fdatasync, us"),
    at_most("lone_put_vs_fdatasync", 2.5, "lone put of 4 KiB / lone fdatasync"),
    at_least("get_hot_gb_per_s", 8.0, "get 64 KiB of 1 GiB at random, GB/s"),
    at_most("get_hot_p99_us", 50.0, "the same, p99, us"),
    told("get_hot_cpu_s_per_gb", "the same, CPU seconds a GB"),
    told("raw_read_gb_per_s", "raw read, cold, GB/s"),
    at_least("get_cold_vs_raw", 0.8, "get 2.2 MiB, cold / raw read"),
    at_most("map_vs_ring_cpu", 1.0, "hot get, CPU by map / by ring"),
    at_most("compaction_p99_ratio", 3.0, "p99 while compacting / without"),
    at_least("reclaimed_share", 0.95, "reclaimed of what was deleted"),
    at_most("write_amplification", 3.0, "written / put while compacting"),
    told("compaction_load_kept", "puts while compacting / wanted"),
    at_most("disk_per_piece_576", 1.85, "disk / body, 576 B"),
    at_most("disk_per_piece_2k", 1.25, "disk / body, 2 KiB"),
    at_most("disk_per_piece_64k", 1.02, "disk / body, 64 KiB"),
    at_most("index_bytes_per_piece", 24.0, "index, bytes a piece, worst"),
    at_most("start_s_per_million", 0.3, "open from checkpoints, s a million"),
    at_most("rebuild_s_per_million", 5.0, "open from footers, s a million"),
    at_most("rss_over_budget", 1.0, "memory / budget + 32 MiB + index"),
    at_least("best_peer_4k_ratio", 1.3, "put 4 KiB / best peer"),
    at_least("best_peer_64k_ratio", 1.5, "put 64 KiB / best peer"),
];

const fn told(name: &'static str, text: &'static str) -> Key {
    let bar = Bar::None;
    Key { name, bar, text }
}

const fn at_least(name: &'static str, least: f64, text: &'static str) -> Key {
    let bar = Bar::AtLeast(least);
    Key { name, bar, text }
}

const fn at_most(name: &'static str, most: f64, text: &'static str) -> Key {
    let bar = Bar::AtMost(most);
    Key { name, bar, text }
}

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
        assert!(
            KEYS.iter().any(|known| known.name == key),
            "{key} is unknown"
        );
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
        for Key { name, bar, text } in KEYS {
            let Some(value) = self.value(name) else {
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
