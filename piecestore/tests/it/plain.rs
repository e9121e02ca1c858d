//! A node where io_uring is not to be had. All other tests run so too, with `STRAND_IO=plain`.

use std::process::Command;

use piecestore::core::{CoreOptions, Io, IoChoice, start};
use strand_blob::Stored;

use crate::disk::{open_store, piece};
use crate::limits::{PROBE, with_little_locked_memory};

#[test]
fn what_was_stored_with_io_uring_is_there_without_it_and_the_other_way_round() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let turns = [Io::Uring, Io::Plain, Io::Uring];
    for (turn, io) in turns.into_iter().enumerate() {
        let path = folder.path().to_owned();
        let options = CoreOptions {
            io,
            ..CoreOptions::default()
        };
        let core = start(options, move |core| async move {
            assert_eq!(core.io(), io);
            let store = open_store(&core, &path).await;
            for id in 0..=turn as u8 {
                let stored = store.put(piece(id, 50_000)).await;
                let is_new = usize::from(id) == turn;
                let wanted = if is_new { Stored::New } else { Stored::Already };
                assert_eq!(stored, Ok(wanted), "piece {id} with {io}");
                let stored = store.piece(&[1; 32], &[id; 32], 0).await.unwrap();
                let body = store.read_shares(&stored, 0..4).await.unwrap();
                assert_eq!(body[..], piece(id, 50_000).body[0][..]);
            }
            store.close().await;
            core.counters()
        });
        let counters = core.unwrap().join().unwrap();
        assert!(counters.disk_writes > 0 && counters.disk_syncs > 0);
        assert_eq!(counters.ring_enters > 0, io == Io::Uring);
    }
}

#[test]
fn connections_and_their_streams_work_without_io_uring() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--test-threads=1"])
        .arg("driver::fifty_streams_on_four_connections_do_not_mix_their_bytes")
        .env(piecestore::core::IO_VARIABLE, "plain")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn io_uring_is_insisted_on_or_done_without() {
    if std::env::var_os(PROBE).is_some() {
        let settled = |choice| match piecestore::core::settle(choice) {
            Ok(settled) => settled.io.to_string(),
            Err(reason) => reason.to_string(),
        };
        println!("insists: {}", settled(IoChoice::Uring));
        println!("does without: {}", settled(IoChoice::Auto));
        return;
    }
    // Too little locked memory for a ring is as good as none.
    let text = with_little_locked_memory("plain::io_uring_is_insisted_on_or_done_without");
    assert!(
        text.contains("insists: io_uring needs a locked-memory limit"),
        "{text}"
    );
    assert!(text.contains("does without: plain"), "{text}");
}

#[test]
fn a_misspelt_choice_is_refused_and_says_what_there_is() {
    let mut command = crate::world::piecestore();
    command.args(["status", "--dir", "/nowhere"]);
    let output = command
        .env(piecestore::core::IO_VARIABLE, "iouring")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("STRAND_IO: 'iouring' is none of auto, uring, plain"),
        "{text}"
    );
}
