//! What a store's files are called in their folders (docs/format.md, section 6).
//!
//! Whatever else lies in a folder is nobody's: it is neither read nor removed.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, statat};
use strand_blob::{BlobId, DiskError, FileId};

use crate::disk::errno_error;

const BLOB_SUFFIX: &str = ".blob";
const CHECKPOINT_SUFFIX: &str = ".ckpt";

//= docs/format.md#6
pub(crate) fn file_name(id: FileId) -> CString {
    let (number, suffix) = match id {
        FileId::Blob(id) => (id.0, BLOB_SUFFIX),
        FileId::Checkpoint(number) => (number, CHECKPOINT_SUFFIX),
    };
    #[expect(clippy::expect_used, reason = "hex digits and a suffix hold no NUL")]
    CString::new(format!("{number:016x}{suffix}")).expect("no NUL")
}

/// The inverse of [`file_name`]; `None` for anything else that lies in the folder of blobs.
pub(crate) fn parse_blob_name(name: &str) -> Option<BlobId> {
    parse_name(name, BLOB_SUFFIX).map(BlobId)
}

/// The inverse of [`file_name`]; `None` for anything else that lies in the folder of checkpoints.
pub(crate) fn parse_checkpoint_name(name: &str) -> Option<u64> {
    parse_name(name, CHECKPOINT_SUFFIX)
}

fn parse_name(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let is_hex = digits
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() != 16 || !is_hex {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// The blobs in a folder, and how long they are.
pub(crate) fn list_blobs(folder: &OwnedFd) -> Result<Vec<(BlobId, u64)>, DiskError> {
    let mut blobs = Vec::new();
    for entry in Dir::read_from(folder).map_err(errno_error)? {
        let entry = entry.map_err(errno_error)?;
        let name = entry.file_name();
        let Some(id) = name.to_str().ok().and_then(parse_blob_name) else {
            continue;
        };
        let status = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let status = status.map_err(errno_error)?;
        blobs.push((id, u64::try_from(status.st_size).unwrap_or_default()));
    }
    Ok(blobs)
}

/// The numbers of the checkpoints in a folder.
pub(crate) fn list_checkpoints(folder: &Rc<OwnedFd>) -> Result<Vec<u64>, DiskError> {
    let mut numbers = Vec::new();
    for entry in Dir::read_from(folder).map_err(errno_error)? {
        let entry = entry.map_err(errno_error)?;
        let name = entry.file_name().to_str().ok();
        numbers.extend(name.and_then(parse_checkpoint_name));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sixteen_hex_digits_name_a_blob() {
        let id = BlobId(0x00ab_cdef_0123_4567);
        assert_eq!(file_name(id.into()).to_str(), Ok("00abcdef01234567.blob"));
        assert_eq!(parse_blob_name("00abcdef01234567.blob"), Some(id));
        let checkpoint = file_name(FileId::Checkpoint(17));
        assert_eq!(checkpoint.to_str(), Ok("0000000000000011.ckpt"));
        assert_eq!(parse_checkpoint_name("0000000000000011.ckpt"), Some(17));
        assert_eq!(parse_blob_name("0000000000000011.ckpt"), None);
        for name in [
            "abcdef.blob",
            "00ABcdef01234567.blob",
            "+0abcdef01234567.blob",
            "lock",
        ] {
            assert!(parse_blob_name(name).is_none(), "{name}");
        }
    }
}
