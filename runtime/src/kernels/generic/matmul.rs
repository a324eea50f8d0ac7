//! Group matmul: pack the inputs of a tile, multiply, rescale and write the outputs' columns.

use crate::format::{TILE_DEPTH, TILE_ROWS, round_up};
use crate::kernels::scalar::live;
use crate::kernels::{Column, GroupFloat, GroupI8, Output, Pack, Panels, TILE_TOKENS, TileScales};
use crate::view::Indices;

use super::float::{activate, round_even};
use super::simd::FloatWeight;
use super::{Acc, Dot, Simd, Steps, Weights, parts};

/// Inputs that a dot-product instruction adds up.
const STEP: usize = 4;

/// See [`crate::kernels::Backend::pack`].
#[inline(always)]
pub(super) fn pack<S: Dot>(s: S, job: &Pack<'_>, panel: &mut [u8]) {
    let panel = panel.get_mut(job.at / STEP * S::STEP..).unwrap_or_default();
    let steps = panel.chunks_exact_mut(S::STEP);
    match job.inputs {
        Indices::Range { first, count } => {
            let end = first.saturating_add(count);
            let (x, e) = (job.x.get(first..end), job.equalize.get(first..end));
            let (Some(x), Some(e)) = (x, e) else { return };
            let (xs, x_rest) = x.as_chunks::<STEP>();
            let (es, e_rest) = e.as_chunks::<STEP>();
            let mut steps = steps;
            for ((x, e), step) in xs.iter().zip(es).zip(&mut steps) {
                pack_step(s, job, x.each_ref(), *e, step);
            }
            if let (Some(last), Some(step)) = (x_rest.first(), steps.next()) {
                // The weights of the padding are zero: any value will do.
                let mut columns = [last; STEP];
                let mut factors = [0.0; STEP];
                columns.iter_mut().zip(x_rest).for_each(|(c, x)| *c = x);
                factors.iter_mut().zip(e_rest).for_each(|(f, e)| *f = *e);
                pack_step(s, job, columns, factors, step);
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
                pack_step(s, job, columns, factors, step);
            }
        }
    }
}

#[inline(always)]
fn pack_step<S: Dot>(
    s: S,
    job: &Pack<'_>,
    columns: [&Column; STEP],
    factors: [f32; STEP],
    step: &mut [u8],
) {
    for part in 0..parts::<S>(job.live) {
        let inverse = s.load(&job.scales.inverse, part);
        let shift = s.load(&job.scales.shift, part);
        let mut q = [s.splat_int(0); STEP];
        for i in 0..STEP {
            let v = s.mul(s.load(columns[i], part), s.splat(factors[i]));
            let r = s.add(round_even(s, s.mul(v, inverse)), shift);
            let r = s.min(s.max(r, s.splat(-128.0)), s.splat(127.0));
            q[i] = s.to_int(r);
        }
        s.pack(q, part, step);
    }
}

/// See [`crate::kernels::Backend::matmul_i8`].
#[inline(always)]
pub(super) fn int8<S: Dot>(
    s: S,
    group: &GroupI8<'_>,
    panels: &Panels<'_>,
    scales: &[TileScales],
    out: &mut Output<'_>,
) {
    let tiles = out.tokens.div_ceil(TILE_TOKENS).min(scales.len());
    let quad_bytes = TILE_ROWS * round_up(group.depth, TILE_DEPTH);
    let stride = panels.capacity / STEP * S::STEP;
    let outputs = group.outputs.len();
    let most = |tiles: usize| S::SHAPES[usize::from(tiles > 1)];
    let (row_step, _) = most(tiles);
    for first in (0..outputs).step_by(row_step) {
        let rows = (outputs - first).min(row_step);
        let padded = rows.next_multiple_of(TILE_ROWS);
        let at = first / TILE_ROWS * quad_bytes;
        let (Some(block), Some(bias), Some(scale), Some(sum)) = (
            group.block.get(at..),
            group.bias.get(first..first + padded),
            group.scale.get(first..first + padded),
            group.sum.get(first..first + padded),
        ) else {
            return;
        };
        let weights = Weights { block, rows: padded, depth: group.depth };
        let mut tile = 0;
        while tile < tiles {
            let together = most(tiles).1.min(tiles - tile);
            let Some(bytes) = panels.bytes.get(tile * stride..) else { return };
            let panels = Steps { bytes, stride, tiles: together };
            let Some(scales) = scales.get(tile..tile + together) else { return };
            let columns = out.columns.get_mut(tile * out.features..).unwrap_or_default();
            let (features, tokens) = (out.features, out.tokens);
            let live = live(tokens, tile + together - 1);
            s.accumulate(&weights, &panels, live, |acc: Acc<S::I>| {
                let Acc { row, tile, part, sums } = acc;
                let output = match group.outputs {
                    Indices::Range { first: start, .. } if row < rows => start + first + row,
                    Indices::List(list) if row < rows => match list.get(first + row) {
                        Some(output) => usize::from(*output),
                        None => return,
                    },
                    _ => return,
                };
                let (Some(scales), Some(column)) =
                    (scales.get(tile), columns.get_mut(tile * features + output))
                else {
                    return;
                };
                let zero = s.load_int(&scales.zero, part);
                // The bits of `sum × (zero + OFFSET)`, wrapping, as everywhere.
                let offset =
                    s.mul_int(s.sub_int(zero, s.splat_int(-S::OFFSET)), s.splat_int(sum[row]));
                let exact = s.to_float(s.sub_int(sums, offset));
                let step = s.mul(s.load(&scales.scale, part), s.splat(scale[row]));
                let y = s.add(s.mul(exact, step), s.splat(bias[row]));
                s.store(column, part, activate(s, y, group.activation));
            });
            tile += together;
        }
    }
}

/// See [`crate::kernels::Backend::matmul_float`].
#[inline(always)]
pub(in crate::kernels) fn float<S: Simd, W: FloatWeight>(
    s: S,
    group: &GroupFloat<'_>,
    block: &[W],
    panels: &[Column],
    out: &mut Output<'_>,
) {
    let tiles = out.tokens.div_ceil(TILE_TOKENS);
    let outputs = group.outputs.len();
    for first in (0..outputs).step_by(2 * TILE_ROWS) {
        let mut tile = 0;
        while tile < tiles {
            let job = FloatJob { group, block, first, tile, tokens: out.tokens };
            let one = outputs - first <= TILE_ROWS;
            tile += match (tiles - tile >= 2, one) {
                (true, false) => job.run::<S, 2, 2>(s, panels, out),
                (true, true) => job.run::<S, 1, 2>(s, panels, out),
                (false, false) => job.run::<S, 2, 1>(s, panels, out),
                (false, true) => job.run::<S, 1, 1>(s, panels, out),
            };
        }
    }
}

/// Some rows of a float group for some tiles.
struct FloatJob<'a, W> {
    group: &'a GroupFloat<'a>,
    block: &'a [W],
    first: usize,
    tile: usize,
    tokens: usize,
}

impl<W: FloatWeight> FloatJob<'_, W> {
    /// Four times `Q` rows for `T` tiles; gives `T`.
    #[inline(always)]
    fn run<S: Simd, const Q: usize, const T: usize>(
        &self,
        s: S,
        panels: &[Column],
        out: &mut Output<'_>,
    ) -> usize {
        let depth = self.group.depth;
        let quads: [&[W]; Q] = core::array::from_fn(|q| {
            let at = (self.first + q * TILE_ROWS) * depth;
            self.block.get(at..).and_then(|rest| rest.get(..TILE_ROWS * depth)).unwrap_or_default()
        });
        let panels: [&[Column]; T] = core::array::from_fn(|t| {
            let at = (self.tile + t) * depth;
            panels.get(at..).and_then(|rest| rest.get(..depth)).unwrap_or_default()
        });
        if quads.iter().any(|q| q.len() < TILE_ROWS * depth)
            || panels.iter().any(|p| p.len() < depth)
        {
            return T;
        }
        for part in 0..TILE_TOKENS / S::LANES {
            let mut sums = [[[s.splat(0.0); T]; TILE_ROWS]; Q];
            for i in 0..depth {
                let x: [S::F; T] = core::array::from_fn(|t| s.load(&panels[t][i], part));
                for (sums, quad) in sums.iter_mut().zip(&quads) {
                    let (weights, _) = quad.as_chunks::<TILE_ROWS>();
                    for (sums, w) in sums.iter_mut().zip(&weights[i]) {
                        let w = s.splat(w.widen());
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum = s.add(*sum, s.mul(w, x));
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().flatten().enumerate() {
                for (t, sum) in sums.iter().enumerate() {
                    self.finish(s, self.first + r, self.tile + t, part, *sum, out);
                }
            }
        }
        T
    }

    #[inline(always)]
    fn finish<S: Simd>(
        &self,
        s: S,
        row: usize,
        tile: usize,
        part: usize,
        sum: S::F,
        out: &mut Output<'_>,
    ) {
        let output = match self.group.outputs {
            Indices::Range { first, count } if row < count => first + row,
            Indices::List(list) if row < list.len() => usize::from(list[row]),
            _ => return,
        };
        let live = live(self.tokens, tile);
        let (Some(bias), Some(column)) =
            (self.group.bias.get(row), out.columns.get_mut(tile * out.features + output))
        else {
            return;
        };
        if part < parts::<S>(live) {
            let y = s.add(sum, s.splat(*bias));
            s.store(column, part, activate(s, y, self.group.activation));
        }
    }
}
