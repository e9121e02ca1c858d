//! A node whose disk is unmounted or turns read-only.

use crate::mount::Mount;
use crate::world::{Client, Process, Satellite, Segment, block_on, run, set_up};

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
        let after = Segment::new(1, 3, 500_000);
        client.put(&after).await.unwrap();
        for segment in [&before, &after] {
            assert_eq!(client.get(segment).await.unwrap(), segment.body);
        }
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
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
