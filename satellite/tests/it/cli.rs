//! The binary: commands, exit codes, and what is printed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use strand_protocol::Invitation;

fn command(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_satellite"));
    command
        .args(args)
        .arg("--dir")
        .arg(dir)
        .env_remove("STRAND_SATELLITE_DIR");
    command
}

fn satellite(args: &[&str], dir: &Path) -> Output {
    command(args, dir).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a failed command says, with exit code 1 and nothing on standard output.
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A running satellite and the line it printed when it was ready. Killed if a test fails.
struct Run {
    child: Child,
    ready: String,
}

impl Run {
    fn start(dir: &Path) -> Self {
        let mut child = command(&["run"], dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut ready).unwrap();
        Self { child, ready }
    }

    fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn projects_are_made_beside_a_running_satellite_and_without_one() {
    // Deeper than a Unix socket's path may be.
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a-long-name".repeat(10)).join("satellite");
    let listen = ["setup", "--listen", "127.0.0.1:0"];
    assert!(satellite(&listen, &dir).status.success());
    assert!(failure(&satellite(&listen, &dir)).contains("holds a satellite already"));
    let message = failure(&satellite(&["project", "create", "early"], &dir));
    assert!(
        message.contains("has a port only while it runs"),
        "{message}"
    );
    assert!(failure(&satellite(&["status"], &dir)).contains("no satellite is running"));

    let run = Run::start(&dir);
    let ready = run
        .ready
        .trim_end()
        .strip_prefix("ready: ")
        .unwrap()
        .to_owned();
    let second = satellite(&["run"], &dir);
    assert!(failure(&second).contains("in use by another process"));
    let created = json(&satellite(&["project", "create", "photos", "--json"], &dir));
    let invitation = created["invitation"].as_str().unwrap();
    let invitation = Invitation::from_text(invitation).unwrap();
    assert_eq!(
        format!("{}@{}", invitation.satellite, invitation.address),
        ready
    );
    assert_eq!(invitation.project_name, "photos");
    let printed = satellite(&["project", "create", "films"], &dir);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(
        printed
            .lines()
            .last()
            .unwrap()
            .starts_with("strand-invite1-"),
        "{printed}"
    );
    let message = failure(&satellite(&["project", "create", ""], &dir));
    assert!(message.contains("1 to 255 bytes"), "{message}");
    let status = json(&satellite(&["status", "--json"], &dir));
    assert_eq!(
        (&status["projects"], &status["nodes"]),
        (&2.into(), &0.into())
    );
    assert_eq!(
        json(&satellite(&["node", "list", "--json"], &dir))["nodes"],
        serde_json::json!([])
    );
    run.stop();
    assert!(!dir.join("admin.sock").exists());
    assert!(failure(&satellite(&["node", "list"], &dir)).contains("satellite run --dir"));
}

#[test]
fn a_satellite_with_a_fixed_port_makes_projects_while_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let setup = [
        "setup",
        "--listen",
        "127.0.0.1:7777",
        "--advertise",
        "example.org:7777",
    ];
    let printed = satellite(&setup, dir.path());
    assert!(
        String::from_utf8(printed.stdout)
            .unwrap()
            .contains("@example.org:7777")
    );
    let created = json(&satellite(
        &["project", "create", "photos", "--json"],
        dir.path(),
    ));
    assert_eq!(created["address"], "example.org:7777");
}

#[test]
fn a_satellite_that_was_killed_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        satellite(&["setup", "--listen", "127.0.0.1:0"], dir.path())
            .status
            .success()
    );
    let mut run = Run::start(dir.path());
    json(&satellite(
        &["project", "create", "photos", "--json"],
        dir.path(),
    ));
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    assert!(failure(&satellite(&["status"], dir.path())).contains("no satellite is running"));
    let run = Run::start(dir.path());
    let status = json(&satellite(&["status", "--json"], dir.path()));
    assert_eq!(status["projects"], 1);
    run.stop();
}

#[test]
fn mistakes_on_the_command_line_have_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["frobnicate"][..],
        &["setup", "--listen", "7777"],
        &["setup", "--scheme", "9/8/7/6"],
        &["project", "create"],
    ] {
        assert_eq!(
            satellite(args, dir.path()).status.code(),
            Some(2),
            "{args:?}"
        );
    }
    let bad = ["setup", "--advertise", "nowhere"];
    assert!(
        failure(&satellite(&bad, &dir.path().join("x"))).contains("--advertise must be HOST:PORT")
    );
    assert!(!dir.path().join("x").exists());
    let message = failure(&satellite(&["run"], dir.path()));
    assert!(
        message.contains("is not a satellite's directory"),
        "{message}"
    );
}
