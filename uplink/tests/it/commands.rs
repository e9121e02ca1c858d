//! The command as people run it: a process, its output, its exit code.

use std::path::Path;
use std::process::{Output as Ran, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::network::Network;
use super::{PASSPHRASE, SMALL, content};

struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uplink"));
        command
            .args(arguments)
            .env("STRAND_CONFIG_DIR", self.path().join("config"))
            .env("STRAND_PASSPHRASE", PASSPHRASE)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        let begun = Instant::now();
        let ran = self.command(arguments).output().await.unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{arguments:?} took {:?}",
            begun.elapsed()
        );
        ran
    }

    /// It must succeed; gives its standard output.
    async fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(0), "{arguments:?}: {stderr}");
        String::from_utf8(ran.stdout).unwrap()
    }

    async fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(arguments).await).unwrap()
    }

    /// It must fail with this code, and say this.
    async fn fails(&self, arguments: &[&str], exit: i32, message: &str) {
        let ran = self.run(arguments).await;
        let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(exit), "{arguments:?}: {stderr}");
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }

    async fn create_access(&self, network: &Network) {
        let invitation = network.invitation().to_text();
        self.ok(&["access", "create", &invitation]).await;
        self.ok(&["mb", "st://beach"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_up_is_listed_comes_down_and_goes_away() {
    let network = Network::start(SMALL, 12).await;
    let home = Home::new();
    home.create_access(&network).await;
    let bytes = content(3_000_000);
    std::fs::write(home.path().join("cat.jpg"), &bytes).unwrap();
    let up = home
        .json(&["cp", "cat.jpg", "st://beach/photos/", "--json"])
        .await;
    assert_eq!(
        (up["bytes"].as_u64(), up["pieces_stored"].as_u64()),
        (Some(3_000_000), Some(8))
    );
    assert!(
        up["cpu_seconds"].as_f64().is_some() && up["peak_rss_bytes"].as_u64() > Some(1_000_000)
    );
    let expansion = up["piece_bytes"].as_f64().unwrap() / 3e6;
    assert!((2.0..2.1).contains(&expansion), "{expansion}");

    assert_eq!(home.ok(&["ls"]).await.lines().count(), 1);
    let listed = home
        .json(&["ls", "st://beach", "--recursive", "--json"])
        .await;
    assert_eq!(listed["entries"][0]["key"], "photos/cat.jpg");
    assert!(home.ok(&["ls", "st://beach"]).await.contains("photos/"));
    assert!(
        home.ok(&["ls", "st://beach/photos/cat.jpg"])
            .await
            .contains("3.0 MB")
    );
    let info = home
        .json(&["stat", "st://beach/photos/cat.jpg", "--json"])
        .await;
    assert_eq!(info["bytes"].as_u64(), Some(3_000_000));

    let down = home
        .json(&["cp", "st://beach/photos/cat.jpg", "dog.jpg", "--json"])
        .await;
    assert_eq!(
        (
            down["bytes"].as_u64(),
            down["data_pieces_lost_max"].as_u64()
        ),
        (Some(3_000_000), Some(0))
    );
    assert!(std::fs::read(home.path().join("dog.jpg")).unwrap() == bytes);
    let part = home
        .run(&[
            "cp",
            "st://beach/photos/cat.jpg",
            "-",
            "--range",
            "1000000-1000009",
        ])
        .await;
    assert_eq!(part.stdout, bytes[1_000_000..1_000_010]);

    home.fails(&["rb", "st://beach"], 1, "is not empty").await;
    home.ok(&["rm", "--recursive", "st://beach"]).await;
    assert_eq!(network.object_count(), 0);
    home.ok(&["rb", "st://beach"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_work_both_ways() {
    let network = Network::start(SMALL, 12).await;
    let home = Home::new();
    home.create_access(&network).await;
    for len in [0, 5, 1_234_567] {
        let bytes = content(len);
        let mut child = home
            .command(&["cp", "-", "st://beach/piped"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&bytes).await.unwrap();
        drop(stdin);
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
        assert!(
            home.run(&["cp", "--quiet", "st://beach/piped", "-"])
                .await
                .stdout
                == bytes,
            "{len}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_leaves_nothing_and_says_so() {
    let network = Network::start(SMALL, 12).await;
    let home = Home::new();
    home.create_access(&network).await;
    let mut child = home
        .command(&["cp", "-", "st://beach/half"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&content(18 << 20)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let pid = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .await
            .unwrap()
            .success()
    );
    let ran = tokio::time::timeout(Duration::from_secs(10), child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        ran.status.code(),
        Some(130),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(String::from_utf8_lossy(&ran.stderr).contains("interrupted; nothing was stored"));
    assert_eq!((network.object_count(), network.upload_count()), (0, 0));
    drop(stdin);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_with_its_exit_code() {
    let network = Network::start(SMALL, 12).await;
    let home = Home::new();
    let invitation = network.invitation().to_text();
    home.fails(&["ls"], 3, "no access is set up").await;
    home.fails(
        &["access", "create", "strand-invite1-abc"],
        2,
        "not a usable invitation",
    )
    .await;
    let damaged = invitation.replace(&invitation[20..22], "zz");
    home.fails(
        &["access", "create", &damaged],
        2,
        "not a usable invitation",
    )
    .await;
    home.fails(
        &["access", "import", "strand-grant1-abc"],
        2,
        "not a usable access grant",
    )
    .await;
    for (passphrase, message) in [
        ("", "is empty"),
        ("short", "too short"),
        ("aaaaaaaaaaaa", "too uniform"),
    ] {
        std::fs::write(home.path().join("passphrase"), passphrase).unwrap();
        home.fails(
            &[
                "access",
                "create",
                &invitation,
                "--passphrase-file",
                "passphrase",
            ],
            2,
            message,
        )
        .await;
    }
    home.create_access(&network).await;
    home.fails(&["access", "use", "nobody"], 3, "no access named 'nobody'")
        .await;
    home.fails(&["access", "use", "../nobody"], 2, "cannot name an access")
        .await;

    // A mistyped passphrase is refused, a new one only on demand.
    std::fs::write(
        home.path().join("passphrase"),
        "a shore of sand, a thread of stand",
    )
    .unwrap();
    let again = [
        "access",
        "create",
        &invitation,
        "--name",
        "other",
        "--passphrase-file",
        "passphrase",
    ];
    home.fails(&again, 4, "not the passphrase of project 'beach'")
        .await;
    home.ok(&[&again[..], &["--new-passphrase"]].concat()).await;
    home.ok(&["access", "use", "default"]).await;

    std::fs::write(home.path().join("file"), b"content").unwrap();
    home.fails(
        &["cp", "file", "st://nowhere/file"],
        3,
        "no bucket 'nowhere'",
    )
    .await;
    home.fails(
        &["cp", "st://beach/nothing", "target"],
        3,
        "no object st://beach/nothing",
    )
    .await;
    home.fails(
        &["cp", "st://nowhere/nothing", "target"],
        3,
        "no bucket 'nowhere'",
    )
    .await;
    home.fails(
        &["cp", "nofile", "st://beach/nofile"],
        3,
        "cannot read nofile",
    )
    .await;
    home.fails(&["cp", "file", "elsewhere"], 2, "must be in the store")
        .await;
    home.fails(
        &["cp", "file", "st://beach/x", "--range", "0-1"],
        2,
        "out of the store",
    )
    .await;
    home.fails(&["cp", "-", "st://beach"], 2, "needs a key")
        .await;
    home.fails(&["mb", "st://B"], 2, "bucket name").await;
    home.fails(&["mb", "st://beach"], 1, "exists already").await;
    home.fails(&["rm", "st://beach/nothing"], 3, "no object")
        .await;
    home.fails(&["stat", "st://beach/nothing"], 3, "no object")
        .await;
    home.fails(&["rb", "st://nowhere"], 3, "no bucket 'nowhere'")
        .await;
    let long = format!("st://beach/{}", "k".repeat(1_281));
    home.fails(
        &["cp", "file", &long],
        2,
        "at most 1280 bytes, and at most 4000 bytes encrypted",
    )
    .await;
    let deep = format!("st://beach/{}", "k/".repeat(300));
    home.fails(
        &["cp", "file", &deep],
        2,
        "at most 1280 bytes, and at most 4000 bytes encrypted",
    )
    .await;
    assert_eq!(
        (network.object_count(), network.upload_count()),
        (0, 0),
        "nothing became visible"
    );

    home.ok(&["cp", "file", "st://beach/file"]).await;
    home.fails(
        &["cp", "st://beach/file", "target", "--range", "0-7"],
        2,
        "past the end",
    )
    .await;
    home.fails(
        &["cp", "st://beach/file", "/dev/full"],
        7,
        "cannot write /dev/full",
    )
    .await;
    home.fails(
        &["cp", "st://beach/file", "no/such/directory"],
        7,
        "cannot write no/such/directory",
    )
    .await;
    let names: Vec<_> = std::fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name == "target" || name.to_string_lossy().ends_with(".part")),
        "{names:?}"
    );

    // Another project's grant, and a satellite that is down.
    let foreign = Network::start(SMALL, 0).await;
    let mut other = foreign.invitation();
    other.satellite = network.invitation().satellite;
    home.fails(
        &["access", "create", &other.to_text(), "--name", "foreign"],
        5,
        "cannot reach the satellite",
    )
    .await;
    network.stop_satellite().await;
    home.fails(&["ls", "st://beach"], 5, "cannot reach the satellite")
        .await;
    home.fails(
        &["cp", "file", "st://beach/file"],
        5,
        "cannot reach the satellite",
    )
    .await;
    let ran = home.run(&["ls", "--json"]).await;
    let error: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(error["error"]["exit"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_accesses_are_private_and_can_be_handed_on() {
    use std::os::unix::fs::PermissionsExt as _;
    let network = Network::start(SMALL, 0).await;
    let home = Home::new();
    home.create_access(&network).await;
    let file = home.path().join("config/access/default.grant");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let grant = home.ok(&["access", "export"]).await;
    home.ok(&["access", "import", grant.trim(), "--name", "copy"])
        .await;
    assert_eq!(home.ok(&["access", "list"]).await, "* copy\n  default\n");
    let other = Home::new();
    other.ok(&["access", "import", grant.trim()]).await;
    assert!(other.ok(&["ls"]).await.contains("st://beach"));

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    home.fails(&["ls", "--access", "default"], 4, "can be read by others")
        .await;
    std::fs::write(
        home.path().join("config/access/copy.grant"),
        "strand-grant1-damaged",
    )
    .unwrap();
    home.fails(&["ls", "--access", "copy"], 2, "not a usable access grant")
        .await;
}
