//! The two primitives every key and sealed name goes through: HKDF-Expand with SHA-256 and
//! AES-SIV-CMAC-512.
//!
//! Nothing here knows what it seals. Contexts (`info`, associated data) are the callers', as
//! docs/format.md lists them.

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// `HKDF(prk; info_0 || info_1 || ..; N)` of docs/format.md.
pub(crate) fn expand<const N: usize>(prk: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let hkdf =
        Hkdf::<Sha256>::from_prk(prk).unwrap_or_else(|_| panic!("32 bytes are a SHA-256 PRK"));
    let mut key = Zeroizing::new([0; N]);
    hkdf.expand_multi_info(info, &mut *key)
        .unwrap_or_else(|_| panic!("{N} bytes <= 255 x 32"));
    key
}

/// `SIV(key; ad_1, .., ad_m; plain)` of docs/format.md: 16 bytes longer than the plaintext.
pub(crate) fn siv_seal(key: &[u8; 64], associated: &[&[u8]], plain: &[u8]) -> Vec<u8> {
    Aes256Siv::new(key.into())
        .encrypt(associated, plain)
        .unwrap_or_else(|_| panic!("{} associated strings <= 126", associated.len()))
}

/// The plaintext, or `None` if a bit of anything differs.
pub(crate) fn siv_open(
    key: &[u8; 64],
    associated: &[&[u8]],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    Aes256Siv::new(key.into())
        .decrypt(associated, sealed)
        .ok()
        .map(Zeroizing::new)
}

/// Equal, in a time that does not depend on where they differ.
pub(crate) fn is_equal(one: &[u8], two: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(one, two).into()
}

/// A key type of fixed length: zeroed when dropped, compared in constant time, never printed.
macro_rules! secret_keys {
    ($($(#[$doc:meta])* $name:ident($len:literal);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
        pub struct $name([u8; $len]);

        impl $name {
            /// The secret bytes, to be sent or written by their owner.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl From<zeroize::Zeroizing<[u8; $len]>> for $name {
            fn from(bytes: zeroize::Zeroizing<[u8; $len]>) -> Self {
                Self(*bytes)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                $crate::cipher::is_equal(&self.0, &other.0)
            }
        }

        impl Eq for $name {}

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(<secret>)"))
            }
        }
    )*};
}

pub(crate) use secret_keys;
