//! Nodes whose stores take long to open.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use piecestore::core::{CoreOptions, Executor, Gate, start, timeout};
use piecestore::directory::Directory;
use piecestore::hardware::DiskTurn;
use piecestore::node::{Budgets, Node, Seat};
use piecestore::serve::Admission;
use strand_protocol::Code;

use crate::world::{
    Client, Process, Satellite, Segment, block_on, code, eventually, run, set_up, status,
};

/// Bytes that the newest blob is made longer by, as a file system's damage might: an opening tries every step of them. They are a hole.
const HOLE_BYTES: u64 = 10 << 30;

/// A node with some pieces, whose next start takes seconds.
async fn slow_to_open(
    root: &Path,
    satellite: &Satellite,
    hole_bytes: u64,
) -> (std::path::PathBuf, strand_protocol::NodeId, Vec<Segment>) {
    let (dir, node) = set_up(root, "node", &satellite.to_argument(), &[]);
    // A hole counts as used.
    let settings = std::fs::read_to_string(dir.join("node.toml")).unwrap();
    std::fs::write(dir.join("node.toml"), settings.replace("1GB", "4TB")).unwrap();
    let process = Process::start(&[&dir], &[]);
    satellite.reached(node, process.started_ms).await;
    let client = Client::connect(satellite, node).await;
    let segments: Vec<_> = [20_000, 300_000, 2_000_000]
        .map(|len| Segment::new(1, 3, len))
        .into();
    for segment in &segments {
        client.put(segment).await.unwrap();
    }
    process.kill();
    let blobs = std::fs::read_dir(dir.join("blobs")).unwrap();
    let blobs = blobs.map(|entry| entry.unwrap().path());
    let newest = blobs.filter(|path| path.extension().is_some_and(|end| end == "blob"));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(newest.max().unwrap())
        .unwrap();
    file.set_len(file.metadata().unwrap().len() + hole_bytes)
        .unwrap();
    (dir, node, segments)
}

#[test]
fn a_node_is_in_the_network_and_busy_until_its_index_is_there() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, segments) = slow_to_open(root.path(), &satellite, HOLE_BYTES).await;
        let mut process = Process::begin(&[&dir], &[]);
        let seen = satellite.reached(node, process.started_ms).await;
        assert_eq!(seen.check_in.free_bytes, 0, "nothing can be put yet");
        assert!(seen.check_in.used_bytes > HOLE_BYTES);
        assert_eq!(seen.check_in.capacity_bytes, 4_000_000_000_000);
        let client = Client::connect(&satellite, node).await;
        let new = Segment::new(1, 3, 300_000);
        assert_eq!(code(client.get(&segments[1]).await), Code::Busy);
        assert_eq!(code(client.get(&new).await), Code::Busy, "known to nobody");
        assert_eq!(code(client.put(&new).await), Code::Busy);
        assert_eq!(code(client.delete(&segments[0]).await), Code::Busy);
        let said = status(&dir);
        assert_eq!(said["opening"]["is_open"], false, "{said}");
        assert!(said["opening"]["bytes_total"].as_u64().unwrap() > HOLE_BYTES);
        assert_eq!(said["standing"]["reachable"], true);
        assert!(
            said["requests"]["errors"]["BUSY"].as_u64() >= Some(4),
            "{said}"
        );
        let path = dir.to_str().unwrap();
        let text = run(&["status", "--dir", path]).stdout;
        assert!(text.contains("the index is being rebuilt, "), "{text}");
        let ran = run(&["restore-trash", "--dir", path]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let sentence = "error: the node cannot answer: the index is being rebuilt, ";
        assert!(ran.stderr.starts_with(sentence), "{ran:?}");
        let scrubbing = {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || run(&["scrub", "--dir", &path]))
        };
        let process = tokio::task::spawn_blocking(move || {
            process.wait_until_serving(1);
            process
        })
        .await
        .unwrap();
        let opening = &process.opening[..];
        assert!(opening[0].starts_with(&format!("opening {node} on ")));
        assert_eq!(opening.len(), 1, "{opening:?}");
        assert!(process.serving[0].starts_with(&format!("serving {node} on ")));
        // Asked while the store was being opened, it waited, said for what, and was done.
        let ran = scrubbing.await.unwrap();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let sentence = "waiting for the node: the index is being rebuilt, ";
        assert!(ran.stderr.starts_with(sentence), "{ran:?}");
        let served = Instant::now();
        eventually("a check-in with the store's figures", async || {
            let seen = satellite.seen(node).unwrap();
            (seen.check_in.free_bytes > 0).then_some(())
        })
        .await;
        let told = served.elapsed();
        assert!(told < Duration::from_secs(10), "not at once: {told:?}");
        for segment in &segments {
            assert_eq!(client.get(segment).await.unwrap(), segment.body);
        }
        client.put(&new).await.unwrap();
        assert!(client.delete(&segments[0]).await.unwrap());
        assert_eq!(status(&dir)["opening"]["is_open"], true);
        let ran = run(&["compact", "--dir", path]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
    });
}

#[test]
fn a_node_that_is_told_to_stop_while_its_store_is_opened_stops_at_once() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, segments) = slow_to_open(root.path(), &satellite, 64 << 30).await;
        let process = Process::begin(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let began = Instant::now();
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        assert!(!dir.join("node.sock").exists());
        // And nothing is changed by it.
        let blobs = std::fs::read_dir(dir.join("blobs")).unwrap();
        for entry in blobs.map(|entry| entry.unwrap()) {
            let len = entry.metadata().unwrap().len();
            if len > 64 << 30 {
                let file = std::fs::OpenOptions::new().write(true).open(entry.path());
                file.unwrap().set_len(len - (64 << 30)).unwrap();
            }
        }
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        for segment in &segments {
            assert_eq!(client.get(segment).await.unwrap(), segment.body);
        }
    });
}

#[test]
fn a_node_that_is_stopped_while_its_store_is_opened_leaves_it() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, ..) = slow_to_open(root.path(), &satellite, 64 << 30).await;
        let directory = Directory::open(&dir).unwrap();
        let core = start(CoreOptions::default(), move |core| async move {
            let executor = core.executor();
            let seat = Seat {
                directory,
                board: Arc::default(),
                is_spinning: false,
                turn: DiskTurn::default(),
            };
            let budgets = Budgets {
                writes: Admission::new(8 << 20),
                reads: Admission::new(8 << 20),
            };
            let node = Rc::new(Node::begin(&core, seat, budgets).unwrap());
            let opened = Rc::new(Cell::new(None));
            let (opening, answer) = (Rc::clone(&node), Rc::clone(&opened));
            let ended = Gate::new();
            let pass = ended.enter().unwrap();
            executor.spawn(async move {
                answer.set(opening.open().await.ok());
                drop(pass);
            });
            executor.sleep(Duration::from_millis(200)).await;
            assert_eq!(opened.get(), None, "it is slow");
            node.stop().await;
            timeout(&executor, Duration::from_secs(1), ended.close()).await;
            opened.get()
        });
        let ended = tokio::task::spawn_blocking(|| core.unwrap().join().unwrap());
        assert_eq!(ended.await.unwrap(), Some(false));
    });
}
