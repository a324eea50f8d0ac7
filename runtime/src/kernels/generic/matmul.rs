//! Group matmul: pack the inputs of a tile, multiply, rescale and write the outputs' columns.

use crate::format::{TILE_DEPTH, TILE_ROWS, round_up};
use crate::kernels::scalar::live;
use crate::kernels::{Column, GroupFloat, GroupI8, Output, Pack, Panels, TILE_TOKENS, TileScales};
use crate::view::Indices;

use super::rescale::{Finish, PADDING, places};
use super::simd::FloatWeight;
use super::{Dot, ROWS, Simd, Steps, Weights, float, parts};

/// Inputs that a dot-product instruction adds up.
const STEP: usize = 4;

/// See [`crate::kernels::Backend::pack`].
#[inline(always)]
pub(super) fn pack<S: Dot>(s: S, job: &Pack<'_>, panel: &mut [u8]) {
    let panel = panel.get_mut(job.at / STEP * S::STEP..).unwrap_or_default();
    let Some(any) = job.x.first() else { return };
    match job.inputs {
        Indices::Range { first, count } => {
            let mut tiles = panel.chunks_exact_mut(TILE_DEPTH / STEP * S::STEP);
            let end = first.saturating_add(count);
            let (x, e) = (job.x.get(first..end), job.equalize.get(first..end));
            let (Some(x), Some(e)) = (x, e) else { return };
            let (xs, x_rest) = x.as_chunks::<TILE_DEPTH>();
            let (es, e_rest) = e.as_chunks::<TILE_DEPTH>();
            for ((x, e), tile) in xs.iter().zip(es).zip(&mut tiles) {
                pack_tile(s, job, Inputs::new(x.each_ref(), *e, TILE_DEPTH, job.scales), tile);
            }
            if let (false, Some(tile)) = (x_rest.is_empty(), tiles.next()) {
                // The weights of the padding are zero: any value will do.
                let mut columns = [any; TILE_DEPTH];
                let mut factors = [0.0; TILE_DEPTH];
                columns.iter_mut().zip(x_rest).for_each(|(c, x)| *c = x);
                factors.iter_mut().zip(e_rest).for_each(|(f, e)| *f = *e);
                pack_tile(s, job, Inputs::new(columns, factors, x_rest.len(), job.scales), tile);
            }
        }
        Indices::List(list) => s.pack_list(job, list, panel),
    }
}

/// See [`Dot::pack_list`].
#[inline(always)]
pub(super) fn pack_list<S: Dot>(s: S, job: &Pack<'_>, list: &[u16], panel: &mut [u8]) {
    let tiles = panel.chunks_exact_mut(TILE_DEPTH / STEP * S::STEP);
    let (Some(any), Some(all)) = (job.x.first(), job.equalize.get(..job.x.len())) else { return };
    for (inputs, tile) in list.chunks(TILE_DEPTH).zip(tiles) {
        // The weights of the padding are zero: any value will do.
        let mut columns = [any; TILE_DEPTH];
        let mut factors = [0.0; TILE_DEPTH];
        for ((c, f), i) in columns.iter_mut().zip(&mut factors).zip(inputs) {
            let i = usize::from(*i);
            let (Some(x), Some(e)) = (job.x.get(i), all.get(i)) else { return };
            (*c, *f) = (x, *e);
        }
        pack_tile(s, job, Inputs::new(columns, factors, inputs.len(), job.scales), tile);
    }
}

#[inline(always)]
fn pack_tile<S: Dot>(s: S, job: &Pack<'_>, inputs: Inputs<'_>, tile: &mut [u8]) {
    for part in 0..parts::<S>(job.live) {
        s.pack(&inputs, part, tile);
    }
}

/// Up to sixteen inputs of a tile of tokens on their way into a panel.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Their columns; after the last input, any.
    pub columns: [&'a Column; TILE_DEPTH],
    /// Their factors; after the last input, 0.
    pub factors: [f32; TILE_DEPTH],
    /// Steps of four that hold inputs.
    pub steps: usize,
    /// The tile's scales.
    pub scales: &'a TileScales,
}

impl<'a> Inputs<'a> {
    #[inline(always)]
    pub(in crate::kernels) fn new(
        columns: [&'a Column; TILE_DEPTH],
        factors: [f32; TILE_DEPTH],
        count: usize,
        scales: &'a TileScales,
    ) -> Self {
        Self { columns, factors, steps: count.div_ceil(STEP), scales }
    }

    /// Vector `part` of the four inputs of step `step`, quantized.
    #[inline(always)]
    pub fn quantized<S: Simd>(&self, s: S, step: usize, part: usize) -> [S::I; STEP] {
        let inverse = s.load(&self.scales.inverse, part);
        let shift = s.load(&self.scales.shift, part);
        let mut q = [s.splat_int(0); STEP];
        let inputs = self.columns.iter().zip(&self.factors).skip(step * STEP);
        for (q, (column, factor)) in q.iter_mut().zip(inputs) {
            let v = s.mul(s.load(column, part), s.splat(*factor));
            let r = s.add(s.round_even(s.mul(v, inverse)), shift);
            let r = s.min(s.max(r, s.splat(-128.0)), s.splat(127.0));
            *q = s.to_int(r);
        }
        q
    }
}

/// See [`crate::kernels::Backend::matmul_i8`]; up to [`super::ROWS`] rows from `start` on, without
/// the activation.
#[inline(always)]
pub(super) fn int8<S: Dot>(
    s: S,
    group: &GroupI8<'_>,
    (start, count): (usize, usize),
    panels: &Panels<'_>,
    scales: &[TileScales],
    out: &mut Output<'_>,
) {
    let tiles = out.tokens.div_ceil(TILE_TOKENS).min(scales.len());
    let quad_bytes = (TILE_ROWS * round_up(group.depth, TILE_DEPTH)).max(1);
    let stride = panels.capacity / STEP * S::STEP;
    let (row_step, tile_step) = S::SHAPES[usize::from(tiles > 1)];
    let padded = count.next_multiple_of(TILE_ROWS);
    let (block, rows) = (start / TILE_ROWS * quad_bytes, start..start + padded);
    let (Some(block), Some(bias), Some(scale), Some(sum)) = (
        group.block.get(block..block + padded / TILE_ROWS * quad_bytes),
        group.bias.get(rows.clone()),
        group.scale.get(rows.clone()),
        group.sum.get(rows),
    ) else {
        return;
    };
    let mut all_places = [PADDING; ROWS];
    places(group.outputs.part(start, count), &mut all_places);
    for tile in (0..tiles).step_by(tile_step) {
        let together = tile_step.min(tiles - tile);
        let live = live(out.tokens, tile + together - 1);
        let features = out.features;
        let (Some(bytes), Some(scales), Some(columns)) = (
            panels.bytes.get(tile * stride..),
            scales.get(tile..tile + together),
            out.columns.get_mut(tile * features..),
        ) else {
            return;
        };
        let panels = Steps { bytes, stride, tiles: together };
        let blocks =
            block.chunks(row_step / TILE_ROWS * quad_bytes).zip(all_places.chunks(row_step));
        let numbers = bias.chunks(row_step).zip(scale.chunks(row_step)).zip(sum.chunks(row_step));
        for ((block, places), ((bias, scale), sum)) in blocks.zip(numbers) {
            let weights = Weights { block, rows: bias.len(), depth: group.depth };
            let columns = &mut *columns;
            let mut finish = Finish { s, places, bias, scale, sum, scales, columns, features };
            s.accumulate(&weights, &panels, live, &mut finish);
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
    // All sums at work: those of several quads of rows, or of fewer and two tiles, for which a
    // weight is then loaded once.
    let together = if tiles > 1 && S::FLOAT_SUMS > TILE_ROWS { 2 } else { 1 };
    let quads = (S::FLOAT_SUMS / TILE_ROWS / together).max(1);
    for first in (0..outputs).step_by(quads * TILE_ROWS) {
        let left = (outputs - first).div_ceil(TILE_ROWS).min(quads);
        let mut tile = 0;
        while tile < tiles {
            let job = FloatJob { group, block, first, tile, tokens: out.tokens };
            tile += match (left, together.min(tiles - tile)) {
                (4, _) if S::FLOAT_SUMS >= 16 => job.run::<S, 4, 1>(s, panels, out),
                (3, _) if S::FLOAT_SUMS >= 16 => job.run::<S, 3, 1>(s, panels, out),
                (2, 2) if S::FLOAT_SUMS >= 16 => job.run::<S, 2, 2>(s, panels, out),
                (2, _) if S::FLOAT_SUMS >= 8 => job.run::<S, 2, 1>(s, panels, out),
                (_, 2) if S::FLOAT_SUMS >= 8 => job.run::<S, 1, 2>(s, panels, out),
                _ => job.run::<S, 1, 1>(s, panels, out),
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
        let quads: [&[[W; TILE_ROWS]]; Q] = core::array::from_fn(|q| {
            let at = (self.first + q * TILE_ROWS) * depth;
            let quad = self.block.get(at..).unwrap_or_default().as_chunks().0;
            quad.get(..depth).unwrap_or_default()
        });
        let panels: [&[Column]; T] = core::array::from_fn(|t| {
            let at = (self.tile + t) * depth;
            panels.get(at..).and_then(|rest| rest.get(..depth)).unwrap_or_default()
        });
        // Said once, so that the loop need not ask.
        if quads.iter().any(|q| q.len() != depth) || panels.iter().any(|p| p.len() != depth) {
            return T;
        }
        for part in 0..TILE_TOKENS / S::LANES {
            let mut sums = [[[s.splat(0.0); T]; TILE_ROWS]; Q];
            for i in 0..depth {
                let x: [S::F; T] = core::array::from_fn(|t| s.load(&panels[t][i], part));
                for q in 0..Q {
                    for r in 0..TILE_ROWS {
                        let w = s.splat(quads[q][i][r].widen());
                        for t in 0..T {
                            sums[q][r][t] = s.add(sums[q][r][t], s.mul(w, x[t]));
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
        let Some(output) = self.group.outputs.get(row) else { return };
        let live = live(self.tokens, tile);
        let (Some(bias), Some(column)) =
            (self.group.bias.get(row), out.columns.get_mut(tile * out.features + output))
        else {
            return;
        };
        if part < parts::<S>(live) {
            let y = s.add(sum, s.splat(*bias));
            let y = match self.group.activation {
                Some(activation) => float::activate(s, [y], activation)[0],
                None => y,
            };
            s.store(column, part, y);
        }
    }
}
