//! One child process: started with its log in a file, measured when it ends, gone when its owner goes.
//!
//! A child dies with the thread that started it (`PR_SET_PDEATHSIG`), so parts are started from a thread that lives as
//! long as the network. Signals go to pids that have not been waited for, and to nothing else.

#![allow(unsafe_code, reason = "wait4, kill and prctl have no safe form in std")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Bytes of a log that an error shows.
const TAIL_BYTES: u64 = 2_000;

/// How long a process that was asked to stop may take before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Pids of all parts that run, for [`kill_all`].
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// What a process used, known once it has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all its threads.
    pub cpu_seconds: f64,
    /// Largest resident memory.
    pub peak_rss_bytes: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it used.
    pub usage: Usage,
}

/// A running child process.
#[derive(Debug)]
pub struct Part {
    name: String,
    pid: u32,
    log: PathBuf,
    ended: Option<Ended>,
}

impl Part {
    /// Starts `command` with both outputs appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = spawn_bound(&mut command)?;
        Ok(Self {
            name: name.to_owned(),
            pid: child.id(),
            log: log.to_owned(),
            ended: None,
        })
    }

    /// [`start`](Self::start), but its standard input and output are the caller's, and `log` has its standard error.
    pub fn start_piped(
        name: &str,
        mut command: Command,
        log: &Path,
    ) -> io::Result<(Self, ChildStdin, ChildStdout)> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file);
        let mut child = spawn_bound(&mut command)?;
        let part = Self {
            name: name.to_owned(),
            pid: child.id(),
            log: log.to_owned(),
            ended: None,
        };
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok((part, input, output)),
            _ => Err(io::Error::other("a child has no pipes")),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it still runs; afterwards [`Part::wait`] answers at once.
    pub fn is_running(&mut self) -> io::Result<bool> {
        if self.ended.is_none() {
            self.ended = wait_for(self.pid, libc::WNOHANG)?;
        }
        Ok(self.ended.is_none())
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: i32) -> io::Result<()> {
        if self.ended.is_none() {
            send_signal(self.pid, signal)?;
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<Ended> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let ended = wait_for(self.pid, 0)?.ok_or_else(|| io::Error::other("wait4 did not wait"))?;
        self.ended = Some(ended);
        Ok(ended)
    }

    /// Kills it as kill -9 does, and waits.
    pub fn kill(&mut self) -> io::Result<Ended> {
        self.signal(libc::SIGKILL)?;
        self.wait()
    }

    /// Asks it to stop, and kills it if that takes too long.
    pub fn stop(&mut self) -> io::Result<Ended> {
        self.signal(libc::SIGTERM)?;
        let asked = Instant::now();
        while self.is_running()? {
            if asked.elapsed() > STOP_PATIENCE {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.wait()
    }

    /// The end of its log, for an error message.
    pub fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|error| format!("({}: {error})", self.log.display()))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself; nothing more can be done about any failure here.
        let _ = self.kill();
    }
}

/// What a command that ran to its end printed and used.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub ended: Ended,
    /// From before its start to after its end.
    pub seconds: f64,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// Whether its exit code was 0.
    pub fn is_success(&self) -> bool {
        self.ended.code == Some(0)
    }
}

/// A command under way, whose outputs are collected.
#[derive(Debug)]
pub struct Running {
    part: Part,
    started: Instant,
    stdout: std::thread::JoinHandle<io::Result<Vec<u8>>>,
    stderr: std::thread::JoinHandle<io::Result<Vec<u8>>>,
}

impl Running {
    /// Starts a command; its standard input is empty unless the command says otherwise.
    pub fn start(name: &str, mut command: Command) -> io::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = spawn_bound(&mut command)?;
        let part = Part {
            name: name.to_owned(),
            pid: child.id(),
            log: PathBuf::new(),
            ended: None,
        };
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("a child has no pipes"));
        };
        Ok(Self {
            part,
            started,
            stdout: std::thread::spawn(move || collect(stdout)),
            stderr: std::thread::spawn(move || collect(stderr)),
        })
    }

    /// The process, to signal it.
    pub fn part(&mut self) -> &mut Part {
        &mut self.part
    }

    /// Waits for its end.
    pub fn finish(mut self) -> io::Result<Finished> {
        let ended = self.part.wait()?;
        let seconds = self.started.elapsed().as_secs_f64();
        let joined = |thread: std::thread::JoinHandle<io::Result<Vec<u8>>>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a reader thread panicked")))
        };
        let stdout = joined(self.stdout)?;
        let stderr = String::from_utf8_lossy(&joined(self.stderr)?).into_owned();
        Ok(Finished {
            ended,
            seconds,
            stdout,
            stderr,
        })
    }
}

/// Runs a command to its end.
pub fn run(name: &str, mut command: Command) -> io::Result<Finished> {
    command.stdin(Stdio::null());
    Running::start(name, command)?.finish()
}

/// [`run`], but a command that takes longer is killed, and that is an error.
pub fn run_within(name: &str, mut command: Command, limit: Duration) -> io::Result<Finished> {
    command.stdin(Stdio::null());
    let mut running = Running::start(name, command)?;
    while running.part().is_running()? {
        if running.started.elapsed() > limit {
            running.part().kill()?;
            let message = format!("{name} took longer than {limit:?} and was killed");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    running.finish()
}

/// Kills every part of this process; for the way out after a signal.
pub fn kill_all() {
    let running = RUNNING.lock().map(|pids| pids.clone()).unwrap_or_default();
    for pid in running {
        // It ended in this instant: nothing is left to kill.
        let _ = send_signal(pid, libc::SIGKILL);
    }
}

/// Ends this process as kill -9 does.
pub(crate) fn kill_self() -> ! {
    let sent = send_signal(std::process::id(), libc::SIGKILL);
    // A signal that cannot be sent must not let the process go on.
    eprintln!("cannot kill itself: {sent:?}");
    std::process::abort()
}

/// Spawns into a process group of its own, so that ctrl-C reaches this process alone and it decides about its children.
fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec and makes two system calls, which are async-signal-safe; it
    // allocates nothing.
    unsafe {
        command.pre_exec(move || die_with(parent));
    }
    let child = command.spawn()?;
    RUNNING.lock().expect("no holder panics").push(child.id());
    Ok(child)
}

fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have died before the call; then nobody would send the signal.
    if std::os::unix::process::parent_id() != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

fn send_signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill touches no memory; the pid is a child that has not been waited for, so it names that child, or this process.
    if unsafe { libc::kill(pid, signal) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn wait_for(pid: u32, options: i32) -> io::Result<Option<Ended>> {
    let raw_pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to writable memory of this stack, of the types the call fills.
        let waited = unsafe { libc::wait4(raw_pid, &mut status, options, usage.as_mut_ptr()) };
        if waited == 0 {
            return Ok(None);
        }
        if waited == raw_pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    RUNNING
        .lock()
        .expect("no holder panics")
        .retain(|&running| running != pid);
    // SAFETY: the call succeeded and has filled the structure, which was zeroed before.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Some(Ended {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        usage: Usage {
            cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            // Linux counts it in KiB.
            peak_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        },
    }))
}

fn collect(mut pipe: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(if text.trim().is_empty() {
        "(its log is empty)".to_owned()
    } else {
        text.trim_end().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_is_measured_and_its_outputs_are_kept() {
        let finished = run("shell", shell("echo out; echo err >&2; exit 3")).unwrap();
        assert_eq!(finished.ended.code, Some(3));
        assert_eq!(finished.stdout, b"out\n");
        assert_eq!(finished.stderr, "err\n");
        assert!(finished.ended.usage.peak_rss_bytes > 0);
        assert!(!finished.is_success());
    }

    #[test]
    fn a_dropped_part_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let part = Part::start("sleeper", shell("exec sleep 1000"), &log).unwrap();
        let pid = part.pid();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(part);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_part_that_ends_leaves_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut part = Part::start("failing", shell("echo no disk >&2; exit 2"), &log).unwrap();
        assert_eq!(part.wait().unwrap().code, Some(2));
        assert!(!part.is_running().unwrap());
        assert_eq!(part.log_tail(), "no disk");
    }

    #[test]
    fn a_part_that_ignores_the_request_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
        let mut part = Part::start("stubborn", shell(script), &log).unwrap();
        while part.log_tail() != "ready" {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(part.stop().unwrap().signal, Some(libc::SIGKILL));
    }
}
