//! The transform of the erasure code, once for all tiers of x86-64.
//!
//! A tier gives a vector, its loads and stores, the exclusive or of two and the sum of a vector
//! and a product; [`transform_tier`] writes the rest for it. The steps are those of the head of
//! [`transform`](super::super::transform).

/// Defines `encode`, the whole transform, in a tier's module, from what is named there:
///
/// - `Vector`, `Factor`;
/// - `PLANES`, how many vectors make a column of 64 bytes, and `read`, `write`: plane by plane a
///   column of a share as folded bytes, and back. Planes are written last one first, so that a
///   low one finds the high bytes that it folds in already in the share;
/// - `load`, `store`, `add` and `add_product`.
macro_rules! transform_tier {
    ($features:literal) => {
        use crate::kernels::transform::{
            CHUNKS_MAX, FACTOR_COUNT, PASS_LAYERS, PASS_ROWS, POINTS_MAX, Plan,
        };
        use crate::kernels::x86_64::ahead::{AHEAD_BYTES, will_read, will_write};

        /// Computes the recovery shares of whole columns.
        ///
        /// All shares have one length, which is a multiple of 64; their counts are the plan's.
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn encode(
            plan: &Plan,
            factors: &[Factor; FACTOR_COUNT],
            scratch: &mut [u8],
            data: &[&[u8]],
            recovery: &mut [&mut [u8]],
        ) {
            let share_len = data[0].len();
            let streams = STREAMS && plan.streams(share_len, recovery);
            match (plan.low_layers, streams) {
                (1, _) => encode_tiles::<1, 2, false>(plan, factors, scratch, data, recovery),
                (2, _) => encode_tiles::<2, 4, false>(plan, factors, scratch, data, recovery),
                (_, false) => encode_tiles::<3, 8, false>(plan, factors, scratch, data, recovery),
                (_, true) => encode_tiles::<3, 8, true>(plan, factors, scratch, data, recovery),
            }
            if streams {
                fence();
            }
        }

        #[target_feature(enable = $features)]
        fn encode_tiles<const LAYERS: usize, const ROWS: usize, const STREAM: bool>(
            plan: &Plan,
            factors: &[Factor; FACTOR_COUNT],
            scratch: &mut [u8],
            data: &[&[u8]],
            recovery: &mut [&mut [u8]],
        ) {
            let mut of_chunks = [Factors::new(factors, 0, 0); CHUNKS_MAX];
            let of_chunks = &mut of_chunks[..plan.chunk_count];
            for (chunk, of_chunk) in of_chunks.iter_mut().enumerate() {
                let first = (1 + chunk) * plan.point_count;
                *of_chunk = Factors::new(factors, first, LAYERS);
            }
            let mut start = 0;
            while start < data[0].len() {
                let tile = start..data[0].len().min(start + plan.tile_len);
                start = tile.end;
                encode_tile::<LAYERS, ROWS, STREAM>(
                    plan, factors, of_chunks, scratch, data, recovery, tile,
                );
            }
        }

        #[target_feature(enable = $features)]
        fn encode_tile<const LAYERS: usize, const ROWS: usize, const STREAM: bool>(
            plan: &Plan,
            factors: &[Factor; FACTOR_COUNT],
            of_chunks: &[Factors],
            scratch: &mut [u8],
            data: &[&[u8]],
            recovery: &mut [&mut [u8]],
            tile: core::ops::Range<usize>,
        ) {
            let (rows, rest) = scratch.split_at_mut(plan.row_count * plan.tile_len);
            let (zeros, sink) = rest.split_at_mut(plan.tile_len);
            let len = tile.len();
            for first in (0..plan.point_count).step_by(ROWS) {
                let target = &mut rows[first * plan.tile_len..][..ROWS * plan.tile_len];
                if first >= data.len() {
                    target.fill(0);
                    continue;
                }
                let sources: [&[u8]; ROWS] = core::array::from_fn(|row| {
                    let share = data.get(first + row);
                    share.map_or(&zeros[..len], |share| &share[tile.clone()])
                });
                if first == 0 {
                    low_inverse::<LAYERS, ROWS, true>(factors, first, &sources, target);
                } else {
                    low_inverse::<LAYERS, ROWS, false>(factors, first, &sources, target);
                }
            }
            // High layers are those after all low ones.
            if LAYERS == PASS_LAYERS {
                match plan.high_layers {
                    0 => {}
                    1 => high::<2>(plan, factors, of_chunks, rows, len),
                    2 => high::<4>(plan, factors, of_chunks, rows, len),
                    _ => high::<8>(plan, factors, of_chunks, rows, len),
                }
            }
            for (group, targets) in recovery.chunks_mut(ROWS).enumerate() {
                let point = plan.point_count + group * ROWS;
                let source = if plan.high_layers == 0 {
                    0
                } else {
                    group * ROWS
                };
                let source = &rows[source * plan.tile_len..][..ROWS * plan.tile_len];
                low_forward::<LAYERS, ROWS, STREAM>(
                    factors,
                    point,
                    source,
                    targets,
                    sink,
                    tile.clone(),
                );
            }
        }

        /// The low layers of the inverse transform for the rows at `first` and after.
        #[target_feature(enable = $features)]
        fn low_inverse<const LAYERS: usize, const ROWS: usize, const IS_FIRST: bool>(
            factors: &[Factor; FACTOR_COUNT],
            first: usize,
            sources: &[&[u8]; ROWS],
            target: &mut [u8],
        ) {
            let factors = Factors::new(factors, first, 0);
            let len = sources[0].len();
            let stride = target.len() / ROWS;
            assert!(sources.iter().all(|source| source.len() == len) && len <= stride);
            assert!(len.is_multiple_of(64));
            let sources = sources.map(<[u8]>::as_ptr);
            let target = target.as_mut_ptr();
            let mut column = 0;
            while column < len {
                for source in sources {
                    will_read(source.wrapping_add(column + AHEAD_BYTES));
                }
                for plane in 0..PLANES {
                    let mut rows = [zero(); ROWS];
                    for (row, source) in rows.iter_mut().zip(sources) {
                        // SAFETY: all sources are `len` bytes, whole columns.
                        *row = unsafe { read(source.wrapping_add(column), plane) };
                    }
                    inverse::<ROWS, 1, IS_FIRST>(&mut rows, &factors.0[0]);
                    if LAYERS > 1 {
                        inverse::<ROWS, 2, IS_FIRST>(&mut rows, &factors.0[1]);
                    }
                    if LAYERS > 2 {
                        inverse::<ROWS, 4, IS_FIRST>(&mut rows, &factors.0[2]);
                    }
                    let offset = column + plane * (64 / PLANES);
                    for (row, vector) in rows.into_iter().enumerate() {
                        // SAFETY: `target` is `ROWS` rows of `stride` bytes, no fewer than `len`.
                        unsafe { store(target.wrapping_add(row * stride + offset), vector) };
                    }
                }
                column += 64;
            }
        }

        /// The low layers of the forward transform at the points `first` and after, into the
        /// columns `tile` of the targets; what they are fewer than `ROWS` goes to the sink.
        #[target_feature(enable = $features)]
        fn low_forward<const LAYERS: usize, const ROWS: usize, const STREAM: bool>(
            factors: &[Factor; FACTOR_COUNT],
            first: usize,
            source: &[u8],
            targets: &mut [&mut [u8]],
            sink: &mut [u8],
            tile: core::ops::Range<usize>,
        ) {
            let factors = Factors::new(factors, first, 0);
            let stride = source.len() / ROWS;
            let len = tile.len();
            assert!(len <= stride && len.is_multiple_of(64));
            let mut pointers = [sink[..len].as_mut_ptr(); ROWS];
            for (pointer, target) in pointers.iter_mut().zip(targets) {
                *pointer = target[tile.clone()].as_mut_ptr();
            }
            let is_aligned = |pointer: &*mut u8| pointer.addr().is_multiple_of(64);
            assert!(!STREAM || pointers.iter().all(is_aligned));
            let targets = pointers;
            let source = source.as_ptr();
            let mut column = 0;
            while column < len {
                if !STREAM {
                    for target in targets {
                        will_write(target.wrapping_add(column + AHEAD_BYTES));
                    }
                }
                for plane in (0..PLANES).rev() {
                    let offset = column + plane * (64 / PLANES);
                    let mut rows = [zero(); ROWS];
                    for (row, vector) in rows.iter_mut().enumerate() {
                        // SAFETY: `source` is `ROWS` rows of `stride` bytes, no fewer than `len`.
                        *vector = unsafe { load(source.wrapping_add(row * stride + offset)) };
                    }
                    if LAYERS > 2 {
                        forward::<ROWS, 4>(&mut rows, &factors.0[2]);
                    }
                    if LAYERS > 1 {
                        forward::<ROWS, 2>(&mut rows, &factors.0[1]);
                    }
                    forward::<ROWS, 1>(&mut rows, &factors.0[0]);
                    for (target, vector) in targets.into_iter().zip(rows) {
                        // SAFETY: all targets are `len` bytes, whole columns, and aligned if it
                        // streams.
                        unsafe { write::<STREAM>(target.wrapping_add(column), plane, vector) };
                    }
                }
                column += 64;
            }
        }

        /// The high layers, of the inverse transform and then of the forward one for every chunk
        /// of recovery rows. Row `r` of each low group meets row `r` of the others.
        #[target_feature(enable = $features)]
        fn high<const GROUPS: usize>(
            plan: &Plan,
            factors: &[Factor; FACTOR_COUNT],
            of_chunks: &[Factors],
            rows: &mut [u8],
            len: usize,
        ) {
            let stride = plan.tile_len;
            assert!(len <= stride && !of_chunks.is_empty());
            assert!(rows.len() >= of_chunks.len() * GROUPS * PASS_ROWS * stride);
            let base = rows.as_mut_ptr();
            // Those of the first points, at any layer.
            let first: &[Factor; 4] = factors.first_chunk().expect("128 factors");
            for row in 0..PASS_ROWS {
                let mut offset = row * stride;
                let end = offset + len;
                while offset < end {
                    let mut inverted = [zero(); GROUPS];
                    for (group, vector) in inverted.iter_mut().enumerate() {
                        let at = group * PASS_ROWS * stride + offset;
                        // SAFETY: `at` is in a row of the first chunk, before its `len`.
                        *vector = unsafe { load(base.wrapping_add(at)) };
                    }
                    inverse::<GROUPS, 1, true>(&mut inverted, first);
                    if GROUPS > 2 {
                        inverse::<GROUPS, 2, true>(&mut inverted, first);
                    }
                    if GROUPS > 4 {
                        inverse::<GROUPS, 4, true>(&mut inverted, first);
                    }
                    let mut at = offset;
                    for factors in of_chunks {
                        let mut vectors = inverted;
                        if GROUPS > 4 {
                            forward::<GROUPS, 4>(&mut vectors, &factors.0[2]);
                        }
                        if GROUPS > 2 {
                            forward::<GROUPS, 2>(&mut vectors, &factors.0[1]);
                        }
                        forward::<GROUPS, 1>(&mut vectors, &factors.0[0]);
                        for vector in vectors {
                            // SAFETY: `at` is in a row of this chunk, before its `len`; `rows`
                            // is as many chunks.
                            unsafe { store(base.wrapping_add(at), vector) };
                            at += PASS_ROWS * stride;
                        }
                    }
                    offset += 64 / PLANES;
                }
            }
        }

        /// The factors of some layers for a group of rows, close together and out of the loops.
        #[derive(Clone, Copy)]
        struct Factors([[Factor; PASS_ROWS / 2]; PASS_LAYERS]);

        impl Factors {
            /// Those of the rows at the point `first` and after, from the layer `layer` on.
            #[inline]
            #[target_feature(enable = $features)]
            fn new(factors: &[Factor; FACTOR_COUNT], first: usize, layer: usize) -> Self {
                let mut layers = [[factors[0]; PASS_ROWS / 2]; PASS_LAYERS];
                for (step, of_layer) in layers.iter_mut().enumerate() {
                    // The remainder changes nothing: points are below 256.
                    let start = (first >> (layer + step + 1)) % (POINTS_MAX / 2);
                    let factors = factors[start..].first_chunk();
                    *of_layer = *factors.expect("128 factors and three more");
                }
                Self(layers)
            }
        }

        /// One layer of the inverse transform. In the first rows of all the first factor is zero.
        #[inline]
        #[target_feature(enable = $features)]
        fn inverse<const ROWS: usize, const DISTANCE: usize, const IS_FIRST: bool>(
            rows: &mut [Vector; ROWS],
            factors: &[Factor; 4],
        ) {
            for a in 0..ROWS {
                if a & DISTANCE == 0 {
                    let b = a + DISTANCE;
                    let pair = a / (2 * DISTANCE);
                    rows[b] = add(rows[b], rows[a]);
                    if !IS_FIRST || pair > 0 {
                        rows[a] = add_product(rows[a], &factors[pair], prepare(rows[b]));
                    }
                }
            }
        }

        /// One layer of the forward transform.
        #[inline]
        #[target_feature(enable = $features)]
        fn forward<const ROWS: usize, const DISTANCE: usize>(
            rows: &mut [Vector; ROWS],
            factors: &[Factor; 4],
        ) {
            for a in 0..ROWS {
                if a & DISTANCE == 0 {
                    let b = a + DISTANCE;
                    let pair = a / (2 * DISTANCE);
                    rows[a] = add_product(rows[a], &factors[pair], prepare(rows[b]));
                    rows[b] = add(rows[b], rows[a]);
                }
            }
        }
    };
}
pub(super) use transform_tier;
