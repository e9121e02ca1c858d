//! The forms in which tiers want a factor: the additive map that multiplying bytes by it is.

#[cfg(any(test, target_arch = "x86_64"))]
use crate::field::{B7_IMAGES, FOLD, additive};

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
#[cfg(any(test, target_arch = "x86_64"))]
pub(in crate::kernels) const FOLD_NIBBLES: Nibbles = nibbles(&FOLD);

/// `fold`, as the matrix of a factor.
#[cfg(any(test, target_arch = "x86_64"))]
pub(in crate::kernels) const FOLD_AFFINE: Affine = affine(&FOLD);

/// The factor `b_7`.
#[cfg(any(test, target_arch = "x86_64"))]
pub(in crate::kernels) const B7_NIBBLES: Nibbles = nibbles(&B7_IMAGES);

/// The factor `b_7`.
#[cfg(any(test, target_arch = "x86_64"))]
pub(in crate::kernels) const B7_AFFINE: Affine = affine(&B7_IMAGES);

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
