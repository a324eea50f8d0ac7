//! Quantizing some tokens of a tile into pairs of i16.

use crate::kernels::scalar::quantize;
use crate::kernels::{Column, Pack, TILE_TOKENS};
use crate::math::ROUND;
use crate::view::Indices;

use super::TOKEN_BYTES;

/// Inputs of a step.
const STEP: usize = 4;

/// What is added to a rounded value, so that those of all finite inputs are below twice it and
/// not negative: |a × inverse| is at most a little above 255.
const MIDDLE: i32 = 0x200;

/// Quantizes `tokens` tokens from `first` on; the part begins at the first input's place.
pub(super) fn pack(job: &Pack<'_>, first: usize, tokens: usize, part: &mut [u8]) {
    let steps = part.chunks_exact_mut(STEP * TOKEN_BYTES * tokens);
    match job.inputs {
        Indices::Range { first: start, count } => {
            let end = start.saturating_add(count);
            let (x, e) = (job.x.get(start..end), job.equalize.get(start..end));
            let (Some(x), Some(e)) = (x, e) else { return };
            for ((x, e), step) in x.chunks(STEP).zip(e.chunks(STEP)).zip(steps) {
                match (x, e) {
                    ([a, b, c, d], [e, f, g, h]) => {
                        pack_step(job, first, [a, b, c, d], [*e, *f, *g, *h], step);
                    }
                    _ => {
                        let Some(any) = x.first() else { return };
                        // The weights of the padding are zero: any value will do.
                        let mut columns = [any; STEP];
                        let mut factors = [0.0; STEP];
                        columns.iter_mut().zip(x).for_each(|(c, x)| *c = x);
                        factors.iter_mut().zip(e).for_each(|(f, e)| *f = *e);
                        pack_step(job, first, columns, factors, step);
                    }
                }
            }
        }
        Indices::List(list) => {
            for (inputs, step) in list.chunks(STEP).zip(steps) {
                let Some(any) = job.x.first() else { return };
                let mut columns = [any; STEP];
                let mut factors = [0.0; STEP];
                for ((c, f), i) in columns.iter_mut().zip(&mut factors).zip(inputs) {
                    let i = usize::from(*i);
                    if let (Some(x), Some(e)) = (job.x.get(i), job.equalize.get(i)) {
                        (*c, *f) = (x, *e);
                    }
                }
                pack_step(job, first, columns, factors, step);
            }
        }
    }
}

/// Four inputs of some tokens from `first` on.
#[inline(always)]
fn pack_step(
    job: &Pack<'_>,
    first: usize,
    columns: [&Column; STEP],
    factors: [f32; STEP],
    step: &mut [u8],
) {
    let (places, _) = step.as_chunks_mut::<{ STEP * TOKEN_BYTES }>();
    for (t, place) in (first..TILE_TOKENS).zip(places) {
        let (inverse, shift, zero) =
            (job.scales.inverse[t], job.scales.shift[t], job.scales.zero[t]);
        // As `quantize` does, with the rounded value taken from the bits of the sum.
        let rounded: [u32; STEP] = core::array::from_fn(|i| {
            let v = (columns[i][t] * factors[i]) * inverse + ROUND;
            v.to_bits().wrapping_sub(ROUND.to_bits() - MIDDLE as u32)
        });
        let q = if rounded.iter().fold(0, |all, r| all | r) < 2 * MIDDLE as u32 {
            rounded.map(|r| (r as i32 + (zero - MIDDLE)).clamp(-128, 127))
        } else {
            // One of them is not a number.
            let quantize = |i: usize| quantize(columns[i][t] * factors[i], inverse, shift);
            core::array::from_fn(|i| i32::from(quantize(i)))
        };
        let pair = |low: i32, high: i32| ((low & 0xffff) | (high << 16)) as u32;
        let pairs = u64::from(pair(q[0], q[2])) | u64::from(pair(q[1], q[3])) << 32;
        *place = pairs.to_le_bytes();
    }
}
