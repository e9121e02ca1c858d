//! What `/proc` says about processes and the machine.
//!
//! Memory is sampled, so a peak shorter than [`SAMPLE_INTERVAL`] can be missed; CPU time is a difference of counters
//! and misses nothing but the last tick. Parsing is separate from reading so that it can be tested.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often memory is looked at.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// Seconds per tick of `/proc`: USER_HZ is 100 on every Linux architecture that Rust supports.
const TICK_SECONDS: f64 = 0.01;

/// CPU seconds, user and system, of a process with all its threads; threads and children that it has waited for included.
pub fn process_cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_process_cpu(&stat).ok_or_else(|| malformed("/proc/PID/stat"))
}

/// Anonymous resident memory of a process, in bytes; 0 once it is a zombie.
pub fn process_rss_anon_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(parse_status_kb(&status, "RssAnon:").map_or(0, |kb| kb * 1024))
}

/// Memory of a process that the kernel holds in place, in bytes: registered buffers and rings.
pub fn process_pinned_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(parse_status_kb(&status, "VmPin:").map_or(0, |kb| kb * 1024))
}

/// Resident memory of a process, in bytes; 0 once it is a zombie.
pub fn process_rss_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(parse_status_kb(&status, "VmRSS:").map_or(0, |kb| kb * 1024))
}

/// CPU seconds that the machine was busy since it started: everything but idle and waiting for I/O.
pub fn machine_busy_seconds() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    parse_machine_busy(&stat).ok_or_else(|| malformed("/proc/stat"))
}

/// The largest sums seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    /// Anonymous resident memory of all node processes together.
    pub nodes_rss_anon_bytes: u64,
    /// The same of the node process that used most.
    pub node_process_rss_anon_bytes: u64,
    /// Resident memory of the satellite.
    pub satellite_rss_bytes: u64,
}

#[derive(Debug, Default)]
struct Shared {
    nodes: AtomicU64,
    node_process: AtomicU64,
    satellite: AtomicU64,
    is_stopped: AtomicBool,
    node_pids: Mutex<Vec<u32>>,
}

/// A thread that samples memory until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts to sample. Processes that end are skipped from then on.
    pub fn start(node_pids: Vec<u32>, satellite_pid: u32) -> Self {
        let shared = Arc::new(Shared {
            node_pids: Mutex::new(node_pids),
            ..Shared::default()
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                while !shared.is_stopped.load(Ordering::Relaxed) {
                    shared.sample(satellite_pid);
                    std::thread::sleep(SAMPLE_INTERVAL);
                }
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Replaces the node processes that are looked at.
    pub fn set_node_pids(&self, pids: Vec<u32>) {
        *self
            .shared
            .node_pids
            .lock()
            .expect("the sampler does not panic") = pids;
    }

    /// What was seen since the start.
    pub fn peaks(&self) -> Peaks {
        Peaks {
            nodes_rss_anon_bytes: self.shared.nodes.load(Ordering::Relaxed),
            node_process_rss_anon_bytes: self.shared.node_process.load(Ordering::Relaxed),
            satellite_rss_bytes: self.shared.satellite.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A sampler that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn sample(&self, satellite_pid: u32) {
        let pids = self.node_pids.lock().expect("no holder panics").clone();
        let mut sum = 0;
        for pid in pids {
            let bytes = process_rss_anon_bytes(pid).unwrap_or(0);
            self.node_process.fetch_max(bytes, Ordering::Relaxed);
            sum += bytes;
        }
        self.nodes.fetch_max(sum, Ordering::Relaxed);
        let satellite = process_rss_bytes(satellite_pid).unwrap_or(0);
        self.satellite.fetch_max(satellite, Ordering::Relaxed);
    }
}

/// Fields 14 and 15, user and system time, counted after the command name, which may hold blanks and brackets.
fn parse_process_cpu(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 * TICK_SECONDS)
}

fn parse_status_kb(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// user nice system idle iowait irq softirq steal; guest times are inside user and nice.
fn parse_machine_busy(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .take(8)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = fields[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq + steal) as f64 * TICK_SECONDS)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} has another form than expected"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_process_name() {
        let stat = "17 (a) (b c) S 1 17 17 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 1 0 100 1 1";
        assert_eq!(parse_process_cpu(stat), Some(3.0));
        assert_eq!(parse_process_cpu("17 (cut"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "VmRSS:\t     900 kB\nRssAnon:\t     640 kB\n";
        assert_eq!(parse_status_kb(status, "RssAnon:"), Some(640));
        assert_eq!(parse_status_kb(status, "VmSwap:"), None);
    }

    #[test]
    fn waiting_for_io_is_not_busy() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let busy = parse_machine_busy(stat).unwrap();
        assert!((busy - 1.71).abs() < 1e-9, "{busy}");
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let pid = std::process::id();
        assert!(process_cpu_seconds(pid).unwrap() >= 0.0);
        assert!(process_rss_anon_bytes(pid).unwrap() > 0);
        assert!(machine_busy_seconds().unwrap() > 0.0);
    }

    #[test]
    fn the_sampler_sees_its_own_process() {
        let sampler = Sampler::start(vec![std::process::id()], std::process::id());
        while sampler.peaks().satellite_rss_bytes == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let peaks = sampler.peaks();
        assert!(peaks.nodes_rss_anon_bytes > 0);
        assert_eq!(
            peaks.nodes_rss_anon_bytes,
            peaks.node_process_rss_anon_bytes
        );
    }
}
