//! What was done and found, for people and for programs.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};
use strand_torture::Tally;
use strand_torture::bugs::Hunts;

/// See the module's head. Counts of what did not run are absent.
#[derive(Debug, Default)]
pub struct Outcome {
    /// All counts and violations.
    pub tally: Tally,
    /// Names of planted bugs that nothing noticed.
    pub uncaught: Vec<String>,
    speedup: Option<f64>,
}

impl Outcome {
    /// Adds what simulated nodes did in so much time.
    pub(super) fn simulated(&mut self, simulated: Tally, seconds: f64) {
        let Some(&sim_ms) = simulated.counts.get("sim_ms") else {
            return;
        };
        let violation_count = simulated.violations.len() as u64;
        self.tally.merge(simulated);
        self.tally.add("sim_violations", violation_count);
        self.speedup = Some(sim_ms as f64 / 1e3 / seconds);
    }

    /// Adds what came of the planted bugs.
    pub(super) fn hunted(&mut self, hunts: &Hunts) {
        self.tally.add("planted_bugs", hunts.planted);
        self.tally.add("planted_caught", hunts.caught);
        self.uncaught.clone_from(&hunts.uncaught);
        for said in &hunts.control {
            let what = format!("without a bug a hunt found: {said}");
            self.tally.violate(what, "--what bugs");
        }
    }

    /// Whether everything held and every planted bug was noticed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.tally.violations.is_empty() && self.uncaught.is_empty()
    }

    /// One object: counts, `violations` with what shows them again, and `uncaught`.
    #[must_use]
    pub fn json(&self) -> Value {
        let counts = self.tally.counts.iter();
        let mut object: Map<String, Value> = counts
            .map(|(name, count)| ((*name).to_owned(), json!(count)))
            .collect();
        if let Some(speedup) = self.speedup {
            let rounded = speedup.round() as u64;
            object.insert("speedup_over_real_time".to_owned(), json!(rounded));
        }
        object.insert("violations".to_owned(), json!(self.tally.violations));
        object.insert("uncaught".to_owned(), json!(self.uncaught));
        Value::Object(object)
    }

    /// A table of the counts, and whatever is wrong below.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (name, count) in &self.tally.counts {
            table.add_row([name.replace('_', " "), count.to_string()]);
        }
        if let Some(speedup) = self.speedup {
            table.add_row(["speedup over real time".to_owned(), format!("{speedup:.0}")]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let violations = self.tally.violations.iter().map(|violation| {
            let (what, replay) = (&violation.what, &violation.replay);
            format!("\nVIOLATION: {what}\n  again: strand-perf torture {replay}")
        });
        let uncaught = self
            .uncaught
            .iter()
            .map(|name| format!("\nNOT NOTICED: the planted bug {name}"));
        table.to_string() + &violations.chain(uncaught).collect::<String>()
    }
}
