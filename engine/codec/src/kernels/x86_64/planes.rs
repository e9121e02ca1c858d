//! Shares in vectors that hold low bytes or high bytes, never both.

/// Defines `read`, `write` and `times_b8` in the module of a tier whose columns are `PLANES`
/// vectors, first those of the low bytes, from its vectors' functions and the factors `FOLD` and
/// `B7`.
macro_rules! planes_tier {
    ($features:literal) => {
        /// Low and high bytes are multiplied side by side.
        const SPAN: usize = 2;

        /// Shares are not written in whole lines of cache.
        const STREAMS: bool = false;

        /// A vector of a share's column, folded.
        ///
        /// # Safety
        ///
        /// The 64 bytes of the column are readable.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn read(column: *const u8, plane: usize) -> Vector {
            // SAFETY: planes lie inside of the column, which the caller says is readable.
            let vector = unsafe { load(column.wrapping_add(plane * (64 / PLANES))) };
            if plane >= PLANES / 2 {
                return vector;
            }
            // SAFETY: as above; the high bytes of a low plane are half a column on.
            let high = unsafe { load(column.wrapping_add(32 + plane * (64 / PLANES))) };
            add_product(vector, &FOLD, prepare(high))
        }

        /// Unfolds a vector into a share's column; a low one after its high one.
        ///
        /// # Safety
        ///
        /// The 64 bytes of the column are readable and writable.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn write<const STREAM: bool>(column: *mut u8, plane: usize, vector: Vector) {
            let mut vector = vector;
            if plane < PLANES / 2 {
                // SAFETY: as in `read`.
                let high = unsafe { load(column.wrapping_add(32 + plane * (64 / PLANES))) };
                vector = add_product(vector, &FOLD, prepare(high));
            }
            // SAFETY: planes lie inside of the column, which the caller says is writable.
            unsafe { store(column.wrapping_add(plane * (64 / PLANES)), vector) };
        }

        /// `(u + v b_8) b_8 = b_7 v + (u + v) b_8`.
        #[inline]
        #[target_feature(enable = $features)]
        fn times_b8([low, high]: [Vector; SPAN]) -> [Vector; SPAN] {
            [add_product(zero(), &B7, prepare(high)), add(low, high)]
        }

        /// Orders stores that bypass the caches; there are none.
        #[inline]
        fn fence() {}
    };
}
pub(super) use planes_tier;
