//! A small network for a test, and a client to use it with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use strand_perf::content::{first_difference, write_seeded};
use strand_perf::ground::disk_bytes_used;
use strand_perf::local::{Network, Plan};
use strand_perf::part::{self, Finished};
use strand_perf::pieces::{Committed, Prober};
use strand_protocol::grant::{Grant, Invitation};
use strand_protocol::path::{KdfParams, Names, ObjectKey};

/// The program under test, which is every part.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_strand-perf");

/// A passphrase that is neither weak nor secret.
pub(crate) const PASSPHRASE: &str = "seven lanterns over the harbour";

/// The bucket of every test.
pub(crate) const BUCKET: &str = "test";

/// Networks that run at once: on two cores one is enough, and memlock (8 MiB for an unprivileged user) is shared.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for the turn to run a network; a test that failed passes it on.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A network with a project, a grant and a bucket, in a folder that goes with it.
pub(crate) struct TestNetwork {
    pub(crate) network: Network,
    pub(crate) invitation: String,
    dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl TestNetwork {
    /// Starts `node_count` nodes with the scheme that fits their number.
    pub(crate) fn start(node_count: usize) -> Self {
        let turn = turn();
        // Below the target folder, because the temporary folder is memory on many systems.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let network = Network::start(Plan {
            program: PathBuf::from(PROGRAM),
            dir: dir.path().to_owned(),
            node_count,
            scheme: None,
            capacity: "4GB".to_owned(),
        })
        .unwrap();
        let invitation = network.create_project("test").unwrap();
        let this = Self {
            network,
            invitation,
            dir,
            _turn: turn,
        };
        this.client_ok(&["access", "create", &this.invitation]);
        this.client_ok(&["mb", &format!("st://{BUCKET}")]);
        this
    }

    /// A folder of this test.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new file of seeded bytes.
    pub(crate) fn file(&self, name: &str, seed: u64, len: u64) -> PathBuf {
        let path = self.network.work_dir().join(name);
        write_seeded(&path, seed, len).unwrap();
        path
    }

    /// A command of the client with passphrase and configuration.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.network.client_command(arguments);
        command.env("STRAND_PASSPHRASE", PASSPHRASE);
        command
    }

    /// Runs the client to its end, whatever it is.
    pub(crate) fn client_run(&self, arguments: &[&str]) -> Finished {
        part::run("uplink", self.client(arguments)).unwrap()
    }

    /// Runs the client, which must succeed; its standard output.
    pub(crate) fn client_ok(&self, arguments: &[&str]) -> Vec<u8> {
        let finished = self.client_run(arguments);
        assert!(
            finished.is_success(),
            "uplink {arguments:?}: {:?} {}",
            finished.ended,
            finished.stderr
        );
        finished.stdout
    }

    /// `cp` with `--json`, which must succeed.
    pub(crate) fn copy(&self, source: &str, target: &str) -> Value {
        serde_json::from_slice(&self.client_ok(&["--json", "cp", source, target])).unwrap()
    }

    /// Uploads a file under its own name and returns the place.
    pub(crate) fn upload(&self, file: &Path) -> String {
        let place = format!(
            "st://{BUCKET}/{}",
            file.file_name().unwrap().to_str().unwrap()
        );
        self.copy(file.to_str().unwrap(), &place);
        place
    }

    /// Downloads `place` and compares it with `file`; what the client said.
    pub(crate) fn download_equals(&self, place: &str, file: &Path) -> Value {
        let target = self.network.work_dir().join("download");
        let said = self.copy(place, target.to_str().unwrap());
        assert_eq!(first_difference(file, &target).unwrap(), None, "{place}");
        std::fs::remove_file(&target).unwrap();
        said
    }

    /// Returns once the nodes' folders have grown by so many bytes: an upload is in its middle.
    pub(crate) fn wait_for_writes(&self, bytes: u64) {
        let started = Instant::now();
        let used = || -> u64 {
            self.network
                .seats()
                .iter()
                .map(|seat| disk_bytes_used(&seat.dir).unwrap())
                .sum()
        };
        let before = used();
        while used() < before + bytes {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "the upload writes nothing"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the bucket's listing names this key.
    pub(crate) fn is_listed(&self, key: &str) -> bool {
        let listing = self.client_ok(&["ls", &format!("st://{BUCKET}")]);
        String::from_utf8(listing)
            .unwrap()
            .lines()
            .any(|line| line.trim_end().ends_with(key))
    }

    /// What the satellite has committed for a key, and a prober that may read it.
    pub(crate) async fn committed(&self, key: &str) -> (Prober, Committed) {
        let invitation = Invitation::from_text(&self.invitation).unwrap();
        let grant = Grant::from_invitation(&invitation, PASSPHRASE, KdfParams::default()).unwrap();
        let (encrypted, _) = grant
            .path_key(BUCKET, Names::Sealed, &ObjectKey::parse(key).unwrap())
            .unwrap();
        let prober = Prober::dial(&self.network, invitation.macaroon.as_bytes())
            .await
            .unwrap();
        let committed = prober.committed(BUCKET, &encrypted).await.unwrap();
        (prober, committed)
    }

    /// Reads every committed piece of a key from its node, all of it checked against the commitment.
    pub(crate) fn every_piece_is_there(&self, key: &str) -> usize {
        runtime().block_on(async {
            let (prober, committed) = self.committed(key).await;
            for segment in &committed.segments {
                prober.read_all_pieces(segment).await.unwrap();
            }
            prober.close().await;
            committed
                .segments
                .iter()
                .map(|segment| segment.pieces.len())
                .sum()
        })
    }
}

/// A runtime for the harness' own questions.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
