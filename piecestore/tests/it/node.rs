//! The program as its owner and its peers meet it: real processes, sockets and disks.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use piecestore::core::IO_VARIABLE;
use strand_protocol::Code;
use strand_protocol::permit::LimitAction;
use strand_transport::Identity;

use crate::world::{
    Client, Process, Satellite, Segment, block_on, code, eventually, now_ms, piecestore, run,
    set_up, set_up_many, status,
};

/// Shares of a full segment's piece: 2,316,416 bytes.
const FULL_SEGMENT_BYTES: u64 = 64 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn pieces_are_put_read_and_deleted_and_the_figures_add_up() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let process = Process::start(&[&dir], &[]);
        assert!(process.serving[0].starts_with(&format!("serving {node} on 127.0.0.1:")));
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;

        let sizes = [
            (29, 93, 16_385),
            (4, 10, 50_000),
            (1, 3, 2_000_000),
            (29, 93, FULL_SEGMENT_BYTES),
        ];
        let segments = sizes.map(|(k, n, plain_len)| Segment::new(k, n, plain_len));
        for segment in &segments {
            client.put(segment).await.unwrap();
            assert_eq!(client.get(segment).await.unwrap(), segment.body);
        }
        assert_eq!(
            code(client.get(&Segment::new(4, 10, 1_000_000)).await),
            Code::NotFound
        );
        assert!(client.delete(&segments[1]).await.unwrap());
        assert!(!client.delete(&segments[1]).await.unwrap());
        assert_eq!(code(client.get(&segments[1]).await), Code::NotFound);

        let status = status(&dir);
        let number = |pointer: &str| {
            status
                .pointer(pointer)
                .unwrap_or_else(|| panic!("{pointer}: {status}"))
                .as_u64()
                .unwrap()
        };
        let body_bytes: u64 = segments
            .iter()
            .map(|segment| segment.body.len() as u64)
            .sum();
        assert_eq!(status["node_id"], node.to_string());
        assert_eq!(status["standing"]["reachable"], true);
        assert_eq!(number("/counters/pieces_stored"), 4);
        assert_eq!(number("/counters/piece_bytes_stored"), body_bytes);
        assert_eq!(
            number("/counters/acks"),
            4 + 1,
            "puts, and the delete of what was there"
        );
        assert_eq!(number("/counters/acks_before_sync"), 0);
        assert!(number("/counters/disk_bytes_written") >= body_bytes);
        assert_eq!(
            number("/space/live_bytes"),
            body_bytes - segments[1].body.len() as u64
        );
        let parts = ["live", "dead", "overhead", "padding", "header", "skipped"];
        let sum: u64 = parts
            .iter()
            .map(|part| number(&format!("/space/{part}_bytes")))
            .sum();
        assert_eq!(sum, number("/space/file_bytes"));
        assert_eq!(number("/requests/puts"), 4);
        assert_eq!(number("/write_budget/bytes_used"), 0);
        assert!(number("/write_budget/bytes_peak") >= segments[3].body.len() as u64);

        let for_people = run(&["status", "--dir", text(&dir)]);
        assert_eq!(for_people.code, Some(0));
        assert!(
            for_people.stdout.contains("reachable  yes"),
            "{}",
            for_people.stdout
        );
    });
}

#[test]
fn several_nodes_share_a_process_and_its_cores() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let nodes = set_up_many(root.path(), 5, &satellite);
        let dirs: Vec<&Path> = nodes.iter().map(|(dir, _)| dir.as_path()).collect();
        let process = Process::start(&dirs, &["--cores", "2"]);
        let mut stored = Vec::new();
        for (dir, node) in &nodes {
            satellite.reached(*node, process.started_ms).await;
            let client = Client::connect(&satellite, *node).await;
            let segment = Segment::new(4, 10, 500_000);
            client.put(&segment).await.unwrap();
            stored.push((dir, client, segment));
        }
        let mut cores = HashSet::new();
        for (index, (dir, client, segment)) in stored.iter().enumerate() {
            assert_eq!(client.get(segment).await.unwrap(), segment.body);
            let (_, other_client, _) = &stored[(index + 1) % stored.len()];
            assert_eq!(code(other_client.get(segment).await), Code::NotFound);
            let status = status(dir);
            assert_eq!(status["counters"]["pieces"], 1);
            assert_eq!(status["process_id"], process.pid());
            cores.insert(status["core_index"].as_u64().unwrap());
        }
        assert_eq!(cores, HashSet::from([0, 1]));
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
    });
}

/// Puts pieces over a few streams until the node goes away; collects what it acked.
fn put_until_it_ends(
    client: &Client,
    acked: &Arc<Mutex<Vec<Segment>>>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let putting = (0..6).map(|task| {
        let (client, acked) = (client.clone(), Arc::clone(acked));
        tokio::spawn(async move {
            loop {
                let segment = Segment::new(4, 10, 40_000 + 90_000 * task);
                match client.put(&segment).await {
                    Ok(_) => acked.lock().unwrap().push(segment),
                    Err(_) if client.connection.is_closed() => return,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
    });
    putting.collect()
}

#[test]
fn every_acked_piece_survives_kill_9_in_the_middle_of_puts() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let acked: Arc<Mutex<Vec<Segment>>> = Arc::default();
        for round in 0..6 {
            let process = Process::start(&[&dir], &[]);
            satellite.reached(node, process.started_ms).await;
            let client = Client::connect(&satellite, node).await;
            let stored = acked.lock().unwrap().clone();
            for segment in &stored {
                assert_eq!(
                    client.get(segment).await.unwrap(),
                    segment.body,
                    "round {round}"
                );
            }
            let before = acked.lock().unwrap().len();
            let putting = put_until_it_ends(&client, &acked);
            eventually("some acks", async || {
                (acked.lock().unwrap().len() >= before + 5 + round).then_some(())
            })
            .await;
            process.kill();
            putting.iter().for_each(tokio::task::JoinHandle::abort);
        }
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let acked = acked.lock().unwrap().clone();
        for segment in &acked {
            assert_eq!(client.get(segment).await.unwrap(), segment.body);
        }
        assert!(status(&dir)["counters"]["pieces"].as_u64().unwrap() >= acked.len() as u64);
    });
}

#[test]
fn sigterm_in_the_middle_of_puts_drops_no_ack_and_exits_with_0() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let acked: Arc<Mutex<Vec<Segment>>> = Arc::default();
        let putting = put_until_it_ends(&client, &acked);
        eventually("some acks", async || {
            (acked.lock().unwrap().len() >= 10).then_some(())
        })
        .await;
        let (ended, log) = tokio::task::spawn_blocking(|| process.stop())
            .await
            .unwrap();
        assert!(ended.success(), "{log}");
        assert!(!dir.join("node.sock").exists());
        for task in putting {
            task.await.unwrap();
        }
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let stored = acked.lock().unwrap().clone();
        for segment in &stored {
            assert_eq!(client.get(segment).await.unwrap(), segment.body);
        }
    });
}

#[test]
fn a_limit_from_before_a_restart_is_stale() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let segment = Segment::new(4, 10, 50_000);
        let client = Client::connect(&satellite, node).await;
        client.put(&segment).await.unwrap();
        let mut fields = client.fields(LimitAction::Get, &segment);
        process.kill();
        let process = Process::start(&[&dir], &[]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        fields.client = client.fields(LimitAction::Get, &segment).client;
        let refused = client.begin_get(&fields).await.map(|(header, _)| header);
        assert_eq!(code(refused), Code::StaleLimit);
        assert_eq!(
            client.get(&segment).await.unwrap(),
            segment.body,
            "a new limit works"
        );
    });
}

#[test]
fn puts_beyond_the_write_buffer_are_busy_and_memory_stays_near_it() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let process = Process::start(&[&dir], &["--write-buffer", "27MiB"]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let segment = Segment::new(29, 93, FULL_SEGMENT_BYTES);
        // Known by a whole body it may have all but an eighth.
        client.put(&Segment::new(1, 1, 20_000)).await.unwrap();
        let idle_bytes = rss_anon_bytes(process.pid());
        let mut held = Vec::new();
        let refused = loop {
            let segment = Segment {
                id: Segment::new(1, 1, 20_000).id,
                ..segment.clone()
            };
            match client.admit(&segment).await {
                Ok(mut exchange) => {
                    // All of the body but its last byte: the node holds as much as it ever will.
                    let body = segment.body.slice(..segment.body.len() - 1);
                    exchange.send.bytes(body).await.unwrap();
                    held.push(exchange);
                }
                refused => break code(refused.map(drop)),
            }
        };
        assert_eq!(refused, Code::Busy);
        assert_eq!(held.len(), (27 << 20) / 8 * 7 / 2_316_416);
        eventually("all bodies at the node", async || {
            let held_bytes = rss_anon_bytes(process.pid()).saturating_sub(idle_bytes);
            (held_bytes >= 20 << 20).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let held_bytes = rss_anon_bytes(process.pid()).saturating_sub(idle_bytes);
        assert!(
            held_bytes < (27 + 8) << 20,
            "{held_bytes} bytes held for 27 MiB of budget"
        );
        held.iter_mut()
            .for_each(|exchange| exchange.send.reset(Code::Cancelled));
        eventually("room again", async || client.put(&segment).await.ok()).await;
    });
}

fn rss_anon_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn a_node_waits_for_its_satellite() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let identity = Identity::generate();
        // An address that was free a moment ago.
        let address = std::net::UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let argument = format!("{}@{address}", identity.node_id());
        let (dir, node) = set_up(root.path(), "node", &argument, &[]);
        let process = Process::start(&[&dir], &[]);
        eventually("a failed check-in in the status", async || {
            let status = status(&dir);
            let has_failed = status["standing"]["failures"].as_u64().unwrap() > 0;
            (has_failed && status["standing"]["reachable"].is_null()).then_some(())
        })
        .await;
        let satellite = Satellite::start_as(&identity, address).await;
        let seen = satellite.reached(node, process.started_ms).await;
        assert_eq!(seen.check_in.capacity_bytes, 1_000_000_000);
        assert!(seen.check_in.free_bytes > 0 && seen.check_in.now_ms <= now_ms());
    });
}

#[test]
fn a_node_that_cannot_be_reached_says_what_to_check() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(
            root.path(),
            "node",
            &satellite.to_argument(),
            &["--advertise", "127.0.0.1:9"],
        );
        let process = Process::start(&[&dir], &[]);
        let seen = eventually("a check-in", async || satellite.seen(node)).await;
        assert!(!seen.reachable);
        eventually("the answer in the status", async || {
            (status(&dir)["standing"]["reachable"] == false).then_some(())
        })
        .await;
        let ran = run(&["status", "--dir", text(&dir)]);
        assert!(
            ran.stdout
                .contains("127.0.0.1:9 should be where the node listens"),
            "{}",
            ran.stdout
        );
        let (_, log) = process.stop();
        assert!(
            log.contains("could not reach this node at 127.0.0.1:9"),
            "{log}"
        );
        assert!(log.contains("To check: "), "{log}");
    });
}

#[test]
fn directories_that_cannot_be_served_are_refused_in_one_sentence() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let argument = satellite.to_argument();
        let (one, one_node) = set_up(root.path(), "one", &argument, &[]);
        let (two, two_node) = set_up(root.path(), "two", &argument, &[]);
        let check = |dir: &Path, message: &str| {
            let ran = run(&["run", "--dir", text(dir)]);
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert_eq!(ran.stderr.trim_end(), format!("error: {message}"));
        };

        let nothing = root.path().join("nothing");
        let name = text(&nothing);
        let missing = format!(
            "{name} is not a node's directory: it has no node.toml; if its disk is not mounted, mount it, else `piecestore setup --dir {name}` makes one"
        );
        check(&nothing, &missing);

        let ran = run(&[
            "setup",
            "--dir",
            text(&one),
            "--satellite",
            &argument,
            "--capacity",
            "1GB",
        ]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("is set up already"), "{}", ran.stderr);

        let ran = run(&["status", "--dir", text(&one)]);
        assert_eq!(ran.code, Some(1));
        let not_running = format!(
            "error: node {one_node} is not running; `piecestore run --dir {}` starts it\n",
            text(&one)
        );
        assert_eq!(ran.stderr, not_running);

        // The key of another node, then none, then one that others can read.
        let (key, safe) = (one.join("identity.key"), root.path().join("safe.key"));
        std::fs::rename(&key, &safe).unwrap();
        let name = text(&one);
        check(
            &one,
            &format!(
                "{name} has no identity.key: restore it from a backup, because without it the pieces in this directory are lost"
            ),
        );
        std::fs::copy(two.join("identity.key"), &key).unwrap();
        check(
            &one,
            &format!(
                "{name} belongs to node {one_node}, but its identity.key is that of node {two_node}: put the right key back"
            ),
        );
        std::fs::rename(&safe, &key).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = format!(
            "{} can be read by others (mode 0644): run `chmod 600 {0}`",
            text(&key)
        );
        check(&one, &open);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

        // The blobs of another node.
        let process = Process::start(&[&two], &[]);
        satellite.reached(two_node, process.started_ms).await;
        let client = Client::connect(&satellite, two_node).await;
        client.put(&Segment::new(4, 10, 50_000)).await.unwrap();
        check(
            &two,
            &format!(
                "{} is in use by another process; stop that one first",
                text(&two)
            ),
        );
        process.kill();
        for blob in std::fs::read_dir(two.join("blobs")).unwrap() {
            let blob = blob.unwrap();
            if blob.file_name() == ".strand-node" {
                continue;
            }
            std::fs::copy(blob.path(), one.join("blobs").join(blob.file_name())).unwrap();
        }
        let ran = run(&["run", "--dir", text(&one)]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("belongs to another node"), "{ran:?}");
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.contains("no node could be started"), "{ran:?}");

        // A later release's directory.
        let settings = std::fs::read_to_string(one.join("node.toml")).unwrap();
        std::fs::write(
            one.join("node.toml"),
            settings.replace("version = 1", "version = 2"),
        )
        .unwrap();
        let ran = run(&["run", "--dir", text(&one)]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("has version 2"), "{ran:?}");

        let ran = run(&["run", "--dir", text(&two), "--dir", text(&two)]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("is named twice"), "{ran:?}");
    });
}

#[test]
fn a_node_that_does_not_start_costs_no_other() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let argument = satellite.to_argument();
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let (bad, _) = set_up(root.path(), "bad", &argument, &[]);
        let settings = std::fs::read_to_string(bad.join("node.toml")).unwrap();
        std::fs::write(
            bad.join("node.toml"),
            settings.replace("127.0.0.1:0", &address),
        )
        .unwrap();
        let (good, node) = set_up(root.path(), "good", &argument, &[]);
        let process = Process::start_expecting(1, &[&bad, &good], &["--cores", "1"]);
        assert!(process.serving[0].starts_with(&format!("serving {node}")));
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        client.put(&Segment::new(4, 10, 50_000)).await.unwrap();
        let (ended, log) = process.stop();
        assert_eq!(ended.code(), Some(1), "{log}");
        let refused = format!("error: cannot serve {}: ", text(&bad));
        assert!(log.contains(&refused), "{log}");
        assert!(log.contains("1 of 2 nodes could not be started"), "{log}");
    });
}

#[test]
fn without_io_uring_a_node_says_so_and_serves_or_refuses_if_it_is_insisted_on() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let segment = Segment::new(29, 93, FULL_SEGMENT_BYTES);
        let reasons = [
            (libc::ENOSYS, "this kernel does not have io_uring"),
            (libc::EPERM, "io_uring is blocked here"),
        ];
        for (turn, (errno, reason)) in reasons.into_iter().enumerate() {
            let mut command = piecestore();
            command.env_remove(IO_VARIABLE);
            without_io_uring(&mut command, errno);
            let mut process = Process::begin_as(command, &[&dir], &[]);
            process.wait_until_serving(1);
            assert_eq!(status(&dir)["io"], "plain");
            satellite.reached(node, process.started_ms).await;
            let client = Client::connect(&satellite, node).await;
            if turn == 0 {
                client.put(&segment).await.unwrap();
            }
            assert_eq!(client.get(&segment).await.unwrap(), segment.body);
            let (exit, log) = process.stop();
            assert!(exit.success(), "{log}");
            assert!(log.contains(&format!("no io_uring: {reason}")), "{log}");

            let mut command = piecestore();
            command.args(["run", "--io", "uring", "--dir", text(&dir)]);
            without_io_uring(&mut command, errno);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(stderr.starts_with(&format!("error: {reason}")), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    });
}

/// Has the kernel answer `io_uring_setup` with `errno` in the child, as a container's filter would.
#[allow(unsafe_code, reason = "a system call filter has no safe form in std")]
fn without_io_uring(command: &mut Command, errno: i32) {
    let statement = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let errno = u32::try_from(errno).unwrap();
    let install = move || {
        // nr = io_uring_setup ? fail with errno : allow
        let mut filter = [
            statement(0x20, 0, 0, 0),
            statement(
                0x15,
                0,
                1,
                u32::try_from(libc::SYS_io_uring_setup).unwrap_or(0),
            ),
            statement(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
            statement(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog {
            len: 4,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: takes four integers and touches no memory.
        let is_bound = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: `program` points to `filter`, and both live until the call has copied them.
        let is_set = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        if is_bound != 0 || is_set != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec, makes two system calls and allocates nothing.
    unsafe { command.pre_exec(install) };
}
