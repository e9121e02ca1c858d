//! Bad input, and what people see of it: case, command, exact message, exit code, and nothing left visible.
//!
//! Every command has to answer within [`PATIENCE`]. Addresses and node ids in messages differ from run to run; they are
//! compared as `ADDRESS` and `NODE`. All cases run on one network, in an order in which the last ones break it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use strand_perf::content::first_difference;
use strand_perf::part::{self, Finished, Running};
use strand_protocol::grant::{Grant, Invitation};
use strand_protocol::macaroon::Macaroon;
use strand_protocol::path::KdfParams;
use strand_protocol::{NodeId, ProjectId};

use crate::support::{BUCKET, PASSPHRASE, TestNetwork};

/// The longest that anybody may be left without an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One row of the table.
struct Case<'a> {
    name: &'a str,
    command: Vec<&'a str>,
    passphrase: &'a str,
    message: String,
    exit: i32,
}

fn row<'a>(
    name: &'a str,
    command: Vec<&'a str>,
    passphrase: &'a str,
    message: String,
    exit: i32,
) -> Case<'a> {
    Case {
        name,
        command,
        passphrase,
        message,
        exit,
    }
}

#[test]
fn every_bad_input_has_its_message_and_leaves_nothing() {
    let mut test = TestNetwork::start(10);
    let file = test.file("small", 1, 300_000);
    let big = test.file("big", 2, 200 << 20);
    let object = test.upload(&file);

    check_table(&test, &file);
    check_full_disk(&test, &object);
    check_interrupted_upload(&test, &big);
    check_two_uploads_of_one_key(&test);
    check_directory_of_another_node(&mut test);
    check_too_few_nodes(&mut test, &file);
    check_satellite_down(&mut test, &file);
}

/// The cases that need nothing but a command line.
fn check_table(test: &TestNetwork, file: &Path) {
    let source = file.to_str().unwrap();
    let target = test.network.work_dir().join("target");
    let target = target.to_str().unwrap();
    let long_key = "k".repeat(1_281);
    let long_place = format!("st://{BUCKET}/{long_key}");
    // 421 bytes in 211 components: sealed, each is 2 + 16 + 1 bytes, 4,009 in all.
    let deep_key = vec!["d"; 211].join("/");
    let deep_place = format!("st://{BUCKET}/{deep_key}");
    let grant = String::from_utf8(test.client_ok(&["access", "export"])).unwrap();
    let damaged = damage_text(grant.trim());
    let foreign = foreign_grant(test);
    test.client_ok(&["access", "import", &foreign, "--name", "foreign"]);
    test.client_ok(&["access", "use", "default"]);
    let small = format!("st://{BUCKET}/small");
    let missing = format!("st://{BUCKET}/missing");

    let weak = |how: &str| {
        format!("uplink: the passphrase is {how}; choose at least 8 characters, not all alike\n")
    };
    let too_long = |shown: &str, rule: &str| format!("uplink: '{shown}' cannot be used: {rule}\n");
    let foreign_message =
        "uplink: the satellite refused GetBucket: macaroon is not genuine (DENIED)\n".to_owned();
    let too_deep = too_long(
        &format!("{}... (421 bytes)", &deep_key[..80]),
        "object key of 421 bytes takes 4009 bytes encrypted and is too long: at most 1280 bytes, and at most 4000 bytes \
         encrypted, whichever is met first",
    );
    let cases = [
        row(
            "damaged grant",
            vec!["access", "import", &damaged, "--name", "bad"],
            PASSPHRASE,
            "uplink: this is not a usable access grant: access grant is damaged: its check does not fit (was a character \
             changed or lost?); copy it whole, it begins with strand-grant1-\n"
                .to_owned(),
            2,
        ),
        row(
            "something else than a grant",
            vec!["access", "import", "hello", "--name", "bad"],
            PASSPHRASE,
            "uplink: this is not a usable access grant: access grant does not begin with strand-grant1-; copy it whole, it \
             begins with strand-grant1-\n"
                .to_owned(),
            2,
        ),
        row("foreign grant", vec!["--access", "foreign", "cp", source, &missing], PASSPHRASE, foreign_message, 4),
        row(
            "wrong passphrase",
            vec!["access", "create", &test.invitation, "--name", "bad"],
            "eight lanterns over the harbour",
            "uplink: this is not the passphrase of project 'test': its first grant was made with another one; check it for \
             typing errors, or pass --new-passphrase to store new objects under a new one (what is there stays unreadable \
             without the old)\n"
                .to_owned(),
            4,
        ),
        row("empty passphrase", vec!["access", "create", &test.invitation, "--name", "bad"], "", weak("empty"), 2),
        row("short passphrase", vec!["access", "create", &test.invitation, "--name", "bad"], "abc", weak("too short"), 2),
        row(
            "uniform passphrase",
            vec!["access", "create", &test.invitation, "--name", "bad"],
            "aaaaaaaaaaaa",
            weak("too uniform"),
            2,
        ),
        row(
            "unknown bucket, up",
            vec!["cp", source, "st://nowhere/key"],
            PASSPHRASE,
            "uplink: no bucket 'nowhere' in this project; 'uplink mb st://nowhere' makes it\n".to_owned(),
            3,
        ),
        row(
            "unknown bucket, down",
            vec!["cp", "st://nowhere/key", target],
            PASSPHRASE,
            "uplink: no bucket 'nowhere' in this project; 'uplink mb st://nowhere' makes it\n".to_owned(),
            3,
        ),
        row("missing key", vec!["cp", &missing, target], PASSPHRASE, format!("uplink: no object st://{BUCKET}/missing\n"), 3),
        row(
            "key too long",
            vec!["cp", source, &long_place],
            PASSPHRASE,
            too_long(
                &format!("{}... (1281 bytes)", &long_key[..80]),
                "object key of 1281 bytes is too long: at most 1280 bytes, and at most 4000 bytes encrypted, whichever is met \
                 first",
            ),
            2,
        ),
        row("key too deep", vec!["cp", source, &deep_place], PASSPHRASE, too_deep, 2),
        row(
            "range past the end",
            vec!["cp", "--range", "300000-300001", &small, target],
            PASSPHRASE,
            format!("uplink: range 300000-300001 is past the end: st://{BUCKET}/small has 300000 bytes\n"),
            2,
        ),
    ];
    for case in &cases {
        let mut command = test.client(&case.command);
        command.env("STRAND_PASSPHRASE", case.passphrase);
        let finished = within_patience(case.name, || part::run("uplink", command).unwrap());
        check_said(case.name, &finished, &case.message, case.exit);
        assert!(
            finished.stdout.is_empty(),
            "{}: something on standard output",
            case.name
        );
        assert!(
            !Path::new(target).exists(),
            "{}: a file appeared",
            case.name
        );
    }
    // None of them left an access, a bucket or an object behind.
    let accesses = String::from_utf8(test.client_ok(&["access", "list"])).unwrap();
    assert_eq!(accesses, "* default\n  foreign\n");
    assert_eq!(
        test.client_ok(&["ls"])
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .count(),
        1
    );
    assert_eq!(keys(test), ["small"]);
}

/// The client's disk is full: as a pipe to /dev/full, which every user has, and as a small file system, which only root can
/// mount.
fn check_full_disk(test: &TestNetwork, object: &str) {
    let mut command = test.client(&["cp", object, "-"]);
    command
        .stdout(
            fs::OpenOptions::new()
                .write(true)
                .open("/dev/full")
                .unwrap(),
        )
        .stderr(Stdio::piped());
    let output = within_patience("full pipe", || command.output().unwrap());
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "uplink: cannot write standard output: No space left on device (os error 28)\n"
    );

    let Some(mounted) = SmallDisk::mount(&test.dir().join("small-disk")) else {
        eprintln!(
            "full disk: only /dev/full was tried, because mounting a small file system takes root"
        );
        return;
    };
    let target = mounted.path.join("target");
    let finished = within_patience("full disk", || {
        test.client_run(&["cp", object, target.to_str().unwrap()])
    });
    let message = format!(
        "uplink: cannot write {}: No space left on device (os error 28)\n",
        target.display()
    );
    check_said("full disk", &finished, &message, 7);
    assert_eq!(
        fs::read_dir(&mounted.path).unwrap().count(),
        0,
        "something was left on the full disk"
    );
}

/// Ctrl-C in the middle of an upload.
fn check_interrupted_upload(test: &TestNetwork, big: &Path) {
    let place = format!("st://{BUCKET}/interrupted");
    let mut upload = Running::start(
        "uplink cp",
        test.client(&["--quiet", "cp", big.to_str().unwrap(), &place]),
    )
    .unwrap();
    test.wait_for_writes(8 << 20);
    upload.part().signal(libc::SIGINT).unwrap();
    let finished = within_patience("interrupted upload", || upload.finish().unwrap());
    check_said(
        "interrupted upload",
        &finished,
        "uplink: interrupted; nothing was stored\n",
        130,
    );
    assert_eq!(keys(test), ["small"]);
}

/// Two uploads of one key at once: both succeed, and what is there afterwards is the whole of one of them.
fn check_two_uploads_of_one_key(test: &TestNetwork) {
    let files = [
        test.file("left", 31, 5_000_000),
        test.file("right", 32, 4_000_000),
    ];
    let place = format!("st://{BUCKET}/both");
    let uploads = files.each_ref().map(|file| {
        Running::start(
            "uplink cp",
            test.client(&["--quiet", "cp", file.to_str().unwrap(), &place]),
        )
        .unwrap()
    });
    for upload in uploads {
        let finished = within_patience("two uploads", || upload.finish().unwrap());
        check_said("two uploads of one key at once", &finished, "", 0);
    }
    assert_eq!(keys(test), ["both", "small"]);
    let target = test.network.work_dir().join("target");
    test.client_ok(&["--quiet", "cp", &place, target.to_str().unwrap()]);
    let is_one = files
        .iter()
        .any(|file| first_difference(file, &target).unwrap().is_none());
    assert!(is_one, "what came back is neither of the two files");
    fs::remove_file(target).unwrap();
    test.client_ok(&["rm", &place]);
}

/// A node's directory with the identity of another one: the process refuses to start, and the node stays away.
fn check_directory_of_another_node(test: &mut TestNetwork) {
    test.network.kill_process(0).unwrap();
    let [this, other] = [0, 1].map(|node| test.network.seats()[node].clone());
    let key = this.dir.join("identity.key");
    let own = fs::read(&key).unwrap();
    fs::write(&key, fs::read(other.dir.join("identity.key")).unwrap()).unwrap();
    let mut command = test.network.part_command("piecestore");
    command.arg("run").arg("--dir").arg(&this.dir);
    let finished = within_patience("directory of another node", || {
        part::run("piecestore", command).unwrap()
    });
    let message = OTHER_IDENTITY
        .replace("DIR", this.dir.to_str().unwrap())
        .replace("FOUND", &other.node_id.to_string())
        .replace("EXPECTED", &this.node_id.to_string());
    assert_eq!(
        (finished.ended.code, finished.stderr.as_str()),
        (Some(1), message.as_str())
    );
    assert!(test.network.node_status(0).is_err(), "the node answers");
    fs::write(&key, own).unwrap();
    test.network.start_process(0).unwrap();
    test.network.wait_for_nodes().unwrap();
}

const OTHER_IDENTITY: &str = "error: DIR belongs to node EXPECTED, but its identity.key is that of node FOUND: put the right \
                              key back\n";

/// Six of ten nodes are up; 4/6/8/10 stores at least repair + 1 = 7 pieces.
fn check_too_few_nodes(test: &mut TestNetwork, file: &Path) {
    test.network.kill_process(0).unwrap();
    test.network.kill_process(1).unwrap();
    let place = format!("st://{BUCKET}/few");
    let finished = within_patience("too few nodes", || {
        test.client_run(&["--quiet", "cp", file.to_str().unwrap(), &place])
    });
    check_said("too few nodes up", &finished, TOO_FEW, 6);
    assert_eq!(keys(test), ["small"]);
}

const TOO_FEW: &str = "uplink: not enough nodes for segment 0: 7 pieces must be stored (of 8 aimed for), only 6 nodes took one \
                       (last refusal: node NODE: no answer from ADDRESS within 3 s: is it running, and is UDP open?); start \
                       more nodes or try again later\n";

/// The satellite is gone; nothing can be done, and that is said soon.
fn check_satellite_down(test: &mut TestNetwork, file: &Path) {
    test.network.kill_satellite().unwrap();
    let place = format!("st://{BUCKET}/down");
    let target = test.network.work_dir().join("target");
    let small = format!("st://{BUCKET}/small");
    for arguments in [
        ["--quiet", "cp", file.to_str().unwrap(), &place],
        ["--quiet", "cp", &small, target.to_str().unwrap()],
    ] {
        let finished = within_patience("satellite down", || test.client_run(&arguments));
        check_said("satellite down", &finished, SATELLITE_DOWN, 5);
    }
    assert!(!target.exists());
    test.network.restart_satellite().unwrap();
    assert_eq!(keys(test), ["small"]);
}

const SATELLITE_DOWN: &str = "uplink: cannot reach the satellite at ADDRESS: no answer from ADDRESS within 2 s: is it running, and \
                              is UDP open?; check that it runs and that UDP gets through\n";

fn check_said(name: &str, finished: &Finished, message: &str, exit: i32) {
    let said = without_names(&finished.stderr);
    assert_eq!(
        (said.as_str(), finished.ended.code),
        (message, Some(exit)),
        "{name}"
    );
}

/// Node ids and addresses replaced by what they are.
fn without_names(text: &str) -> String {
    text.split_inclusive([' ', '\n', ')', ';', ','])
        .map(|word| {
            let core = word.trim_end_matches([' ', '\n', ')', ';', ',', ':']);
            let rest = &word[core.len()..];
            if core.len() == 56 && core.parse::<NodeId>().is_ok() {
                format!("NODE{rest}")
            } else if core.starts_with("127.") {
                format!("ADDRESS{rest}")
            } else {
                word.to_owned()
            }
        })
        .collect()
}

fn within_patience<T>(name: &str, act: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = act();
    let seconds = started.elapsed();
    assert!(seconds < PATIENCE, "{name} took {seconds:?}");
    result
}

/// The bucket's keys, in order.
fn keys(test: &TestNetwork) -> Vec<String> {
    let listing: serde_json::Value =
        serde_json::from_slice(&test.client_ok(&["--json", "ls", &format!("st://{BUCKET}")]))
            .unwrap();
    let mut keys: Vec<String> = listing["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["key"].as_str().unwrap().to_owned())
        .collect();
    keys.sort();
    keys
}

/// One character in the middle is another one.
fn damage_text(text: &str) -> String {
    let at = text.len() / 2;
    let other = if text.as_bytes()[at] == b'a' {
        "b"
    } else {
        "a"
    };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

/// A well-formed grant of a project that this satellite does not have.
fn foreign_grant(test: &TestNetwork) -> String {
    let ours = Invitation::from_text(&test.invitation).unwrap();
    let project = ProjectId::from([7; 16]);
    let macaroon = Macaroon::mint(&[8; 32], project, [9; 16]);
    let foreign = Invitation {
        project,
        macaroon,
        ..ours
    };
    Grant::from_invitation(&foreign, PASSPHRASE, KdfParams::default())
        .unwrap()
        .to_text()
}

/// A file system of 64 KiB, unmounted when dropped.
struct SmallDisk {
    path: std::path::PathBuf,
}

impl SmallDisk {
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "strand-test"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}
