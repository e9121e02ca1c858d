//! What each present share contributes to each wanted one.
//!
//! The definition is in the head of `rs`: all symbols of a codeword are values of one polynomial
//! of degree below `m`, and the `k` present ones with the `m - k` known zeros fix it. Lagrange's
//! formula reads it off at a wanted point `z`, with `x_0 .. x_(m-1)` the known points:
//!
//! ```text
//! f(z) = sum over p of f(x_p) * product over q != p of (z - x_q) / (x_p - x_q)
//! ```
//!
//! The zeros contribute nothing to the sum, so only present shares have a coefficient, but their
//! points count in the products. In logarithms a coefficient is one subtraction from the sum over
//! all `q`; a plan for 19 of 29 costs microseconds, not the 65,536-point transform of the stock
//! decoder.

use crate::field::Field;

/// The point of the code at which a share's symbols are the values.
fn point(required: u8, index: u8) -> u16 {
    match index.checked_sub(required) {
        None => u16::from(index),
        Some(row) => u16::from(required.next_power_of_two()) + u16::from(row),
    }
}

/// Coefficients of the `present` shares in each `wanted` one, wanted share by wanted share.
///
/// Indices are distinct, no wanted one is present, and `required` of them are: the caller
/// checked.
pub(crate) fn coefficients(required: u8, present: &[u8], wanted: &[u8]) -> Vec<u16> {
    let field = Field::new();
    let zeros = u16::from(required)..u16::from(required.next_power_of_two());
    let present = present.iter().map(|&index| point(required, index));
    let present: Vec<u16> = present.collect();
    let known: Vec<u16> = present.iter().copied().chain(zeros).collect();
    // At most 64 points with logarithms below 2^16: sums stay below 2^22.
    let log_of_distances = |from: u16| -> u32 {
        let others = known.iter().filter(|&&point| point != from);
        others.map(|&point| field.log(from ^ point)).sum()
    };
    let divisors: Vec<u32> = present
        .iter()
        .map(|&point| Field::negate_log(log_of_distances(point)))
        .collect();
    let mut coefficients = Vec::with_capacity(wanted.len() * present.len());
    for &index in wanted {
        let wanted = point(required, index);
        let all = log_of_distances(wanted);
        for (&present, &divisor) in present.iter().zip(&divisors) {
            coefficients.push(field.exp(all - field.log(wanted ^ present) + divisor));
        }
    }
    coefficients
}
