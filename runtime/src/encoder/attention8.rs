//! Self-attention in int8, for int8 weights: keys and values become matrices of their own, and
//! both products are group matmuls.

use crate::error::{Error, Result};
use crate::kernels::{
    Backend, Column, GroupI8, Output, Pack, Panels, Quantized, Scores, Span, TILE_TOKENS,
    TileScales,
};
use crate::math;
use crate::plan::{BLOCK_TILES, HeadPlan};
use crate::view::Indices;

use super::attention::replace;
use super::layer::Heads;

/// Buffers and shapes of one layer's attention, for the queries of some adjacent tiles.
pub(super) struct Attention8<'a> {
    /// `[these tiles][hidden]`: the context replaces them.
    pub(super) queries: &'a mut [Column],
    /// The first of these tiles, counted from the first of all.
    pub(super) tile: usize,
    /// `[all tiles][2 × hidden]`: keys and values.
    pub(super) keys_values: &'a [Column],
    /// At least [`HeadPlan::columns`].
    pub(super) work: &'a mut [Column],
    pub(super) shape: Heads,
    /// The equalizing factors of the matrix that reads the contexts, `[hidden]`; none if it has
    /// float weights.
    pub(super) equalize: &'a [f32],
}

/// [`HeadPlan`]'s buffers.
struct Buffers<'a> {
    /// `[block][positions]`.
    scores: &'a mut [Column],
    /// `[block][size]`.
    context: &'a mut [Column],
    panels: &'a mut [u8],
    keys: Quantized<'a>,
    values: Quantized<'a>,
    /// The bias of both products.
    zeros: &'a [f32],
    /// The equalizing factors of the queries.
    ones: &'a [f32],
}

impl<'a> Buffers<'a> {
    fn carve(work: &'a mut [Column], plan: &HeadPlan) -> Option<Self> {
        let (scores, rest) = work.split_at_mut_checked(BLOCK_TILES * plan.positions)?;
        let (context, rest) = rest.split_at_mut_checked(BLOCK_TILES * plan.size)?;
        let rest: &mut [u8] = bytemuck::must_cast_slice_mut(rest.as_flattened_mut());
        let (panels, rest) = rest.split_at_mut_checked(plan.panels())?;
        let (keys, rest) = rest.split_at_mut_checked(plan.block())?;
        let (values, rest) = rest.split_at_mut_checked(plan.block())?;
        let mut numbers: &mut [f32] = bytemuck::try_cast_slice_mut(rest).ok()?;
        let mut take = || -> Option<&'a mut [f32]> {
            let (row, rest) = core::mem::take(&mut numbers).split_at_mut_checked(plan.rows())?;
            numbers = rest;
            Some(row)
        };
        let mut quantized = |block: &'a mut [u8]| -> Option<Quantized<'a>> {
            let block = bytemuck::must_cast_slice_mut(block);
            Some(Quantized { block, scale: take()?, sum: bytemuck::must_cast_slice_mut(take()?) })
        };
        let (keys, values) = (quantized(keys)?, quantized(values)?);
        let (zeros, ones) = (take()?, take()?);
        zeros.fill(0.0);
        ones.fill(1.0);
        Some(Self { scores, context, panels, keys, values, zeros, ones })
    }
}

impl Attention8<'_> {
    /// Writes softmax(Q Kᵀ / √d) V over those Q that belong to the text of `count` tokens from
    /// token `first`.
    pub(super) fn run(self, backend: &dyn Backend, (first, count): (usize, usize)) -> Result<()> {
        let Heads { hidden, heads, size } = self.shape;
        let lead = first % TILE_TOKENS;
        let positions = (lead + count).next_multiple_of(TILE_TOKENS);
        let plan = HeadPlan { positions, size };
        let available = self.work.len();
        let too_small = Error::ArenaTooSmall { needed: plan.columns(), available };
        let mut buffers = Buffers::carve(self.work, &plan).ok_or(too_small)?;
        // The text's tiles among these, counted from the text's first.
        let text = first / TILE_TOKENS;
        let from = self.tile.saturating_sub(text);
        let queries = self.queries.get_mut((text + from - self.tile) * hidden..);
        let queries = queries.ok_or(too_small)?;
        let to = (positions / TILE_TOKENS).min(from + queries.len() / hidden.max(1));
        for head in 0..heads {
            let key = head * size;
            // Pruned: no output reads this head, whatever stands there.
            let read = self.equalize.get(key..key + size);
            if read.is_some_and(|factors| factors.iter().all(|factor| *factor == 0.0)) {
                continue;
            }
            let span = Span {
                qkv: self.keys_values,
                stride: 2 * hidden,
                feature: key,
                size,
                first,
                count,
            };
            backend.keys(&span, &mut buffers.keys);
            backend.values(&Span { feature: hidden + key, ..span }, &mut buffers.values);
            for tile in (from..to).step_by(BLOCK_TILES) {
                let rest = queries.get_mut((tile - from) * hidden + key..).ok_or(too_small)?;
                // Positions of the text's tokens, from the block's first.
                let start = tile * TILE_TOKENS;
                let most = BLOCK_TILES.min(to - tile) * TILE_TOKENS;
                let block =
                    Block { backend, plan, lead, count, tokens: (lead + count - start).min(most) };
                block.score(rest, hidden, &mut buffers);
                block.mix(&mut buffers);
                let context = buffers.context.chunks_exact(size.max(1));
                let slots = rest.chunks_mut(hidden.max(1)).zip(context);
                for (t, (slot, context)) in slots.take(block.tiles()).enumerate() {
                    let start = start + t * TILE_TOKENS;
                    let end = (lead + count).saturating_sub(start).min(TILE_TOKENS);
                    // This head's query of this tile is not read again: the context takes its
                    // place.
                    replace(slot, context, (lead.max(start) - start, end));
                }
            }
        }
        Ok(())
    }
}

/// Some tiles of queries.
struct Block<'a> {
    backend: &'a dyn Backend,
    plan: HeadPlan,
    /// The text's first position.
    lead: usize,
    /// The text's tokens.
    count: usize,
    /// The block's tokens, those of other texts before the text's included.
    tokens: usize,
}

impl Block<'_> {
    fn tiles(&self) -> usize {
        self.tokens.div_ceil(TILE_TOKENS)
    }

    fn live(&self, tile: usize) -> usize {
        (self.tokens - tile * TILE_TOKENS).min(TILE_TOKENS)
    }

    /// Scores of all positions: the keys' matrix times the queries.
    fn score(&self, queries: &[Column], stride: usize, buffers: &mut Buffers<'_>) {
        let HeadPlan { positions, size } = self.plan;
        let capacity = self.plan.depth();
        let equalize = buffers.ones.get(..size).unwrap_or_default();
        let inputs = Indices::Range { first: 0, count: size };
        let mut scales = [TileScales::EMPTY; BLOCK_TILES];
        let panels = buffers.panels.chunks_exact_mut(self.backend.panel_bytes(capacity).max(1));
        let tiles = queries.chunks(stride.max(1)).zip(panels).zip(&mut scales).take(self.tiles());
        for (tile, ((x, panel), s)) in tiles.enumerate() {
            let x = x.get(..size).unwrap_or_default();
            let live = self.live(tile);
            *s = self.backend.scales(x, equalize, live);
            let pack = Pack { x, equalize, scales: s, inputs, at: 0, live };
            self.backend.pack(&pack, capacity, panel);
        }
        let group = group(&buffers.keys, size, positions, buffers.zeros);
        let panels = Panels { bytes: buffers.panels, capacity };
        let (columns, tokens) = (&mut *buffers.scores, self.tokens);
        let mut out = Output { columns, features: positions, tokens };
        self.backend.matmul_i8(&group, &panels, &scales, &mut out);
    }

    /// Contexts: the values' matrix times the softmax of the scores.
    fn mix(&self, buffers: &mut Buffers<'_>) {
        let HeadPlan { positions, size } = self.plan;
        // log₂ e / √d: the softmax is worked out in powers of two.
        let factor = core::f32::consts::LOG2_E / math::sqrt(size as f32);
        let mut scales = [TileScales::EMPTY; BLOCK_TILES];
        let panels = buffers.panels.chunks_exact_mut(self.backend.panel_bytes(positions).max(1));
        let tiles = buffers.scores.chunks_exact(positions.max(1)).zip(panels).zip(&mut scales);
        for (tile, ((columns, panel), s)) in tiles.take(self.tiles()).enumerate() {
            let (first, count, live) = (self.lead, self.count, self.live(tile));
            let scores = Scores { columns, first, count, factor, live };
            *s = self.backend.softmax(&scores, positions, panel);
        }
        let group = group(&buffers.values, positions, size, buffers.zeros);
        let panels = Panels { bytes: buffers.panels, capacity: positions };
        let (columns, tokens) = (&mut *buffers.context, self.tokens);
        let mut out = Output { columns, features: size, tokens };
        self.backend.matmul_i8(&group, &panels, &scales, &mut out);
    }
}

/// A quantized matrix as a group of `outputs` by `depth`.
fn group<'a>(
    matrix: &'a Quantized<'_>,
    depth: usize,
    outputs: usize,
    zeros: &'a [f32],
) -> GroupI8<'a> {
    GroupI8 {
        block: matrix.block,
        depth,
        outputs: Indices::Range { first: 0, count: outputs },
        bias: zeros,
        scale: matrix.scale,
        sum: matrix.sum,
        activation: None,
    }
}
