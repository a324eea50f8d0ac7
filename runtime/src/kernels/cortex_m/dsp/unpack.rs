//! Int4 codes to int8 weights, four at a time in a word.

use core::arch::asm;

use crate::format::{Multiplier, RUN_I4, TILE_DEPTH, TILE_ROWS, quad_bytes_i4, round_up};

/// Bytes of a word, and words of a row's sixteen codes.
const WORD: usize = size_of::<u32>();

/// Weights of a tile's upper two rows, after which those of the lower two follow.
const HALF: usize = TILE_ROWS / 2 * TILE_DEPTH;

/// See [`crate::kernels::Backend::unpack_i4`].
pub(super) fn unpack(packed: &[u8], depth: usize, out: &mut [i8]) {
    let quads = packed.chunks_exact(quad_bytes_i4(depth).max(1));
    let places = out.chunks_exact_mut((TILE_ROWS * round_up(depth, TILE_DEPTH)).max(1));
    for (quad, places) in quads.zip(places) {
        let places: &mut [u8] = bytemuck::must_cast_slice_mut(places);
        let tiles = places.as_chunks_mut::<{ 2 * HALF }>().0;
        for (run, tiles) in quad.chunks(RUN_I4).zip(tiles.chunks_mut(2)) {
            let Some((multipliers, codes)) = run.split_first_chunk::<TILE_ROWS>() else { return };
            let factors = multipliers.map(factors);
            for (codes, tile) in codes.as_chunks::<HALF>().0.iter().zip(tiles) {
                let (low, high) = tile.split_at_mut(HALF);
                let (low, high) =
                    (low.chunks_exact_mut(TILE_DEPTH), high.chunks_exact_mut(TILE_DEPTH));
                let [a, b, c, d] = factors;
                let rows = codes.chunks_exact(TILE_DEPTH).zip(low.zip(high)).zip([(a, c), (b, d)]);
                for ((codes, (low, high)), (of_low, of_high)) in rows {
                    let places = low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0);
                    for (word, (low, high)) in codes.as_chunks::<WORD>().0.iter().zip(places) {
                        let word = u32::from_le_bytes(*word);
                        *low = weights(word, of_low);
                        *high = weights(word >> 4, of_high);
                    }
                }
            }
        }
    }
}

/// A multiplier's step, and step times zero in each byte.
fn factors(multiplier: u8) -> (u32, u32) {
    let multiplier = Multiplier(multiplier);
    let step = u32::from(multiplier.step());
    (step, step * u32::from(multiplier.zero()) * 0x0101_0101)
}

/// Four codes times the step, less the zeros. The products are below 256: none meets the next.
#[inline(always)]
fn weights(codes: u32, (step, zeros): (u32, u32)) -> [u8; WORD] {
    subtract(step.wrapping_mul(codes & 0x0f0f_0f0f), zeros).to_le_bytes()
}

/// a − b, byte by byte.
#[inline(always)]
fn subtract(a: u32, b: u32) -> u32 {
    let difference: u32;
    // SAFETY: registers and flags only.
    unsafe {
        asm!("usub8 {d}, {a}, {b}", d = out(reg) difference, a = in(reg) a, b = in(reg) b,
            options(pure, nomem, nostack));
    }
    difference
}
