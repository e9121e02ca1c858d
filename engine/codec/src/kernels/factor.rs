//! The forms in which tiers want a factor: the additive map that multiplying bytes by it is.

use std::sync::OnceLock;

use crate::field::Field;
#[cfg(any(test, target_arch = "x86_64"))]
use crate::field::additive;
#[cfg(target_arch = "x86_64")]
use crate::field::{B7_IMAGES, FOLD};

/// A factor as the bytes that the bits of a byte become.
pub(in crate::kernels) type Images = [u8; 8];

/// A factor as two tables of its products: by the low and by the high four bits of a byte.
#[cfg(any(test, target_arch = "x86_64"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
pub(in crate::kernels) struct Nibbles {
    pub(in crate::kernels) low: [u8; 16],
    pub(in crate::kernels) high: [u8; 16],
}

/// A factor as the 8 by 8 bit matrix of `gf2p8affineqb`.
#[cfg(any(test, target_arch = "x86_64"))]
pub(in crate::kernels) type Affine = u64;

/// `fold`, as the products of a factor.
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) const FOLD_NIBBLES: Nibbles = nibbles(&FOLD);

/// `fold`, as the matrix of a factor.
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) const FOLD_AFFINE: Affine = affine(&FOLD);

/// The factor `b_7`.
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) const B7_NIBBLES: Nibbles = nibbles(&B7_IMAGES);

/// The factor `b_7`.
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) const B7_AFFINE: Affine = affine(&B7_IMAGES);

/// A form of every factor, made at its first use: a plan of some hundred factors is then look-ups.
pub(in crate::kernels) struct All<T>(OnceLock<[T; 256]>);

/// All factors as images.
pub(in crate::kernels) static ALL_IMAGES: All<Images> = All(OnceLock::new());

/// All factors as tables.
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) static ALL_NIBBLES: All<Nibbles> = All(OnceLock::new());

/// All factors as matrices.
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) static ALL_AFFINE: All<Affine> = All(OnceLock::new());

impl<T: Copy> All<T> {
    /// The form of each of these factors; `form` makes it, always the same one.
    pub(in crate::kernels) fn of(
        &self,
        factors: impl Iterator<Item = u8>,
        form: fn(&Images) -> T,
    ) -> Vec<T> {
        let all = self.0.get_or_init(|| {
            let field = Field::new();
            std::array::from_fn(|factor| form(&field.images(factor as u8)))
        });
        factors.map(|factor| all[usize::from(factor)]).collect()
    }
}

#[cfg(any(test, target_arch = "x86_64"))]
pub(in crate::kernels) const fn nibbles(images: &Images) -> Nibbles {
    let mut tables = Nibbles {
        low: [0; 16],
        high: [0; 16],
    };
    let mut nibble = 0;
    while nibble < 16 {
        tables.low[nibble] = additive(images, nibble as u8);
        tables.high[nibble] = additive(images, (nibble as u8) << 4);
        nibble += 1;
    }
    tables
}

/// The instruction's bit `i` of a product is the parity of the byte and of byte `7 - i` of the
/// matrix, counted from its lowest.
#[cfg(any(test, target_arch = "x86_64"))]
pub(in crate::kernels) const fn affine(images: &Images) -> Affine {
    let mut matrix = [0; 8];
    let mut bit = 0;
    while bit < 8 {
        let mut from = 0;
        while from < 8 {
            matrix[7 - bit] |= (images[from] >> bit & 1) << from;
            from += 1;
        }
        bit += 1;
    }
    u64::from_le_bytes(matrix)
}
