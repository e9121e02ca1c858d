//! The commands that change a node's directory: `compact`, `rebuild-index`, `move-dir`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use strand_protocol::NodeId;

use crate::world::{Client, Process, Ran, Satellite, Segment, block_on, piecestore, run, set_up};

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn json(ran: &Ran) -> serde_json::Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Nobody answers there; enough for a directory that is only looked at.
fn nowhere() -> String {
    format!("{}@127.0.0.1:7777", NodeId::from([9; 32]))
}

/// A node's directory with pieces in it, stopped.
pub(crate) async fn filled(
    root: &Path,
    satellite: &Satellite,
    sizes: &[u64],
) -> (PathBuf, NodeId, Vec<Segment>) {
    let (dir, node) = set_up(root, "node", &satellite.to_argument(), &[]);
    let process = Process::start(&[&dir], &[]);
    satellite.reached(node, process.started_ms).await;
    let client = Client::connect(satellite, node).await;
    let mut segments = Vec::new();
    for &size in sizes {
        let segment = Segment::new(1, 3, size);
        client.put(&segment).await.unwrap();
        segments.push(segment);
    }
    let (ended, log) = process.stop();
    assert!(ended.success(), "{log}");
    (dir, node, segments)
}

/// All of them are served from there.
pub(crate) async fn check_serves(
    satellite: &Satellite,
    dir: &Path,
    node: NodeId,
    segments: &[Segment],
) {
    let process = Process::start(&[dir], &[]);
    satellite.reached(node, process.started_ms).await;
    let client = Client::connect(satellite, node).await;
    for segment in segments {
        assert_eq!(client.get(segment).await.unwrap(), segment.body);
    }
    let (ended, log) = process.stop();
    assert!(ended.success(), "{log}");
}

#[test]
fn compact_is_done_by_the_running_node_and_of_a_stopped_one() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, segments) = filled(root.path(), &satellite, &[20_000, 300_000]).await;
        let stopped = json(&run(&["compact", "--json", "--dir", text(&dir)]));
        assert_eq!(
            (&stopped["running"], &stopped["blobs_removed"]),
            (&false.into(), &0.into())
        );
        let process = Process::start(&[&dir], &[]);
        let running = json(&run(&["compact", "--json", "--dir", text(&dir)]));
        assert_eq!(
            (&running["running"], &running["blobs_removed"]),
            (&true.into(), &0.into())
        );
        let words = run(&["compact", "--dir", text(&dir)]);
        assert!(
            words.stdout.contains("nothing is worth compacting"),
            "{words:?}"
        );
        drop(process);
        check_serves(&satellite, &dir, node, &segments).await;
    });
}

#[test]
fn rebuild_index_says_how_many_pieces_there_are_and_removes_what_was_remembered() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, segments) =
            filled(root.path(), &satellite, &[20_000, 300_000, 70_000]).await;
        std::fs::create_dir_all(dir.join("checkpoint")).unwrap();
        std::fs::write(dir.join("checkpoint/1"), "no checkpoint").unwrap();
        let report = json(&run(&["rebuild-index", "--json", "--dir", text(&dir)]));
        assert_eq!(
            (&report["pieces"], &report["damaged"]),
            (&3.into(), &0.into())
        );
        assert_eq!(report["checkpoint_files_removed"], 2, "the node's own too");
        assert!(!dir.join("checkpoint/1").exists());
        check_serves(&satellite, &dir, node, &segments).await;
    });
}

#[test]
fn a_directory_moves_whole_and_never_can_both_start() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, segments) =
            filled(root.path(), &satellite, &[20_000, 300_000, 2_000_000]).await;
        let to = root.path().join("other/place");
        std::fs::create_dir(root.path().join("other")).unwrap();
        let moved = json(&run(&["move-dir", text(&dir), text(&to), "--json"]));
        assert_eq!(
            (&moved["files"], &moved["files_before"]),
            (&1.into(), &0.into())
        );
        assert_eq!(moved["unreadable_bytes"], 0);
        let refused = run(&["run", "--dir", text(&dir)]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("was moved to"), "{refused:?}");
        let again = run(&["move-dir", text(&dir), text(&root.path().join("third"))]);
        assert!(again.stderr.contains("was moved to"), "{again:?}");
        check_serves(&satellite, &to, node, &segments).await;
        assert!(
            dir.join("blobs").exists(),
            "removed without having been asked"
        );
        let removed = json(&run(&[
            "move-dir",
            text(&dir),
            text(&to),
            "--remove",
            "--json",
        ]));
        assert_eq!(removed["removed"], true);
        assert!(!dir.exists());
        check_serves(&satellite, &to, node, &segments).await;
    });
}

#[test]
fn a_move_that_is_killed_at_any_moment_goes_on_and_loses_nothing() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, segments) = filled(root.path(), &satellite, &[2_000_000, 900_000]).await;
        // Blobs that a check would not believe, but files all the same: enough for a kill in the middle.
        for id in 0x100..0x118_u64 {
            let content: Vec<u8> = (0..6_000_000_u64).map(|at| (at % 251 + id) as u8).collect();
            std::fs::write(dir.join(format!("blobs/{id:016x}.blob")), content).unwrap();
        }
        let to = root.path().join("new");
        let mut kills = 0;
        for wait_ms in [3, 10, 25, 50, 80, 120, 200, 300, 450, 700, 1_000] {
            let mut child = piecestore()
                .args(["move-dir", text(&dir), text(&to)])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            let has_ended = child.try_wait().unwrap().is_some();
            child.kill().unwrap();
            child.wait().unwrap();
            // Never both: what starts a directory is its settings beside its key, and no word that it has moved.
            let old_starts = !dir.join("moved-to").exists();
            let new_starts = to.join("node.toml").exists();
            assert!(!(old_starts && new_starts), "both would start");
            if has_ended {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 3, "only {kills} kills");
        json(&run(&["move-dir", text(&dir), text(&to), "--json"]));
        for entry in std::fs::read_dir(dir.join("blobs")).unwrap() {
            let path = entry.unwrap().path();
            let copy = to.join("blobs").join(path.file_name().unwrap());
            assert!(
                std::fs::read(&path).unwrap() == std::fs::read(&copy).unwrap(),
                "{path:?}"
            );
        }
        let names = |dir: &Path| std::fs::read_dir(dir.join("blobs")).unwrap().count();
        assert_eq!(names(&dir), names(&to), "something is left over");
        for id in 0x100..0x118_u64 {
            std::fs::remove_file(to.join(format!("blobs/{id:016x}.blob"))).unwrap();
        }
        check_serves(&satellite, &to, node, &segments).await;
    });
}

#[test]
fn a_node_that_ran_between_two_tries_of_a_move_is_copied_as_it_is_now() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, mut segments) = filled(root.path(), &satellite, &[400_000]).await;
        let to = root.path().join("new");
        // What an interrupted move leaves: one file copied, and one that the node has removed since.
        json(&run(&["move-dir", text(&dir), text(&to), "--json"]));
        std::fs::remove_file(dir.join("moved-to")).unwrap();
        for name in ["identity.key", "node.toml"] {
            std::fs::remove_file(to.join(name)).unwrap();
        }
        let blob = std::fs::read_dir(dir.join("blobs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|end| end == "blob"))
            .unwrap();
        let name = blob.file_name().unwrap().to_str().unwrap();
        let metadata = blob.metadata().unwrap();
        let modified = metadata
            .modified()
            .unwrap()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        let from = dir.canonicalize().unwrap();
        let log = format!(
            "strand move 1\nnode {node}\nfrom {}\n\n{name} {} {modified} ok\n00000000000000ff.blob 5 6 ok\n0000",
            from.display(),
            metadata.len()
        );
        std::fs::write(to.join("moving"), log).unwrap();
        std::fs::write(to.join("blobs/00000000000000ff.blob"), "gone since").unwrap();
        let setup = run(&[
            "setup",
            "--dir",
            text(&to),
            "--satellite",
            &nowhere(),
            "--capacity",
            "1GB",
        ]);
        assert!(setup.stderr.contains("unfinished copy"), "{setup:?}");

        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let segment = Segment::new(1, 3, 700_000);
        client.put(&segment).await.unwrap();
        segments.push(segment);
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        let moved = json(&run(&["move-dir", text(&dir), text(&to), "--json"]));
        assert_eq!(moved["files_before"], 0, "the blob has grown: {moved}");
        assert!(!to.join("blobs/00000000000000ff.blob").exists());
        check_serves(&satellite, &to, node, &segments).await;
    });
}

/// Every regular file below a directory.
pub(crate) fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                files.push((path.clone(), std::fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// What is wrong, how it comes about, and what must be said.
type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

#[test]
fn every_command_refuses_a_bad_directory_in_one_sentence_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let make = |name: &str| set_up(root.path(), name, &nowhere(), &[]).0;
    let other = make("other");
    let target = root.path().join("target");
    let cases: [Case<'_>; 6] = [
        (
            "no settings",
            &|dir| std::fs::remove_file(dir.join("node.toml")).unwrap(),
            "is not a node's directory",
        ),
        (
            "a newer format",
            &|dir| {
                let settings = std::fs::read_to_string(dir.join("node.toml")).unwrap();
                std::fs::write(
                    dir.join("node.toml"),
                    settings.replace("version = 1", "version = 2"),
                )
                .unwrap();
            },
            "update piecestore",
        ),
        (
            "no blobs",
            &|dir| std::fs::remove_dir_all(dir.join("blobs")).unwrap(),
            "has no blobs folder",
        ),
        (
            "an empty folder",
            &|dir| std::fs::remove_file(dir.join("blobs/.strand-node")).unwrap(),
            "is not mounted",
        ),
        (
            "the blobs of another node",
            &|dir| {
                std::fs::copy(
                    other.join("blobs/.strand-node"),
                    dir.join("blobs/.strand-node"),
                )
                .unwrap();
            },
            "holds the blobs of another node",
        ),
        (
            "another one's key",
            &|dir| {
                std::fs::copy(other.join("identity.key"), dir.join("identity.key")).unwrap();
            },
            "belongs to node",
        ),
    ];
    for (index, (what, spoil, said)) in cases.into_iter().enumerate() {
        let dir = make(&format!("node{index}"));
        spoil(&dir);
        let before = content(&dir);
        for command in [
            "run",
            "compact",
            "scrub",
            "rebuild-index",
            "space",
            "verify",
            "move-dir",
        ] {
            // They look at blobs and never at the key.
            if what == "another one's key" && ["space", "verify", "move-dir"].contains(&command) {
                continue;
            }
            let ran = match command {
                "move-dir" => run(&[command, text(&dir), text(&target)]),
                _ => run(&[command, "--dir", text(&dir)]),
            };
            assert_eq!(ran.code, Some(1), "{what}: {ran:?}");
            assert!(ran.stderr.contains(said), "{what}: {ran:?}");
            assert_eq!(ran.stderr.trim().lines().count(), 1, "{what}: {ran:?}");
            assert_eq!(content(&dir), before, "{what}: {command} changed something");
            assert!(!target.exists(), "{what}");
        }
    }
    let dir = make("good");
    for (to, said) in [
        (other.clone(), "is the directory of node"),
        (dir.join("within"), "lie in one another"),
        (dir.clone(), "lie in one another"),
        (root.path().to_owned(), "lie in one another"),
    ] {
        let before = content(root.path());
        let ran = run(&["move-dir", text(&dir), text(&to)]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(said), "{ran:?}");
        assert_eq!(content(root.path()), before, "{said}");
    }
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("letter"), "mine").unwrap();
    let ran = run(&["move-dir", text(&dir), text(&target)]);
    assert!(ran.stderr.contains("is not empty"), "{ran:?}");
    let running = Process::start(&[&dir], &[]);
    std::fs::remove_file(target.join("letter")).unwrap();
    for arguments in [
        ["move-dir", text(&dir), text(&target)],
        ["rebuild-index", "--dir", text(&dir)],
    ] {
        let ran = run(&arguments);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("in use by another process"), "{ran:?}");
    }
    drop(running);
}
