//! Alters pieces inside a node's blobs so that the node cannot notice: body bytes change, and the checksums with them.
//!
//! It changes 64 bytes in every share of the body, so that no share of an altered piece is worth anything, and then the
//! CRCs of the shares and of the trailer; chaining values, root, path and commitment stay what the uploader stored.

#![allow(unsafe_code, reason = "posix_fadvise has no safe form in std")]

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use strand_blob::inspect::{self, StoredRecord};

use crate::random::Random;

/// Bytes changed in each share: what every share's length is a multiple of.
const CHANGED_BYTES: usize = 64;

/// A piece's record, and the blob that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The blob.
    pub path: PathBuf,
    /// The record in it.
    pub record: StoredRecord,
}

/// Finds the records that count for `piece_ids` in a node's folder of blobs: of several, the one with the highest sequence.
pub fn find_records(blobs: &Path, piece_ids: &[[u8; 32]]) -> Result<HashMap<[u8; 32], Place>> {
    let mut found: HashMap<[u8; 32], Place> = HashMap::new();
    for entry in
        std::fs::read_dir(blobs).with_context(|| format!("cannot list {}", blobs.display()))?
    {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "blob") {
            continue;
        }
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let len = file.metadata()?.len();
        let records = inspect::records_with(len, |offset, bytes| file.read_exact_at(bytes, offset))
            .with_context(|| format!("cannot read {}", path.display()))?;
        for record in records
            .into_iter()
            .filter(|record| record.is_base() && piece_ids.contains(&record.id))
        {
            if found
                .get(&record.id)
                .is_none_or(|known| known.record.sequence < record.sequence)
            {
                found.insert(
                    record.id,
                    Place {
                        path: path.clone(),
                        record,
                    },
                );
            }
        }
    }
    found.retain(|_, place| place.record.is_piece());
    Ok(found)
}

/// Changes every share of the piece, and its checksums; durable, and out of the page cache, on return.
pub fn alter(place: &Place, random: &mut Random) -> Result<()> {
    let record = &place.record;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&place.path)?;
    let range = record.body_and_trailer();
    let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
    file.read_exact_at(&mut bytes, range.start)?;
    let stored = bytes.clone();
    inspect::danger_recompute_checksums(record, &mut bytes);
    ensure!(
        bytes == stored,
        "the checksums were wrong before anything was altered"
    );
    for share in 0..record.share_count() {
        let share = record.share_range(share);
        let start = usize::try_from(share.start - range.start)?;
        let slots = usize::try_from(share.end - share.start)? / CHANGED_BYTES;
        let changed = start + random.below(slots) * CHANGED_BYTES;
        for byte in &mut bytes[changed..changed + CHANGED_BYTES] {
            *byte ^= 1 + (random.next() % 255) as u8;
        }
    }
    inspect::danger_recompute_checksums(record, &mut bytes);
    file.write_all_at(&bytes, range.start)?;
    file.sync_all()?;
    drop_from_cache(&file).context("cannot drop a blob from the page cache")
}

fn drop_from_cache(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` lives, and the call touches no memory of ours.
    let code = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code))
    }
}
