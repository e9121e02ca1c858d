//! The ring's disk on real files: alone, and under the store.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use piecestore::core::{Core, CoreCounters, CoreOptions, Executor, start};
use piecestore::open_files::BlobFile;
use piecestore::watch::DiskState;
use strand_blob::{BlobId, Disk, DiskError, FileId, IoBuffer, PutError, Stored};

use crate::mount::Mount;

/// Runs `test` on a core; gives its output and what the core counted.
fn check<T: Send + 'static, F: Future<Output = T> + 'static>(
    test: impl FnOnce(Core) -> F + Send + 'static,
) -> (T, CoreCounters) {
    let core = start(CoreOptions::default(), |core| async move {
        let output = test(core.clone()).await;
        (output, core.counters())
    });
    core.unwrap().join().unwrap()
}

fn is_direct(file: &BlobFile) -> bool {
    let flags = file.look(|file| rustix::fs::fcntl_getfl(file).unwrap());
    flags.unwrap().contains(rustix::fs::OFlags::DIRECT)
}

fn filled(len: usize, seed: u8) -> IoBuffer {
    let mut buffer = IoBuffer::zeroed(len);
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = (index % 251) as u8 ^ seed;
    }
    buffer
}

#[test]
fn what_is_written_and_synced_is_read_back_and_lies_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let ((), counters) = check(move |core| async move {
        let disk = core.disk(&path).unwrap();
        assert_eq!(disk.list().await.unwrap(), []);
        let file = disk.create(BlobId(7)).await.unwrap();
        assert!(disk.create(BlobId(7)).await.is_err(), "made twice");
        let (result, _) = disk.write(&file, 4096, filled(1 << 20, 3), 1 << 20).await;
        result.unwrap();
        let (result, _) = disk.write(&file, 0, filled(8192, 9), 4096).await;
        result.unwrap();
        disk.sync(&file).await.unwrap();
        let again = disk.open(BlobId(7)).await.unwrap();
        let (result, buffer) = disk.read(&again, 4096, IoBuffer::zeroed(1 << 20)).await;
        assert_eq!(result, Ok(1 << 20));
        assert!(buffer[..] == filled(1 << 20, 3)[..]);
        assert_eq!(disk.list().await.unwrap(), [(BlobId(7), 4096 + (1 << 20))]);
        let on_disk = std::fs::read(path.join("0000000000000007.blob")).unwrap();
        assert!(on_disk[..4096] == filled(8192, 9)[..4096]);
        assert!(disk.free_bytes().unwrap() > 0);
    });
    assert!(counters.disk_bytes_written >= 4096 + (1 << 20));
    assert!(counters.disk_bytes_read >= 1 << 20);
    // Two of the folder (of one create) and one of the file at least.
    assert!(counters.disk_syncs >= 2, "{counters:?}");
}

#[test]
fn reads_are_short_at_the_end_and_absent_files_are_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    check(move |core| async move {
        std::fs::write(path.join("00000000000000aa.blob"), vec![5; 10_000]).unwrap();
        std::fs::write(path.join("notes.txt"), "not ours").unwrap();
        let disk = core.disk(&path).unwrap();
        assert_eq!(disk.list().await.unwrap(), [(BlobId(0xaa), 10_000)]);
        let file = disk.open(BlobId(0xaa)).await.unwrap();
        let (result, buffer) = disk.read(&file, 0, IoBuffer::zeroed(16_384)).await;
        assert_eq!(result, Ok(10_000));
        assert!(buffer[..10_000].iter().all(|&byte| byte == 5));
        let (result, _) = disk.read(&file, 8192, IoBuffer::zeroed(4096)).await;
        assert_eq!(result, Ok(10_000 - 8192));
        let (result, _) = disk.read(&file, 1 << 20, IoBuffer::zeroed(4096)).await;
        assert_eq!(result, Ok(0));
        assert_eq!(disk.open(BlobId(1)).await.err(), Some(DiskError::NotFound));
        disk.remove(BlobId(0xaa)).await.unwrap();
        assert_eq!(disk.remove(BlobId(0xaa)).await, Err(DiskError::NotFound));
        assert_eq!(disk.list().await.unwrap(), []);
    });
}

#[test]
fn a_name_that_leads_to_another_file_or_a_shorter_one_is_noticed_whether_the_file_is_open_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    check(move |core| async move {
        let disk = core.disk(&path).unwrap();
        let file = disk.create(BlobId(1)).await.unwrap();
        let (written, _) = disk.write(&file, 0, filled(8192, 1), 8192).await;
        written.unwrap();
        assert_eq!(disk.named_len(&file).await, Ok(Some(8192)));
        let name = path.join("0000000000000001.blob");
        let ours = path.join("ours");
        std::fs::rename(&name, &ours).unwrap();
        assert_eq!(disk.named_len(&file).await, Ok(None));
        std::fs::copy(&ours, &name).unwrap();
        assert_eq!(disk.named_len(&file).await, Ok(None), "a copy is another");
        std::fs::rename(&ours, &name).unwrap();
        assert_eq!(disk.named_len(&file).await, Ok(Some(8192)));
        let other = std::fs::OpenOptions::new().write(true).open(&name).unwrap();
        other.set_len(100).unwrap();
        assert_eq!(disk.named_len(&file).await, Ok(Some(100)));
        std::fs::remove_file(&name).unwrap();
        assert_eq!(disk.named_len(&file).await, Ok(None));
        // What is written to it goes well all the same.
        let (written, _) = disk.write(&file, 0, filled(4096, 1), 4096).await;
        written.unwrap();
    });
}

/// Writes and reads a file, and a store, in a folder; gives whether the file takes direct I/O.
fn check_disk_in(folder: &Path) -> bool {
    let path = folder.to_owned();
    let (is_direct, _) = check(move |core| async move {
        let disk = core.disk(&path).unwrap();
        let file = disk.create(BlobId(1)).await.unwrap();
        assert!(disk.create(BlobId(2)).await.is_ok());
        let (result, _) = disk.write(&file, 0, filled(65_536, 1), 65_536).await;
        result.unwrap();
        disk.sync(&file).await.unwrap();
        let file = disk.open(BlobId(1)).await.unwrap();
        let (result, buffer) = disk.read(&file, 0, IoBuffer::zeroed(131_072)).await;
        assert_eq!(result, Ok(65_536));
        assert!(buffer[..65_536] == filled(65_536, 1)[..]);
        disk.remove(BlobId(1)).await.unwrap();
        disk.remove(BlobId(2)).await.unwrap();
        let store = open_store(&core, &path).await;
        assert_eq!(store.put(piece(3, 50_000)).await, Ok(Stored::New));
        store.close().await;
        let store = open_store(&core, &path).await;
        assert_eq!(store.counters().pieces, 1);
        let stored = store.piece(&[1; 32], &[3; 32], 0).await.unwrap();
        let body = store.read_shares(&stored, 0..4).await.unwrap();
        assert_eq!(body[..], piece(3, 50_000).body[0][..]);
        store.close().await;
        is_direct(&file)
    });
    is_direct
}

#[test]
fn a_file_system_without_direct_io_is_used_all_the_same() {
    // tmpfs took no O_DIRECT before Linux 6.6 and takes it since: either way this must work.
    if let Ok(folder) = tempfile::tempdir_in("/dev/shm") {
        check_disk_in(folder.path());
    }
    // ramfs never took it.
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::new("ramfs", folder.path()) else {
        return;
    };
    assert!(!check_disk_in(folder.path()), "ramfs takes direct I/O now");
}

#[test]
fn direct_io_that_is_refused_after_the_file_was_opened_goes_through_the_page_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    check(move |core| async move {
        let disk = core.disk(&path).unwrap();
        let file = disk.create(BlobId(1)).await.unwrap();
        let (result, _) = disk.write(&file, 0, filled(8_192, 1), 8_192).await;
        result.unwrap();
        // Seven bytes off every block: what a file system with longer blocks makes of ours.
        let (result, _) = disk.write(&file, 8_199, filled(8_192, 2), 8_192).await;
        assert_eq!(result, Ok(()));
        let file = disk.open(BlobId(1)).await.unwrap();
        let (result, buffer) = disk.read(&file, 8_199, IoBuffer::zeroed(8_192)).await;
        assert_eq!(result, Ok(8_192));
        assert!(buffer[..] == filled(8_192, 2)[..]);
        assert!(!is_direct(&file));
    });
}

#[test]
fn a_disk_unmounted_under_a_store_is_never_replaced_by_what_lies_under_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new("tmpfs", folder.path()) else {
        return;
    };
    let path = folder.path().to_owned();
    check(move |core| async move {
        let store = open_store(&core, &path).await;
        assert_eq!(store.put(piece(1, 50_000)).await, Ok(Stored::New));
        mount.detach();
        // A blob of another class: a new file.
        let short_lived = strand_blob::NewPiece {
            expiry_s: 1_000,
            ..piece(2, 50_000)
        };
        assert_eq!(store.put(short_lived).await, Ok(Stored::New));
        assert_eq!(store.counters().blobs_created, 2);
        for id in [1, 2] {
            let stored = store.piece(&[1; 32], &[id; 32], 0).await.unwrap();
            let body = store.read_shares(&stored, 0..4).await.unwrap();
            assert_eq!(body[..], piece(id, 50_000).body[0][..]);
        }
        store.close().await;
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    });
}

#[test]
fn a_disk_that_turns_read_only_ends_writing_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::new("tmpfs", folder.path()) else {
        return;
    };
    let path = folder.path().to_owned();
    check(move |core| async move {
        let store = open_store(&core, &path).await;
        let disk = core.disk(&path).unwrap();
        assert_eq!(disk.state(), DiskState::Fine);
        mount.make_read_only();
        while disk.state() != DiskState::ReadOnly {
            core.executor().sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(store.put(piece(1, 50_000)).await, Err(PutError::ReadOnly));
        let cause = store.poison_cause().unwrap();
        assert_eq!(cause.error, DiskError::Io { errno: libc::EROFS });
        let said = piecestore::status::disk_trouble(&cause);
        assert!(said.contains("mounted read-only"), "{said}");
        store.close().await;
    });
}

#[test]
fn more_operations_than_may_fly_all_end_and_abandoned_ones_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    check(move |core| async move {
        let disk = core.disk(&path).unwrap();
        let file = disk.create(BlobId(2)).await.unwrap();
        let done = std::rc::Rc::new(std::cell::Cell::new(0));
        for index in 0..1000u64 {
            let (disk, file, done) = (disk.clone(), file.clone(), done.clone());
            core.executor().spawn(async move {
                let buffer = filled(4096, index as u8);
                if index % 5 == 0 {
                    // Given up before it ends, mostly.
                    let write = disk.write(&file, index * 4096, buffer, 4096);
                    let mut write = Box::pin(write);
                    std::future::poll_fn(|context| {
                        let _ = write.as_mut().poll(context);
                        std::task::Poll::Ready(())
                    })
                    .await;
                } else {
                    disk.write(&file, index * 4096, buffer, 4096)
                        .await
                        .0
                        .unwrap();
                }
                done.set(done.get() + 1);
            });
        }
        while done.get() < 1000 {
            core.executor().sleep(Duration::from_millis(1)).await;
        }
        for index in (0..1000u64).filter(|index| index % 5 != 0) {
            let (result, buffer) = disk.read(&file, index * 4096, IoBuffer::zeroed(4096)).await;
            assert_eq!(result, Ok(4096));
            assert!(buffer[..] == filled(4096, index as u8)[..], "block {index}");
        }
    });
}

#[test]
fn a_file_cut_short_under_its_map_costs_the_pieces_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let target = path.clone();
    check(move |core| async move {
        let mut options = strand_blob::StoreOptions::new([1; 32], 1 << 30);
        (options.blob_records_max, options.lanes_max) = (2, 1);
        let disk = core.disk(&path).unwrap();
        let mut random = |bytes: &mut [u8]| bytes.fill(7);
        let (store, _) = strand_blob::Store::open(disk, options, 0, &mut random)
            .await
            .unwrap();
        core.executor().spawn(store.clone().run_commits());
        for key in 0..6 {
            store.put(piece(key, 200_000)).await.unwrap();
        }
        let read = async |key: u8| {
            let wanted = piece(key, 1);
            let found = store.piece(&wanted.satellite, &wanted.id, 0).await?;
            store.read_shares(&found, 0..found.share_count()).await
        };
        // Blob 1 holds pieces 0 and 1, blob 2 pieces 2 and 3.
        let mut rounds = 0;
        while store.counters().shares_from_memory == 0 {
            for key in 0..4 {
                assert!(read(key).await.unwrap() == piece(key, 200_000).body[0]);
            }
            rounds += 1;
            assert!(rounds < 1_000, "nothing comes to memory");
            core.executor().sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..50 {
            core.executor().sleep(Duration::from_millis(1)).await;
            assert!(read(0).await.is_ok() && read(2).await.is_ok());
        }
        let cut = std::fs::OpenOptions::new()
            .write(true)
            .open(target.join("0000000000000001.blob"))
            .unwrap();
        cut.set_len(8_192).unwrap();
        for _ in 0..4 {
            assert!(read(0).await.is_err() && read(1).await.is_err());
            assert!(read(2).await.unwrap() == piece(2, 200_000).body[0]);
        }
        store.close().await;
    });
}

/// Blobs of the test below: more than its limit of open files.
const MANY_BLOBS: u64 = 700;

#[test]
fn more_blobs_than_a_process_may_have_files_open_are_written_and_read() {
    // The child runs this test alone, with its limit.
    if std::env::var_os("PIECESTORE_TEST_FEW_FILES").is_none() {
        let output = std::process::Command::new("prlimit")
            .args(["--nofile=256:256", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("disk::more_blobs_than_a_process_may_have_files_open_are_written_and_read")
            .env("PIECESTORE_TEST_FEW_FILES", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}\n{errors}"
        );
        return;
    }
    assert!(std::fs::File::open("/proc/self/limits").is_ok());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    // Once as the limit says, once with a bound that the process may not reach: then the kernel refuses, and others are closed.
    for open_files_max in [32, 4_096] {
        let path = path.clone();
        let options = CoreOptions {
            open_files_max,
            ..CoreOptions::default()
        };
        let core = start(options, move |core| async move {
            let disk = core.disk(&path).unwrap();
            let mut files = Vec::new();
            let first = u64::from(open_files_max == 32) * MANY_BLOBS + 1;
            for id in first..first + MANY_BLOBS {
                let file = disk.create(BlobId(id)).await.unwrap();
                let (result, _) = disk.write(&file, 0, filled(4_096, id as u8), 4_096).await;
                result.unwrap();
                disk.sync(&file).await.unwrap();
                files.push(file);
            }
            if open_files_max == 32 {
                let open = files.iter().filter(|file| file.is_open()).count();
                assert!(open <= 32, "{open} files are open");
            }
            for file in files.iter().chain(files.iter().rev()) {
                let (result, buffer) = disk.read(file, 0, IoBuffer::zeroed(4_096)).await;
                assert_eq!(result, Ok(4_096));
                let FileId::Blob(id) = file.id() else {
                    panic!("{:?} is no blob", file.id())
                };
                assert!(buffer[..] == filled(4_096, id.0 as u8)[..]);
            }
            // Written and not synced: it stays open whatever else is used.
            let file = files[0].clone();
            disk.write(&file, 4_096, filled(4_096, 1), 4_096)
                .await
                .0
                .unwrap();
            for other in &files[1..200] {
                disk.read(other, 0, IoBuffer::zeroed(4_096))
                    .await
                    .0
                    .unwrap();
            }
            assert!(file.is_open());
            disk.sync(&file).await.unwrap();
        });
        core.unwrap().join().unwrap();
    }
}

#[test]
fn a_store_of_many_blobs_opens_and_serves_with_few_files_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let options = CoreOptions {
        open_files_max: 3,
        ..CoreOptions::default()
    };
    let core = start(options, move |core| async move {
        for round in 0..2_u8 {
            let disk = core.disk(&path).unwrap();
            let mut options = strand_blob::StoreOptions::new([9; 32], 1 << 30);
            options.blob_records_max = 1;
            let mut fill = |bytes: &mut [u8]| bytes.fill(round + 1);
            let (store, _) = strand_blob::Store::open(disk, options, 100, &mut fill)
                .await
                .unwrap();
            let running = store.clone();
            core.executor()
                .spawn(async move { running.run_commits().await });
            for id in 0..30 {
                let wanted = if round == 0 {
                    Stored::New
                } else {
                    Stored::Already
                };
                assert_eq!(store.put(piece(id, 20_000)).await, Ok(wanted));
            }
            for id in 0..30 {
                let stored = store.piece(&[1; 32], &[id; 32], 0).await.unwrap();
                let body = store.read_shares(&stored, 0..2).await.unwrap();
                assert_eq!(body[..], piece(id, 20_000).body[0][..]);
            }
            store.close().await;
        }
        assert!(std::fs::read_dir(&path).unwrap().count() >= 30);
    });
    core.unwrap().join().unwrap();
}

#[test]
fn the_store_keeps_pieces_on_it_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let pieces = 40u8;
    let body = |index: u8| -> Vec<u8> {
        (0..50_000u32 + u32::from(index) * 64)
            .map(|at| (at % 251) as u8 ^ index)
            .collect()
    };
    let path = folder.path().to_owned();
    let ((), counters) = check(move |core| async move {
        let store = open_store(&core, &path).await;
        let mut puts = Vec::new();
        for index in 0..pieces {
            let body = body(index);
            puts.push(store.put(piece_of(index, body)));
        }
        for put in puts {
            put.await.unwrap();
        }
        let counted = store.counters();
        assert_eq!(
            (counted.pieces_stored, counted.acks_before_sync),
            (u64::from(pieces), 0)
        );
        store.close().await;
    });
    assert!(counters.disk_bytes_written >= u64::from(pieces) * 50_000);
    assert!(counters.disk_syncs > 0);
    let path = folder.path().to_owned();
    check(move |core| async move {
        let store = open_store(&core, &path).await;
        for index in 0..pieces {
            let piece = store.piece(&[1; 32], &[index; 32], 0).await.unwrap();
            let shares = piece.body_len.div_ceil(16_384) as u32;
            let bytes = store.read_shares(&piece, 0..shares).await.unwrap();
            assert!(bytes[..] == body(index)[..], "piece {index}");
        }
        store.close().await;
    });
}

pub(crate) fn piece(id: u8, len: usize) -> strand_blob::NewPiece {
    piece_of(id, (0..len).map(|at| (at % 251) as u8 ^ id).collect())
}

fn piece_of(id: u8, body: Vec<u8>) -> strand_blob::NewPiece {
    strand_blob::NewPiece {
        satellite: [1; 32],
        id: [id; 32],
        created_s: 1,
        expiry_s: 0,
        crcs: strand_blob::share_crcs(&body),
        share_hashes: vec![[7; 32]; body.len().div_ceil(16_384)],
        body: vec![Bytes::from(body)],
        root: [id; 32],
        path: vec![[3; 32]; 7],
        commitment: [4; 32],
    }
}

pub(crate) async fn open_store(
    core: &Core,
    path: &Path,
) -> std::rc::Rc<strand_blob::Store<piecestore::disk::CoreDisk<piecestore::core::CoreExecutor>>> {
    let disk = core.disk(path).unwrap();
    let options = strand_blob::StoreOptions::new([9; 32], 1 << 30);
    let mut counter = 0u8;
    let mut random = |bytes: &mut [u8]| {
        counter = counter.wrapping_add(1);
        bytes.fill(counter);
    };
    let (store, _) = strand_blob::Store::open(disk, options, 100, &mut random)
        .await
        .unwrap();
    let running = store.clone();
    core.executor()
        .spawn(async move { running.run_commits().await });
    store
}
