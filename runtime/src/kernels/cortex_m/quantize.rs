//! Quantizing four inputs of a tile's tokens at a time, with scalar floats.

use crate::kernels::scalar::quantize;
use crate::kernels::{Column, Pack, TILE_TOKENS};
use crate::math::ROUND;
use crate::view::Indices;

/// Inputs of a step.
pub(super) const STEP: usize = 4;

/// What is added to a rounded value, so that those of all numbers are below twice it and not
/// negative: |a × inverse| is at most a little above 255.
const MIDDLE: i32 = 0x200;

/// Gives `sink` the columns and factors of four inputs after four. The last may be fewer: then
/// any columns follow, with the factor 0.
#[inline(always)]
pub(super) fn steps(job: &Pack<'_>, mut sink: impl FnMut(usize, [&Column; STEP], [f32; STEP])) {
    match job.inputs {
        Indices::Range { first, count } => {
            let end = first.saturating_add(count);
            let (x, e) = (job.x.get(first..end), job.equalize.get(first..end));
            let (Some(x), Some(e)) = (x, e) else { return };
            for (i, (x, e)) in x.chunks(STEP).zip(e.chunks(STEP)).enumerate() {
                match (x, e) {
                    ([a, b, c, d], [e, f, g, h]) => sink(i, [a, b, c, d], [*e, *f, *g, *h]),
                    ([a, ..], _) => {
                        let mut columns = [a; STEP];
                        let mut factors = [0.0; STEP];
                        columns.iter_mut().zip(x).for_each(|(c, x)| *c = x);
                        factors.iter_mut().zip(e).for_each(|(f, e)| *f = *e);
                        sink(i, columns, factors);
                    }
                    _ => {}
                }
            }
        }
        Indices::List(list) => {
            let Some(any) = job.x.first() else { return };
            for (i, inputs) in list.chunks(STEP).enumerate() {
                let mut columns = [any; STEP];
                let mut factors = [0.0; STEP];
                for ((c, f), i) in columns.iter_mut().zip(&mut factors).zip(inputs) {
                    let i = usize::from(*i);
                    if let (Some(x), Some(e)) = (job.x.get(i), job.equalize.get(i)) {
                        (*c, *f) = (x, *e);
                    }
                }
                sink(i, columns, factors);
            }
        }
    }
}

/// Four inputs of token `t` (modulo 16) in −128..=127.
#[inline(always)]
pub(super) fn quantized(
    job: &Pack<'_>,
    t: usize,
    columns: [&Column; STEP],
    factors: [f32; STEP],
) -> [i32; STEP] {
    let t = t % TILE_TOKENS;
    let (inverse, zero) = (job.scales.inverse[t], job.scales.zero[t]);
    // As `quantize` does, with the rounded value taken from the bits of the sum.
    let rounded: [u32; STEP] = core::array::from_fn(|i| {
        let v = (columns[i][t] * factors[i]) * inverse + ROUND;
        v.to_bits().wrapping_sub(ROUND.to_bits() - MIDDLE as u32)
    });
    if rounded.iter().fold(0, |all, r| all | r) < 2 * MIDDLE as u32 {
        rounded.map(|r| (r as i32 + (zero - MIDDLE)).clamp(-128, 127))
    } else {
        // One of them is not a number.
        let quantize =
            |i: usize| quantize(columns[i][t] * factors[i], inverse, job.scales.shift[t]);
        core::array::from_fn(|i| i32::from(quantize(i)))
    }
}
