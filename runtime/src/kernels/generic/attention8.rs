//! Attention in int8: keys and values become matrices for the group matmul, softmax a panel.

use crate::format::{TILE_DEPTH, TILE_ROWS, round_up};
use crate::kernels::scalar::{ZERO, largest, quantize_symmetric};
use crate::kernels::{
    Column, Quantized, Scores, Span, TILE_TOKENS, TileScales, symmetric_scale, usable_range,
};
use crate::math::exp2_constants::{LOWEST, POLY};

use super::float::horner;
use super::{Dot, Simd, TILE as TILE_BYTES, parts};

/// See [`crate::kernels::Backend::keys`].
#[inline(always)]
pub(in crate::kernels) fn keys<S: Simd>(s: S, span: &Span<'_>, out: &mut Quantized<'_>) {
    let quad_bytes = TILE_ROWS * round_up(span.size, TILE_DEPTH);
    let (scales, _) = out.scale.as_chunks_mut::<TILE_TOKENS>();
    let (sums, _) = out.sum.as_chunks_mut::<TILE_TOKENS>();
    let tiles = out.block.chunks_exact_mut((TILE_TOKENS / TILE_ROWS * quad_bytes).max(1));
    for (tile, ((block, scale), sum)) in tiles.zip(scales).zip(sums).enumerate() {
        let keys = span.tile(tile);
        let mut most = [0.0; TILE_TOKENS];
        let mut inverse = [0.0; TILE_TOKENS];
        for part in 0..TILE_TOKENS / S::LANES {
            s.store(&mut most, part, magnitude(s, keys, part));
        }
        symmetric_scales(s, &most, scale, &mut inverse);
        *sum = [0; TILE_TOKENS];
        let (runs, rest) = keys.as_chunks::<TILE_DEPTH>();
        for (i, run) in runs.iter().enumerate() {
            place_rows(s, run, &inverse, sum, block, (quad_bytes, i));
        }
        if !rest.is_empty() {
            // Zeros count for nothing.
            let mut run = [[0.0; TILE_TOKENS]; TILE_DEPTH];
            run.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            place_rows(s, &run, &inverse, sum, block, (quad_bytes, runs.len()));
        }
    }
}

/// Quantizes sixteen features of sixteen tokens into tile `i` of the tokens' quads of rows.
#[inline(always)]
fn place_rows<S: Simd>(
    s: S,
    run: &[Column; TILE_DEPTH],
    inverse: &Column,
    sums: &mut [i32; TILE_TOKENS],
    block: &mut [i8],
    (quad_bytes, i): (usize, usize),
) {
    let mut rows = [[0; TILE_BYTES]; TILE_TOKENS / TILE_ROWS];
    s.quantize_tokens(run, inverse, sums, &mut rows);
    for (quad, rows) in block.chunks_exact_mut(quad_bytes.max(1)).zip(&rows) {
        if let Some(place) = quad.as_chunks_mut().0.get_mut(i) {
            *place = *rows;
        }
    }
}

/// See [`Simd::quantize_tokens`].
#[inline(always)]
pub(super) fn quantize_tokens<S: Simd>(
    s: S,
    columns: &[Column; TILE_DEPTH],
    inverse: &Column,
    sums: &mut [i32; TILE_TOKENS],
    rows: &mut [[i8; TILE_BYTES]; TILE_TOKENS / TILE_ROWS],
) {
    for (step, four) in columns.as_chunks::<4>().0.iter().enumerate() {
        let mut words = [0; TILE_TOKENS];
        for part in 0..TILE_TOKENS / S::LANES {
            let inverse = s.load(inverse, part);
            let mut sum = s.load_int(sums, part);
            let mut bytes = [s.splat_int(0); 4];
            for (byte, column) in bytes.iter_mut().zip(four) {
                *byte = symmetric(s, s.load(column, part), inverse);
                sum = s.add_int(sum, *byte);
            }
            s.store_int(sums, part, sum);
            s.store_int(&mut words, part, s.interleave(bytes));
        }
        // A word for each token, sixteen bytes apart.
        let places = rows.as_flattened_mut().as_chunks_mut::<4>().0;
        for (place, word) in places.iter_mut().skip(step).step_by(4).zip(words) {
            *place = word.to_le_bytes().map(|b| b as i8);
        }
    }
}

/// See [`Simd::quantize_row`].
#[inline(always)]
pub(super) fn quantize_row<S: Simd>(s: S, column: &Column, inverse: f32, row: &mut [i8; 16]) {
    for part in 0..TILE_TOKENS / S::LANES {
        let q = symmetric(s, s.load(column, part), s.splat(inverse));
        s.store_bytes(row, part, q);
    }
}

/// [`symmetric_scale`] of each token.
#[inline(always)]
fn symmetric_scales<S: Simd>(s: S, most: &Column, scale: &mut Column, inverse: &mut Column) {
    if most.iter().fold(true, |all, most| all & usable_range(*most)) {
        for part in 0..TILE_TOKENS / S::LANES {
            let most = s.load(most, part);
            s.store(scale, part, s.div(most, s.splat(127.0)));
            s.store(inverse, part, s.div(s.splat(127.0), most));
        }
    } else {
        for ((scale, inverse), most) in scale.iter_mut().zip(inverse).zip(most) {
            (*scale, *inverse) = symmetric_scale(*most);
        }
    }
}

/// The largest magnitude of each token.
#[inline(always)]
fn magnitude<S: Simd>(s: S, columns: &[Column], part: usize) -> S::F {
    let mut most = s.splat(0.0);
    for column in columns {
        most = s.max(s.abs(s.load(column, part)), most);
    }
    most
}

/// [`quantize_symmetric`].
#[inline(always)]
fn symmetric<S: Simd>(s: S, v: S::F, inverse: S::F) -> S::I {
    let r = s.round_even(s.mul(v, inverse));
    s.to_int(s.min(s.max(r, s.splat(-127.0)), s.splat(127.0)))
}

/// See [`crate::kernels::Backend::values`]; `sums` says whether they are needed.
#[inline(always)]
pub(in crate::kernels) fn values<S: Simd>(
    s: S,
    span: &Span<'_>,
    sums: bool,
    out: &mut Quantized<'_>,
) {
    let tiles = span.positions() / TILE_TOKENS;
    let quad_bytes = TILE_ROWS * span.positions();
    if !span.size.is_multiple_of(TILE_ROWS) {
        out.block.fill(0);
    }
    let mut most = [0.0; TILE_TOKENS];
    for tile in 0..tiles {
        let (columns, (first, end)) = (span.tile(tile), span.lanes(tile));
        if (first, end) == (0, TILE_TOKENS) {
            for part in 0..TILE_TOKENS / S::LANES {
                let v = s.max(magnitude(s, columns, part), s.load(&most, part));
                s.store(&mut most, part, v);
            }
        } else {
            let lanes = columns.iter().flat_map(|c| c.iter().take(end).skip(first).copied());
            most[0] = largest(lanes.chain([most[0]]));
        }
    }
    let (step, inverse) = symmetric_scale(largest(most.into_iter()));
    if let (Some(scale), Some(sum)) = (out.scale.get_mut(..span.size), out.sum.get_mut(..span.size))
    {
        scale.fill(step);
        sum.fill(0);
    }
    for tile in 0..tiles {
        let (columns, (first, end)) = (span.tile(tile), span.lanes(tile));
        let whole = (first, end) == (0, TILE_TOKENS);
        // Four features' rows of sixteen positions lie together.
        let quads = out.block.chunks_exact_mut(quad_bytes.max(1)).zip(columns.chunks(TILE_ROWS));
        for ((quad, columns), sum) in quads.zip(out.sum.as_chunks_mut::<TILE_ROWS>().0) {
            let Some(rows) = quad.as_chunks_mut::<TILE_BYTES>().0.get_mut(tile) else { return };
            let rows = rows.as_chunks_mut::<TILE_DEPTH>().0.iter_mut();
            for ((row, column), sum) in rows.zip(columns).zip(sum) {
                if whole {
                    s.quantize_row(column, inverse, row);
                } else {
                    *row = [0; TILE_DEPTH];
                    for (q, v) in row.iter_mut().zip(column).take(end).skip(first) {
                        *q = quantize_symmetric(*v, inverse);
                    }
                }
                if sums {
                    *sum += row.iter().map(|q| i32::from(*q)).sum::<i32>();
                }
            }
        }
    }
}

/// A panel that takes numbers as they are.
pub(in crate::kernels) trait Panel<S: Simd> {
    /// Vector `part` of inputs `16 × tile` and the fifteen after: four words of four; always
    /// inlined.
    fn put(&mut self, s: S, tile: usize, part: usize, words: [S::I; 4]);
}

/// The panel of a [`Dot`].
pub(super) struct Words<'a>(pub(super) &'a mut [u8]);

impl<S: Dot> Panel<S> for Words<'_> {
    #[inline(always)]
    fn put(&mut self, s: S, tile: usize, part: usize, words: [S::I; 4]) {
        let bytes = TILE_DEPTH / 4 * S::STEP;
        if let Some(place) = self.0.get_mut(tile * bytes..).and_then(|p| p.get_mut(..bytes)) {
            s.pack_words(words, part, place);
        }
    }
}

/// See [`crate::kernels::Backend::softmax`].
#[inline(always)]
pub(in crate::kernels) fn softmax<S: Simd>(
    s: S,
    scores: &Scores<'_>,
    panel: &mut impl Panel<S>,
) -> TileScales {
    let mut scales = TileScales::EMPTY;
    scales.zero = [ZERO; TILE_TOKENS];
    let inside = scores.first..scores.first + scores.count;
    let Some(columns) = scores.columns.get(inside.clone()) else { return scales };
    let factor = s.splat(scores.factor);
    for part in 0..parts::<S>(scores.live) {
        let mut highest = [s.splat(f32::MIN); 4];
        let (fours, rest) = columns.as_chunks::<4>();
        for four in fours {
            for (highest, column) in highest.iter_mut().zip(four) {
                *highest = s.max(s.mul(s.load(column, part), factor), *highest);
            }
        }
        for column in rest {
            highest[0] = s.max(s.mul(s.load(column, part), factor), highest[0]);
        }
        let [a, b, c, d] = highest;
        let highest = s.max(s.max(a, b), s.max(c, d));
        let mut total = s.splat(0.0);
        let tiles = scores.columns.as_chunks::<TILE_DEPTH>().0.iter();
        for (i, columns) in tiles.enumerate() {
            let mut words = [s.splat_int(0); 4];
            for (step, (word, four)) in words.iter_mut().zip(columns.as_chunks::<4>().0).enumerate()
            {
                let position = i * TILE_DEPTH + step * 4;
                let mut e = [s.splat(0.0); 4];
                if position >= inside.start && position + 4 <= inside.end {
                    for (e, column) in e.iter_mut().zip(four) {
                        *e = s.sub(s.mul(s.load(column, part), factor), highest);
                    }
                    e = exp2_byte(s, e);
                } else {
                    for (j, (e, column)) in e.iter_mut().zip(four).enumerate() {
                        if inside.contains(&(position + j)) {
                            let x = s.sub(s.mul(s.load(column, part), factor), highest);
                            [*e] = exp2_byte(s, [x]);
                        }
                    }
                }
                let mut q = [s.splat_int(0); 4];
                for (q, e) in q.iter_mut().zip(e) {
                    total = s.add(total, e);
                    *q = s.add_int(s.to_int(e), s.splat_int(ZERO));
                }
                *word = s.interleave(q);
            }
            panel.put(s, i, part, words);
        }
        s.store(&mut scales.scale, part, s.div(s.splat(1.0), total));
    }
    scales
}

/// [`crate::math::exp2_byte`].
#[inline(always)]
fn exp2_byte<S: Simd, const N: usize>(s: S, mut x: [S::F; N]) -> [S::F; N] {
    let mut n = x;
    for (x, n) in x.iter_mut().zip(&mut n) {
        let clamped = s.max(*x, s.splat(LOWEST));
        *n = s.round_even(clamped);
        *x = s.sub(clamped, *n);
    }
    let mut p = horner(s, x, &POLY);
    for (p, n) in p.iter_mut().zip(n) {
        *p = s.round_even(s.times_exp2(*p, n));
    }
    p
}
