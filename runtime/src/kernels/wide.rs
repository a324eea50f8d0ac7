//! Portable SIMD by the `wide` crate: whatever the compiler may use on the target, from SSE2 to
//! wasm's simd128, or plain code.

use bytemuck::must_cast;
use wide::{f32x8, i16x16, i32x8};

#[cfg(target_arch = "arm")]
use crate::format::{TILE_I4, TILE_ROWS};
#[cfg(target_arch = "arm")]
use crate::kernels::{generic::TILE, int4};
use crate::math;

use super::generic::{Acc, Dot, Inputs, Isa, Operation, Simd, Sink, Steps, Vectorized, Weights};
use super::{Backend, Column};

static WIDE: Vectorized<Wide> = Vectorized::new("wide", Wide);

/// The backend.
// Inlined into another crate, it would bring all its code there a second time.
#[inline(never)]
pub(super) fn detect() -> Option<&'static dyn Backend> {
    Some(&WIDE)
}

/// Vectors of eight tokens.
#[derive(Debug, Clone, Copy)]
pub struct Wide;

/// `bits(x + ROUND)` of a whole x, less this, is x.
const ROUND_BITS: i32 = math::ROUND.to_bits() as i32;

impl Simd for Wide {
    const LANES: usize = 8;
    const FLOAT_SUMS: usize = 4;
    type F = f32x8;
    type I = i32x8;

    #[inline(always)]
    fn splat(self, v: f32) -> f32x8 {
        f32x8::splat(v)
    }
    #[inline(always)]
    fn load(self, column: &Column, part: usize) -> f32x8 {
        f32x8::from(column.as_chunks::<8>().0[part % 2])
    }
    #[inline(always)]
    fn store(self, column: &mut Column, part: usize, v: f32x8) {
        column.as_chunks_mut::<8>().0[part % 2] = v.to_array();
    }
    #[inline(always)]
    fn add(self, a: f32x8, b: f32x8) -> f32x8 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32x8, b: f32x8) -> f32x8 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32x8, b: f32x8) -> f32x8 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32x8, b: f32x8) -> f32x8 {
        a / b
    }
    #[inline(always)]
    fn sqrt(self, a: f32x8) -> f32x8 {
        f32x8::from(a.to_array().map(math::sqrt))
    }
    #[inline(always)]
    fn max(self, a: f32x8, b: f32x8) -> f32x8 {
        a.simd_gt(b).select(a, b)
    }
    #[inline(always)]
    fn min(self, a: f32x8, b: f32x8) -> f32x8 {
        a.simd_lt(b).select(a, b)
    }
    #[inline(always)]
    fn abs(self, a: f32x8) -> f32x8 {
        a.abs()
    }
    #[inline(always)]
    fn positive(self, a: f32x8) -> f32x8 {
        f32x8::ZERO.simd_gt(a).select(f32x8::ZERO, a)
    }
    #[inline(always)]
    fn exp2(self, n: f32x8) -> f32x8 {
        let bits: i32x8 = self.to_int(n) + i32x8::splat(127);
        must_cast(bits << 23)
    }
    #[inline(always)]
    fn to_int(self, v: f32x8) -> i32x8 {
        let bits: i32x8 = must_cast(v + f32x8::splat(math::ROUND));
        bits - i32x8::splat(ROUND_BITS)
    }
    #[inline(always)]
    fn to_float(self, v: i32x8) -> f32x8 {
        f32x8::from_i32x8(v)
    }
    #[inline(always)]
    fn splat_int(self, v: i32) -> i32x8 {
        i32x8::splat(v)
    }
    #[inline(always)]
    fn load_int(self, column: &[i32; 16], part: usize) -> i32x8 {
        i32x8::from(column.as_chunks::<8>().0[part % 2])
    }
    #[inline(always)]
    fn interleave(self, [a, b, c, d]: [i32x8; 4]) -> i32x8 {
        let byte = i32x8::splat(0xff);
        (a & byte) | ((b & byte) << 8) | ((c & byte) << 16) | (d << 24)
    }
    #[inline(always)]
    fn store_bytes(self, bytes: &mut [i8; 16], part: usize, v: i32x8) {
        bytes.as_chunks_mut::<8>().0[part % 2] = v.to_array().map(|v| v as i8);
    }
    #[inline(always)]
    fn store_int(self, column: &mut [i32; 16], part: usize, v: i32x8) {
        column.as_chunks_mut::<8>().0[part % 2] = v.to_array();
    }
    #[inline(always)]
    fn add_int(self, a: i32x8, b: i32x8) -> i32x8 {
        a + b
    }
    #[inline(always)]
    fn sub_int(self, a: i32x8, b: i32x8) -> i32x8 {
        a - b
    }
    #[inline(always)]
    fn mul_int(self, a: i32x8, b: i32x8) -> i32x8 {
        a * b
    }

    // Flash is short on a microcontroller, and it has better backends: no code of its own.
    #[cfg(target_arch = "arm")]
    fn unpack_run<const T: usize>(
        self,
        multipliers: &[u8; TILE_ROWS],
        codes: &[[u8; TILE_I4]; T],
        out: &mut [[i8; TILE]; T],
    ) {
        for (codes, out) in codes.iter().zip(out) {
            int4::unpack_tile(multipliers, codes, out);
        }
    }
}

/// Inputs 0 and 2 of eight tokens, then 1 and 3, as pairs of i16.
type Pairs = [i16x16; 2];

impl Dot for Wide {
    const STEP: usize = 2 * size_of::<Pairs>();
    const OFFSET: i32 = 0;
    const SHAPES: [(usize, usize); 2] = [(4, 1); 2];

    #[inline(always)]
    fn pack(self, inputs: &Inputs<'_>, part: usize, tile: &mut [u8]) {
        let low = i32x8::splat(0xffff);
        let places = tile.as_chunks_mut().0.iter_mut().skip(part).step_by(2);
        for (step, place) in places.take(inputs.steps).enumerate() {
            let [a, b, c, d] = inputs.quantized(self, step, part);
            let pairs: Pairs = [must_cast((a & low) | (c << 16)), must_cast((b & low) | (d << 16))];
            let bytes: [u8; size_of::<Pairs>()] = must_cast(pairs);
            *place = bytes;
        }
    }

    #[inline(always)]
    fn pack_words(self, words: [i32x8; 4], part: usize, tile: &mut [u8]) {
        let places = tile.as_chunks_mut().0.iter_mut().skip(part).step_by(2);
        for (word, place) in words.into_iter().zip(places) {
            // Sign-extends bytes 0 and 2, and 1 and 3.
            let word: i16x16 = must_cast(word);
            let pairs: Pairs = [(word << 8) >> 8, word >> 8];
            let bytes: [u8; size_of::<Pairs>()] = must_cast(pairs);
            *place = bytes;
        }
    }

    #[inline(always)]
    fn accumulate(
        self,
        weights: &Weights<'_>,
        panels: &Steps<'_>,
        _live: usize,
        sink: &mut impl Sink<i32x8>,
    ) {
        if panels.tiles != 1 || weights.rows != 4 || !weights.fits(panels, Self::STEP) {
            return;
        }
        let (steps, _) = panels.bytes.as_chunks::<{ size_of::<Pairs>() }>();
        let (words, _) = weights.block.as_chunks::<4>();
        for part in 0..2 {
            let mut sums = [i32x8::ZERO; 4];
            let parts = steps.iter().skip(part).step_by(2).take(weights.steps());
            for (i, pairs) in parts.enumerate() {
                let [even, odd]: Pairs = must_cast(*pairs);
                // Sixteen words hold four steps of four rows, row after row.
                let row = words.iter().skip(i / 4 * 16 + i % 4).step_by(4);
                for (sum, word) in sums.iter_mut().zip(row) {
                    let [a, b, c, d] = word.map(i32::from);
                    let pair = |x: i32, y: i32| -> i16x16 {
                        must_cast(i32x8::splat((x & 0xffff) | (y << 16)))
                    };
                    *sum = *sum + even.dot(pair(a, c)) + odd.dot(pair(b, d));
                }
            }
            let [a, b, c, d] = sums;
            sink.put(Acc { row: 0, tile: 0, part, sums: [[a], [b], [c], [d]] });
        }
    }
}

impl Isa for Wide {
    #[inline(always)]
    fn run<O: Operation>(self, operation: O) -> O::Output {
        operation.run(self)
    }
}
