//! File systems that are full or turn read-only, and ordinary users.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use strand_protocol::Code;

use crate::commands::{check_serves, content, filled, text};
use crate::mount::Mount;
use crate::world::{
    Client, Process, Satellite, Segment, block_on, code, eventually, run, set_up, status,
};

/// `nobody`, whose use of locked memory is counted; root's is not.
const NOBODY: u32 = 65_534;

#[test]
fn a_node_on_a_full_disk_serves_and_deletes_and_takes_pieces_again_when_there_is_room() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("node");
        std::fs::create_dir(&below).unwrap();
        let Some(_mount) = Mount::sized(48, &below) else {
            return;
        };
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let mut stored = Vec::new();
        // To the last small piece.
        for size in [2_000_000, 100_000, 5_000] {
            let refused = loop {
                let segment = Segment::new(1, 3, size);
                match client.put(&segment).await {
                    Ok(_) => stored.push(segment),
                    refused => break code(refused),
                }
            };
            assert_eq!(refused, Code::Full);
        }
        assert!(stored.len() > 8, "{}", stored.len());
        eventually("a status that says so", async || {
            (status(&dir)["disk"]["state"] == "full").then_some(())
        })
        .await;
        let said = run(&["status", "--dir", text(&dir)]).stdout;
        let said = said.lines().filter(|line| line.starts_with("disk "));
        let said: Vec<_> = said.collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("no new pieces are taken"), "{said:?}");

        // Another program takes what was left for deletes.
        let filler = below.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 4_096]).is_ok() {}
        for segment in &stored {
            assert_eq!(client.get(segment).await.unwrap(), segment.body);
        }
        // Deletes go on in what was written ahead of the groups, until that is used up too.
        let gone = loop {
            let gone = stored.pop().unwrap();
            match client.delete(&gone).await {
                Ok(is_gone) => assert!(is_gone),
                refused => {
                    assert_eq!(code(refused), Code::Full);
                    break gone;
                }
            }
        };
        assert_eq!(client.get(&gone).await.unwrap(), gone.body);
        drop(file);
        std::fs::remove_file(&filler).unwrap();
        assert!(client.delete(&gone).await.unwrap());
        assert_eq!(code(client.get(&gone).await), Code::NotFound);
        assert_eq!(status(&dir)["read_only"], false);
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        check_serves(&satellite, &dir, node, &stored).await;
    });
}

#[test]
fn a_node_whose_file_system_turns_read_only_serves_and_says_once_why_it_takes_nothing() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("node");
        std::fs::create_dir(&below).unwrap();
        let Some(mount) = Mount::ext4(64, &below) else {
            return;
        };
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let before = Segment::new(1, 3, 300_000);
        client.put(&before).await.unwrap();
        mount.abort();
        eventually("a put that is refused as read-only", async || {
            let refused = client.put(&Segment::new(1, 3, 300_000)).await;
            refused
                .is_err()
                .then(|| code(refused))
                .filter(|code| *code == Code::ReadOnly)
        })
        .await;
        assert_eq!(client.get(&before).await.unwrap(), before.body);
        assert_eq!(code(client.delete(&before).await), Code::ReadOnly);
        assert_eq!(client.get(&before).await.unwrap(), before.body);
        let said = status(&dir);
        assert_ne!(said["disk"]["state"], "fine", "{said}");
        let words = run(&["status", "--dir", text(&dir)]).stdout;
        assert!(words.contains("mounted read-only"), "{words}");
        satellite.reached(node, process.started_ms).await;
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains("ERROR") && line.contains("mounted read-only"))
            .collect();
        assert!((1..=2).contains(&lines.len()), "{log}");
    });
}

#[test]
fn a_directory_is_not_moved_to_a_disk_without_room_or_without_writing() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("place");
        std::fs::create_dir(&place).unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, segments) = filled(root.path(), &satellite, &[2_000_000; 4]).await;
        let before = content(&dir);
        let refuses = |said: &str| {
            let to = place.join("node");
            let ran = run(&["move-dir", text(&dir), text(&to)]);
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.stderr.contains(said), "{ran:?}");
            assert_eq!(ran.stderr.trim().lines().count(), 1, "{ran:?}");
            assert_eq!(content(&dir), before, "the old directory was changed");
            assert!(!dir.join("moved-to").exists());
            let started = run(&["run", "--dir", text(&to)]);
            assert!(
                started.stderr.contains("not a node's directory"),
                "{started:?}"
            );
        };
        {
            let Some(_mount) = Mount::sized(6, &place) else {
                return;
            };
            refuses("nothing was changed");
            assert!(content(&place).is_empty());
        }
        let Some(mount) = Mount::sized(64, &place) else {
            return;
        };
        mount.make_read_only();
        refuses("Read-only file system");
        assert!(content(&place).is_empty());
        mount.make_writable();
        let moved = run(&["move-dir", text(&dir), text(&place.join("node"))]);
        assert_eq!(moved.code, Some(0), "{moved:?}");
        check_serves(&satellite, &place.join("node"), node, &segments).await;
    });
}

/// Gives everything below a directory, and the way there, to nobody.
fn give_to_nobody(root: &Path, dir: &Path) {
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o755)).unwrap();
    let given = Command::new("chown")
        .args(["-R", &format!("{NOBODY}:{NOBODY}")])
        .arg(dir)
        .status();
    assert!(given.unwrap().success());
}

#[test]
fn an_ordinary_user_with_little_locked_memory_can_run_every_command() {
    block_on(async {
        let root = tempfile::tempdir_in("/tmp").unwrap();
        let satellite = Satellite::start().await;
        let (dir, node, segments) = filled(root.path(), &satellite, &[20_000, 300_000]).await;
        let is_root = std::fs::metadata("/proc/self")
            .is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0);
        let program = root.path().join("piecestore");
        std::fs::copy(env!("CARGO_BIN_EXE_piecestore"), &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        if is_root {
            give_to_nobody(root.path(), &dir);
        }
        for (verb, said) in [
            ("space", "capacity_bytes"),
            ("verify", "\"ok\":true"),
            ("scrub", "\"ok\":true"),
            ("compact", "\"blobs_removed\":0"),
            ("rebuild-index", "\"pieces\":2"),
        ] {
            let mut command = Command::new("prlimit");
            command.args(["--memlock=8388608:8388608", "--nofile=1024:1024", "--"]);
            if is_root {
                let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
                command.args(["setpriv", &user, &group, "--clear-groups", "--"]);
            }
            let command = command
                .arg(&program)
                .args([verb, "--json", "--dir", text(&dir)]);
            let output = command.current_dir("/").output().unwrap();
            assert!(output.status.success(), "{verb}: {output:?}");
            let text = String::from_utf8(output.stdout).unwrap().replace(": ", ":");
            assert!(text.contains(said), "{verb}: {text}");
        }
        if is_root {
            let back = Command::new("chown").args(["-R", "0:0"]).arg(&dir).status();
            assert!(back.unwrap().success());
        }
        check_serves(&satellite, &dir, node, &segments).await;
    });
}
