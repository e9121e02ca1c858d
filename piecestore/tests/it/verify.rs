//! `piecestore verify` against whole and damaged files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use strand_blob::inspect;
use strand_protocol::NodeId;

use crate::world::{Client, Process, Ran, Satellite, Segment, block_on, run, set_up};

/// A stopped node with pieces, one of them deleted.
struct Stopped {
    _root: tempfile::TempDir,
    dir: PathBuf,
    satellite: NodeId,
    stored: Vec<Segment>,
    deleted: Segment,
}

fn stopped_node() -> Stopped {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let mut stored: Vec<_> = [20_000, 300_000, 2_000_000, 900_000]
            .map(|plain_len| Segment::new(1, 3, plain_len))
            .into();
        for segment in &stored {
            client.put(segment).await.unwrap();
        }
        let deleted = stored.remove(1);
        assert!(client.delete(&deleted).await.unwrap());

        let running = verify(&dir, &[]);
        assert_eq!(running.code, Some(1), "{running:?}");
        assert!(running.stderr.contains("stop it first"), "{running:?}");
        assert_eq!(running.stdout, "");

        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        Stopped {
            _root: root,
            dir,
            satellite: satellite.id,
            stored,
            deleted,
        }
    })
}

fn verify(dir: &Path, more: &[&str]) -> Ran {
    let mut arguments = vec!["verify", "--dir", dir.to_str().unwrap()];
    arguments.extend(more);
    run(&arguments)
}

/// `verify --json`, which must find something exactly if its exit code says so.
fn check_verify(dir: &Path, is_good: bool) -> serde_json::Value {
    let before = content(dir);
    let ran = verify(dir, &["--json"]);
    assert_eq!(ran.code, Some(i32::from(!is_good)), "{ran:?}");
    assert_eq!(content(dir), before, "verify wrote something");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["ok"], is_good, "{report}");
    assert_eq!(report["faults"].as_array().unwrap().is_empty(), is_good);
    report
}

/// Every file of a node's directory.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    [dir.to_owned(), dir.join("blobs")]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect()
}

/// The blob in a directory that holds a piece, and the piece's record in it.
pub(crate) fn find_record(dir: &Path, segment: &Segment) -> (PathBuf, inspect::StoredRecord) {
    let found = content(dir)
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|end| end == "blob"))
        .find_map(|(path, bytes)| {
            let records = inspect::records(&bytes).unwrap();
            let record = records
                .into_iter()
                .find(|record| record.is_piece() && record.id == *segment.id.as_bytes())?;
            Some((path, record))
        });
    found.unwrap()
}

impl Stopped {
    /// The blob that holds a piece, and the piece's record in it.
    fn find(&self, segment: &Segment) -> (PathBuf, inspect::StoredRecord) {
        find_record(&self.dir, segment)
    }

    fn flip(&self, path: &Path, offset: u64) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[offset as usize] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_whole_store_is_good_and_a_flipped_bit_costs_its_piece_by_name() {
    let node = stopped_node();
    let good = check_verify(&node.dir, true);
    assert_eq!(good["pieces"], 3);
    assert_eq!(good["records"], 5);
    let body_bytes: usize = node.stored.iter().map(|segment| segment.body.len()).sum();
    assert_eq!(good["piece_bytes"], body_bytes);
    let (read, held) = (&good["read_bytes"], &good["file_bytes"]);
    assert!(read.as_u64() >= held.as_u64(), "{good}");

    let victim = &node.stored[1];
    let (path, record) = node.find(victim);
    node.flip(&path, record.share_range(2).start + 5);
    let report = check_verify(&node.dir, false);
    assert_eq!(report["lost_pieces"], 1);
    assert_eq!(report["lost_bytes"], victim.body.len());
    assert_eq!(report["pieces"], 2);
    assert_eq!(report["lost"][0]["piece_id"], victim.id.to_string());
    assert_eq!(report["lost"][0]["satellite"], node.satellite.to_string());
    let fault = &report["faults"][0];
    assert_eq!(fault["fault"], "share 2 is damaged");
    assert_eq!(fault["offset"], record.offset);
    assert_eq!(fault["lost"], true);
    let text = verify(&node.dir, &[]);
    let wanted = format!(
        "piece {} of satellite {} is lost",
        victim.id, node.satellite
    );
    assert!(text.stdout.contains(&wanted), "{}", text.stdout);
    assert!(text.stderr.contains("verified in"), "{}", text.stderr);
}

#[test]
fn content_that_is_not_its_roots_is_found_though_every_checksum_holds() {
    let node = stopped_node();
    let victim = &node.stored[1];
    let (path, record) = node.find(victim);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[record.share_range(1).start as usize] ^= 1;
    let range = record.body_and_trailer();
    let range = range.start as usize..range.end as usize;
    inspect::danger_recompute_checksums(&record, &mut bytes[range]);
    std::fs::write(&path, bytes).unwrap();
    let report = check_verify(&node.dir, false);
    assert_eq!(report["lost"][0]["piece_id"], victim.id.to_string());
    let fault = report["faults"][0]["fault"].as_str().unwrap();
    assert!(fault.contains("root"), "{report}");
}

#[test]
fn damage_to_a_deleted_piece_costs_nothing_and_is_said_all_the_same() {
    let node = stopped_node();
    let (path, record) = node.find(&node.deleted);
    node.flip(&path, record.trailer_checksum_offset());
    let report = check_verify(&node.dir, false);
    assert_eq!(report["lost_pieces"], 0);
    assert_eq!(report["pieces"], 3);
    assert_eq!(report["faults"][0]["fault"], "a piece trailer is damaged");
    assert_eq!(report["faults"][0]["lost"], false);
}

#[test]
fn headers_of_blobs_and_records_are_checked() {
    let node = stopped_node();
    let (path, record) = node.find(&node.stored[0]);
    node.flip(&path, 100);
    let report = check_verify(&node.dir, false);
    assert_eq!(
        report["faults"][0]["fault"],
        "a blob header copy is damaged"
    );
    assert_eq!(report["lost_pieces"], 0, "there is another copy");
    node.flip(&path, 100);
    check_verify(&node.dir, true);

    node.flip(&path, record.offset + 10);
    let report = check_verify(&node.dir, false);
    assert_eq!(report["faults"][0]["offset"], record.offset);
    assert!(report["unknown_bytes"].as_u64().unwrap() >= record.body_len);
    assert_eq!(report["pieces"], 2);
    node.flip(&path, record.offset + 10);

    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(8_192 + 100).unwrap();
    let torn = verify(&node.dir, &["--json"]);
    assert!(torn.code.is_some(), "{torn:?}");
}

#[test]
fn a_blob_of_another_node_is_named() {
    let node = stopped_node();
    let other = stopped_node();
    let (path, _) = other.find(&other.stored[0]);
    std::fs::copy(
        &path,
        node.dir.join("blobs").join(path.file_name().unwrap()),
    )
    .unwrap();
    let report = check_verify(&node.dir, false);
    let fault = &report["faults"][0]["fault"];
    assert_eq!(fault, "the blob belongs to another node");
}
