//! What was measured, against its bar: a table for people, one JSON object for programs.
//!
//! A figure that was not measured is absent from both.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};

use super::bench::Cost;
use super::row::Row;

/// Which side of a bar is good.
#[derive(Clone, Copy, Debug)]
enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

/// Bars by key.
const BARS: &[(&str, Bar)] = &[
    ("ingest_vs_tokio_cpu", Bar::AtLeast(1.3)),
    ("serve_vs_tokio_cpu", Bar::AtLeast(1.3)),
    ("small_put_vs_tokio", Bar::AtLeast(1.5)),
    ("small_put_p99_ratio", Bar::AtMost(1.0)),
    ("baseline_vs_quinn_bulk", Bar::AtLeast(0.9)),
    ("idle_bytes_per_conn", Bar::AtMost(36.0 * 1_024.0)),
    ("idle_p99_ratio", Bar::AtMost(2.0)),
    ("slow_goodput_ratio", Bar::AtLeast(0.95)),
    ("amplification", Bar::AtMost(3.0)),
];

/// The measured values by key, in the order of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    cpu: String,
    keys: Vec<String>,
    values: BTreeMap<String, f64>,
}

impl Figures {
    pub(super) fn new(cpu: String) -> Self {
        Self {
            cpu,
            keys: Vec::new(),
            values: BTreeMap::new(),
        }
    }

    /// What the turns of a row cost, ours and the peer's.
    pub(super) fn set_row(&mut self, row: &Row, ours: &[Cost], peer: &[Cost]) {
        let gigabytes = row.turn.bytes() as f64 / 1e9;
        let pairs = || ours.iter().zip(peer);
        self.set(
            row.ratio.to_owned(),
            median(pairs().map(|(ours, peer)| peer.cpu_seconds / ours.cpu_seconds)),
        );
        let name = row.name;
        self.set(
            format!("{name}_wall_ratio"),
            median(pairs().map(|(ours, peer)| peer.done.seconds / ours.done.seconds)),
        );
        self.set(
            format!("{name}_p99_ratio"),
            median(pairs().map(|(ours, peer)| ours.done.p99_us / peer.done.p99_us)),
        );
        for (side, costs) in [("", ours), ("_peer", peer)] {
            let mut per_gigabyte = |key: &str, of: fn(&Cost) -> f64| {
                let value = median(costs.iter().map(|cost| of(cost) / gigabytes));
                self.set(format!("{name}{side}_{key}"), value);
            };
            per_gigabyte("cpu_s_per_gb", |cost| cost.cpu_seconds);
            per_gigabyte("machine_s_per_gb", |cost| cost.machine_seconds);
            per_gigabyte("load_s_per_gb", |cost| cost.done.cpu_seconds);
            per_gigabyte("wall_s_per_gb", |cost| cost.done.seconds);
            for (at, key) in [(0, "datagrams_in"), (1, "datagrams_out")] {
                let counts = costs.iter().map(|cost| cost.done.datagrams[at]);
                self.set(format!("{name}{side}_{key}"), median(counts));
            }
            self.set(
                format!("{name}{side}_gb_per_s"),
                median(costs.iter().map(|cost| gigabytes / cost.cpu_seconds)),
            );
            self.set(
                format!("{name}{side}_p50_us"),
                median(costs.iter().map(|cost| cost.done.p50_us)),
            );
            self.set(
                format!("{name}{side}_p99_us"),
                median(costs.iter().map(|cost| cost.done.p99_us)),
            );
        }
    }

    pub(super) fn set(&mut self, key: impl Into<String>, value: f64) {
        let key = key.into();
        self.keys.push(key.clone());
        self.values.insert(key, value);
    }

    /// A figure, if it was measured.
    pub fn value(&self, key: &str) -> Option<f64> {
        self.values.get(key).copied()
    }

    /// One object with a number for each figure, and the CPU.
    pub fn json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        object.insert("cpu".to_owned(), self.cpu.as_str().into());
        object.insert("optimized".to_owned(), (!cfg!(debug_assertions)).into());
        for (key, value) in &self.values {
            object.insert(key.clone(), (*value).into());
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
            let bar = BARS.iter().find(|(name, _)| name == key);
            let (wanted, is_met) = match bar.map(|(_, bar)| *bar) {
                Some(Bar::AtLeast(least)) => (format!(">= {least}"), Some(value >= least)),
                Some(Bar::AtMost(most)) => (format!("<= {most}"), Some(value <= most)),
                None => (String::new(), None),
            };
            let verdict = match is_met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let digits = if value >= 100.0 { 0 } else { 3 };
            let value = format!("{value:.digits$}");
            table.add_row([key.clone(), value, wanted, verdict.to_owned()]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}\n{table}", self.cpu)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::super::load::Done;
    use super::super::row::ROWS;
    use super::super::trial::TRIALS;
    use super::*;

    fn cost(cpu_seconds: f64) -> Cost {
        let done = Done {
            seconds: 1.0,
            cpu_seconds: 1.0,
            p50_us: 10.0,
            p99_us: 20.0,
            datagrams: [12.0, 4.0],
            busy: 0,
        };
        Cost {
            done,
            cpu_seconds,
            machine_seconds: 2.0,
        }
    }

    #[test]
    fn a_ratio_says_how_much_more_the_peer_took() {
        let mut figures = Figures::new("a CPU".to_owned());
        let row = &ROWS[0];
        figures.set_row(
            row,
            &[cost(1.0), cost(2.0), cost(1.0)],
            &[cost(1.5), cost(3.0), cost(9.0)],
        );
        assert_eq!(figures.json()[row.ratio], 1.5);
        assert!(figures.table().contains(" met"));
    }

    #[test]
    fn every_bar_is_of_a_figure() {
        let mut figures = Figures::new("a CPU".to_owned());
        for row in ROWS {
            figures.set_row(row, &[cost(1.0)], &[cost(1.0)]);
        }
        for (key, _) in BARS {
            // Those of trials are asked for where trials run.
            let is_of_trial = TRIALS.iter().any(|trial| key.starts_with(trial.name));
            let is_known = is_of_trial || *key == "amplification";
            assert!(figures.value(key).is_some() || is_known, "{key}");
        }
    }
}
