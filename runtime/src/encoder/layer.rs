//! One encoder layer in three phases. Each phase divides the tiles into as many adjacent parts as
//! the plan has threads, and needs all of the phase before.
//!
//! No token's arithmetic depends on the parts: they share nothing that is written but a scratch
//! that each has for itself.

use crate::error::{Error, Result};
use crate::format::{self, Arch, MatrixKind};
use crate::kernels::scalar::live;
use crate::kernels::{Activation, Backend, Column, Norm, TILE_TOKENS};
use crate::plan::Plan;
use crate::view::Layer;

use super::attention::Attention;
use super::attention8::Attention8;
use super::linear::{Input, linear};
use super::offload::Offload;
use super::parts::each;

/// A layer with what it needs to run.
pub(super) struct Run<'r> {
    pub(super) backend: &'static dyn Backend,
    pub(super) layer: Layer<'r>,
    pub(super) arch: &'r Arch,
    pub(super) plan: &'r Plan,
    /// Tokens of all texts.
    pub(super) tokens: usize,
}

/// The buffers of attention.
struct Split<'a> {
    /// `[tiles][hidden]`.
    queries: &'a mut [Column],
    /// `[tiles][2 × hidden]`.
    keys_values: &'a mut [Column],
    /// One of [`Plan::attention`] for each thread.
    scratch: &'a mut [Column],
}

/// How a hidden vector divides into heads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    /// Hidden size / heads.
    pub(super) size: usize,
}

impl Run<'_> {
    /// First phase: Q, K and V of all tokens, to where [`Run::split`] says.
    pub(super) fn project(
        &self,
        states: &[Column],
        work: &mut [Column],
        offload: Option<&mut Offload<'_>>,
    ) -> Result<()> {
        let (hidden, part) = (self.hidden(), self.part_tiles());
        let matrix = self.layer.matrix(MatrixKind::Qkv);
        let states = states.get(..self.tiles() * hidden).ok_or(self.too_small())?;
        if self.plan.block == 1 {
            return self.project_in_place(states, work, offload);
        }
        let Split { queries, keys_values, scratch } = self.split(work)?;
        let parts = states
            .chunks(columns(part, hidden))
            .zip(queries.chunks_mut(columns(part, hidden)))
            .zip(keys_values.chunks_mut(columns(part, 2 * hidden)))
            .zip(scratch.chunks_mut(self.plan.attention.max(1)))
            .enumerate();
        each(parts, offload, &|(number, (((x, queries), keys_values), scratch)), mut offload| {
            let linear_plan = &self.plan.attention_linear;
            let (mut scratch, rest) = linear_plan.cut(scratch).ok_or(self.too_small())?;
            let high = self.plan.block;
            let blocks = x
                .chunks(columns(high, hidden))
                .zip(queries.chunks_mut(columns(high, hidden)))
                .zip(keys_values.chunks_mut(columns(high, 2 * hidden)));
            for (block, ((x, queries), keys_values)) in blocks.enumerate() {
                let tokens = self.block_tokens(number * part + block * high);
                let qkv = rest.get_mut(..3 * x.len()).ok_or(self.too_small())?;
                let input = Input { columns: x, stride: hidden, tokens };
                let offload = offload.as_deref_mut();
                linear(self.backend, matrix, &mut scratch, input, None, qkv, offload)?;
                // All threads will read K and V, and none but this one Q.
                let tiles = queries.chunks_exact_mut(columns(1, hidden));
                let tiles = tiles.zip(keys_values.chunks_exact_mut(columns(2, hidden)));
                for (qkv, (q, kv)) in qkv.chunks_exact(columns(3, hidden)).zip(tiles) {
                    let (from_q, from_kv) = qkv.split_at_checked(hidden).ok_or(self.too_small())?;
                    copy(q, from_q);
                    copy(kv, from_kv);
                }
            }
            Ok(())
        })
    }

    /// The same a tile at a time, from the last to the first, without a buffer for all three: Q, K
    /// and V are written to the end of the scratch and the first tile's keys and values, which
    /// follow it and are the last to be filled, and then moved to where they belong.
    fn project_in_place(
        &self,
        states: &[Column],
        work: &mut [Column],
        mut offload: Option<&mut Offload<'_>>,
    ) -> Result<()> {
        let hidden = self.hidden();
        let matrix = self.layer.matrix(MatrixKind::Qkv);
        let (queries, rest) = work.split_at_mut_checked(states.len()).ok_or(self.too_small())?;
        let (mut scratch, rest) = self.plan.attention_linear.cut(rest).ok_or(self.too_small())?;
        let place = rest.len().checked_sub(2 * states.len() + hidden);
        let place = place.and_then(|at| rest.get_mut(at..)).ok_or(self.too_small())?;
        let tiles = states.chunks(columns(1, hidden)).zip(queries.chunks_mut(columns(1, hidden)));
        for (tile, (x, query)) in tiles.enumerate().rev() {
            let tokens = self.block_tokens(tile);
            let qkv = place.get_mut(..3 * hidden).ok_or(self.too_small())?;
            let input = Input { columns: x, stride: hidden, tokens };
            let offload = offload.as_deref_mut();
            linear(self.backend, matrix, &mut scratch, input, None, qkv, offload)?;
            let (q, keys_values) = place.split_at_mut_checked(hidden).ok_or(self.too_small())?;
            query.iter_mut().zip(q).for_each(|(to, from)| *to = *from);
            let (first, others) =
                keys_values.split_at_mut_checked(2 * hidden).ok_or(self.too_small())?;
            if tile > 0 {
                let to = others.chunks_mut(columns(2, hidden)).nth(tile - 1);
                let to = to.ok_or(self.too_small())?;
                to.iter_mut().zip(first).for_each(|(to, from)| *to = *from);
            }
        }
        Ok(())
    }

    /// Second phase: attention, its output matrix, residual and LayerNorm.
    pub(super) fn attend(
        &self,
        texts: &[&[u32]],
        states: &mut [Column],
        work: &mut [Column],
        offload: Option<&mut Offload<'_>>,
    ) -> Result<()> {
        let (hidden, part) = (self.hidden(), self.part_tiles());
        let heads = self.arch.heads as usize;
        let shape = Heads { hidden, heads, size: hidden / heads.max(1) };
        let in_i8 = self.layer.matrix(MatrixKind::Qkv).weights().is_integer();
        let matrix = self.layer.matrix(MatrixKind::AttentionOutput);
        let norm = self.norm(self.layer.attention_gamma, self.layer.attention_beta);
        let states = states.get_mut(..self.tiles() * hidden).ok_or(self.too_small())?;
        let Split { queries, keys_values, scratch } = self.split(work)?;
        let keys_values = &*keys_values;
        let parts = states
            .chunks_mut(columns(part, hidden))
            .zip(queries.chunks_mut(columns(part, hidden)))
            .zip(scratch.chunks_mut(self.plan.attention.max(1)))
            .enumerate();
        each(parts, offload, &|(number, ((x, queries), scratch)), mut offload| {
            let linear_plan = &self.plan.attention_linear;
            let (mut scratch, rest) = linear_plan.cut(scratch).ok_or(self.too_small())?;
            let tile = number * part;
            let end = (tile + queries.len() / hidden.max(1)) * TILE_TOKENS;
            let mut first = 0;
            for text in texts {
                let (queries, work) = (&mut *queries, &mut *rest);
                let tokens = (first, text.len());
                first += text.len();
                if first <= tile * TILE_TOKENS || tokens.0 >= end {
                    continue;
                }
                if in_i8 {
                    let equalize = matrix.equalize();
                    let attention =
                        Attention8 { queries, tile, keys_values, work, shape, equalize };
                    attention.run(self.backend, tokens)?;
                } else {
                    let attention = Attention { queries, tile, keys_values, work, shape };
                    attention.run(self.backend, tokens)?;
                }
            }
            let high = self.plan.block;
            let block = columns(high, hidden);
            let blocks = x.chunks_mut(block).zip(queries.chunks(block));
            for (block, (x, context)) in blocks.enumerate() {
                let tokens = self.block_tokens(tile + block * high);
                let out = rest.get_mut(..x.len()).ok_or(self.too_small())?;
                let input = Input { columns: context, stride: hidden, tokens };
                let offload = offload.as_deref_mut();
                linear(self.backend, matrix, &mut scratch, input, None, out, offload)?;
                self.add_and_norm(x, out, &norm, tokens);
            }
            Ok(())
        })
    }

    /// Third phase: the feed-forward part, residual and LayerNorm.
    pub(super) fn feed_forward(
        &self,
        states: &mut [Column],
        work: &mut [Column],
        offload: Option<&mut Offload<'_>>,
    ) -> Result<()> {
        let (hidden, part) = (self.hidden(), self.part_tiles());
        let inner = self.arch.intermediate_size as usize;
        let into = self.layer.matrix(MatrixKind::FeedForwardIn);
        let out_of = self.layer.matrix(MatrixKind::FeedForwardOut);
        let activation = Some(match self.arch.activation {
            format::ACTIVATION_GELU if out_of.weights().is_integer() => Activation::GeluNear,
            format::ACTIVATION_GELU => Activation::Gelu,
            format::ACTIVATION_GELU_TANH => Activation::GeluTanh,
            _ => Activation::Relu,
        });
        let norm = self.norm(self.layer.ffn_gamma, self.layer.ffn_beta);
        let states = states.get_mut(..self.tiles() * hidden).ok_or(self.too_small())?;
        let parts = states
            .chunks_mut(columns(part, hidden))
            .zip(work.chunks_mut(self.plan.feed_forward.max(1)))
            .enumerate();
        each(parts, offload, &|(number, (x, scratch)), mut offload| {
            let linear_plan = &self.plan.feed_forward_linear;
            let (mut scratch, rest) = linear_plan.cut(scratch).ok_or(self.too_small())?;
            let high = self.plan.block;
            for (block, x) in x.chunks_mut(columns(high, hidden)).enumerate() {
                let tokens = self.block_tokens(number * part + block * high);
                let up = x.len() / hidden.max(1) * inner;
                let (up, rest) = rest.split_at_mut_checked(up).ok_or(self.too_small())?;
                let out = rest.get_mut(..x.len()).ok_or(self.too_small())?;
                let input = Input { columns: x, stride: hidden, tokens };
                let to_device = offload.as_deref_mut();
                linear(self.backend, into, &mut scratch, input, activation, up, to_device)?;
                let input = Input { columns: up, stride: inner, tokens };
                let to_device = offload.as_deref_mut();
                linear(self.backend, out_of, &mut scratch, input, None, out, to_device)?;
                self.add_and_norm(x, out, &norm, tokens);
            }
            Ok(())
        })
    }

    fn hidden(&self) -> usize {
        self.arch.hidden_size as usize
    }

    fn tiles(&self) -> usize {
        self.tokens.div_ceil(TILE_TOKENS)
    }

    /// Tiles of a part; the last may have fewer.
    fn part_tiles(&self) -> usize {
        self.tiles().div_ceil(self.plan.threads.max(1)).max(1)
    }

    /// Tokens of the block that begins at `tile`.
    fn block_tokens(&self, tile: usize) -> usize {
        let most = self.plan.block.min(self.part_tiles() - tile % self.part_tiles()) * TILE_TOKENS;
        self.tokens.saturating_sub(tile * TILE_TOKENS).min(most)
    }

    /// Where everything of attention lies: the queries, then keys and values and the scratches. If
    /// one tile at a time passes, the keys and values are at the end.
    fn split<'a>(&self, work: &'a mut [Column]) -> Result<Split<'a>> {
        let size = self.tiles() * self.hidden();
        let (queries, rest) = work.split_at_mut_checked(size).ok_or(self.too_small())?;
        let in_front = if self.plan.block == 1 { rest.len().checked_sub(2 * size) } else { None };
        let at = in_front.unwrap_or(2 * size);
        let (first, second) = rest.split_at_mut_checked(at).ok_or(self.too_small())?;
        let (keys_values, scratch) = match in_front {
            Some(_) => (second, first),
            None => (first, second),
        };
        Ok(Split { queries, keys_values, scratch })
    }

    /// What a buffer that is shorter than planned is refused with: none is, the plan being the
    /// model's own.
    fn too_small(&self) -> Error {
        Error::ArenaTooSmall { needed: self.plan.arena_bytes(), available: 0 }
    }

    fn norm<'a>(&self, gamma: &'a [f32], beta: &'a [f32]) -> Norm<'a> {
        Norm { gamma, beta, epsilon: self.arch.layer_norm_eps }
    }

    /// `x = LayerNorm(x + sublayer)` for every tile.
    fn add_and_norm(&self, x: &mut [Column], sublayer: &[Column], norm: &Norm<'_>, tokens: usize) {
        let tile = columns(1, self.hidden());
        let tiles = x.chunks_exact_mut(tile).zip(sublayer.chunks_exact(tile));
        for (tile, (x, s)) in tiles.enumerate() {
            self.backend.norm(x, s, norm, live(tokens, tile));
        }
    }
}

/// Copies columns, several at once.
fn copy(to: &mut [Column], from: &[Column]) {
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<4>(), from.as_chunks::<4>());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| *to = *from);
}

/// Columns of `tiles` tiles of `width` features, neither of which is 0. The maximum changes nothing
/// but tells the compiler so: what divides by it needs no panic.
fn columns(tiles: usize, width: usize) -> usize {
    (tiles * width).max(1)
}
