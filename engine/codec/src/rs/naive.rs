//! GF(2^16) from its definition, slowly: what every test may trust.

use reed_solomon_simd::engine::{CANTOR_BASIS, GF_POLYNOMIAL};

/// Symbols are coordinates in the Cantor basis; this is the polynomial they stand for.
fn polynomial(symbol: u16) -> u16 {
    let bits = (0..16).filter(|bit| symbol >> bit & 1 == 1);
    bits.fold(0, |sum, bit| sum ^ CANTOR_BASIS[bit])
}

/// Multiplication of symbols, and what it needs.
pub(crate) struct Field {
    symbol_of: Vec<u16>,
}

impl Field {
    pub(crate) fn new() -> Self {
        let mut symbol_of = vec![0; 65_536];
        for symbol in 0..=u16::MAX {
            symbol_of[usize::from(polynomial(symbol))] = symbol;
        }
        Self { symbol_of }
    }

    pub(crate) fn mul(&self, a: u16, b: u16) -> u16 {
        let (mut a, b) = (usize::from(polynomial(a)), polynomial(b));
        let mut product = 0;
        for bit in 0..16 {
            if b >> bit & 1 == 1 {
                product ^= a;
            }
            a <<= 1;
            if a & 0x1_0000 != 0 {
                a ^= GF_POLYNOMIAL;
            }
        }
        self.symbol_of[product]
    }

    fn inverse(&self, a: u16) -> u16 {
        // a^(2^16 - 2): 15 squarings, each multiplied in.
        let (mut square, mut product) = (a, self.symbol_of[1]);
        for _ in 0..15 {
            square = self.mul(square, square);
            product = self.mul(product, square);
        }
        product
    }

    /// Value at `point` of the polynomial with `values` at the points 0, 1, 2, ..
    pub(crate) fn interpolate(&self, values: &[u16], point: u16) -> u16 {
        let mut sum = 0;
        for (j, &value) in values.iter().enumerate() {
            let (mut above, mut below) = (value, self.symbol_of[1]);
            for i in (0..values.len()).filter(|&i| i != j) {
                above = self.mul(above, point ^ i as u16);
                below = self.mul(below, (j ^ i) as u16);
            }
            sum ^= self.mul(above, self.inverse(below));
        }
        sum
    }
}
