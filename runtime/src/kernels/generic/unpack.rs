//! Int4 codes to int8 weights, run by run.

use bytemuck::must_cast;

use crate::format::{Multiplier, RUN_I4, TILE_DEPTH, TILE_I4, TILE_ROWS, quad_bytes_i4, round_up};

use super::Simd;

/// Four rows' sixteen weights.
pub const TILE: usize = TILE_ROWS * TILE_DEPTH;

/// See [`crate::kernels::Backend::unpack_i4`].
#[inline(always)]
pub(super) fn unpack_i4<S: Simd>(s: S, packed: &[u8], depth: usize, out: &mut [i8]) {
    let quads = packed.chunks_exact(quad_bytes_i4(depth).max(1));
    let places = out.chunks_exact_mut((TILE_ROWS * round_up(depth, TILE_DEPTH)).max(1));
    for (quad, places) in quads.zip(places) {
        let (runs, rest) = quad.as_chunks::<RUN_I4>();
        let (places, _) = places.as_chunks_mut::<TILE>();
        let (pairs, single) = places.as_chunks_mut::<2>();
        for (run, pair) in runs.iter().zip(pairs) {
            unpack_run(s, run, pair);
        }
        if let Some(single) = single.first_chunk_mut::<1>() {
            unpack_run(s, rest, single);
        }
    }
}

/// Four multipliers and `T` tiles of codes.
#[inline(always)]
fn unpack_run<S: Simd, const T: usize>(s: S, run: &[u8], out: &mut [[i8; TILE]; T]) {
    let Some((multipliers, codes)) = run.split_first_chunk() else { return };
    if let Some(codes) = codes.as_chunks().0.first_chunk() {
        s.unpack_run(multipliers, codes, out);
    }
}

/// Unpacks the tiles of a run with what every instruction set has.
///
/// A product of a code and a step is below 256: two of them in a lane of 16 bits do not meet, so
/// that one multiplication makes two.
#[inline(always)]
pub(super) fn run<const T: usize>(
    multipliers: &[u8; TILE_ROWS],
    codes: &[[u8; TILE_I4]; T],
    out: &mut [[i8; TILE]; T],
) {
    let factors = Factors::of(multipliers);
    for (codes, out) in codes.iter().zip(out) {
        factors.unpack(codes, out);
    }
}

/// What four rows' codes are multiplied with, and what is then subtracted.
struct Factors([(u16, u8); TILE_ROWS]);

impl Factors {
    #[inline(always)]
    fn of(multipliers: &[u8; TILE_ROWS]) -> Self {
        Self(multipliers.map(|m| {
            let m = Multiplier(m);
            (u16::from(m.step()), m.step().wrapping_mul(m.zero()))
        }))
    }

    #[inline(always)]
    fn unpack(&self, codes: &[u8; TILE_I4], out: &mut [i8; TILE]) {
        let codes: [[u16; TILE_DEPTH / 2]; 2] = must_cast(*codes);
        let [a, b, c, d] = self.0;
        let rows = [
            row(codes[0].map(|w| w & 0x0f0f), a),
            row(codes[1].map(|w| w & 0x0f0f), b),
            row(codes[0].map(|w| w >> 4 & 0x0f0f), c),
            row(codes[1].map(|w| w >> 4 & 0x0f0f), d),
        ];
        *out = must_cast(rows);
    }
}

#[inline(always)]
fn row(codes: [u16; TILE_DEPTH / 2], (step, zero): (u16, u8)) -> [u8; TILE_DEPTH] {
    let products: [u8; TILE_DEPTH] = must_cast(codes.map(|code| code.wrapping_mul(step)));
    products.map(|product| product.wrapping_sub(zero))
}
