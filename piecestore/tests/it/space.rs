//! `piecestore space` against a node's files, running and stopped.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::world::{Client, Process, Satellite, Segment, block_on, run, set_up};

/// `space --json`, checked against itself and against the files.
fn check_space(dir: &Path, running: bool) -> serde_json::Value {
    let path = dir.to_str().unwrap();
    let ran = run(&["space", "--json", "--dir", path]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let space: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let number = |key: &str| {
        let value = &space[key];
        value.as_u64().unwrap_or_else(|| panic!("{key}: {space}"))
    };
    let parts = ["live", "dead", "overhead", "padding", "header", "skipped"];
    let sum: u64 = parts
        .iter()
        .map(|part| number(&format!("{part}_bytes")))
        .sum();
    let files: Vec<_> = std::fs::read_dir(dir.join("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "blob"))
        .map(|entry| entry.metadata().unwrap())
        .collect();
    assert_eq!(sum, number("file_bytes"));
    assert_eq!(sum, number("sum_bytes"));
    assert_eq!(sum, files.iter().map(|file| file.len()).sum::<u64>());
    assert_eq!(sum, number("listed_bytes"));
    assert_eq!(number("file_count"), files.len() as u64);
    assert_eq!(
        number("allocated_bytes"),
        files.iter().map(|file| file.blocks() * 512).sum::<u64>()
    );
    assert_eq!(number("capacity_bytes"), 1_000_000_000);
    assert!(number("disk_free_bytes") > 0);
    assert_eq!(space["running"], running);
    space
}

#[test]
fn the_space_of_a_node_adds_up_running_and_stopped() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let empty = check_space(&dir, false);
        assert_eq!(empty["file_bytes"], 0);
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let segments = [(4, 10, 50_000), (1, 3, 2_000_000), (29, 93, 16_385)]
            .map(|(k, n, plain_len)| Segment::new(k, n, plain_len));
        for segment in &segments {
            client.put(segment).await.unwrap();
        }
        assert!(client.delete(&segments[0]).await.unwrap());
        let while_running = check_space(&dir, true);
        let live: usize = segments[1..].iter().map(|segment| segment.body.len()).sum();
        assert_eq!(while_running["live_bytes"], live);
        assert_eq!(while_running["dead_bytes"], segments[0].body.len());
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");

        let before = std::fs::read_dir(dir.join("blobs")).unwrap().count();
        let stopped = check_space(&dir, false);
        assert_eq!(stopped["live_bytes"], live);
        assert_eq!(stopped["dead_bytes"], segments[0].body.len());
        assert_eq!(
            std::fs::read_dir(dir.join("blobs")).unwrap().count(),
            before
        );

        let table = run(&["space", "--dir", dir.to_str().unwrap()]);
        assert_eq!(table.code, Some(0), "{table:?}");
        for row in ["= blob files", "+ headers and footers", "free for pieces"] {
            assert!(table.stdout.contains(row), "{}", table.stdout);
        }
    });
}

#[test]
fn a_directory_without_its_blobs_is_refused_and_not_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let satellite = format!("{}@127.0.0.1:7777", strand_protocol::NodeId::from([9; 32]));
    let (dir, _) = set_up(root.path(), "node", &satellite, &[]);
    std::fs::remove_dir_all(dir.join("blobs")).unwrap();
    for command in ["run", "space"] {
        let ran = run(&[command, "--dir", dir.to_str().unwrap()]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("has no blobs folder"), "{ran:?}");
        assert!(ran.stderr.contains("mount the disk"), "{ran:?}");
        assert_eq!(ran.stderr.trim().lines().count(), 1, "{ran:?}");
    }
    assert!(!dir.join("blobs").exists());
}
