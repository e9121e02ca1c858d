//! The field of the erasure code, and the smaller one inside it that does the work.
//!
//! # GF(2^16)
//!
//! A symbol is an element of GF(2^16), written in the Cantor basis `b_0 .. b_15` of
//! `reed-solomon-simd`: bit `i` stands for `b_i`. The basis satisfies `b_i^2 + b_i = b_(i-1)` and
//! `b_0 = 1`. Addition is exclusive or; multiplication goes by the crate's tables of logarithms.
//!
//! # GF(2^8)
//!
//! In such a basis the first eight elements span the subfield GF(2^8): bytes, as symbols below
//! 256, are closed under multiplication. The others are `b_(8+i) = b_i * b_8 + FOLD[i]` with
//! `FOLD[i]` in the subfield. So a symbol with low byte `l` and high byte `h` is
//!
//! ```text
//! l + sum over the bits i of h of (b_i * b_8 + FOLD[i])  =  (l + fold(h)) + h * b_8
//! ```
//!
//! and multiplying it by an element `c` of the subfield multiplies the two bytes
//! `u = l + fold(h)` and `v = h` by `c`, each alone: half the work of a product in GF(2^16), and
//! plain byte arithmetic. `fold` is its own way back: `l = u + fold(v)`.
//!
//! A factor outside the subfield, `c = p + q * b_8`, is two in it, since `b_8^2 = b_8 + b_7`:
//!
//! ```text
//! c * x  =  p * x + q * (b_8 * x)    and    b_8 * (u + v * b_8)  =  b_7 v + (u + v) * b_8
//! ```
//!
//! This module knows nothing of shares, points or vectors. All of it follows from the code that
//! docs/format.md freezes; the tests derive the constants anew.

use reed_solomon_simd::engine::GF_MODULUS;
use reed_solomon_simd::engine::tables::{ExpLog, get_exp_log};

/// `b_(8+i) + b_i * b_8`, which lies in the subfield.
pub(crate) const FOLD: [u8; 8] = [0x00, 0xcf, 0xab, 0x21, 0x8a, 0x9d, 0x27, 0x1f];

/// The element `b_7`, which is `b_8^2 + b_8`.
#[cfg(test)]
const B7: u8 = 0x80;

/// What the bits of a byte become when it is multiplied by `b_7`: `b_7` itself and so on.
pub(crate) const B7_IMAGES: [u8; 8] = [0x80, 0xe7, 0x7d, 0xc6, 0xa2, 0x66, 0xe8, 0xc0];

/// Order of the multiplicative group.
const GROUP: u32 = GF_MODULUS as u32;

/// Multiplication of symbols.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    tables: &'static ExpLog,
}

impl Field {
    /// The field; its tables (256 KiB, shared with the stock crate) are made at first use.
    pub(crate) fn new() -> Self {
        Self {
            tables: get_exp_log(),
        }
    }

    /// Logarithm of a symbol that is not zero.
    pub(crate) fn log(self, symbol: u16) -> u32 {
        debug_assert_ne!(symbol, 0, "zero has no logarithm");
        u32::from(self.tables.log[usize::from(symbol)])
    }

    /// The symbol of a logarithm.
    pub(crate) fn exp(self, log: u32) -> u16 {
        self.tables.exp[(log % GROUP) as usize]
    }

    /// Logarithm of the inverse.
    pub(crate) fn negate_log(log: u32) -> u32 {
        GROUP - log % GROUP
    }

    /// The product of two symbols.
    pub(crate) fn mul(self, a: u16, b: u16) -> u16 {
        if a == 0 || b == 0 {
            return 0;
        }
        self.exp(self.log(a) + self.log(b))
    }

    /// The product of two elements of the subfield.
    pub(crate) fn mul_bytes(self, a: u8, b: u8) -> u8 {
        let product = self.mul(u16::from(a), u16::from(b));
        debug_assert!(product < 256, "the subfield is closed");
        product as u8
    }

    /// What a byte's bits become when it is multiplied by an element of the subfield.
    pub(crate) fn images(self, factor: u8) -> [u8; 8] {
        let mut images = [0; 8];
        for (bit, image) in images.iter_mut().enumerate() {
            *image = self.mul_bytes(factor, 1 << bit);
        }
        images
    }

    /// The two elements of the subfield, `[p, q]`, with `factor = p + q * b_8`.
    pub(crate) fn split(factor: u16) -> [u8; 2] {
        let [low, high] = factor.to_le_bytes();
        [low ^ fold(high), high]
    }
}

/// Value at a byte of the additive map that takes bit `i` to `images[i]`.
pub(crate) const fn additive(images: &[u8; 8], byte: u8) -> u8 {
    let mut sum = 0;
    let mut bit = 0;
    while bit < 8 {
        sum ^= images[bit] * (byte >> bit & 1);
        bit += 1;
    }
    sum
}

/// What the high byte of a symbol adds to its part in the subfield.
pub(crate) fn fold(high: u8) -> u8 {
    additive(&FOLD, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rs::naive;

    #[test]
    fn products_are_those_of_the_definition() {
        let (field, naive) = (Field::new(), naive::Field::new());
        for step in 0..5_000_u32 {
            let (a, b) = ((step * 7_919) as u16, ((step * 104_729) >> 3) as u16);
            assert_eq!(field.mul(a, b), naive.mul(a, b), "{a} {b}");
        }
        for a in 1..2_000 {
            let inverse = field.exp(Field::negate_log(field.log(a)));
            assert_eq!(naive.mul(a, inverse), 1);
        }
    }

    #[test]
    fn bytes_are_a_subfield() {
        let naive = naive::Field::new();
        for a in 0..256 {
            for b in 0..256 {
                assert!(naive.mul(a, b) < 256, "{a} {b}");
            }
        }
    }

    #[test]
    fn fold_is_what_the_basis_makes_it() {
        let naive = naive::Field::new();
        for (i, folded) in FOLD.into_iter().enumerate() {
            let product = naive.mul(1 << i, 1 << 8);
            assert_eq!(product ^ 1 << (8 + i), u16::from(folded));
        }
        assert_eq!(naive.mul(1 << 8, 1 << 8) ^ 1 << 8, u16::from(B7));
    }

    #[test]
    fn products_split_into_products_of_bytes() {
        let (field, naive) = (Field::new(), naive::Field::new());
        for step in 0..5_000_u32 {
            let (factor, symbol) = ((step * 7_919) as u16, ((step * 104_729) >> 3) as u16);
            let ([p, q], [u, v]) = (Field::split(factor), Field::split(symbol));
            let product = |p: u8, [u, v]: [u8; 2]| [field.mul_bytes(p, u), field.mul_bytes(p, v)];
            let times_b8 = [additive(&B7_IMAGES, v), u ^ v];
            let ([a, b], [c, d]) = (product(p, [u, v]), product(q, times_b8));
            let product = u16::from_le_bytes([a ^ c ^ fold(b ^ d), b ^ d]);
            assert_eq!(product, naive.mul(factor, symbol), "{factor} {symbol}");
        }
    }
}
