//! What a node does to honest peers while others are about: rows of its own against itself, with and without a crowd.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::bench::{Bench, Pair, Setting};
use super::crowd::{Kind, Told};
use super::figures::Figures;
use super::load::{Done, Verb};
use super::row::{Turn, full};
use super::subject::Subject;
use crate::part::Part;
use crate::{cpu, sample};

/// A row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// What the keys of its figures begin with.
    pub(super) name: &'static str,
    pub(super) measure: fn(&Bench, &Size, &mut Figures) -> Result<()>,
}

/// How large the crowds are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) idle: usize,
    pub(super) slow: usize,
    pub(super) initials_per_second: usize,
    pub(super) churn_per_second: usize,
    /// Of a turn of an honest client.
    pub(super) seconds: u64,
}

/// All of them, in the order of the run.
pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "idle",
        measure: idle,
    },
    Trial {
        name: "slow",
        measure: slow,
    },
];

/// Honest gets a second, and honest puts of 2.2 MiB: a fifth of what a core can do.
const GETS_PER_SECOND: f64 = 500.0;
const PUTS_PER_SECOND: f64 = 16.0;

/// Until a crowd has settled: keys confirmed, first memory given back.
const SETTLE: Duration = Duration::from_secs(2);

/// A part of a crowd.
struct Crowd {
    part: Part,
    /// Closed to end it.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Looks at a process's memory now and then.
struct Watch {
    is_over: Arc<AtomicBool>,
    most_bytes: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Size {
    /// As the figures are defined.
    pub(super) const FULL: Self = Self {
        idle: 2_000,
        slow: 1_000,
        initials_per_second: 5_000,
        churn_per_second: 20,
        seconds: 15,
    };

    /// With the longest crowds.
    pub(super) const LONG: Self = Self {
        idle: 10_000,
        ..Self::FULL
    };

    /// To see that it works.
    pub(super) const SHORT: Self = Self {
        idle: 20,
        slow: 20,
        initials_per_second: 100,
        churn_per_second: 2,
        seconds: 1,
    };
}

/// What connections cost that nothing is asked on: memory, processor time, and the patience of others.
fn idle(bench: &Bench, size: &Size, figures: &mut Figures) -> Result<()> {
    let mut pair = bench.start(
        "idle",
        Subject::Node,
        Setting {
            connection_count: size.idle + 100,
            ..Setting::default()
        },
    )?;
    let gets = Turn {
        verb: Verb::Get,
        piece_bytes: 16 << 10,
        connections: 4,
        streams: 4,
        count: GETS_PER_SECOND as u64 * size.seconds / 3,
        per_second: Some(GETS_PER_SECOND),
    };
    for order in gets.preparations() {
        pair.order(order)?;
    }
    pair.order(gets.order(0))?;
    let alone = pair.order(gets.order(0))?;
    let pid = pair.subject_pid();
    let before_bytes = sample::process_rss_anon_bytes(pid)?;
    let crowd = Crowd::start(bench, &pair, Kind::Idle, size.idle)?;
    std::thread::sleep(SETTLE);
    let bytes = sample::process_rss_anon_bytes(pid)?.saturating_sub(before_bytes);
    let cpu_before = cpu::process_seconds_of(pid)?;
    let rest = Duration::from_secs(size.seconds / 3);
    std::thread::sleep(rest);
    let cpu_seconds = cpu::process_seconds_of(pid)? - cpu_before;
    let beside = pair.order(gets.order(0))?;
    let told = crowd.end()?;
    figures.set("idle_connections", size.idle as f64);
    figures.set("idle_connections_closed", told.failed as f64);
    figures.set("idle_bytes_per_conn", bytes as f64 / size.idle as f64);
    figures.set("idle_cpu_share", cpu_seconds / rest.as_secs_f64().max(1.0));
    figures.set("idle_alone_p99_us", alone.p99_us);
    figures.set("idle_p99_us", beside.p99_us);
    figures.set("idle_p99_ratio", beside.p99_us / alone.p99_us);
    pair.end()
}

/// What honest puts lose to slow senders, connections that come and go, and handshakes that nobody means.
fn slow(bench: &Bench, size: &Size, figures: &mut Figures) -> Result<()> {
    let mut pair = bench.start("slow", Subject::Node, Setting::default())?;
    let mut puts = full(Verb::Put, PUTS_PER_SECOND as u64 * size.seconds);
    puts.per_second = Some(PUTS_PER_SECOND);
    let put = |pair: &mut Pair| -> Result<Done> { pair.order(puts.order(pair.next())) };
    put(&mut pair)?;
    let alone = put(&mut pair)?;
    let pid = pair.subject_pid();
    let before_bytes = sample::process_rss_anon_bytes(pid)?;
    let watch = Watch::start(pid)?;
    // Those who connect first, the flood last.
    let crowds = [
        (Kind::Slow, size.slow),
        (Kind::Churn, size.churn_per_second),
        (Kind::Initials, size.initials_per_second),
    ];
    let crowds = crowds.map(|(kind, count)| Crowd::start(bench, &pair, kind, count));
    std::thread::sleep(SETTLE);
    let cpu_before = cpu::process_seconds_of(pid)?;
    let beside = put(&mut pair)?;
    let cpu_seconds = cpu::process_seconds_of(pid)? - cpu_before;
    let mut told = Vec::with_capacity(crowds.len());
    for crowd in crowds {
        told.push(crowd?.end()?);
    }
    let most_bytes = watch.end()?;
    let [slow, churn, initials] = &told[..] else {
        anyhow::bail!("a crowd is missing");
    };
    figures.set("slow_goodput_ratio", alone.seconds / beside.seconds);
    figures.set("slow_p99_us", beside.p99_us);
    figures.set("slow_p99_ratio", beside.p99_us / alone.p99_us);
    figures.set("slow_cpu_share", cpu_seconds / beside.seconds);
    figures.set("slow_busy", beside.busy as f64);
    figures.set(
        "slow_memory_bytes",
        most_bytes.saturating_sub(before_bytes) as f64,
    );
    figures.set("slow_senders_admitted", slow.admitted as f64);
    figures.set("slow_senders_refused", slow.refused as f64);
    figures.set("slow_churn_begun", churn.begun as f64);
    figures.set("slow_churn_failed", churn.failed as f64);
    figures.set("slow_initials_begun", initials.begun as f64);
    let [sent, received] = initials.unproven_bytes;
    // Before the address is proven a handshake may send three times what it got (RFC 9000, section 8.1).
    figures.set("amplification", received as f64 / (sent as f64).max(1.0));
    pair.end()
}

impl Crowd {
    fn start(bench: &Bench, pair: &Pair, kind: Kind, count: usize) -> Result<Self> {
        let value = kind.to_possible_value();
        let name = value.as_ref().map_or("crowd", |value| value.get_name());
        let mut command = bench.part("crowd");
        command.arg(name).arg(count.to_string());
        let (part, input, output) = pair.start_part(bench, name, command)?;
        let mut crowd = Self {
            part,
            input: Some(input),
            output: BufReader::new(output),
        };
        crowd.read()?;
        Ok(crowd)
    }

    fn read(&mut self) -> Result<Told> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line)
            .with_context(|| format!("the crowd ended: {}", self.part.log_tail()))
    }

    fn end(mut self) -> Result<Told> {
        drop(self.input.take());
        let told = self.read()?;
        self.part.wait()?;
        Ok(told)
    }
}

impl Watch {
    fn start(pid: u32) -> Result<Self> {
        let (is_over, most_bytes) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (over, most) = (Arc::clone(&is_over), Arc::clone(&most_bytes));
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                while !over.load(Ordering::Acquire) {
                    if let Ok(bytes) = sample::process_rss_anon_bytes(pid) {
                        most.fetch_max(bytes, Ordering::AcqRel);
                    }
                    std::thread::sleep(sample::SAMPLE_INTERVAL);
                }
            })?;
        Ok(Self {
            is_over,
            most_bytes,
            thread,
        })
    }

    fn end(self) -> Result<u64> {
        self.is_over.store(true, Ordering::Release);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the watch failed"))?;
        Ok(self.most_bytes.load(Ordering::Acquire))
    }
}
