//! A node whose disk is unmounted or turns read-only.

use crate::mount::Mount;
use crate::world::{
    Client, Process, Satellite, Segment, block_on, eventually, run, set_up, status,
};

#[test]
fn a_node_whose_disk_is_unmounted_writes_nothing_to_the_disk_below() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("node");
        std::fs::create_dir(&below).unwrap();
        let Some(mount) = Mount::new("tmpfs", &below) else {
            return;
        };
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        assert_eq!(dir, below);
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let before = Segment::new(1, 3, 500_000);
        client.put(&before).await.unwrap();
        mount.detach();
        // Within a second or so it is noticed, and nothing more is taken.
        eventually("a put that is refused", async || {
            let refused = client.put(&Segment::new(1, 3, 500_000)).await.is_err();
            refused.then_some(())
        })
        .await;
        assert_eq!(client.get(&before).await.unwrap(), before.body);
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        let said = log.matches("unmounted or replaced").count();
        assert_eq!(said, 1, "{log}");
        assert_eq!(std::fs::read_dir(&below).unwrap().count(), 0);

        for command in ["run", "space", "verify", "status"] {
            let ran = run(&[command, "--dir", dir.to_str().unwrap()]);
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.stderr.contains("if its disk is not mounted"), "{ran:?}");
        }
        assert_eq!(std::fs::read_dir(&below).unwrap().count(), 0);
    });
}

#[test]
fn blobs_on_a_mount_of_their_own_that_is_not_there_are_not_taken_for_an_empty_store() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let dir = root.path().join("node");
        let blobs = dir.join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let Some(mount) = Mount::new("tmpfs", &blobs) else {
            return;
        };
        let (_, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let segment = Segment::new(1, 3, 500_000);
        client.put(&segment).await.unwrap();
        assert_eq!(status(&dir)["disk"]["state"], "fine");
        mount.detach();
        eventually("a status that says so", async || {
            (status(&dir)["disk"]["state"] == "detached").then_some(())
        })
        .await;
        let text = run(&["status", "--dir", dir.to_str().unwrap()]);
        assert!(text.stdout.contains("unmounted or replaced"), "{text:?}");
        assert_eq!(client.get(&segment).await.unwrap(), segment.body);
        process.kill();
        let path = dir.to_str().unwrap();
        for command in [
            "run",
            "space",
            "verify",
            "scrub",
            "compact",
            "rebuild-index",
        ] {
            let ran = run(&[command, "--dir", path]);
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.stderr.contains("is not mounted; mount it"), "{ran:?}");
            assert_eq!(
                ran.stderr
                    .trim()
                    .lines()
                    .filter(|line| line.starts_with("error"))
                    .count(),
                1
            );
        }
        assert_eq!(
            std::fs::read_dir(&blobs).unwrap().count(),
            0,
            "something was written below"
        );
    });
}

#[test]
fn a_blob_removed_while_it_is_written_to_is_noticed_and_what_comes_later_is_kept() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let victim = Segment::new(1, 3, 500_000);
        client.put(&victim).await.unwrap();
        for entry in std::fs::read_dir(dir.join("blobs")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        eventually("a check-in that names the piece", async || {
            let lost = satellite.seen(node)?.check_in.lost;
            lost.iter()
                .any(|id| id == victim.id.as_bytes())
                .then_some(())
        })
        .await;
        assert!(client.get(&victim).await.is_err());
        let after = Segment::new(1, 3, 400_000);
        client.put(&after).await.unwrap();
        assert_eq!(status(&dir)["read_only"], false);
        process.kill();
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        assert_eq!(client.get(&after).await.unwrap(), after.body);
        assert!(client.get(&victim).await.is_err());
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
    });
}

#[test]
fn a_read_only_disk_is_refused_in_one_sentence_and_can_be_looked_at() {
    let root = tempfile::tempdir().unwrap();
    let below = root.path().join("node");
    std::fs::create_dir(&below).unwrap();
    let Some(mount) = Mount::new("tmpfs", &below) else {
        return;
    };
    let satellite = format!("{}@127.0.0.1:7777", strand_protocol::NodeId::from([9; 32]));
    let (dir, _) = set_up(root.path(), "node", &satellite, &[]);
    let path = dir.to_str().unwrap();
    mount.make_read_only();
    let ran = run(&["run", "--dir", path]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("mounted read-only"), "{ran:?}");
    assert_eq!(ran.stderr.trim().lines().count(), 1, "{ran:?}");
    for command in ["space", "verify"] {
        let ran = run(&[command, "--dir", path]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    mount.make_writable();
    drop(Process::start(&[&dir], &[]));
}
