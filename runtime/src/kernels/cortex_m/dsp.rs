//! The DSP extension: two products of 16-bit numbers per instruction, single-precision VFP.

mod kernel;
mod pack;
mod unpack;

use crate::format::{TILE_DEPTH, TILE_ROWS, round_up};
use crate::kernels::generic::{attention, attention8, float, matmul};
use crate::kernels::scalar::{activate, live};
use crate::kernels::{
    Attend, Backend, Column, FloatBlock, GroupFloat, GroupI8, Norm, Output, PANEL_BYTES, Pack,
    Panels, Quantized, Scores, Span, TILE_TOKENS, TileScales,
};

use super::quantize::STEP;
use crate::kernels::pairs::Pairs;
use kernel::{KERNELS, Row};

/// Tokens that a kernel takes at once, as many as there are accumulators.
const TOGETHER: usize = 6;

/// Bytes of an input of one token.
const TOKEN_BYTES: usize = PANEL_BYTES / TILE_TOKENS;

/// Bytes of four inputs of one token.
const STEP_BYTES: usize = STEP * TOKEN_BYTES;

/// The backend.
#[derive(Debug, Clone, Copy)]
pub struct Dsp;

/// The parts of a tile of `live` tokens: where each begins, and its tokens.
#[inline(always)]
fn parts(live: usize) -> impl Iterator<Item = (usize, usize)> {
    let live = live.min(TILE_TOKENS);
    (0..live).step_by(TOGETHER).map(move |first| (first, (live - first).min(TOGETHER)))
}

impl Backend for Dsp {
    fn name(&self) -> &'static str {
        "dsp"
    }

    fn scales(&self, x: &[Column], equalize: &[f32], live: usize) -> TileScales {
        float::scales(Pairs, x, equalize, live)
    }

    fn panel_bytes(&self, capacity: usize) -> usize {
        PANEL_BYTES * capacity
    }

    /// The panel is `[parts of up to 6 tokens][capacity / 4][tokens][2]` pairs of i16: inputs 0
    /// and 2 of four, then 1 and 3.
    fn pack(&self, job: &Pack<'_>, capacity: usize, panel: &mut [u8]) {
        for (first, tokens) in parts(job.live) {
            let at = TOKEN_BYTES * (first * capacity + job.at * tokens);
            let end = TOKEN_BYTES * (first + tokens) * capacity;
            let part = panel.get_mut(at..end).unwrap_or_default();
            pack::pack(job, first, tokens, part);
        }
    }

    fn matmul_i8(
        &self,
        group: &GroupI8<'_>,
        panels: &Panels<'_>,
        scales: &[TileScales],
        out: &mut Output<'_>,
    ) {
        let depth = round_up(group.depth, TILE_DEPTH);
        let tiles = out.tokens.div_ceil(TILE_TOKENS).min(scales.len());
        let stride = PANEL_BYTES * panels.capacity;
        let rows = group.outputs.len();
        if depth == 0
            || depth > panels.capacity
            || panels.bytes.len() < tiles * stride
            || group.block.len() < round_up(rows, TILE_ROWS) * depth
        {
            return;
        }
        // Whole blocks, at least one, and the steps after them.
        let whole = (group.depth / TILE_DEPTH * TILE_DEPTH).max(TILE_DEPTH);
        let tail = group.depth.saturating_sub(whole).div_ceil(STEP);
        let values = group.bias.iter().zip(group.scale).zip(group.sum);
        for ((r, output), ((bias, scale), sum)) in group.outputs.iter().enumerate().zip(values) {
            if output >= out.features {
                continue;
            }
            let at = r / TILE_ROWS * TILE_ROWS * depth + r % TILE_ROWS * TILE_DEPTH;
            let weights = group.block.as_ptr().wrapping_add(at);
            let row = Row {
                end: weights.wrapping_add(TILE_ROWS * whole),
                minus_sum: sum.wrapping_neg(),
                weights,
                scale: *scale,
                bias: *bias,
                tail,
            };
            let tiles = panels.bytes.chunks_exact(stride.max(1)).zip(scales);
            let tiles = tiles.zip(out.columns.chunks_exact_mut(out.features.max(1))).enumerate();
            for (tile, ((panel, scales), columns)) in tiles {
                let Some(column) = columns.get_mut(output) else { return };
                for (first, tokens) in parts(live(out.tokens, tile)) {
                    let Some(kernel) = KERNELS.get(tokens - 1) else { return };
                    let part = panel.as_ptr().wrapping_add(TOKEN_BYTES * first * panels.capacity);
                    let lanes = (&raw const *scales).cast::<f32>().wrapping_add(first);
                    let to = column.as_mut_ptr().wrapping_add(first);
                    // SAFETY: the checks above leave depth / 16 blocks of weights from `weights`
                    // on, each with its row's 16 bytes first, and room for `depth` inputs of the
                    // part's tokens in the panel. `first + tokens` is at most 16, so that the
                    // tokens' scales, zeros and places in the column exist.
                    unsafe { kernel(&row, part, lanes, to) };
                    if group.activation.is_some() {
                        for y in column.iter_mut().skip(first).take(tokens) {
                            *y = activate(*y, group.activation);
                        }
                    }
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
        float::norm(Pairs, x, add, norm, live);
    }

    fn keys(&self, span: &Span<'_>, out: &mut Quantized<'_>) {
        attention8::keys(Pairs, span, out);
    }

    fn values(&self, span: &Span<'_>, out: &mut Quantized<'_>) {
        attention8::values(Pairs, span, true, out);
    }

    fn softmax(&self, scores: &Scores<'_>, capacity: usize, panel: &mut [u8]) -> TileScales {
        attention8::softmax(Pairs, scores, &mut Place { panel, capacity, live: scores.live })
    }

    fn attend(&self, job: &Attend<'_>, scores: &mut [Column], context: &mut [Column]) {
        attention::attend(Pairs, job, scores, context);
    }
}

/// A tile's panel, for a softmax.
struct Place<'a> {
    panel: &'a mut [u8],
    capacity: usize,
    live: usize,
}

impl attention8::Panel<Pairs> for Place<'_> {
    #[inline(always)]
    fn put(&mut self, _s: Pairs, tile: usize, part: usize, words: [[i32; 2]; 4]) {
        for token in (2 * part..self.live.min(TILE_TOKENS)).take(2) {
            let first = token / TOGETHER * TOGETHER;
            let tokens = (self.live - first).clamp(1, TOGETHER);
            let input = tile * TILE_DEPTH;
            let at = TOKEN_BYTES * (first * self.capacity + input * tokens);
            let steps = self.panel.get_mut(at..).unwrap_or_default();
            let steps = steps.chunks_exact_mut(STEP_BYTES * tokens);
            for (step, word) in steps.zip(words) {
                let [a, b, c, d] = word[token % 2].to_le_bytes().map(|q| i16::from(q as i8));
                let place = step.get_mut(STEP_BYTES * (token - first)..).unwrap_or_default();
                let pairs = [a, c, b, d].map(i16::to_le_bytes);
                place.iter_mut().zip(pairs.as_flattened()).for_each(|(p, q)| *p = *q);
            }
        }
    }
}
