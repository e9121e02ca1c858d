//! Runs the rows: for each, both subjects in turns, with a process of load for each of them.
//!
//! Nothing else of this run works meanwhile. A ratio is the median of the rounds' ratios, so that a machine which changes its pace changes both
//! sides of each.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use piecestore::limits::{CONNECTION_BUDGET_BYTES, NARROW_CONNECTION_BYTES};

use super::figures::Figures;
use super::load::{Done, Order, Verb};
use super::options::Options;
use super::row::{ROWS, Row};
use super::subject::{Hello, Subject};
use super::trial::TRIALS;
use crate::narrator::Narrator;
use crate::part::Part;
use crate::units::human_bytes;
use crate::{cpu, folder, pinned, sample};

/// Bytes on the disk beyond pieces: records, footers, a blob begun.
const ROOM_BEYOND_PIECES: u64 = 2 << 30;

/// Measures what was asked for; the data is gone on return.
///
/// # Errors
///
/// If the machine cannot do it, there is no room, or a subject answers wrong.
pub fn run(options: &Options) -> Result<Figures> {
    piecestore::core::probe()?;
    let trials: Vec<_> = TRIALS
        .iter()
        .filter(|trial| options.has(trial.name))
        .collect();
    let asked = ROWS.iter().filter(|row| options.has(row.name));
    let rows: Vec<Row> = asked
        .map(|row| row.with_requests(options.requests))
        .collect();
    ensure!(
        !rows.is_empty() || !trials.is_empty(),
        "no row begins with {:?}",
        options.row
    );
    let cores = pinned::allowed()?;
    ensure!(
        cores.len() > 1,
        "node and load need a core each, and this process may use one only"
    );
    let program = std::env::current_exe()?;
    let most = rows.iter().map(|row| row.turn.bytes()).max().unwrap_or(0);
    let needed_bytes = 2 * most * u64::from(options.rounds + 1) + ROOM_BEYOND_PIECES;
    let folder = folder::make_for("node", options.dir.as_deref(), &program, needed_bytes)?;
    folder::leave_on_signals(folder.clone())?;
    let narrator = Narrator::default();
    narrator.line(&format!(
        "{}, on {}, at most {}",
        pinned::name(),
        folder.display(),
        human_bytes(needed_bytes)
    ));
    let bench = Bench {
        program,
        folder,
        // Interrupts prefer the first.
        node_core: cores[cores.len() - 1],
        load_core: cores[0],
        rounds: options.rounds,
    };
    let mut figures = Figures::new(pinned::name());
    let measured = rows.iter().try_for_each(|row| {
        narrator.line(row.name);
        bench
            .measure(row, &mut figures)
            .with_context(|| format!("the row {}", row.name))
    });
    let measured = measured.and_then(|()| {
        trials.iter().try_for_each(|trial| {
            narrator.line(trial.name);
            (trial.measure)(&bench, &options.size(), &mut figures)
                .with_context(|| format!("the row {}", trial.name))
        })
    });
    folder::remove(&bench.folder, measured.is_ok());
    measured?;
    Ok(figures)
}

pub(super) struct Bench {
    program: PathBuf,
    folder: PathBuf,
    node_core: usize,
    load_core: usize,
    rounds: u32,
}

/// What subject and load are begun with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Setting {
    /// There is room for so many connections that ask little, at least.
    pub(super) connection_count: usize,
    /// See [`Row::is_jumbo`].
    pub(super) is_jumbo: bool,
}

impl Setting {
    fn of(row: &Row) -> Self {
        Self {
            is_jumbo: row.is_jumbo,
            ..Self::default()
        }
    }
}

/// A subject and its load.
pub(super) struct Pair {
    hello: Hello,
    subject: Part,
    subject_input: Option<ChildStdin>,
    load: Part,
    load_input: ChildStdin,
    load_output: BufReader<ChildStdout>,
    folder: PathBuf,
    /// The number of the next piece that nobody has put.
    next: u64,
}

/// What a turn cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) done: Done,
    /// Processor time of the subject.
    pub(super) cpu_seconds: f64,
    /// All that the machine worked meanwhile, the kernel's own threads included.
    pub(super) machine_seconds: f64,
}

impl Bench {
    fn measure(&self, row: &Row, figures: &mut Figures) -> Result<()> {
        let mut ours = self.start(row.name, row.ours, Setting::of(row))?;
        let mut peer = self.start(row.name, row.peer, Setting::of(row))?;
        let (mut costs, mut peer_costs) = (Vec::new(), Vec::new());
        for pair in [&mut ours, &mut peer] {
            for order in row.turn.preparations() {
                pair.order(order)?;
            }
            // One turn that does not count: memory is touched, files are made, code is read.
            pair.turn(row)?;
        }
        for round in 0..self.rounds {
            // Neither is always the first.
            let is_peer_first = round % 2 == 1;
            if is_peer_first {
                peer_costs.push(peer.turn(row)?);
            }
            costs.push(ours.turn(row)?);
            if !is_peer_first {
                peer_costs.push(peer.turn(row)?);
            }
        }
        figures.set_row(row, &costs, &peer_costs);
        ours.end()?;
        peer.end()
    }

    /// A subject and its load, for a row of that name.
    pub(super) fn start(&self, row: &str, subject: Subject, setting: Setting) -> Result<Pair> {
        let connection_bytes = setting.connection_count as u64 * NARROW_CONNECTION_BYTES;
        let value = subject.to_possible_value();
        let name = value.as_ref().map_or("subject", |value| value.get_name());
        let folder = self.folder.join(format!("{row}-{name}"));
        fs::create_dir_all(&folder)?;
        let logs = self.folder.join("log");
        fs::create_dir_all(&logs)?;
        let log = logs.join(format!("{row}-{name}"));
        let mut command = self.part("subject");
        command
            .arg(name)
            .arg(&folder)
            .arg(self.node_core.to_string())
            .arg(connection_bytes.max(CONNECTION_BUDGET_BYTES).to_string());
        let (subject, subject_input, output) = Part::start_piped(name, command, &log)?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let hello: Hello = serde_json::from_str(&line)
            .with_context(|| format!("{name} did not start: {}", subject.log_tail()))?;
        let mut command = self.part("load");
        command
            .arg(&hello.node_id)
            .arg(hello.address.to_string())
            .arg(self.load_core.to_string())
            .args(setting.is_jumbo.then_some("--jumbo"));
        let log = log.with_extension("load");
        let (load, load_input, output) = Part::start_piped("load", command, &log)?;
        Ok(Pair {
            hello,
            subject,
            subject_input: Some(subject_input),
            load,
            load_input,
            load_output: BufReader::new(output),
            folder,
            next: 0,
        })
    }

    /// A part of this program, without arguments.
    pub(super) fn part(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("part").arg(name);
        command
    }
}

impl Pair {
    fn turn(&mut self, row: &Row) -> Result<Cost> {
        let first = match row.turn.verb {
            Verb::Get => 0,
            Verb::Put | Verb::Swap { .. } => self.next,
        };
        let cpu_before = cpu::process_seconds_of(self.subject.pid())?;
        let machine_before = sample::machine_busy_seconds()?;
        let done = self.order(row.turn.order(first))?;
        Ok(Cost {
            done,
            cpu_seconds: cpu::process_seconds_of(self.subject.pid())? - cpu_before,
            machine_seconds: sample::machine_busy_seconds()? - machine_before,
        })
    }

    /// The number of the next piece that nobody has put.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn subject_pid(&self) -> u32 {
        self.subject.pid()
    }

    /// Starts another part beside the load; `command` is told where the subject is.
    pub(super) fn start_part(
        &self,
        bench: &Bench,
        name: &str,
        mut command: Command,
    ) -> Result<(Part, ChildStdin, ChildStdout)> {
        command
            .arg(&self.hello.node_id)
            .arg(self.hello.address.to_string())
            .arg(bench.load_core.to_string());
        let log = bench.folder.join("log").join(name);
        Ok(Part::start_piped(name, command, &log)?)
    }

    /// Has the load do that.
    pub(super) fn order(&mut self, order: Order) -> Result<Done> {
        writeln!(self.load_input, "{}", serde_json::to_string(&order)?)?;
        self.load_input.flush()?;
        let mut line = String::new();
        self.load_output.read_line(&mut line)?;
        self.next = self.next.max(order.first + order.count);
        serde_json::from_str(&line).with_context(|| {
            let (load, subject) = (self.load.log_tail(), self.subject.log_tail());
            format!("the load of {} ended: {load}{subject}", self.subject.name())
        })
    }

    /// Ends both; what they kept is gone.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.load_input);
        self.load.wait()?;
        drop(self.subject_input.take());
        let ended = self.subject.wait()?;
        ensure!(
            ended.code == Some(0),
            "{} did not end well: {}",
            self.subject.name(),
            self.subject.log_tail()
        );
        Ok(fs::remove_dir_all(&self.folder)?)
    }
}
