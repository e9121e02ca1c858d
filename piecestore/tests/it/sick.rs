//! Disks that hang, files that others damage, and processes with another number of cores.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::mount::Mount;
use crate::world::{
    Client, Process, Satellite, Segment, block_on, eventually, run, set_up, set_up_many, status,
};

fn blobs(dir: &Path) -> Vec<PathBuf> {
    let mut blobs: Vec<_> = std::fs::read_dir(dir.join("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "blob"))
        .collect();
    blobs.sort();
    blobs
}

#[test]
fn a_blob_that_others_delete_or_truncate_costs_its_pieces_and_not_the_node() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let mut rounds = Vec::new();
        // One blob a round: each is made by a process of its own after the last one was taken for full.
        for round in 0..3 {
            let process = Process::start(&[&dir], &[]);
            satellite.reached(node, process.started_ms).await;
            let client = Client::connect(&satellite, node).await;
            let segment = Segment::new(1, 3, 600_000 + round);
            client.put(&segment).await.unwrap();
            let (ended, log) = process.stop();
            assert!(ended.success(), "{log}");
            rounds.push(segment);
        }
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        for segment in &rounds {
            assert_eq!(client.get(segment).await.unwrap(), segment.body);
        }
        let all = blobs(&dir);
        // All of it, as a foreign program would: the open blob too.
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&all[0])
            .unwrap();
        file.set_len(8_192).unwrap();
        let mut lost = 0;
        for segment in &rounds {
            lost += usize::from(client.get(segment).await.is_err());
        }
        assert!(lost > 0);
        let after = Segment::new(1, 3, 500_000);
        client.put(&after).await.unwrap();
        assert_eq!(client.get(&after).await.unwrap(), after.body);
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");

        for path in &all {
            std::fs::remove_file(path).unwrap();
        }
        // A node whose blobs are all gone may have lost its disk: it starts once its owner says otherwise, and takes pieces.
        let refused = run(&["run", "--dir", dir.to_str().unwrap()]);
        assert!(refused.stderr.contains("rebuild the index"), "{refused:?}");
        let rebuilt = run(&["rebuild-index", "--dir", dir.to_str().unwrap()]);
        assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let last = Segment::new(1, 3, 500_000);
        client.put(&last).await.unwrap();
        assert_eq!(client.get(&last).await.unwrap(), last.body);
        assert!(client.get(&rounds[0]).await.is_err());
    });
}

#[test]
fn the_same_directories_are_served_with_one_two_and_four_cores() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let nodes = set_up_many(root.path(), 4, &satellite);
        let dirs: Vec<&Path> = nodes.iter().map(|(dir, _)| dir.as_path()).collect();
        let mut stored: Vec<Vec<Segment>> = vec![Vec::new(); nodes.len()];
        for cores in ["1", "2", "4", "1"] {
            let process = Process::start(&dirs, &["--cores", cores]);
            for ((_, node), stored) in nodes.iter().zip(&mut stored) {
                satellite.reached(*node, process.started_ms).await;
                let client = Client::connect(&satellite, *node).await;
                for segment in stored.iter() {
                    assert_eq!(
                        client.get(segment).await.unwrap(),
                        segment.body,
                        "{cores} cores"
                    );
                }
                for size in [20_000, 300_000] {
                    let segment = Segment::new(1, 3, size);
                    client.put(&segment).await.unwrap();
                    stored.push(segment);
                }
            }
            let (ended, log) = process.stop();
            assert!(ended.success(), "{log}");
        }
    });
}

/// A file system which can be frozen: whoever writes to it then waits, as for a disk that hangs.
struct Freezer {
    path: PathBuf,
    _mount: Mount,
}

impl Freezer {
    /// `None`, and a line that says so, without the right to mount or the programs for it.
    fn new(root: &Path) -> Option<Self> {
        let path = root.join("frozen");
        std::fs::create_dir(&path).unwrap();
        let mount = Mount::ext4(128, &path)?;
        if Command::new("fsfreeze").arg("--version").output().is_ok() {
            return Some(Self {
                path,
                _mount: mount,
            });
        }
        let line = "skipped: freezing a disk needs fsfreeze";
        let _ = writeln!(std::io::stderr(), "{line}");
        None
    }

    fn set(&self, option: &str) -> bool {
        let status = Command::new("fsfreeze")
            .arg(option)
            .arg(&self.path)
            .status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // It may be thawed; frozen, it would hold up every program that touches it.
        self.set("-u");
    }
}

#[test]
fn a_disk_that_hangs_costs_its_own_requests_ten_seconds_and_the_other_nodes_nothing() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let Some(freezer) = Freezer::new(root.path()) else {
            return;
        };
        let satellite = Satellite::start().await;
        let (hung, hung_node) = set_up(&freezer.path, "node", &satellite.to_argument(), &[]);
        let (well, well_node) = set_up(root.path(), "well", &satellite.to_argument(), &[]);
        let process = Process::start(&[&hung, &well], &["--cores", "1"]);
        satellite.reached(hung_node, process.started_ms).await;
        satellite.reached(well_node, process.started_ms).await;
        let hung_client = Client::connect(&satellite, hung_node).await;
        let well_client = Client::connect(&satellite, well_node).await;
        let before = Segment::new(1, 3, 300_000);
        hung_client.put(&before).await.unwrap();
        assert!(freezer.set("-f"));
        let began = Instant::now();
        let waiting: Vec<_> = (0..6)
            .map(|_| {
                let client = hung_client.clone();
                tokio::spawn(async move { client.put(&Segment::new(1, 3, 300_000)).await.is_err() })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        while began.elapsed() < Duration::from_secs(9) {
            let put = Instant::now();
            let segment = Segment::new(1, 3, 300_000);
            well_client.put(&segment).await.unwrap();
            assert_eq!(well_client.get(&segment).await.unwrap(), segment.body);
            slowest = slowest.max(put.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for task in waiting {
            let failed = tokio::time::timeout(Duration::from_secs(10), task).await;
            assert!(failed.expect("a request hangs with its disk").unwrap());
        }
        assert!(
            began.elapsed() < Duration::from_secs(18),
            "{:?}",
            began.elapsed()
        );
        assert!(
            slowest < Duration::from_secs(4),
            "the other node took {slowest:?}"
        );
        eventually("a status that says so", async || {
            let said = status(&hung);
            (said["disk"]["state"] == "hangs" && said["read_only"] == true).then_some(())
        })
        .await;
        assert_eq!(status(&well)["disk"]["state"], "fine");
        assert!(freezer.set("-u"));
        eventually("the hung operations' end", async || {
            (status(&hung)["disk"]["state"] == "failed").then_some(())
        })
        .await;
        assert_eq!(hung_client.get(&before).await.unwrap(), before.body);
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        assert!(log.contains("does not answer"), "{log}");
    });
}
