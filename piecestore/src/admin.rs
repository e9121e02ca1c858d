//! The socket in a node's directory through which its owner asks how it is.
//!
//! One connection is one question: a line `status`, `compact` or `scrub` (begins that job; if one runs, answers which), `job` (how far it is),
//! `restore-trash` (begins to bring the trash back and answers with a number) or `restored NUMBER` (how far that is), and one
//! JSON object back. The sockets are served by a thread of
//! their own with plain blocking I/O, so that no owner's script ever costs a core anything but the figures themselves:
//! the thread raises a number on the node's [`Board`], and the core, which looks ten times a second, puts the answer up.

use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::jobs::{JobBoard, JobFigures, JobKind};

/// The socket's name in a node's directory.
pub const SOCKET_FILE: &str = "node.sock";

/// The longest path that fits an address of a unix socket, its final zero not counted.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How long a question may take to arrive.
const QUESTION_WAIT: Duration = Duration::from_secs(1);

/// How long the core may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Longest question.
const QUESTION_BYTES_MAX: u64 = 256;

/// Where a core puts one node's figures up when asked.
#[derive(Debug, Default)]
pub struct Board {
    /// What the owner asked the node to do.
    pub jobs: JobBoard,
    status: Slip,
    restore: Slip,
}

/// Questions of one kind, and the last answer.
#[derive(Debug, Default)]
struct Slip {
    asked: AtomicU64,
    shown: Mutex<Shown>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Shown {
    answered: u64,
    json: String,
}

/// A node's socket, bound.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    board: Arc<Board>,
}

/// Why a running node could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody listens.
    #[error("no process serves {0}; `piecestore run --dir {0}` starts one")]
    NotRunning(PathBuf),
    /// Somebody listens and does not answer.
    #[error("the process that serves {path} does not answer: {error}")]
    NoAnswer {
        /// The directory.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
}

impl Board {
    /// The number of the last question after the status that has no answer yet. The core's side.
    pub fn question(&self) -> Option<u64> {
        self.status.question()
    }

    /// Answers all questions after the status up to that number. The core's side.
    pub fn show(&self, question: u64, json: String) {
        self.status.show(question, json);
    }

    /// The number of the last wish to have the trash back that is not fulfilled yet. The core's side.
    pub fn restore_question(&self) -> Option<u64> {
        self.restore.question()
    }

    /// Says how it went. The core's side.
    pub fn show_restored(&self, question: u64, json: String) {
        self.restore.show(question, json);
    }

    /// Asks for the status; the number by which to wait for it. Another thread's side.
    pub fn ask_status(&self) -> u64 {
        self.status.begin()
    }

    /// Waits for the status that was asked for: its JSON, `None` if the core does not answer in time. Another thread's side.
    pub fn status_after(&self, question: u64) -> Option<String> {
        self.status.wait(question)
    }

    /// Asks to have the trash back; the number by which to ask how it went. The admin thread's side.
    pub fn ask_restore(&self) -> u64 {
        self.restore.begin()
    }

    /// How that went, once it is over. The admin thread's side.
    pub fn restored(&self, question: u64) -> Option<String> {
        self.restore.look(question)
    }

    /// What is answered to one line. The admin thread's side.
    fn answer(&self, question: &str) -> String {
        let (verb, number) = question.split_once(' ').unwrap_or((question, ""));
        match (verb, number.parse()) {
            ("status", _) => self
                .status_after(self.ask_status())
                .unwrap_or_else(|| r#"{"error":"the core does not answer"}"#.to_owned()),
            ("compact", _) => job_answer(&self.jobs.ask(JobKind::Compact)),
            ("scrub", _) => job_answer(&self.jobs.ask(JobKind::Scrub)),
            ("job", _) => job_answer(&self.jobs.figures()),
            // It may take long, and other nodes of the process have questions too.
            ("restore-trash", _) => format!(r#"{{"number":{}}}"#, self.ask_restore()),
            ("restored", Ok(number)) => self
                .restored(number)
                .unwrap_or_else(|| r#"{"waiting":true}"#.to_owned()),
            _ => r#"{"error":"unknown question"}"#.to_owned(),
        }
    }
}

impl Slip {
    fn question(&self) -> Option<u64> {
        let asked = self.asked.load(Ordering::Acquire);
        (asked
            > self
                .shown
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .answered)
            .then_some(asked)
    }

    fn show(&self, question: u64, json: String) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Shown {
            answered: question,
            json,
        };
        self.changed.notify_all();
    }

    fn begin(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The answer, if it is there.
    fn look(&self, question: u64) -> Option<String> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        (question > 0 && shown.answered >= question).then(|| shown.json.clone())
    }

    /// Waits for the answer.
    fn wait(&self, question: u64) -> Option<String> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (shown, _) = self
            .changed
            .wait_timeout_while(shown, ANSWER_WAIT, |shown| shown.answered < question)
            .unwrap_or_else(PoisonError::into_inner);
        (shown.answered >= question).then(|| shown.json.clone())
    }
}

impl Socket {
    /// Binds a directory's socket, which only its owner may open. The caller holds the directory's lock, so whatever
    /// socket is there is a dead process's.
    pub fn bind(directory: &Path, board: Arc<Board>) -> io::Result<Self> {
        let path = directory.join(SOCKET_FILE);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = with_short_path(directory, |path| UnixListener::bind(path))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, board })
    }
}

/// Serves sockets until the process ends.
pub fn serve(sockets: Vec<Socket>) -> io::Result<()> {
    let run = move || {
        loop {
            let mut waiting: Vec<_> = sockets
                .iter()
                .map(|socket| PollFd::new(&socket.listener, PollFlags::IN))
                .collect();
            if let Err(error) = poll(&mut waiting, None)
                && error != rustix::io::Errno::INTR
            {
                tracing::error!(%error, "the admin sockets are closed");
                return;
            }
            let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
            for (socket, _) in sockets.iter().zip(ready).filter(|(_, is_ready)| *is_ready) {
                if let Ok((stream, _)) = socket.listener.accept()
                    && let Err(error) = answer(stream, &socket.board)
                {
                    tracing::debug!(%error, "an admin connection failed");
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("admin".to_owned())
        .stack_size(256 << 10)
        .spawn(run)?;
    Ok(())
}

/// Asks the process that serves a directory for the node's status: one JSON object.
pub fn ask_status(directory: &Path) -> Result<String, AskError> {
    ask(directory, "status")
}

/// Asks a running node to begin a job; gives that one, or the one that runs already, of whatever kind it is.
pub fn begin_job(directory: &Path, kind: JobKind) -> Result<JobFigures, AskError> {
    ask_for_job(directory, kind.verb())
}

/// Asks a running node how far its job is.
pub fn ask_job(directory: &Path) -> Result<JobFigures, AskError> {
    ask_for_job(directory, "job")
}

fn ask_for_job(directory: &Path, question: &str) -> Result<JobFigures, AskError> {
    let answer = ask(directory, question)?;
    serde_json::from_str(&answer).map_err(|error| AskError::NoAnswer {
        path: directory.to_owned(),
        error: error.into(),
    })
}

/// Asks one question: one JSON object back.
pub fn ask(directory: &Path, question: &str) -> Result<String, AskError> {
    let stream = with_short_path(directory, |path| UnixStream::connect(path))
        .map_err(|_| AskError::NotRunning(directory.to_owned()))?;
    let ask = || -> io::Result<String> {
        let mut stream = stream;
        stream.set_read_timeout(Some(ANSWER_WAIT + QUESTION_WAIT))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    };
    ask().map_err(|error| AskError::NoAnswer {
        path: directory.to_owned(),
        error,
    })
}

fn answer(stream: UnixStream, board: &Board) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(QUESTION_WAIT))?;
    stream.set_write_timeout(Some(QUESTION_WAIT))?;
    let mut question = String::new();
    BufReader::new((&stream).take(QUESTION_BYTES_MAX)).read_line(&mut question)?;
    let answer = board.answer(question.trim_end());
    (&stream).write_all(answer.as_bytes())
}

fn job_answer(figures: &JobFigures) -> String {
    serde_json::to_string(figures).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

/// Runs `operation` on the socket's path, or on a short one to the same place where the real one is too long for a
/// socket's address.
fn with_short_path<T>(
    directory: &Path,
    operation: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let path = directory.join(SOCKET_FILE);
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return operation(&path);
    }
    let folder = File::open(directory)?;
    operation(&PathBuf::from(format!(
        "/proc/self/fd/{}/{SOCKET_FILE}",
        folder.as_raw_fd()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Binds in a directory whose name has that many bytes, and answers with the question's number.
    fn check_round_trip(name_bytes: usize) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("n".repeat(name_bytes));
        std::fs::create_dir(&directory).unwrap();
        assert!(matches!(
            ask_status(&directory),
            Err(AskError::NotRunning(_))
        ));

        // A socket that a dead process left.
        drop(with_short_path(&directory, |path| UnixListener::bind(path)).unwrap());
        assert!(matches!(
            ask_status(&directory),
            Err(AskError::NotRunning(_))
        ));

        let board = Arc::new(Board::default());
        let socket = Socket::bind(&directory, Arc::clone(&board)).unwrap();
        let mode = directory
            .join(SOCKET_FILE)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        serve(vec![socket]).unwrap();
        let core = std::thread::spawn(move || {
            let mut answered = 0;
            while answered < 3 {
                if let Some(question) = board.question() {
                    board.show(question, format!(r#"{{"n":{question}}}"#));
                    answered += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for question in 1..=3 {
            assert_eq!(
                ask_status(&directory).unwrap(),
                format!(r#"{{"n":{question}}}"#)
            );
        }
        core.join().unwrap();
    }

    #[test]
    fn every_question_gets_a_fresh_answer() {
        check_round_trip(8);
    }

    #[test]
    fn a_directory_deeper_than_a_socket_address_works() {
        check_round_trip(200);
    }
}
