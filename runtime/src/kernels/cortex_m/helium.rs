//! Helium: sixteen products of bytes per instruction.

mod gelu;
mod heads;
mod kernel;
mod norm;
mod quantize;
mod unpack;

use crate::format::{TILE_DEPTH, TILE_ROWS, round_up};
use crate::kernels::generic::{attention, attention8, float, matmul};
use crate::kernels::scalar::{activate, live};
use crate::kernels::{
    Activation, Attend, Backend, Column, FloatBlock, GroupFloat, GroupI8, Norm, Output, Pack,
    Panels, Quantized, Scores, Span, TILE_TOKENS, TileScales,
};
use crate::view::Indices;

use super::quantize::{STEP, quantized, steps};
use crate::kernels::pairs::Pairs;
use gelu::gelu_near;
use kernel::{Job, has_floats, multiply};

/// Tokens that the kernel takes at once.
const TOGETHER: usize = 2;

/// The backend.
#[derive(Debug, Clone, Copy)]
pub struct Helium;

impl Backend for Helium {
    fn name(&self) -> &'static str {
        "helium"
    }

    fn scales(&self, x: &[Column], equalize: &[f32], live: usize) -> TileScales {
        let scales = has_floats().then(|| quantize::scales(x, equalize, live)).flatten();
        scales.unwrap_or_else(|| float::scales(Pairs, x, equalize, live))
    }

    fn panel_bytes(&self, capacity: usize) -> usize {
        TILE_TOKENS * capacity
    }

    /// The panel is `[8 pairs of tokens][capacity / 16][2][16]`, int8.
    fn pack(&self, job: &Pack<'_>, capacity: usize, panel: &mut [u8]) {
        if has_floats() && quantize::pack(job, capacity, panel) {
            return;
        }
        steps(job, |i, columns, factors| {
            let at = job.at + i * STEP;
            let at = at / TILE_DEPTH * TOGETHER * TILE_DEPTH + at % TILE_DEPTH;
            pack_step(job, capacity, (columns, factors), panel, at);
        });
    }

    fn matmul_i8(
        &self,
        group: &GroupI8<'_>,
        panels: &Panels<'_>,
        scales: &[TileScales],
        out: &mut Output<'_>,
    ) {
        let depth = round_up(group.depth, TILE_DEPTH);
        let tiles = out.tokens.div_ceil(TILE_TOKENS);
        let rows = group.outputs.len();
        let padded = round_up(rows, TILE_ROWS);
        let highest = match group.outputs {
            Indices::Range { first, count } => first.saturating_add(count),
            Indices::List(list) => list.iter().fold(0, |most, i| most.max(usize::from(*i) + 1)),
        };
        if rows == 0
            || depth == 0
            || depth > panels.capacity
            || panels.bytes.len() < tiles * TILE_TOKENS * panels.capacity
            || group.block.len() < padded * depth
            || group.bias.len().min(group.scale.len()).min(group.sum.len()) < padded
            || scales.len() < tiles
            || highest > out.features
            || out.columns.len() < tiles * out.features
        {
            return;
        }
        let floats = has_floats() && stays_normal(group, scales.get(..tiles).unwrap_or_default());
        let mut job = Job {
            weights: group.block.as_ptr(),
            end: group.block.as_ptr().wrapping_add(TILE_ROWS * depth),
            panel: panels.bytes.as_ptr(),
            scales: scales.as_ptr(),
            tokens: out.tokens,
            skip: TOGETHER * (panels.capacity - depth),
            scale: group.scale.as_ptr(),
            bias: group.bias.as_ptr(),
            sum: group.sum.as_ptr(),
            quads: rows / TILE_ROWS,
            list: core::ptr::null(),
            column: out.columns.as_mut_ptr(),
            stride: (out.features - 1) * size_of::<Column>(),
            integers: usize::from(!floats),
        };
        // Of the last quad, the rows that are not there go where the first one goes; the kernel
        // writes the first one last.
        let mut last = [0; TILE_ROWS];
        let rest = rows % TILE_ROWS;
        let whole = rows - rest;
        match group.outputs {
            Indices::Range { first, .. } => {
                last =
                    core::array::from_fn(|i| (first + whole + if i < rest { i } else { 0 }) as u16);
                job.column = job.column.wrapping_add(first);
            }
            Indices::List(list) => {
                if let Some(left @ [first, ..]) = list.get(whole..) {
                    last = [*first; TILE_ROWS];
                    last.iter_mut().zip(left).for_each(|(l, i)| *l = *i);
                }
                job.list = list.as_ptr();
            }
        }
        // SAFETY: the checks above leave weights, biases, scales and sums for `padded` rows, and
        // panels, scales and columns for all tiles. All outputs are below `features`: those of
        // the range or list for whole quads, and those of `last`, which are among them.
        unsafe {
            if job.quads > 0 {
                multiply(&mut job);
            }
            if rest > 0 {
                job.quads = 1;
                job.list = last.as_ptr();
                job.column = out.columns.as_mut_ptr();
                multiply(&mut job);
            }
        }
        if floats && group.activation.is_none() {
            return;
        }
        let tiles = out.columns.chunks_exact_mut(out.features.max(1)).zip(scales).take(tiles);
        for (tile, (columns, scales)) in tiles.enumerate() {
            let live = live(out.tokens, tile);
            if floats {
                activate_rows(columns, group, live);
                continue;
            }
            let values = group.bias.iter().zip(group.scale).zip(group.sum);
            for (output, ((bias, scale), sum)) in group.outputs.iter().zip(values) {
                let Some(column) = columns.get_mut(output) else { return };
                let lanes = column.iter_mut().zip(&scales.zero).zip(&scales.scale);
                for ((y, zero), of_token) in lanes.take(live) {
                    let products = y.to_bits() as i32;
                    let exact = products.wrapping_sub(zero.wrapping_mul(*sum));
                    *y = activate(exact as f32 * (of_token * scale) + bias, group.activation);
                }
            }
        }
    }

    fn unpack_i4(&self, packed: &[u8], depth: usize, out: &mut [i8]) {
        unpack::unpack(packed, depth, out);
    }

    fn matmul_float(&self, group: &GroupFloat<'_>, panels: &[Column], out: &mut Output<'_>) {
        match group.block {
            FloatBlock::F32(block) => matmul::float(Pairs, group, block, panels, out),
            FloatBlock::F16(block) => matmul::float(Pairs, group, block, panels, out),
        }
    }

    fn norm(&self, x: &mut [Column], add: &[Column], norm: &Norm<'_>, live: usize) {
        if !has_floats() || !norm::norm(x, add, norm, live) {
            float::norm(Pairs, x, add, norm, live);
        }
    }

    fn keys(&self, span: &Span<'_>, out: &mut Quantized<'_>) {
        if !has_floats() || !heads::keys(span, out) {
            attention8::keys(Pairs, span, out);
        }
    }

    fn values(&self, span: &Span<'_>, out: &mut Quantized<'_>) {
        if !has_floats() || !heads::values(span, out) {
            attention8::values(Pairs, span, true, out);
        }
    }

    fn softmax(&self, scores: &Scores<'_>, capacity: usize, panel: &mut [u8]) -> TileScales {
        let scales = has_floats().then(|| heads::softmax(scores, capacity, panel)).flatten();
        scales.unwrap_or_else(|| attention8::softmax(Pairs, scores, &mut Place { panel, capacity }))
    }

    fn attend(&self, job: &Attend<'_>, scores: &mut [Column], context: &mut [Column]) {
        attention::attend(Pairs, job, scores, context);
    }
}

/// Applies the group's activation to its outputs of a tile.
fn activate_rows(columns: &mut [Column], group: &GroupI8<'_>, live: usize) {
    match group.outputs {
        Indices::Range { first, count } => {
            for column in columns.iter_mut().skip(first).take(count) {
                activate_column(column, group.activation, live);
            }
        }
        Indices::List(list) => {
            for output in list {
                let Some(column) = columns.get_mut(usize::from(*output)) else { return };
                activate_column(column, group.activation, live);
            }
        }
    }
}

#[inline(always)]
fn activate_column(column: &mut Column, activation: Option<Activation>, live: usize) {
    if activation != Some(Activation::GeluNear) || !gelu_near(column, live) {
        activate_slowly(column, activation, live);
    }
}

/// By itself, so that its constants are not loaded for nothing.
#[inline(never)]
fn activate_slowly(column: &mut Column, activation: Option<Activation>, live: usize) {
    column.iter_mut().take(live).for_each(|y| *y = activate(*y, activation));
}

/// A tile's panel, for a softmax.
struct Place<'a> {
    panel: &'a mut [u8],
    capacity: usize,
}

impl attention8::Panel<Pairs> for Place<'_> {
    #[inline(always)]
    fn put(&mut self, _s: Pairs, tile: usize, part: usize, words: [[i32; 2]; 4]) {
        let at = TOGETHER * (part * self.capacity + tile * TILE_DEPTH);
        let rows = self.panel.get_mut(at..).unwrap_or_default().chunks_exact_mut(TILE_DEPTH);
        for (t, row) in rows.take(TOGETHER).enumerate() {
            for (place, word) in row.as_chunks_mut().0.iter_mut().zip(words) {
                *place = word[t].to_le_bytes();
            }
        }
    }
}

/// Quantizes four inputs of the job's tokens to `at` of the panel, with scalar floats.
fn pack_step(
    job: &Pack<'_>,
    capacity: usize,
    (columns, factors): ([&Column; STEP], [f32; STEP]),
    panel: &mut [u8],
    at: usize,
) {
    let pairs = panel.chunks_exact_mut((TOGETHER * capacity).max(1));
    let places = pairs.flat_map(|pair| {
        pair.get_mut(at..).unwrap_or_default().chunks_mut(TILE_DEPTH).take(TOGETHER)
    });
    for (t, place) in (0..job.live.min(TILE_TOKENS)).zip(places) {
        if let Some(place) = place.first_chunk_mut() {
            *place = quantized(job, t, columns, factors).map(|q| q as u8);
        }
    }
}

/// 2⁻¹⁰⁰: neither the sum nor the difference of two floats from here on is subnormal, with room
/// for a rounding, since it is 0 or at least 2⁻²³ of the smaller.
const SMALL: f32 = f32::from_bits((127 - 100) << 23);

/// Whether no number is subnormal on the way from sums to outputs. Helium's floats flush those to
/// zero, and are IEEE 754's otherwise.
///
/// The way is `exact × (s × v) + b`. A scale s of a token is 0, NaN, or far from subnormal (see
/// `row_scale`). If every v is 0, or such that s × v is at least [`SMALL`] for the smallest s
/// above 0, then `exact`, an integer, times it is 0 or at least `SMALL`, too; and if b is 0 or at
/// least `SMALL`, the sum of both is 0 or normal.
fn stays_normal(group: &GroupI8<'_>, scales: &[TileScales]) -> bool {
    // As numbers, the bits of positive floats have their order; 0 becomes the highest.
    let lowest = |values: &[f32]| {
        values.iter().map(|v| (v.to_bits() & 0x7fff_ffff).wrapping_sub(1)).fold(u32::MAX, u32::min)
    };
    // Scales without a token are zeros, or make this stricter than it need be.
    let smallest = scales.iter().map(|s| lowest(&s.scale)).fold(f32::INFINITY.to_bits(), u32::min);
    let least = SMALL / f32::from_bits(smallest);
    let least = if least > f32::MIN_POSITIVE { least } else { f32::MIN_POSITIVE };
    lowest(group.scale) >= least.to_bits() - 1 && lowest(group.bias) >= SMALL.to_bits() - 1
}
