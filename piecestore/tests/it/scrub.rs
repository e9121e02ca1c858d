//! `piecestore scrub` of running and stopped nodes, and what compacting a stopped one leaves for its next start.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use piecestore::core::{CoreExecutor, CoreOptions, Executor, start};
use piecestore::directory::Directory;
use piecestore::disk::CoreDisk;
use strand_blob::{NewPiece, Recovery, Store, StoreOptions};
use strand_protocol::NodeId;
use tempfile::TempDir;

use crate::commands::{check_serves, filled, text};
use crate::verify::find_record;
use crate::world::{
    Process, Satellite, Segment, block_on, eventually, piecestore, run, set_up, status,
};

/// A stopped node with pieces, and its satellite.
struct Filled {
    root: TempDir,
    satellite: Satellite,
    dir: PathBuf,
    node: NodeId,
    segments: Vec<Segment>,
}

impl Filled {
    /// A piece of each of these sizes.
    async fn new(sizes: &[u64]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, segments) = filled(root.path(), &satellite, sizes).await;
        Self {
            root,
            satellite,
            dir,
            node,
            segments,
        }
    }
}

/// `scrub --json`, whose exit code must be its `ok`.
fn scrub(dir: &Path) -> serde_json::Value {
    let ran = run(&["scrub", "--json", "--dir", text(dir)]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let code = i32::from(report["ok"] == false);
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stderr.contains("scrubbed in"), "{ran:?}");
    assert_eq!(report["error"], "");
    report
}

/// Flips a bit of a piece's body where it lies.
fn damage(dir: &Path, segment: &Segment) {
    let (path, record) = find_record(dir, segment);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let at = record.share_range(0).start + 5;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

/// Begins to scrub, and kills that command; whether it was still at work.
async fn kill_scrub_after(dir: &Path, wait_ms: u64) -> bool {
    let mut child = piecestore()
        .args(["scrub", "--dir", text(dir)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    let was_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    was_running
}

fn check_good(dir: &Path, running: bool, body_bytes: u64) {
    let report = scrub(dir);
    assert_eq!(
        (&report["ok"], &report["running"]),
        (&true.into(), &running.into())
    );
    for figure in ["damaged_records", "damaged_headers", "damaged_pieces"] {
        assert_eq!(report[figure], 0, "{figure}: {report}");
    }
    assert!(
        report["read_bytes"].as_u64().unwrap() >= body_bytes,
        "{report}"
    );
    let words = run(&["scrub", "--dir", text(dir)]);
    assert_eq!(words.code, Some(0), "{words:?}");
    assert!(words.stdout.contains("no piece is damaged"), "{words:?}");
}

#[test]
fn a_clean_store_is_read_whole_and_called_clean_running_or_stopped() {
    block_on(async {
        let Filled {
            root: _root,
            satellite,
            dir,
            node,
            segments,
        } = Filled::new(&[20_000, 300_000, 2_000_000]).await;
        let body_bytes = segments.iter().map(|piece| piece.body.len() as u64).sum();
        check_good(&dir, false, body_bytes);
        let process = Process::start(&[&dir], &[]);
        check_good(&dir, true, body_bytes);
        drop(process);
        check_serves(&satellite, &dir, node, &segments).await;
    });
}

#[test]
fn a_damaged_piece_of_a_stopped_node_is_named_and_the_others_are_served() {
    block_on(async {
        let Filled {
            root: _root,
            satellite,
            dir,
            node,
            mut segments,
        } = Filled::new(&[20_000, 300_000, 2_000_000]).await;
        let victim = segments.remove(1);
        damage(&dir, &victim);
        // Nothing of it is kept: the second finds the same.
        for _ in 0..2 {
            let report = scrub(&dir);
            assert_eq!(
                (&report["ok"], &report["lost_pieces"]),
                (&false.into(), &1.into())
            );
            assert_eq!(report["lost"][0]["piece_id"], victim.id.to_string());
            assert_eq!(report["lost"][0]["satellite"], satellite.id.to_string());
            assert_eq!(report["lost"][0]["damage"], "share 0");
        }
        let words = run(&["scrub", "--dir", text(&dir)]);
        assert_eq!(words.code, Some(1), "{words:?}");
        let named = format!("piece {} of satellite {} is lost", victim.id, satellite.id);
        for said in [
            named.as_str(),
            "1 pieces were found damaged",
            "piecestore run --dir",
        ] {
            assert!(words.stdout.contains(said), "{said}: {words:?}");
        }
        check_serves(&satellite, &dir, node, &segments).await;
    });
}

#[test]
fn what_a_running_node_finds_damaged_its_satellite_hears_of() {
    block_on(async {
        let Filled {
            root: _root,
            satellite,
            dir,
            node,
            segments,
        } = Filled::new(&[20_000, 300_000, 2_000_000]).await;
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let victim = &segments[1];
        damage(&dir, victim);
        let report = scrub(&dir);
        // Whether it or the node's own scrub came there first.
        assert_eq!(
            (&report["running"], &report["ok"], &report["damaged_pieces"]),
            (&true.into(), &false.into(), &1.into())
        );
        eventually("a check-in that names the piece", async || {
            let lost = satellite.seen(node)?.check_in.lost;
            lost.iter()
                .any(|id| id == victim.id.as_bytes())
                .then_some(())
        })
        .await;
        // Known by now, and still damaged.
        let again = run(&["scrub", "--dir", text(&dir)]);
        assert_eq!(again.code, Some(1), "{again:?}");
        for said in [
            "0 pieces were found damaged, and 1 are out",
            "the satellite hears",
        ] {
            assert!(again.stdout.contains(said), "{said}: {again:?}");
        }
        assert_eq!(status(&dir)["read_only"], false);
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        assert!(log.contains(&victim.id.to_string()), "{log}");
    });
}

#[test]
fn a_scrub_that_is_killed_at_any_moment_leaves_everything_to_the_next_one() {
    block_on(async {
        let Filled {
            root: _root,
            satellite,
            dir,
            node,
            mut segments,
        } = Filled::new(&[4_000_000; 12]).await;
        let victim = segments.pop().unwrap();
        damage(&dir, &victim);
        let mut kills = 0;
        for wait_ms in [2, 5, 10, 20, 40, 80, 160, 320, 640] {
            kills += usize::from(kill_scrub_after(&dir, wait_ms).await);
        }
        assert!(kills >= 2, "only {kills} kills");
        let report = scrub(&dir);
        assert_eq!(report["lost_pieces"], 1, "{report}");
        assert_eq!(report["lost"][0]["piece_id"], victim.id.to_string());
        // A command that asked a running node may go away; the job goes on, and the next command gets its end or another one's.
        let process = Process::start(&[&dir], &[]);
        kill_scrub_after(&dir, 50).await;
        let report = scrub(&dir);
        assert_eq!(
            (&report["running"], &report["damaged_pieces"]),
            (&true.into(), &1.into())
        );
        process.kill();
        check_serves(&satellite, &dir, node, &segments).await;
    });
}

pub(crate) type OwnStore = Rc<Store<CoreDisk<CoreExecutor>>>;

/// Works with the store of a directory as a node would, but with blobs of four records, and nobody compacts.
pub(crate) fn with_store<T: Send + 'static, F: Future<Output = T> + 'static>(
    dir: &Path,
    node: NodeId,
    work: impl FnOnce(OwnStore, Recovery) -> F + Send + 'static,
) -> T {
    let directory = Directory::open(dir).unwrap();
    let core = start(CoreOptions::default(), move |core| async move {
        let disk = core
            .disk_in(&directory.blobs(), directory.open_blobs().unwrap())
            .unwrap()
            .with_checkpoints(directory.open_checkpoints().unwrap().unwrap());
        let mut options = StoreOptions::new(*node.as_bytes(), 1_000_000_000);
        options.blob_records_max = 4;
        let opened = Store::open(disk, options, 0, &mut |salt: &mut [u8]| salt.fill(7)).await;
        let (store, recovery) = opened.unwrap();
        core.executor().spawn(Rc::clone(&store).run_commits());
        core.executor().yield_now().await;
        let output = work(Rc::clone(&store), recovery).await;
        store.close().await;
        output
    });
    core.unwrap().join().unwrap()
}

pub(crate) fn piece(satellite: NodeId, segment: &Segment) -> NewPiece {
    NewPiece {
        satellite: *satellite.as_bytes(),
        id: *segment.id.as_bytes(),
        created_s: 0,
        expiry_s: 0,
        body: vec![Bytes::clone(&segment.body)],
        crcs: strand_blob::share_crcs(&segment.body),
        share_hashes: segment.tree.share_hashes.clone(),
        root: segment.tree.root,
        path: segment.path.clone(),
        commitment: segment.commitment,
    }
}

fn checkpoint_names(dir: &Path) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(dir.join("checkpoint")).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_stopped_node_that_was_compacted_starts_from_its_checkpoint_and_misses_nothing() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let segments: Vec<_> = (0..14).map(|_| Segment::new(1, 3, 60_000)).collect();
        let (from, ours) = (satellite.id, segments.clone());
        with_store(&dir, node, move |store, _| async move {
            for segment in &ours {
                store.put(piece(from, segment)).await.unwrap();
            }
            // Three of four in each of the first two blobs, so that there is something to move.
            for index in [0, 1, 2, 4, 5, 6] {
                let id = ours[index].id.as_bytes();
                assert_eq!(store.delete(from.as_bytes(), id, 0).await, Ok(true));
            }
        });
        assert!(!checkpoint_names(&dir).is_empty(), "nothing to be stale");
        let kept: Vec<_> = [3, 7, 8, 9, 10, 11, 12, 13]
            .map(|index: usize| segments[index].clone())
            .into();
        let ran = run(&["compact", "--json", "--dir", text(&dir)]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(report["running"], false);
        assert!(report["blobs_removed"].as_u64() >= Some(2), "{report}");
        assert!(report["moved_pieces"].as_u64() >= Some(2), "{report}");
        assert_eq!(report["lost_pieces"], 0);
        let recovery = with_store(&dir, node, |_, recovery| async move { recovery });
        assert!(recovery.checkpoint.is_some(), "{recovery:?}");
        assert_eq!((recovery.pieces, recovery.rotten), (8, Vec::new()));
        check_serves(&satellite, &dir, node, &kept).await;
        check_good(&dir, false, 8 * 60_000);
    });
}

#[test]
fn checkpoints_that_cannot_be_opened_keep_a_node_from_starting_until_they_can_or_are_gone() {
    block_on(async {
        let Filled {
            root: _root,
            satellite,
            dir,
            node,
            segments,
        } = Filled::new(&[20_000, 300_000]).await;
        let (folder, aside) = (dir.join("checkpoint"), dir.join("aside"));
        std::fs::rename(&folder, &aside).unwrap();
        let refused = || {
            let blobs = std::fs::read_dir(dir.join("blobs")).unwrap().count();
            for command in ["run", "compact", "scrub"] {
                let ran = run(&[command, "--dir", text(&dir)]);
                assert_eq!(ran.code, Some(1), "{ran:?}");
                let errors = ran
                    .stderr
                    .lines()
                    .filter(|line| line.contains("checkpoint"));
                let errors: Vec<_> = errors.collect();
                assert_eq!(errors.len(), 1, "{ran:?}");
                for said in [
                    "cannot open the checkpoints in",
                    text(&folder),
                    "or remove it",
                ] {
                    assert!(errors[0].contains(said), "{said}: {ran:?}");
                }
            }
            let after = std::fs::read_dir(dir.join("blobs")).unwrap().count();
            assert_eq!(blobs, after, "something was written");
        };
        std::fs::write(&folder, "no folder").unwrap();
        refused();
        std::fs::remove_file(&folder).unwrap();
        std::os::unix::fs::symlink(dir.join("nowhere"), &folder).unwrap();
        refused();
        std::fs::remove_file(&folder).unwrap();
        std::fs::rename(&aside, &folder).unwrap();
        check_serves(&satellite, &dir, node, &segments).await;
        std::fs::remove_dir_all(&folder).unwrap();
        check_serves(&satellite, &dir, node, &segments).await;
    });
}

#[test]
fn a_node_that_was_never_started_by_its_process_does_not_keep_a_command_waiting() {
    let root = tempfile::tempdir().unwrap();
    let nowhere = format!("{}@127.0.0.1:7777", NodeId::from([9; 32]));
    let (well, _) = set_up(root.path(), "well", &nowhere, &[]);
    let (ill, _) = set_up(root.path(), "ill", &nowhere, &[]);
    std::fs::write(ill.join("checkpoint"), "no folder").unwrap();
    let process = Process::start_expecting(1, &[&well, &ill], &[]);
    let ran = run(&["scrub", "--dir", text(&ill)]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("does not begin to scrub"), "{ran:?}");
    check_good(&well, true, 0);
    drop(process);
}
