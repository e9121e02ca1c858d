//! Commands that are killed at any moment, and a start after that.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use strand_protocol::NodeId;

use crate::commands::{check_serves, json, text};
use crate::scrub::{piece, with_store};
use crate::world::{Satellite, Segment, block_on, piecestore, run, set_up};

/// A stopped node with blobs of four records, of which one is still wanted; gives what is.
fn mostly_dead(root: &Path, satellite: &Satellite) -> (PathBuf, NodeId, Vec<Segment>) {
    let (dir, node) = set_up(root, "node", &satellite.to_argument(), &[]);
    let segments: Vec<_> = (0..240).map(|_| Segment::new(1, 3, 60_000)).collect();
    let (from, ours) = (satellite.id, segments.clone());
    with_store(&dir, node, move |store, _| async move {
        for segment in &ours {
            store.put(piece(from, segment)).await.unwrap();
        }
        for (index, segment) in ours.iter().enumerate() {
            if index % 4 != 3 {
                let id = segment.id.as_bytes();
                assert_eq!(store.delete(from.as_bytes(), id, 0).await, Ok(true));
            }
        }
    });
    let kept = segments.into_iter().skip(3).step_by(4).collect();
    (dir, node, kept)
}

/// Begins a command again and again and kills it, a little later each time; gives how often it was not through.
async fn kill_often(command: &str, dir: &Path, waits_ms: &[u64]) -> usize {
    let mut kills = 0;
    for wait_ms in waits_ms {
        let mut child = piecestore()
            .args([command, "--dir", text(dir)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(*wait_ms)).await;
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    kills
}

fn blob_count(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("blobs")).unwrap().count()
}

#[test]
fn a_compaction_that_is_killed_at_any_moment_loses_nothing() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, kept) = mostly_dead(root.path(), &satellite);
        let before = blob_count(&dir);
        let mut partial = 0;
        for wait_ms in [5, 30, 50, 60, 70, 80, 90, 100, 120, 150] {
            let kills = kill_often("compact", &dir, &[wait_ms]).await;
            // In the middle: something was removed, and something is left to do.
            partial += usize::from(kills == 1 && blob_count(&dir) < before);
        }
        check_serves(&satellite, &dir, node, &kept).await;
        let report = json(&run(&["compact", "--json", "--dir", text(&dir)]));
        assert_eq!(report["lost_pieces"], 0, "{report}");
        let verified = json(&run(&["verify", "--json", "--dir", text(&dir)]));
        assert_eq!(verified["ok"], true, "{verified}");
        assert!(blob_count(&dir) < before);
        check_serves(&satellite, &dir, node, &kept).await;
        assert!(partial > 0, "no kill came in the middle");
    });
}

#[test]
fn a_rebuild_that_is_killed_at_any_moment_loses_nothing() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, kept) = mostly_dead(root.path(), &satellite);
        let waits_ms: Vec<_> = (0..12).map(|round| 2 + 5 * round).collect();
        let kills = kill_often("rebuild-index", &dir, &waits_ms).await;
        assert!(kills >= 3, "only {kills} kills");
        check_serves(&satellite, &dir, node, &kept).await;
        let report = json(&run(&["rebuild-index", "--json", "--dir", text(&dir)]));
        assert_eq!(
            (&report["pieces"], &report["damaged"]),
            (&60.into(), &0.into())
        );
        check_serves(&satellite, &dir, node, &kept).await;
    });
}
