//! The tiers of x86-64. Each file is one instruction set: its loads and stores, its product by
//! a constant, and the loop of the head of `kernels` around them.

pub(super) mod avx2;
pub(super) mod avx2_gfni;
pub(super) mod avx512;
pub(super) mod avx512_gfni;
pub(super) mod ssse3;

/// Calls a function with the width of its group as a constant, so that the sums are registers.
macro_rules! with_group_rows {
    ($row_count:expr, $function:ident($($argument:expr),*)) => {
        match $row_count {
            1 => $function::<1>($($argument),*),
            2 => $function::<2>($($argument),*),
            3 => $function::<3>($($argument),*),
            4 => $function::<4>($($argument),*),
            row_count => unreachable!("a group of {row_count} rows"),
        }
    };
    ($row_count:expr, wide $function:ident($($argument:expr),*)) => {
        match $row_count {
            5 => $function::<5>($($argument),*),
            6 => $function::<6>($($argument),*),
            7 => $function::<7>($($argument),*),
            8 => $function::<8>($($argument),*),
            row_count => crate::kernels::x86_64::with_group_rows!(row_count, $function($($argument),*)),
        }
    };
}
use with_group_rows;
