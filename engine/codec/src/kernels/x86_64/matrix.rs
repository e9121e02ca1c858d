//! The product of a matrix and shares, once for all tiers of x86-64.

/// Defines `multiply` in a tier's module, from what is named there:
///
/// - what [`transform_tier`](super::transform::transform_tier) needs;
/// - `SPAN`, how many vectors are multiplied by one factor at a time: one that holds low and high
///   bytes, or one of each; `PLANES / SPAN` such spans make a column;
/// - `times_b8`, the product of a span and `b_8`;
/// - the macros that call a function with the width of a group as a constant, so that the sums are
///   registers; one for products that are wide, which are rare: fewer widths, less code.
macro_rules! matrix_tier {
    ($features:literal, $with_rows:ident, $with_wide_rows:ident) => {
        /// Overwrites the columns `range` of a group of target rows.
        ///
        /// All shares have the columns; of factors there is one for each pair of a source and a
        /// target, or two if the product is wide.
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn multiply(
            factors: &[Factor],
            is_wide: bool,
            sources: &[&[u8]],
            targets: &mut [&mut [u8]],
            range: core::ops::Range<usize>,
        ) {
            assert!(range.start.is_multiple_of(64) && range.end.is_multiple_of(64));
            assert!(sources.iter().all(|source| source.len() >= range.end));
            if is_wide {
                $with_wide_rows!(
                    targets.len(),
                    group::<true>(factors, sources, targets, range)
                );
            } else {
                $with_rows!(
                    targets.len(),
                    group::<false>(factors, sources, targets, range)
                );
            }
        }

        #[target_feature(enable = $features)]
        fn group<const ROWS: usize, const IS_WIDE: bool>(
            factors: &[Factor],
            sources: &[&[u8]],
            targets: &mut [&mut [u8]],
            range: core::ops::Range<usize>,
        ) {
            let (factors, _) = factors.as_chunks::<ROWS>();
            let mut pointers = [core::ptr::null_mut(); ROWS];
            for (pointer, target) in pointers.iter_mut().zip(&mut *targets) {
                *pointer = target[..range.end].as_mut_ptr();
            }
            assert_eq!(targets.len(), ROWS);
            let mut column = range.start;
            while column < range.end {
                for pointer in pointers {
                    will_write(pointer.wrapping_add(column + AHEAD_BYTES));
                }
                for step in 0..PLANES / SPAN {
                    let mut sums = [[zero(); SPAN]; ROWS];
                    let mut factors = factors.iter();
                    for source in sources {
                        if step == 0 {
                            will_read(source.as_ptr().wrapping_add(column + AHEAD_BYTES));
                        }
                        let mut span = [zero(); SPAN];
                        for (part, vector) in span.iter_mut().enumerate() {
                            let plane = step + part * (PLANES / SPAN);
                            // SAFETY: `multiply` found all sources to have the whole column.
                            *vector = unsafe { read(source.as_ptr().wrapping_add(column), plane) };
                        }
                        let Some(of_source) = factors.next() else {
                            break;
                        };
                        add_products(&mut sums, of_source, span);
                        if IS_WIDE {
                            let Some(of_source) = factors.next() else {
                                break;
                            };
                            add_products(&mut sums, of_source, times_b8(span));
                        }
                    }
                    for (pointer, span) in pointers.iter().zip(sums) {
                        for (part, vector) in span.into_iter().enumerate().rev() {
                            let plane = step + part * (PLANES / SPAN);
                            // SAFETY: the pointer is that of a target with the whole column.
                            unsafe { write::<false>(pointer.wrapping_add(column), plane, vector) };
                        }
                    }
                }
                column += 64;
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add_products<const ROWS: usize>(
            sums: &mut [[Vector; SPAN]; ROWS],
            factors: &[Factor; ROWS],
            span: [Vector; SPAN],
        ) {
            let mut prepared = [prepare(span[0]); SPAN];
            for (prepared, vector) in prepared.iter_mut().zip(span) {
                *prepared = prepare(vector);
            }
            for (sums, factor) in sums.iter_mut().zip(factors) {
                for (sum, prepared) in sums.iter_mut().zip(prepared) {
                    *sum = add_product(*sum, factor, prepared);
                }
            }
        }
    };
}
pub(super) use matrix_tier;

/// Groups of up to four rows.
macro_rules! with_rows {
    ($row_count:expr, $function:ident::<$is_wide:literal>($($argument:expr),*)) => {
        match $row_count {
            1 => $function::<1, $is_wide>($($argument),*),
            2 => $function::<2, $is_wide>($($argument),*),
            3 => $function::<3, $is_wide>($($argument),*),
            4 => $function::<4, $is_wide>($($argument),*),
            row_count => unreachable!("a group of {row_count} rows"),
        }
    };
}
pub(super) use with_rows;

/// Groups of up to six rows.
macro_rules! with_six_rows {
    ($row_count:expr, $function:ident::<$is_wide:literal>($($argument:expr),*)) => {
        match $row_count {
            5 => $function::<5, $is_wide>($($argument),*),
            6 => $function::<6, $is_wide>($($argument),*),
            row_count => with_rows!(row_count, $function::<$is_wide>($($argument),*)),
        }
    };
}
pub(super) use with_six_rows;

/// Groups of up to eight rows.
macro_rules! with_eight_rows {
    ($row_count:expr, $function:ident::<$is_wide:literal>($($argument:expr),*)) => {
        match $row_count {
            7 => $function::<7, $is_wide>($($argument),*),
            8 => $function::<8, $is_wide>($($argument),*),
            row_count => with_six_rows!(row_count, $function::<$is_wide>($($argument),*)),
        }
    };
}
pub(super) use with_eight_rows;

/// Groups of up to 24 rows.
macro_rules! with_many_rows {
    ($row_count:expr, $function:ident::<$is_wide:literal>($($argument:expr),*)) => {
        match $row_count {
            9 => $function::<9, $is_wide>($($argument),*),
            10 => $function::<10, $is_wide>($($argument),*),
            11 => $function::<11, $is_wide>($($argument),*),
            12 => $function::<12, $is_wide>($($argument),*),
            13 => $function::<13, $is_wide>($($argument),*),
            14 => $function::<14, $is_wide>($($argument),*),
            15 => $function::<15, $is_wide>($($argument),*),
            16 => $function::<16, $is_wide>($($argument),*),
            17 => $function::<17, $is_wide>($($argument),*),
            18 => $function::<18, $is_wide>($($argument),*),
            19 => $function::<19, $is_wide>($($argument),*),
            20 => $function::<20, $is_wide>($($argument),*),
            21 => $function::<21, $is_wide>($($argument),*),
            22 => $function::<22, $is_wide>($($argument),*),
            23 => $function::<23, $is_wide>($($argument),*),
            24 => $function::<24, $is_wide>($($argument),*),
            row_count => with_eight_rows!(row_count, $function::<$is_wide>($($argument),*)),
        }
    };
}
pub(super) use with_many_rows;
