//! What the three have in common: four tokens a vector, and how inputs are quantized.

use core::arch::aarch64::*;

use crate::format::{TILE_DEPTH, TILE_I4, TILE_ROWS};
use crate::kernels::generic::{Acc, Dot, Inputs, Sink, Steps, TILE, Weights};
use crate::kernels::{Column, Pack};
use crate::math;

/// Intrinsics that work on registers.
macro_rules! op {
    ($call:expr) => {
        // SAFETY: NEON is part of the target; it touches registers only.
        unsafe { $call }
    };
}
pub(super) use op;

/// The token, its vectors, and how operations are compiled for its features.
macro_rules! token {
    ($(#[$doc:meta])* $token:ident, $features:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $token(());

        impl $token {
            /// Handed out by the parent module alone, after detection.
            pub(super) const TOKEN: Self = Self(());
        }

        impl Simd for $token {
            const LANES: usize = 4;
            type F = float32x4_t;
            type I = int32x4_t;

            #[inline(always)]
            fn splat(self, v: f32) -> float32x4_t {
                op!(vdupq_n_f32(v))
            }
            #[inline(always)]
            fn load(self, column: &Column, part: usize) -> float32x4_t {
                // SAFETY: four floats from 0, 4, 8 or 12 of sixteen.
                unsafe { vld1q_f32(column.as_ptr().add(part % 4 * 4)) }
            }
            #[inline(always)]
            fn store(self, column: &mut Column, part: usize, v: float32x4_t) {
                // SAFETY: as in `load`, and the column is borrowed mutably.
                unsafe { vst1q_f32(column.as_mut_ptr().add(part % 4 * 4), v) }
            }
            #[inline(always)]
            fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
                op!(vaddq_f32(a, b))
            }
            #[inline(always)]
            fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
                op!(vsubq_f32(a, b))
            }
            #[inline(always)]
            fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
                op!(vmulq_f32(a, b))
            }
            #[inline(always)]
            fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
                op!(vdivq_f32(a, b))
            }
            #[inline(always)]
            fn sqrt(self, a: float32x4_t) -> float32x4_t {
                op!(vsqrtq_f32(a))
            }
            // FMAXNM and FMINNM give the number when the other operand is a quiet NaN, and order
            // the zeros: what the definition asks, with the liberty that it leaves.
            #[inline(always)]
            fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
                op!(vmaxnmq_f32(a, b))
            }
            #[inline(always)]
            fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
                op!(vminnmq_f32(a, b))
            }
            #[inline(always)]
            fn abs(self, a: float32x4_t) -> float32x4_t {
                op!(vabsq_f32(a))
            }
            // FMAX gives NaN where there is one.
            #[inline(always)]
            fn positive(self, a: float32x4_t) -> float32x4_t {
                op!(vmaxq_f32(a, vdupq_n_f32(0.0)))
            }
            #[inline(always)]
            fn exp2(self, n: float32x4_t) -> float32x4_t {
                let biased = op!(vaddq_s32(self.to_int(n), vdupq_n_s32(127)));
                op!(vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased)))
            }
            #[inline(always)]
            fn round_even(self, v: float32x4_t) -> float32x4_t {
                op!(vrndnq_f32(v))
            }
            #[inline(always)]
            fn to_int(self, v: float32x4_t) -> int32x4_t {
                op!(vcvtq_s32_f32(v))
            }
            #[inline(always)]
            fn to_float(self, v: int32x4_t) -> float32x4_t {
                op!(vcvtq_f32_s32(v))
            }
            #[inline(always)]
            fn splat_int(self, v: i32) -> int32x4_t {
                op!(vdupq_n_s32(v))
            }
            #[inline(always)]
            fn load_int(self, column: &[i32; 16], part: usize) -> int32x4_t {
                // SAFETY: four integers from 0, 4, 8 or 12 of sixteen.
                unsafe { vld1q_s32(column.as_ptr().add(part % 4 * 4)) }
            }
            #[inline(always)]
            fn interleave(self, [a, b, c, d]: [int32x4_t; 4]) -> int32x4_t {
                let low = op!(vsliq_n_s32::<8>(a, b));
                op!(vsliq_n_s32::<16>(low, vsliq_n_s32::<8>(c, d)))
            }
            #[inline(always)]
            fn store_bytes(self, bytes: &mut [i8; 16], part: usize, v: int32x4_t) {
                let mut wide = [0; 4];
                // SAFETY: four integers of its own.
                unsafe { vst1q_s32(wide.as_mut_ptr(), v) }
                bytes.as_chunks_mut::<4>().0[part % 4] = wide.map(|v| v as i8);
            }
            #[inline(always)]
            fn store_int(self, column: &mut [i32; 16], part: usize, v: int32x4_t) {
                // SAFETY: four integers from 0, 4, 8 or 12 of sixteen, borrowed mutably.
                unsafe { vst1q_s32(column.as_mut_ptr().add(part % 4 * 4), v) }
            }
            #[inline(always)]
            fn add_int(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
                op!(vaddq_s32(a, b))
            }
            #[inline(always)]
            fn sub_int(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
                op!(vsubq_s32(a, b))
            }
            #[inline(always)]
            fn mul_int(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
                op!(vmulq_s32(a, b))
            }
            #[inline(always)]
            fn unpack_run<const T: usize>(
                self,
                multipliers: &[u8; $crate::format::TILE_ROWS],
                codes: &[[u8; $crate::format::TILE_I4]; T],
                out: &mut [[i8; $crate::kernels::generic::TILE]; T],
            ) {
                $crate::kernels::aarch64::vectors::unpack_run(multipliers, codes, out);
            }
            #[inline(always)]
            fn quantize_row(self, column: &Column, inverse: f32, row: &mut [i8; 16]) {
                $crate::kernels::aarch64::vectors::quantize_row(column, inverse, row);
            }
            #[inline(always)]
            fn quantize_tokens(
                self,
                columns: &[Column; 16],
                inverse: &Column,
                sums: &mut [i32; 16],
                rows: &mut [[i8; $crate::kernels::generic::TILE]; 4],
            ) {
                $crate::kernels::aarch64::vectors::quantize_tokens(columns, inverse, sums, rows);
            }
            // By element: one load for four numbers.
            #[inline(always)]
            fn mul_each(self, a: [float32x4_t; 4], by: &[f32; 4]) -> [float32x4_t; 4] {
                // SAFETY: four floats.
                let by = unsafe { vld1q_f32(by.as_ptr()) };
                [
                    op!(vmulq_laneq_f32::<0>(a[0], by)),
                    op!(vmulq_laneq_f32::<1>(a[1], by)),
                    op!(vmulq_laneq_f32::<2>(a[2], by)),
                    op!(vmulq_laneq_f32::<3>(a[3], by)),
                ]
            }
        }

        impl Isa for $token {
            #[inline(always)]
            fn run<O: Operation>(self, operation: O) -> O::Output {
                #[target_feature(enable = $features)]
                fn inner<O: Operation>(simd: $token, operation: O) -> O::Output {
                    operation.run(simd)
                }
                // SAFETY: the token proves that the processor has these features.
                unsafe { inner(self, operation) }
            }
        }
    };
}
pub(super) use token;

/// Four rows times a tile of tokens in registers, for panels whose steps are 64 bytes.
pub(super) trait Products: Dot<I = int32x4_t> {
    /// The sums of products of `tiles` times four rows' sixteen weights at `w` with sixteen inputs
    /// of sixteen tokens at `x`, for the first eight of the tokens, `[row][part]`.
    ///
    /// # Safety
    /// `w` must have `tiles` times 64 readable bytes, `x` 256; `tiles` must not be 0.
    unsafe fn eight(self, tiles: usize, w: *const i8, x: *const i8) -> [[int32x4_t; 2]; 4];

    /// The same for all sixteen.
    ///
    /// # Safety
    /// As there.
    unsafe fn sixteen(self, tiles: usize, w: *const i8, x: *const i8) -> [[int32x4_t; 4]; 4];
}

/// [`Dot::accumulate`] by [`Products`].
#[inline(always)]
pub(super) fn accumulate<S: Products>(
    s: S,
    weights: &Weights<'_>,
    panels: &Steps<'_>,
    live: usize,
    sink: &mut impl Sink<int32x4_t>,
) {
    if panels.tiles != 1 || weights.rows != 4 || !weights.fits(panels, S::STEP) {
        return;
    }
    let tiles = weights.quad_bytes() / 64;
    if tiles == 0 {
        return;
    }
    let (w, x) = (weights.block.as_ptr(), panels.bytes.as_ptr().cast());
    if live <= 8 {
        // SAFETY: `fits` says that the block has `tiles` times 64 bytes, and the panel `tiles`
        // times four steps of 64 bytes.
        let sums = unsafe { s.eight(tiles, w, x) };
        sink.put(Acc { row: 0, tile: 0, part: 0, sums });
    } else {
        // SAFETY: likewise.
        let sums = unsafe { s.sixteen(tiles, w, x) };
        sink.put(Acc { row: 0, tile: 0, part: 0, sums });
    }
}

/// [`Dot::pack_list`], with one look at the bounds for sixteen inputs.
#[inline(always)]
pub(super) fn pack_list<S: Dot>(s: S, job: &Pack<'_>, list: &[u16], panel: &mut [u8]) {
    let mut tiles = panel.chunks_exact_mut(TILE_DEPTH / 4 * S::STEP);
    let (runs, rest) = list.as_chunks::<TILE_DEPTH>();
    for (inputs, tile) in runs.iter().zip(&mut tiles) {
        pack_inputs(s, job, inputs, TILE_DEPTH, tile);
    }
    // The weights of the padding are zero: any value will do.
    if let (Some(first), Some(tile)) = (rest.first(), tiles.next()) {
        let mut inputs = [*first; TILE_DEPTH];
        inputs.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        pack_inputs(s, job, &inputs, rest.len(), tile);
    }
}

/// Quantizes sixteen inputs, of which the first `count` matter.
#[inline(always)]
fn pack_inputs<S: Dot>(
    s: S,
    job: &Pack<'_>,
    list: &[u16; TILE_DEPTH],
    count: usize,
    tile: &mut [u8],
) {
    // SAFETY: twice eight integers.
    let (a, b) = unsafe { (vld1q_u16(list.as_ptr()), vld1q_u16(list.as_ptr().add(8))) };
    let highest = usize::from(op!(vmaxvq_u16(vmaxq_u16(a, b))));
    let (Some(any), true) = (job.x.get(highest), highest < job.equalize.len()) else { return };
    let mut columns = [any; TILE_DEPTH];
    let mut factors = [0.0; TILE_DEPTH];
    for ((column, factor), i) in columns.iter_mut().zip(&mut factors).zip(list) {
        let i = usize::from(*i);
        // SAFETY: neither is shorter than the highest of the list says.
        (*column, *factor) = unsafe { (job.x.get_unchecked(i), *job.equalize.get_unchecked(i)) };
    }
    let inputs = Inputs::new(columns, factors, count, job.scales);
    for part in 0..job.live.div_ceil(4).min(4) {
        s.pack(&inputs, part, tile);
    }
}

/// From [input][token] to [token][input], four of each.
const TRANSPOSE: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Quantizes four tokens of sixteen inputs: for each step of four inputs, `[4 tokens][4 inputs]`
/// bytes. Where only the first two steps hold inputs, the others are left out.
/// The processor must have NEON.
#[inline(always)]
pub(super) fn quantized(inputs: &Inputs<'_>, part: usize) -> [int32x4_t; 4] {
    if inputs.steps <= 2 { steps::<2>(inputs, part) } else { steps::<4>(inputs, part) }
}

/// The first `N` steps of [`quantized`].
#[inline(always)]
fn steps<const N: usize>(inputs: &Inputs<'_>, part: usize) -> [int32x4_t; 4] {
    let at = part % 4 * 4;
    // SAFETY: four numbers from 0, 4, 8 or 12 of sixteen.
    let (inverse, zero) = unsafe {
        let scales = inputs.scales;
        (vld1q_f32(scales.inverse.as_ptr().add(at)), vld1q_s32(scales.zero.as_ptr().add(at)))
    };
    // SAFETY: sixteen bytes.
    let transpose = unsafe { vld1q_u8(TRANSPOSE.as_ptr()) };
    let zero = op!(vreinterpretq_s16_s32(zero));
    let zero = op!(vuzp1q_s16(zero, zero));
    let mut quantized = [op!(vdupq_n_s32(0)); 4];
    for (step, quantized) in quantized.iter_mut().enumerate().take(N) {
        let ab = pair::<0, 1>(inputs, step, at, inverse);
        let cd = pair::<2, 3>(inputs, step, at, inverse);
        let ab = op!(vqmovn_s16(vaddq_s16(ab, zero)));
        let bytes = op!(vqmovn_high_s16(ab, vaddq_s16(cd, zero)));
        *quantized = op!(vreinterpretq_s32_s8(vqtbl1q_s8(bytes, transpose)));
    }
    quantized
}

/// Four tokens from `at` of inputs `A` and `B` of a step, rounded, without the zero point.
///
/// The definition clamps `round(x) + zero` to −128..=127 and makes −128 of NaN. Here x + ROUND has
/// the rounded x in its lowest 16 bits, since |x| < 300 for a token that is there; a NaN becomes
/// −512, which the saturating narrowing after the zero point makes −128.
#[inline(always)]
fn pair<const A: i32, const B: i32>(
    inputs: &Inputs<'_>,
    step: usize,
    at: usize,
    inverse: float32x4_t,
) -> int16x8_t {
    let columns = inputs.columns.as_chunks::<4>().0;
    let factors = inputs.factors.as_chunks::<4>().0;
    let (columns, factors) = (&columns[step % 4], &factors[step % 4]);
    // SAFETY: four floats, and four from `at` = 0, 4, 8 or 12 of sixteen.
    let (factors, a, b) = unsafe {
        (
            vld1q_f32(factors.as_ptr()),
            vld1q_f32(columns[A as usize].as_ptr().add(at)),
            vld1q_f32(columns[B as usize].as_ptr().add(at)),
        )
    };
    let round = op!(vdupq_n_f32(math::ROUND));
    let least = op!(vdupq_n_f32(math::ROUND - 512.0));
    let a = op!(vmulq_f32(vmulq_laneq_f32::<A>(a, factors), inverse));
    let b = op!(vmulq_f32(vmulq_laneq_f32::<B>(b, factors), inverse));
    let a = op!(vmaxnmq_f32(vaddq_f32(a, round), least));
    let b = op!(vmaxnmq_f32(vaddq_f32(b, round), least));
    op!(vuzp1q_s16(vreinterpretq_s16_f32(a), vreinterpretq_s16_f32(b)))
}

/// Eight numbers, rounded, of which none is larger than 127: a NaN becomes −127. As in [`pair`].
#[inline(always)]
fn symmetric_pair(a: float32x4_t, b: float32x4_t) -> int16x8_t {
    let round = op!(vdupq_n_f32(math::ROUND));
    let least = op!(vdupq_n_f32(math::ROUND - 127.0));
    let a = op!(vmaxnmq_f32(vaddq_f32(a, round), least));
    let b = op!(vmaxnmq_f32(vaddq_f32(b, round), least));
    op!(vuzp1q_s16(vreinterpretq_s16_f32(a), vreinterpretq_s16_f32(b)))
}

/// See [`crate::kernels::generic::Simd::quantize_row`].
#[inline(always)]
pub(super) fn quantize_row(column: &Column, inverse: f32, row: &mut [i8; 16]) {
    // SAFETY: sixteen floats.
    let float32x4x4_t(a, b, c, d) = unsafe { vld1q_f32_x4(column.as_ptr()) };
    let (a, b) = op!((vmulq_n_f32(a, inverse), vmulq_n_f32(b, inverse)));
    let (c, d) = op!((vmulq_n_f32(c, inverse), vmulq_n_f32(d, inverse)));
    let (low, high) = (symmetric_pair(a, b), symmetric_pair(c, d));
    let bytes = op!(vuzp1q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high)));
    // SAFETY: sixteen bytes, borrowed mutably.
    unsafe { vst1q_s8(row.as_mut_ptr(), bytes) }
}

/// See [`crate::kernels::generic::Simd::quantize_tokens`].
#[inline(always)]
pub(super) fn quantize_tokens(
    columns: &[Column; TILE_DEPTH],
    inverse: &Column,
    sums: &mut [i32; 16],
    rows: &mut [[i8; TILE]; 4],
) {
    // SAFETY: sixteen bytes.
    let transpose = unsafe { vld1q_u8(TRANSPOSE.as_ptr()) };
    let parts = inverse.as_chunks::<4>().0.iter().zip(sums.as_chunks_mut::<4>().0);
    for (part, ((inverse, sums), rows)) in parts.zip(rows).enumerate() {
        // SAFETY: four numbers each.
        let (inverse, mut sum) = unsafe { (vld1q_f32(inverse.as_ptr()), vld1q_s32(sums.as_ptr())) };
        let scaled = |column: &Column| {
            // SAFETY: four floats from 0, 4, 8 or 12 of sixteen.
            let v = unsafe { vld1q_f32(column.as_ptr().add(part % 4 * 4)) };
            op!(vmulq_f32(v, inverse))
        };
        let mut words = [op!(vdupq_n_s32(0)); 4];
        for (word, [a, b, c, d]) in words.iter_mut().zip(columns.as_chunks::<4>().0) {
            let ab = symmetric_pair(scaled(a), scaled(b));
            let cd = symmetric_pair(scaled(c), scaled(d));
            let bytes = op!(vuzp1q_s8(vreinterpretq_s8_s16(ab), vreinterpretq_s8_s16(cd)));
            let bytes = op!(vqtbl1q_s8(bytes, transpose));
            sum = op!(vpadalq_s16(sum, vpaddlq_s8(bytes)));
            *word = op!(vreinterpretq_s32_s8(bytes));
        }
        let [a, b, c, d] = words;
        // SAFETY: four numbers, and 64 bytes, borrowed mutably.
        unsafe {
            vst1q_s32(sums.as_mut_ptr(), sum);
            // By element: a token's four words lie together.
            vst4q_s32(rows.as_mut_ptr().cast(), int32x4x4_t(a, b, c, d));
        }
    }
}

/// Unpacks the tiles of a run, a row of sixteen weights a vector; see
/// [`crate::kernels::generic::Simd::unpack_run`].
#[inline(always)]
pub(super) fn unpack_run<const T: usize>(
    multipliers: &[u8; TILE_ROWS],
    codes: &[[u8; TILE_I4]; T],
    out: &mut [[i8; TILE]; T],
) {
    let nibble = op!(vdupq_n_u8(15));
    // SAFETY: four bytes, each into all lanes of a vector.
    let uint8x16x4_t(a, b, c, d) = unsafe { vld4q_dup_u8(multipliers.as_ptr()) };
    let factors = [a, b, c, d].map(|m| {
        let step = op!(vandq_u8(m, nibble));
        (step, op!(vmulq_u8(vshrq_n_u8::<4>(m), step)))
    });
    for (codes, out) in codes.iter().zip(out) {
        // SAFETY: twice sixteen of 32 bytes.
        let (even, odd) =
            unsafe { (vld1q_u8(codes.as_ptr()), vld1q_u8(codes.as_ptr().add(TILE_DEPTH))) };
        let rows = [
            op!(vandq_u8(even, nibble)),
            op!(vandq_u8(odd, nibble)),
            op!(vshrq_n_u8::<4>(even)),
            op!(vshrq_n_u8::<4>(odd)),
        ];
        let places = out.as_chunks_mut::<TILE_DEPTH>().0;
        for ((row, (step, zero)), place) in rows.into_iter().zip(factors).zip(places) {
            let weights = op!(vreinterpretq_s8_u8(vsubq_u8(vmulq_u8(row, step), zero)));
            // SAFETY: sixteen bytes, borrowed mutably.
            unsafe { vst1q_s8(place.as_mut_ptr(), weights) }
        }
    }
}
