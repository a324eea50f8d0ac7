//! The specification: every primitive in its defined order, in plain Rust.

use crate::format::{TILE_DEPTH, TILE_ROWS, round_up};
use crate::math::{self, LANES};

use super::{
    Activation, Attend, Backend, Column, FloatBlock, GroupFloat, GroupI8, Norm, Output, Pack,
    Panels, Quantized, RowScale, Scores, Span, TILE_TOKENS, TileScales, int4, row_scale,
    symmetric_scale,
};

/// Plain Rust; what every other backend is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

/// Quantizes one row, `x × equalize`, to int8 with one scale and zero point; all three slices have
/// one length. The definition that [`Backend::scales`] and [`Backend::pack`] follow.
pub fn quantize_row(x: &[f32], equalize: &[f32], q: &mut [i8]) -> RowScale {
    let (lowest, highest) = range(x.iter().copied(), equalize);
    let (row, inverse, zero) = row_scale(lowest, highest);
    for ((v, e), q) in x.iter().zip(equalize).zip(q) {
        *q = quantize(v * e, inverse, zero);
    }
    row
}

/// The smallest and largest of 0 and all `x × equalize`.
#[inline(always)]
pub(super) fn range(x: impl Iterator<Item = f32>, equalize: &[f32]) -> (f32, f32) {
    let mut lowest = 0.0_f32;
    let mut highest = 0.0_f32;
    for (v, e) in x.zip(equalize) {
        let v = v * e;
        lowest = if v < lowest { v } else { lowest };
        highest = if v > highest { v } else { highest };
    }
    (lowest, highest)
}

/// An equalized value as int8.
#[inline(always)]
pub(super) fn quantize(v: f32, inverse: f32, zero: f32) -> i8 {
    let r = math::round_even(v * inverse) + zero;
    let r = if r > -128.0 { r } else { -128.0 };
    let r = if r < 127.0 { r } else { 127.0 };
    r as i8
}

/// `f(x)` as the specification has it.
#[inline(always)]
pub(crate) fn activate(x: f32, activation: Option<Activation>) -> f32 {
    match activation {
        None => x,
        Some(Activation::Gelu) => math::gelu(x),
        Some(Activation::GeluNear) => math::gelu_near(x),
        Some(Activation::GeluTanh) => math::gelu_tanh(x),
        Some(Activation::Relu) => math::relu(x),
    }
}

/// The tokens of tile `tile` when there are `tokens` in all.
#[inline(always)]
pub(crate) fn live(tokens: usize, tile: usize) -> usize {
    tokens.saturating_sub(tile * TILE_TOKENS).min(TILE_TOKENS)
}

impl Backend for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn scales(&self, x: &[Column], equalize: &[f32], live: usize) -> TileScales {
        let mut scales = TileScales::EMPTY;
        for t in 0..live.min(TILE_TOKENS) {
            let (lowest, highest) = range(x.iter().map(|column| column[t]), equalize);
            scales.set(t, lowest, highest);
        }
        scales
    }

    fn panel_bytes(&self, capacity: usize) -> usize {
        TILE_TOKENS * capacity
    }

    /// The panel is `[16 tokens][inputs]`, int8.
    fn pack(&self, job: &Pack<'_>, capacity: usize, panel: &mut [u8]) {
        let tokens = job.scales.inverse.iter().zip(&job.scales.shift).enumerate();
        let rows = panel.chunks_exact_mut(capacity.max(1)).zip(tokens).take(job.live);
        for (row, (t, (inverse, shift))) in rows {
            let row = row.get_mut(job.at..).unwrap_or_default();
            for (q, i) in row.iter_mut().zip(job.inputs.iter()) {
                if let (Some(column), Some(e)) = (job.x.get(i), job.equalize.get(i)) {
                    *q = quantize(column[t] * e, *inverse, *shift) as u8;
                }
            }
        }
    }

    fn matmul_i8(
        &self,
        group: &GroupI8<'_>,
        panels: &Panels<'_>,
        scales: &[TileScales],
        out: &mut Output<'_>,
    ) {
        let stride = round_up(group.depth, TILE_DEPTH);
        let (features, tokens) = (out.features.max(1), out.tokens);
        let tiles = panels.bytes.chunks_exact((TILE_TOKENS * panels.capacity).max(1)).zip(scales);
        let tiles = tiles.zip(out.columns.chunks_exact_mut(features));
        for (tile, ((panel, scales), columns)) in tiles.enumerate() {
            let values = group.bias.iter().zip(group.scale).zip(group.sum);
            for ((r, output), ((bias, scale), sum)) in group.outputs.iter().enumerate().zip(values)
            {
                let at = r / TILE_ROWS * TILE_ROWS * stride;
                let quad = group.block.get(at..).unwrap_or_default();
                let quad = quad.get(..TILE_ROWS * stride).unwrap_or_default();
                let Some(column) = columns.get_mut(output) else { continue };
                let rows = panel.chunks_exact(panels.capacity.max(1)).take(live(tokens, tile));
                let tokens = scales.zero.iter().zip(&scales.scale).zip(column);
                for (q, ((zero, step), y)) in rows.zip(tokens) {
                    let products = dot(quad, r % TILE_ROWS, q);
                    let v = scaled(products, *zero, *sum, *step * scale) + bias;
                    *y = activate(v, group.activation);
                }
            }
        }
    }

    fn unpack_i4(&self, packed: &[u8], depth: usize, out: &mut [i8]) {
        int4::unpack(packed, depth, out);
    }

    fn matmul_float(&self, group: &GroupFloat<'_>, panels: &[Column], out: &mut Output<'_>) {
        match group.block {
            FloatBlock::F32(block) => matmul_float(group, block, |w| *w, panels, out),
            FloatBlock::F16(block) => matmul_float(group, block, |w| math::widen(*w), panels, out),
        }
    }

    fn norm(&self, x: &mut [Column], add: &[Column], norm: &Norm<'_>, live: usize) {
        for t in 0..live.min(TILE_TOKENS) {
            x.iter_mut().zip(add).for_each(|(x, a)| x[t] += a[t]);
            norm_token(x, t, norm);
        }
    }

    fn keys(&self, span: &Span<'_>, out: &mut Quantized<'_>) {
        let stride = round_up(span.size, TILE_DEPTH);
        out.block.fill(0);
        let rows = out.scale.iter_mut().zip(out.sum.iter_mut()).take(span.positions());
        for (j, (scale, sum)) in rows.enumerate() {
            let row = span.tile(j / TILE_TOKENS).iter().map(|c| c[j % TILE_TOKENS]);
            let (step, inverse) = symmetric_scale(largest(row.clone()));
            (*scale, *sum) = (step, 0);
            let quad = out.block.get_mut(j / TILE_ROWS * TILE_ROWS * stride..).unwrap_or_default();
            for (d, v) in row.enumerate() {
                let at = d / TILE_DEPTH * 64 + j % TILE_ROWS * TILE_DEPTH + d % TILE_DEPTH;
                let q = quantize_symmetric(v, inverse);
                *sum += i32::from(q);
                if let Some(w) = quad.get_mut(at) {
                    *w = q;
                }
            }
        }
    }

    fn values(&self, span: &Span<'_>, out: &mut Quantized<'_>) {
        let stride = span.positions();
        out.block.fill(0);
        let positions = span.lead()..span.lead() + span.count;
        let lanes = |j: usize| span.tile(j / TILE_TOKENS).iter().map(move |c| c[j % TILE_TOKENS]);
        let (step, inverse) = symmetric_scale(largest(positions.clone().flat_map(lanes)));
        let rows = out.scale.iter_mut().zip(out.sum.iter_mut()).take(span.size);
        for (d, (scale, sum)) in rows.enumerate() {
            let value = |j: usize| span.tile(j / TILE_TOKENS).get(d).map(|c| c[j % TILE_TOKENS]);
            let row = positions.clone().filter_map(value);
            (*scale, *sum) = (step, 0);
            let quad = out.block.get_mut(d / TILE_ROWS * TILE_ROWS * stride..).unwrap_or_default();
            for (j, v) in positions.clone().zip(row) {
                let at = j / TILE_DEPTH * 64 + d % TILE_ROWS * TILE_DEPTH + j % TILE_DEPTH;
                let q = quantize_symmetric(v, inverse);
                *sum += i32::from(q);
                if let Some(w) = quad.get_mut(at) {
                    *w = q;
                }
            }
        }
    }

    fn softmax(&self, scores: &Scores<'_>, capacity: usize, panel: &mut [u8]) -> TileScales {
        let mut scales = TileScales::EMPTY;
        scales.zero = [ZERO; TILE_TOKENS];
        let rows = panel.chunks_exact_mut(capacity.max(1)).take(scores.live);
        for ((row, scale), t) in rows.zip(&mut scales.scale).zip(0..TILE_TOKENS) {
            let inside = scores.first..scores.first + scores.count;
            let columns = scores.columns.get(inside.clone()).unwrap_or_default();
            let mut highest = f32::MIN;
            for c in columns {
                let v = c[t] * scores.factor;
                highest = if v > highest { v } else { highest };
            }
            // Zero is the byte 128 less than 0.
            row.fill(ZERO as u8);
            let mut total = 0.0;
            for (q, c) in row.iter_mut().skip(inside.start).zip(columns) {
                let e = math::exp2_byte(c[t] * scores.factor - highest);
                total += e;
                *q = (e as i32 + ZERO) as u8;
            }
            *scale = 1.0 / total;
        }
        scales
    }

    fn attend(&self, job: &Attend<'_>, scores: &mut [Column], context: &mut [Column]) {
        let tokens = job.first..job.first + job.count;
        let column = |token: usize, feature: usize| -> f32 {
            let at = token / TILE_TOKENS * job.stride + feature;
            job.qkv.get(at).map_or(0.0, |c| c[token % TILE_TOKENS])
        };
        let scores = scores.get_mut(..job.count).unwrap_or_default();
        for t in 0..TILE_TOKENS {
            if !(job.lanes.0..job.lanes.1).contains(&t) {
                continue;
            }
            for (score, token) in scores.iter_mut().zip(tokens.clone()) {
                let mut s = 0.0;
                for (d, q) in job.query.iter().enumerate() {
                    s += q[t] * column(token, job.key + d);
                }
                score[t] = s;
            }
            softmax(scores, t, job.factor);
            for (d, c) in context.iter_mut().enumerate() {
                let mut s = 0.0;
                for (p, token) in scores.iter().zip(tokens.clone()) {
                    s += p[t] * column(token, job.value + d);
                }
                c[t] = s;
            }
        }
    }
}

/// LayerNorm of token `t`, modulo 16.
pub(super) fn norm_token(x: &mut [Column], t: usize, norm: &Norm<'_>) {
    let t = t % TILE_TOKENS;
    let count = x.len() as f32;
    let mean = sum(x.iter().map(|c| c[t])) / count;
    let variance = sum(x.iter().map(|c| (c[t] - mean) * (c[t] - mean))) / count;
    let inverse = 1.0 / math::sqrt(variance + norm.epsilon);
    for ((c, g), b) in x.iter_mut().zip(norm.gamma).zip(norm.beta) {
        c[t] = ((c[t] - mean) * inverse) * g + b;
    }
}

/// See [`Backend::rescale`].
pub(super) fn rescale(
    group: &GroupI8<'_>,
    products: &[i32],
    scales: &[TileScales],
    out: &mut Output<'_>,
) {
    let (features, tokens) = (out.features.max(1), out.tokens);
    let stride = round_up(group.outputs.len(), TILE_ROWS).max(TILE_ROWS);
    let tiles = products.chunks((TILE_TOKENS * stride).max(1)).zip(scales);
    let tiles = tiles.zip(out.columns.chunks_exact_mut(features));
    for (tile, ((products, scales), columns)) in tiles.enumerate() {
        let values = group.bias.iter().zip(group.scale).zip(group.sum);
        for ((r, output), ((bias, scale), sum)) in group.outputs.iter().enumerate().zip(values) {
            let Some(column) = columns.get_mut(output) else { continue };
            let rows = products.chunks_exact(stride).take(live(tokens, tile));
            let tokens = scales.zero.iter().zip(&scales.scale).zip(column);
            for (row, ((zero, step), y)) in rows.zip(tokens) {
                let products = row.get(r).copied().unwrap_or_default();
                let v = scaled(products, *zero, *sum, *step * scale) + bias;
                *y = finish(v, group.activation);
            }
        }
    }
}

/// [`activate`] once, for the flash of boards: what waits for a device may wait for a call.
#[inline(never)]
fn finish(v: f32, activation: Option<Activation>) -> f32 {
    activate(v, activation)
}

/// Σ w × q without the zero point's part, as a float.
#[inline(always)]
fn scaled(products: i32, zero: i32, sum: i32, scale: f32) -> f32 {
    products.wrapping_sub(zero.wrapping_mul(sum)) as f32 * scale
}

/// The q of 0 where q is an unsigned byte less 128.
pub(super) const ZERO: i32 = -128;

/// The largest magnitude.
#[inline(always)]
pub(super) fn largest(values: impl Iterator<Item = f32>) -> f32 {
    let mut most = 0.0;
    for v in values {
        let v = if v > -v { v } else { -v };
        most = if v > most { v } else { most };
    }
    most
}

/// A value as −127 to 127.
#[inline(always)]
pub(super) fn quantize_symmetric(v: f32, inverse: f32) -> i8 {
    let r = math::round_even(v * inverse);
    let r = if r > -127.0 { r } else { -127.0 };
    let r = if r < 127.0 { r } else { 127.0 };
    r as i8
}

/// Σ w × q of row `row` of four.
#[inline(always)]
fn dot(quad: &[i8], row: usize, q: &[u8]) -> i32 {
    let mut sum = 0;
    let tiles = quad.chunks_exact(TILE_ROWS * TILE_DEPTH).zip(q.chunks_exact(TILE_DEPTH));
    for (tile, q) in tiles {
        let w = tile.get(row * TILE_DEPTH..).unwrap_or_default();
        for (w, q) in w.iter().zip(q) {
            sum += i32::from(*w) * i32::from(*q as i8);
        }
    }
    sum
}

fn matmul_float<W>(
    group: &GroupFloat<'_>,
    block: &[W],
    widen: impl Fn(&W) -> f32 + Copy,
    panels: &[Column],
    out: &mut Output<'_>,
) {
    let tokens = out.tokens;
    for (tile, columns) in out.columns.chunks_exact_mut(out.features.max(1)).enumerate() {
        let panel = panels.get(tile * group.depth..).and_then(|p| p.get(..group.depth));
        let live = live(tokens, tile);
        let (Some(panel), true) = (panel, live > 0) else { return };
        for ((r, output), bias) in group.outputs.iter().enumerate().zip(group.bias) {
            let quad = block.get(r / TILE_ROWS * TILE_ROWS * group.depth..).unwrap_or_default();
            let Some(column) = columns.get_mut(output) else { continue };
            for (y, t) in column.iter_mut().zip(0..TILE_TOKENS).take(live) {
                let weights = quad.chunks_exact(TILE_ROWS).filter_map(|w| w.get(r % TILE_ROWS));
                let mut s = 0.0;
                for (w, x) in weights.zip(panel) {
                    s += widen(w) * x[t];
                }
                *y = activate(s + bias, group.activation);
            }
        }
    }
}

/// Softmax of lane `t` over all columns, after multiplying with `factor`.
fn softmax(x: &mut [Column], t: usize, factor: f32) {
    let mut highest = f32::MIN;
    for c in x.iter_mut() {
        c[t] *= factor;
        highest = if c[t] > highest { c[t] } else { highest };
    }
    for c in x.iter_mut() {
        c[t] = math::exp(c[t] - highest);
    }
    let inverse = 1.0 / sum(x.iter().map(|c| c[t]));
    for c in x.iter_mut() {
        c[t] *= inverse;
    }
}

/// Sum in lanes: value `i` is added to lane `i mod 16`, then the lanes are folded.
#[inline(always)]
pub(crate) fn sum(values: impl Iterator<Item = f32>) -> f32 {
    let mut total = [0.0; LANES];
    for (i, v) in values.enumerate() {
        total[i % LANES] += v;
    }
    math::fold(total)
}
