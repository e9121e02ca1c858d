//! Printable forms: lower-case base32 without padding, lower-case hex, and checksummed tokens
//! (`name1-` and base32 of `bytes || check`, docs/format.md, section 5).

use std::sync::LazyLock;

use data_encoding::{Encoding, HEXLOWER, Specification};

pub(crate) static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification
        .encoding()
        .unwrap_or_else(|error| panic!("base32 has 32 symbols: {error}"))
});

pub(crate) static HEX: Encoding = HEXLOWER;

const CHECK_BYTES: usize = 4;

/// Why text is not a token of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Text of another kind, or no token at all.
    #[error("does not begin with {expected}")]
    Kind {
        /// What it must begin with.
        expected: &'static str,
    },
    /// A newer version of the same kind.
    #[error("is of a newer version than {known}: update this program")]
    Version {
        /// The version that is known.
        known: &'static str,
    },
    /// A character that cannot be there: damaged.
    #[error("is damaged: the character at {position} cannot be there")]
    Character {
        /// Where in the text, counted in bytes from 0.
        position: usize,
    },
    /// Characters are missing at the end, or too many are there.
    #[error("is damaged: a text of {len} characters is cut short or too long")]
    Length {
        /// Characters given.
        len: usize,
    },
    /// The check does not fit: some character was changed.
    #[error("is damaged: its check does not fit (was a character changed or lost?)")]
    Check,
}

/// Prints bytes with their check after `prefix`, which ends with the version digit and a dash.
pub(crate) fn encode(prefix: &str, bytes: &[u8]) -> String {
    let mut checked = bytes.to_vec();
    checked.extend_from_slice(&check(bytes));
    let text = format!("{prefix}{}", BASE32.encode(&checked));
    zeroize::Zeroize::zeroize(&mut checked);
    text
}

/// Bytes of a printed token. White space around it is ignored: people paste.
pub(crate) fn decode(
    prefix: &'static str,
    text: &str,
) -> Result<zeroize::Zeroizing<Vec<u8>>, TextError> {
    let text = text.trim();
    let Some(body) = text.strip_prefix(prefix) else {
        return Err(wrong_prefix(prefix, text));
    };
    let bytes = BASE32
        .decode(body.as_bytes())
        .map_err(|error| match error.kind {
            data_encoding::DecodeKind::Length => TextError::Length { len: text.len() },
            _ => TextError::Character {
                position: prefix.len() + error.position,
            },
        })?;
    let mut bytes = zeroize::Zeroizing::new(bytes);
    let len = bytes
        .len()
        .checked_sub(CHECK_BYTES)
        .ok_or(TextError::Length { len: text.len() })?;
    if bytes[len..] != check(&bytes[..len]) {
        return Err(TextError::Check);
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Tells a newer version from something else altogether.
fn wrong_prefix(prefix: &'static str, text: &str) -> TextError {
    let name = prefix
        .trim_end_matches('-')
        .trim_end_matches(|digit: char| digit.is_ascii_digit());
    let version = text
        .strip_prefix(name)
        .and_then(|rest| rest.split_once('-'))
        .map(|(version, _)| version);
    match version {
        Some(version)
            if !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            TextError::Version { known: prefix }
        }
        _ => TextError::Kind { expected: prefix },
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::derive_key("strand text v1", bytes);
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "strand-test1-";

    #[test]
    fn what_is_wrong_is_said() {
        let text = encode(PREFIX, b"some bytes");
        assert_eq!(decode(PREFIX, &text).unwrap().as_slice(), b"some bytes");
        assert_eq!(
            decode(PREFIX, &format!("  {text}\n")).unwrap().as_slice(),
            b"some bytes"
        );
        assert_eq!(
            decode("strand-else1-", &text),
            Err(TextError::Kind {
                expected: "strand-else1-"
            })
        );
        assert_eq!(
            decode(PREFIX, ""),
            Err(TextError::Kind { expected: PREFIX })
        );
        assert_eq!(
            decode(PREFIX, "strand-test2-aaaa"),
            Err(TextError::Version { known: PREFIX })
        );
        assert_eq!(decode(PREFIX, PREFIX), Err(TextError::Length { len: 13 }));
        assert_eq!(
            decode(PREFIX, &text.replace(&text[15..16], "!")),
            Err(TextError::Character { position: 15 })
        );
    }

    proptest! {
        #[test]
        fn every_byte_string_comes_back(bytes: Vec<u8>) {
            let text = encode(PREFIX, &bytes);
            let decoded = decode(PREFIX, &text).unwrap();
            prop_assert_eq!(decoded.as_slice(), bytes.as_slice());
        }

        #[test]
        fn one_changed_or_lost_character_is_noticed(bytes: Vec<u8>, at: prop::sample::Index, to in "[a-z2-7]") {
            let text = encode(PREFIX, &bytes);
            let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            prop_assert!(changed == text || decode(PREFIX, &changed).is_err());
            let mut lost = text.clone();
            lost.remove(at);
            prop_assert!(decode(PREFIX, &lost).is_err());
        }

        #[test]
        fn foreign_text_never_panics(text in ".*") {
            let _ = decode(PREFIX, &text);
            let _ = decode(PREFIX, &format!("{PREFIX}{text}"));
        }
    }
}
