//! From a passphrase to a project's root key (docs/format.md, section 2).
//!
//! The satellite never sees passphrase or root key; it keeps a *check value* from the project's
//! first grant on, so that a mistyped passphrase is noticed before it writes names that nobody can
//! read.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::cipher::{expand, is_equal, secret_keys, siv_seal};
use crate::id::ProjectId;
use crate::limits::{
    ARGON2_LANES_MAX, ARGON2_MEMORY_KIB_MAX, ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MAX,
    ARGON2_PASSES_MIN, PASSPHRASE_CHARS_MIN,
};
use crate::path::PathKey;

/// Length of a passphrase check value: 26 bytes of text and a synthetic IV.
pub const CHECK_VALUE_BYTES: usize = CHECK_TEXT.len() + 16;

const CHECK_TEXT: &[u8; 26] = b"strand passphrase check v1";

/// Argon2id parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// t: passes over the memory.
    pub passes: u32,
    /// m: memory in KiB.
    pub memory_kib: u32,
    /// p: lanes.
    pub lanes: u32,
}

impl KdfParams {
    /// t = 3, m = 64 MiB, p = 4: RFC 9106's second recommendation.
    pub const DEFAULT: Self = Self {
        passes: 3,
        memory_kib: 65_536,
        lanes: 4,
    };

    /// Refuses parameters that are too weak to protect, or so strong that a foreign grant could
    /// stall us.
    ///
    /// # Errors
    ///
    /// [`PassphraseError::Weak`], [`PassphraseError::Costly`].
    pub fn check(&self) -> Result<(), PassphraseError> {
        let Self {
            passes,
            memory_kib,
            lanes,
        } = *self;
        if passes < ARGON2_PASSES_MIN || memory_kib < ARGON2_MEMORY_KIB_MIN || lanes < 1 {
            return Err(PassphraseError::Weak {
                passes,
                memory_kib,
                lanes,
            });
        }
        if passes > ARGON2_PASSES_MAX
            || memory_kib > ARGON2_MEMORY_KIB_MAX
            || lanes > ARGON2_LANES_MAX
        {
            return Err(PassphraseError::Costly {
                passes,
                memory_kib,
                lanes,
            });
        }
        Ok(())
    }
}

impl Default for KdfParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why a passphrase gives no root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// Nothing but white space.
    #[error("the passphrase is empty: whoever has the grant's macaroon could read everything")]
    Empty,
    /// Too few characters.
    #[error("the passphrase is too weak: {chars} characters < {PASSPHRASE_CHARS_MIN}")]
    Short {
        /// Characters given.
        chars: usize,
    },
    /// Argon2id parameters below the floors.
    #[error(
        "key derivation t={passes} m={memory_kib} KiB p={lanes} is too weak: \
         at least t={ARGON2_PASSES_MIN} m={ARGON2_MEMORY_KIB_MIN} KiB p=1"
    )]
    Weak {
        /// t.
        passes: u32,
        /// m.
        memory_kib: u32,
        /// p.
        lanes: u32,
    },
    /// Argon2id parameters above the ceilings.
    #[error(
        "key derivation t={passes} m={memory_kib} KiB p={lanes} is too costly: \
         at most t={ARGON2_PASSES_MAX} m={ARGON2_MEMORY_KIB_MAX} KiB p={ARGON2_LANES_MAX}"
    )]
    Costly {
        /// t.
        passes: u32,
        /// m.
        memory_kib: u32,
        /// p.
        lanes: u32,
    },
}

secret_keys! {
    /// What a project's names and headers are sealed under, in the end. Whoever has it reads the
    /// whole project.
    RootKey(32);
}

impl RootKey {
    /// Argon2id over the passphrase as typed: no trimming, no normalisation.
    ///
    /// Takes 64 MiB and some tenths of a second with [`KdfParams::DEFAULT`].
    ///
    /// # Errors
    ///
    /// A [`PassphraseError`] for an empty or weak passphrase and for parameters out of bounds.
    pub fn derive(
        passphrase: &str,
        salt: &[u8; 32],
        params: KdfParams,
    ) -> Result<Self, PassphraseError> {
        check_passphrase(passphrase)?;
        params.check()?;
        let KdfParams {
            passes,
            memory_kib,
            lanes,
        } = params;
        let error = PassphraseError::Costly {
            passes,
            memory_kib,
            lanes,
        };
        let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| error)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
            .map_err(|_| error)?;
        Ok(Self::from(key))
    }

    /// What the satellite keeps to tell this root key from that of a mistyped passphrase.
    pub fn check_value(&self, project: ProjectId) -> Vec<u8> {
        let key = expand(&self.0, &[b"strand v1 check"]);
        siv_seal(&key, &[project.as_bytes()], CHECK_TEXT)
    }

    /// Whether the satellite's check value is this root key's.
    pub fn verify_check_value(&self, project: ProjectId, check_value: &[u8]) -> bool {
        is_equal(&self.check_value(project), check_value)
    }

    /// The key at the top of a bucket. The epoch is 0 until path keys are rotated.
    pub fn bucket_key(&self, bucket: &str, epoch: u32) -> PathKey {
        PathKey::from(expand(
            &self.0,
            &[b"strand v1 bucket", &epoch.to_le_bytes(), bucket.as_bytes()],
        ))
    }
}

/// Refuses passphrases that protect nothing, before any work is done.
///
/// # Errors
///
/// [`PassphraseError::Empty`], [`PassphraseError::Short`].
pub fn check_passphrase(passphrase: &str) -> Result<(), PassphraseError> {
    if passphrase.trim().is_empty() {
        return Err(PassphraseError::Empty);
    }
    let chars = passphrase.chars().count();
    if chars < PASSPHRASE_CHARS_MIN {
        Err(PassphraseError::Short { chars })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_weak_passphrases_are_refused_with_a_reason() {
        for (passphrase, error) in [
            ("", PassphraseError::Empty),
            ("   \t     ", PassphraseError::Empty),
            ("seven77", PassphraseError::Short { chars: 7 }),
            ("äöüäöüä", PassphraseError::Short { chars: 7 }),
        ] {
            let key = RootKey::derive(passphrase, &[0; 32], KdfParams::DEFAULT);
            assert_eq!(key, Err(error), "{passphrase:?}");
        }
        assert_eq!(check_passphrase("eight888"), Ok(()));
        assert_eq!(
            PassphraseError::Short { chars: 7 }.to_string(),
            "the passphrase is too weak: 7 characters < 8"
        );
    }

    #[test]
    fn parameters_below_the_floors_and_above_the_ceilings_are_refused() {
        let default = KdfParams::DEFAULT;
        for params in [
            KdfParams {
                passes: 2,
                ..default
            },
            KdfParams {
                memory_kib: 65_535,
                ..default
            },
            KdfParams {
                lanes: 0,
                ..default
            },
        ] {
            assert!(matches!(
                RootKey::derive("long enough", &[0; 32], params),
                Err(PassphraseError::Weak { .. })
            ));
        }
        for params in [
            KdfParams {
                passes: 65,
                ..default
            },
            KdfParams {
                memory_kib: u32::MAX,
                ..default
            },
            KdfParams {
                lanes: 65,
                ..default
            },
        ] {
            assert!(matches!(
                RootKey::derive("long enough", &[0; 32], params),
                Err(PassphraseError::Costly { .. })
            ));
        }
        assert_eq!(
            KdfParams {
                lanes: 1,
                ..default
            }
            .check(),
            Ok(())
        );
    }

    #[test]
    fn the_check_value_tells_root_keys_and_projects_apart() {
        let (key, project) = (RootKey::from([1; 32]), ProjectId::from([2; 16]));
        let check = key.check_value(project);
        assert_eq!(check.len(), CHECK_VALUE_BYTES);
        assert_eq!(check.len(), 42);
        assert!(key.verify_check_value(project, &check));
        assert!(!RootKey::from([3; 32]).verify_check_value(project, &check));
        assert!(!key.verify_check_value(ProjectId::from([3; 16]), &check));
        assert!(!key.verify_check_value(project, &check[..41]));
        assert!(!key.verify_check_value(project, &[]));
    }

    #[test]
    fn bucket_keys_differ_by_bucket_and_epoch() {
        let key = RootKey::from([1; 32]);
        assert_ne!(key.bucket_key("one", 0), key.bucket_key("two", 0));
        assert_ne!(key.bucket_key("one", 0), key.bucket_key("one", 1));
        assert_eq!(key.bucket_key("one", 0), key.bucket_key("one", 0));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", RootKey::from([1; 32])), "RootKey(<secret>)");
    }
}
