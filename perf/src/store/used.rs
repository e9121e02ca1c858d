//! What pieces take on the disk.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use strand_blob::inspect;

use super::drive::checkpoint_folder;
use super::raw;

/// `st_blocks` x 512 of all files but the open blob over the bodies in sealed blobs; none if no blob was sealed.
///
/// The pieces were put into one class of blobs, which are filled in the order of their ids: all but the last are sealed,
/// or but a second one that took groups beside it: it has all of a sealed blob but its footer.
pub(super) fn sealed_bytes_per_piece_byte(folder: &Path, piece_bytes: u64) -> Result<Option<f64>> {
    use std::os::unix::fs::MetadataExt;

    let mut paths = Vec::new();
    let mut disk_bytes = 0;
    for entry in fs::read_dir(folder)?.chain(fs::read_dir(checkpoint_folder(folder))?) {
        let path = entry?.path();
        disk_bytes += fs::metadata(&path)?.blocks() * 512;
        if path
            .extension()
            .is_some_and(|extension| extension == "blob")
        {
            paths.push(path);
        }
    }
    let Some(open) = paths.iter().max() else {
        return Ok(None);
    };
    disk_bytes -= fs::metadata(open)?.blocks() * 512;
    let file = fs::File::open(open)?;
    let len = file.metadata()?.len();
    let records = inspect::records_with(len, |offset, target| {
        std::os::unix::fs::FileExt::read_exact_at(&file, target, offset)
    })?;
    let open_bytes: u64 = records.iter().map(|record| record.body_len).sum();
    raw::evict(folder)?;
    ensure!(open_bytes <= piece_bytes, "more in a blob than was put");
    let sealed_bytes = piece_bytes - open_bytes;
    Ok((sealed_bytes > 0).then(|| disk_bytes as f64 / sealed_bytes as f64))
}
