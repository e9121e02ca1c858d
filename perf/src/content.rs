//! Files that the demo makes and compares, streamed so that the harness stays small.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use crate::random::RandomBytes;

/// Bytes handled at a time.
const STEP_BYTES: usize = 1 << 20;

/// Writes the `len` bytes that `seed` stands for.
pub fn write_seeded(path: &Path, seed: u64, len: u64) -> io::Result<()> {
    let mut source = RandomBytes::new(seed, len);
    let mut target = File::create(path)?;
    let mut step = vec![0; STEP_BYTES];
    loop {
        let count = source.read(&mut step)?;
        if count == 0 {
            return target.flush();
        }
        target.write_all(&step[..count])?;
    }
}

/// The first byte at which two files differ, their common length if one is a prefix of the other; none if they are equal.
pub fn first_difference(left: &Path, right: &Path) -> io::Result<Option<u64>> {
    let mut left = BufReader::with_capacity(STEP_BYTES, File::open(left)?);
    let mut right = File::open(right)?;
    let mut left_step = vec![0; STEP_BYTES];
    let mut right_step = vec![0; STEP_BYTES];
    let mut compared = 0_u64;
    loop {
        let left_count = read_full(&mut left, &mut left_step)?;
        let right_count = read_full(&mut right, &mut right_step)?;
        let common = left_count.min(right_count);
        let differs = left_step[..common]
            .iter()
            .zip(&right_step[..common])
            .position(|(a, b)| a != b);
        if let Some(offset) = differs {
            return Ok(Some(compared + offset as u64));
        }
        compared += common as u64;
        if left_count != right_count {
            return Ok(Some(compared));
        }
        if common == 0 {
            return Ok(None);
        }
    }
}

/// Fills `target` unless the file ends.
fn read_full(source: &mut impl Read, target: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < target.len() {
        match source.read(&mut target[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_files_have_no_difference() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for len in [0, 1, STEP_BYTES as u64, 3 * STEP_BYTES as u64 + 5] {
            write_seeded(&a, 1, len).unwrap();
            write_seeded(&b, 1, len).unwrap();
            assert_eq!(std::fs::metadata(&a).unwrap().len(), len);
            assert_eq!(first_difference(&a, &b).unwrap(), None);
        }
    }

    #[test]
    fn one_byte_is_found_and_so_is_a_missing_end() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let len = STEP_BYTES + 100;
        write_seeded(&a, 1, len as u64).unwrap();
        let mut bytes = std::fs::read(&a).unwrap();
        bytes[STEP_BYTES + 7] ^= 1;
        std::fs::write(&b, &bytes).unwrap();
        assert_eq!(
            first_difference(&a, &b).unwrap(),
            Some(STEP_BYTES as u64 + 7)
        );
        bytes[STEP_BYTES + 7] ^= 1;
        std::fs::write(&b, &bytes[..len - 1]).unwrap();
        assert_eq!(first_difference(&a, &b).unwrap(), Some(len as u64 - 1));
        std::fs::write(&b, b"").unwrap();
        assert_eq!(first_difference(&a, &b).unwrap(), Some(0));
    }
}
