//! What an ordinary user has must do: 8 MiB of locked memory for all processes together, 1,024
//! files each.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Node processes of the demo.
const PROCESS_COUNT: usize = 5;
/// `nobody`, whose use of locked memory is counted; root's is not.
const NOBODY: u32 = 65_534;
/// Says that a test runs inside itself.
pub(crate) const PROBE: &str = "PIECESTORE_TEST_PROBE";

#[test]
fn five_processes_of_an_ordinary_user_share_eight_mebibytes_of_locked_memory() {
    let program = std::env::current_exe().unwrap();
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0);
    // As root, from a folder that others may not enter, the copy is what nobody can run.
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let copy = folder.path().join("it");
    std::fs::copy(&program, &copy).unwrap();
    for path in [folder.path(), &copy] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).unwrap();
    }
    let children: Vec<_> = (0..PROCESS_COUNT)
        .map(|_| {
            let mut command = Command::new("prlimit");
            command
                .args(["--memlock=8388608:8388608", "--nofile=1024:1024", "--"])
                .arg(&copy)
                .args(["--exact", "--test-threads=1"])
                .arg("driver::fifty_streams_on_four_connections_do_not_mix_their_bytes")
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            if is_root {
                command.uid(NOBODY).gid(NOBODY);
            }
            command.spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{errors}");
        assert!(text.contains("1 passed"), "{text}");
    }
}

#[test]
fn too_little_locked_memory_is_refused_in_one_sentence() {
    if std::env::var_os(PROBE).is_some() {
        println!("probe says: {}", piecestore::core::probe().unwrap_err());
        return;
    }
    let text =
        with_little_locked_memory("limits::too_little_locked_memory_is_refused_in_one_sentence");
    assert!(
        text.contains("probe says: io_uring needs a locked-memory limit of 512 KiB and has 65536"),
        "{text}"
    );
}

/// What a test of this program prints that has too little locked memory for a ring, and [`PROBE`] set.
pub(crate) fn with_little_locked_memory(test: &str) -> String {
    let output = Command::new("prlimit")
        .args(["--memlock=65536:65536", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(PROBE, "1")
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
