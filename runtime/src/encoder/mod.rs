//! The encoder: ids in, hidden states and an embedding out, in a caller-given arena.

mod attention;
mod attention8;
pub mod linear;

use crate::error::{Error, Result};
use crate::format::{self, Arch, DataType, MatrixKind};
use crate::kernels::scalar::{live, sum};
use crate::kernels::{Activation, Backend, Column, Norm, TILE_TOKENS};
use crate::math;
use crate::plan::{BLOCK_TILES, Buffers, Plan};
use crate::view::{Layer, Model};

use attention::Attention;
use attention8::Attention8;
use linear::{Input, Scratch, linear};

/// A model ready to run: its weights in place, its buffers in the arena.
pub struct Encoder<'m, 'a> {
    model: Model<'m>,
    backend: &'static dyn Backend,
    plan: Plan,
    buffers: Buffers<'a>,
    tokens: usize,
}

impl core::fmt::Debug for Encoder<'_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Encoder")
            .field("backend", &self.backend.name())
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl<'m, 'a> Encoder<'m, 'a> {
    /// Prepares to run texts of up to `max_tokens` tokens in `arena`, which must hold
    /// [`Plan::arena_bytes`] and start at a multiple of four bytes.
    ///
    /// # Errors
    /// [`Error::ArenaTooSmall`], [`Error::TooManyTokens`], [`Error::Misaligned`].
    pub fn new(
        model: &Model<'m>,
        backend: &'static dyn Backend,
        arena: &'a mut [u8],
        max_tokens: usize,
    ) -> Result<Self> {
        Self::with_plan(model, backend, arena, Plan::new(model, max_tokens)?)
    }

    /// Prepares to run batches of up to `tokens` tokens in all; see [`Encoder::embed_batch`].
    ///
    /// # Errors
    /// [`Error::ArenaTooSmall`], [`Error::Misaligned`].
    pub fn for_batch(
        model: &Model<'m>,
        backend: &'static dyn Backend,
        arena: &'a mut [u8],
        tokens: usize,
    ) -> Result<Self> {
        Self::with_plan(model, backend, arena, Plan::for_batch(model, tokens)?)
    }

    fn with_plan(
        model: &Model<'m>,
        backend: &'static dyn Backend,
        arena: &'a mut [u8],
        plan: Plan,
    ) -> Result<Self> {
        let buffers = plan.carve(arena)?;
        Ok(Self { model: *model, backend, plan, buffers, tokens: 0 })
    }

    /// The memory plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The backend.
    pub fn backend(&self) -> &'static dyn Backend {
        self.backend
    }

    /// Runs the encoder and writes the pooled (and, if the model says so, L2-normalised)
    /// embedding, `[hidden_size]`.
    ///
    /// # Errors
    /// [`Error::NoTokens`], [`Error::TooManyTokens`], [`Error::TokenOutOfRange`],
    /// [`Error::OutputLength`], [`Error::NotFinite`].
    pub fn embed(&mut self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        self.embed_batch(&[ids], out)
    }

    /// Embeds several texts in one pass, `[texts][hidden_size]`.
    ///
    /// The texts lie one after the other in the tiles, whatever their lengths: none is padded, and
    /// each has the bits that it has alone. Their tokens together may be as many as the plan's
    /// ([`Plan::for_batch`]), each text's as many as the model's.
    ///
    /// # Errors
    /// As [`Encoder::embed`].
    pub fn embed_batch(&mut self, texts: &[&[u32]], out: &mut [f32]) -> Result<()> {
        let hidden = self.model.arch().hidden_size as usize;
        if out.len() != texts.len() * hidden {
            let needed = texts.len() * hidden;
            return Err(Error::OutputLength { needed, available: out.len() });
        }
        self.forward(texts)?;
        let mut first = 0;
        for (text, out) in texts.iter().zip(out.chunks_exact_mut(hidden)) {
            self.pool(first, text.len(), out)?;
            first += text.len();
        }
        Ok(())
    }

    /// Runs all layers; [`Encoder::hidden_state`] gives the result.
    ///
    /// # Errors
    /// As [`Encoder::embed`].
    pub fn forward(&mut self, texts: &[&[u32]]) -> Result<()> {
        self.tokens = 0;
        self.embed_tokens(texts)?;
        self.tokens = texts.iter().map(|text| text.len()).sum();
        for i in 0..self.model.arch().layers as usize {
            let layer = self.model.layer(i)?;
            self.attention(&layer, texts)?;
            self.feed_forward(&layer)?;
        }
        Ok(())
    }

    /// The last hidden state of token `token` of the last call, texts one after the other.
    pub fn hidden_state(&self, token: usize) -> impl Iterator<Item = f32> {
        let hidden = self.model.arch().hidden_size as usize;
        let there = if token < self.tokens { hidden } else { 0 };
        let tile = self.buffers.hidden.get(token / TILE_TOKENS * hidden..).unwrap_or_default();
        tile.iter().take(there).map(move |column| column[token % TILE_TOKENS])
    }

    /// Word + position + token type 0, then LayerNorm.
    fn embed_tokens(&mut self, texts: &[&[u32]]) -> Result<()> {
        let Arch { hidden_size, vocab_size, layer_norm_eps, max_tokens, .. } = *self.model.arch();
        let limit = self.plan.tokens.min(max_tokens as usize);
        if texts.is_empty() || texts.iter().any(|text| text.is_empty()) {
            return Err(Error::NoTokens);
        }
        if let Some(text) = texts.iter().find(|text| text.len() > limit) {
            return Err(Error::TooManyTokens { tokens: text.len(), limit });
        }
        let tokens = texts.iter().map(|text| text.len()).sum();
        if tokens > self.plan.tokens {
            return Err(Error::TooManyTokens { tokens, limit: self.plan.tokens });
        }
        let hidden = hidden_size as usize;
        let tables = self.model.embeddings();
        let Buffers { hidden: states, projection, .. } = &mut self.buffers;
        // The projection buffer is idle here; it holds a word and a position vector.
        let (word, rest) = projection.as_flattened_mut().split_at_mut(hidden);
        let position = rest.get_mut(..hidden).unwrap_or_default();
        let all = texts.iter().flat_map(|text| text.iter().enumerate());
        for (token, (place, id)) in all.enumerate() {
            if *id >= vocab_size || !tables.word.read_row(*id as usize, word) {
                return Err(Error::TokenOutOfRange { id: *id, vocab_size });
            }
            if !tables.position.read_row(place, position) {
                return Err(Error::TooManyTokens { tokens: place + 1, limit });
            }
            let (tile, lane) = (token / TILE_TOKENS, token % TILE_TOKENS);
            let columns = states.get_mut(tile * hidden..).unwrap_or_default();
            let sums = word.iter().zip(position.iter()).zip(tables.token_type);
            for (column, ((w, p), s)) in columns.iter_mut().zip(sums) {
                column[lane] = (w + p) + s;
            }
        }
        let norm = Norm { gamma: tables.gamma, beta: tables.beta, epsilon: layer_norm_eps };
        for (tile, x) in states.chunks_exact_mut(hidden).enumerate() {
            let live = live(tokens, tile);
            if live == 0 {
                break;
            }
            // Lanes that no token fills are worked on all the same: clear what an earlier text
            // left there.
            x.iter_mut().for_each(|column| column[live..].fill(0.0));
            self.backend.norm(x, &[], &norm, live);
        }
        Ok(())
    }

    fn attention(&mut self, layer: &Layer<'_>, texts: &[&[u32]]) -> Result<()> {
        let arch = self.model.arch();
        let hidden = arch.hidden_size as usize;
        let heads = arch.heads as usize;
        let size = hidden / heads;
        let Buffers { hidden: states, work, projection, columns, panels } = &mut self.buffers;
        let mut scratch = Scratch { panels, capacity: self.plan.capacity, columns };
        let too_small = Error::ArenaTooSmall { needed: self.plan.work, available: work.len() };

        let tiles = self.tokens.div_ceil(TILE_TOKENS);
        let (qkv, rest) = work.split_at_mut_checked(tiles * 3 * hidden).ok_or(too_small)?;
        let states = states.get_mut(..tiles * hidden).ok_or(too_small)?;
        let matrix = layer.matrix(MatrixKind::Qkv);
        let blocks = states
            .chunks(BLOCK_TILES * hidden)
            .zip(qkv.chunks_mut(BLOCK_TILES * 3 * hidden))
            .enumerate();
        for (block, (x, out)) in blocks {
            let tokens = block_tokens(self.tokens, block);
            let input = Input { columns: x, stride: hidden, tokens };
            linear(self.backend, matrix, &mut scratch, input, None, out)?;
        }
        let shape = Heads { hidden, heads, size };
        let mut first = 0;
        for text in texts {
            let text_tokens = (first, text.len());
            if matrix.weights() == DataType::I8 {
                Attention8 { qkv, work: rest, shape }.run(self.backend, text_tokens)?;
            } else {
                Attention { qkv, work: rest, shape }.run(self.backend, text_tokens)?;
            }
            first += text.len();
        }

        let matrix = layer.matrix(MatrixKind::AttentionOutput);
        let norm = Norm {
            gamma: layer.attention_gamma,
            beta: layer.attention_beta,
            epsilon: arch.layer_norm_eps,
        };
        let blocks = states
            .chunks_mut(BLOCK_TILES * hidden)
            .zip(qkv.chunks(BLOCK_TILES * 3 * hidden))
            .enumerate();
        for (block, (x, context)) in blocks {
            let tokens = block_tokens(self.tokens, block);
            let out = projection.get_mut(..x.len()).ok_or(too_small)?;
            let input = Input { columns: context, stride: 3 * hidden, tokens };
            linear(self.backend, matrix, &mut scratch, input, None, out)?;
            add_and_norm(self.backend, x, out, hidden, &norm, tokens);
        }
        Ok(())
    }

    fn feed_forward(&mut self, layer: &Layer<'_>) -> Result<()> {
        let arch = self.model.arch();
        let hidden = arch.hidden_size as usize;
        let inner = arch.intermediate_size as usize;
        let out_weights = layer.matrix(MatrixKind::FeedForwardOut).weights();
        let activation = Some(match arch.activation {
            format::ACTIVATION_GELU if out_weights == DataType::I8 => Activation::GeluNear,
            format::ACTIVATION_GELU => Activation::Gelu,
            format::ACTIVATION_GELU_TANH => Activation::GeluTanh,
            _ => Activation::Relu,
        });
        let Buffers { hidden: states, work, projection, columns, panels } = &mut self.buffers;
        let mut scratch = Scratch { panels, capacity: self.plan.capacity, columns };
        let too_small = Error::ArenaTooSmall { needed: self.plan.work, available: work.len() };
        let norm =
            Norm { gamma: layer.ffn_gamma, beta: layer.ffn_beta, epsilon: arch.layer_norm_eps };

        let tiles = self.tokens.div_ceil(TILE_TOKENS);
        let states = states.get_mut(..tiles * hidden).ok_or(too_small)?;
        for (block, x) in states.chunks_mut(BLOCK_TILES * hidden).enumerate() {
            let tokens = block_tokens(self.tokens, block);
            let up = work.get_mut(..x.len() / hidden * inner).ok_or(too_small)?;
            let input = Input { columns: x, stride: hidden, tokens };
            let matrix = layer.matrix(MatrixKind::FeedForwardIn);
            linear(self.backend, matrix, &mut scratch, input, activation, up)?;
            let out = projection.get_mut(..x.len()).ok_or(too_small)?;
            let input = Input { columns: up, stride: inner, tokens };
            let matrix = layer.matrix(MatrixKind::FeedForwardOut);
            linear(self.backend, matrix, &mut scratch, input, None, out)?;
            add_and_norm(self.backend, x, out, hidden, &norm, tokens);
        }
        Ok(())
    }

    /// Pools the hidden states of the text of `count` tokens from token `first`.
    fn pool(&self, first: usize, count: usize, out: &mut [f32]) -> Result<()> {
        let arch = self.model.arch();
        let hidden = arch.hidden_size as usize;
        let pooled = if arch.pooling == format::POOLING_CLS { 1 } else { count };
        for (k, o) in out.iter_mut().enumerate() {
            let mut lanes = [0.0; TILE_TOKENS];
            let mut token = first;
            while token < first + pooled {
                let start = token % TILE_TOKENS;
                let count = (TILE_TOKENS - start).min(first + pooled - token);
                let at = token / TILE_TOKENS * hidden + k;
                let Some(column) = self.buffers.hidden.get(at) else { break };
                // A text that begins on a tile has its tokens in the lanes of the sum.
                if start == 0 && (token - first).is_multiple_of(TILE_TOKENS) {
                    lanes.iter_mut().zip(column).take(count).for_each(|(l, v)| *l += v);
                } else {
                    for (i, v) in column.iter().skip(start).take(count).enumerate() {
                        lanes[(token - first + i) % TILE_TOKENS] += v;
                    }
                }
                token += count;
            }
            *o = math::fold(lanes) / pooled as f32;
        }
        if arch.normalize == 1 {
            let norm = math::sqrt(sum(out.iter().map(|v| v * v)));
            let norm = if norm > 1e-12 { norm } else { 1e-12 };
            out.iter_mut().for_each(|o| *o /= norm);
        }
        if out.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(Error::NotFinite) }
    }
}

/// How a hidden vector divides into heads.
#[derive(Debug, Clone, Copy)]
struct Heads {
    hidden: usize,
    heads: usize,
    /// Hidden size / heads.
    size: usize,
}

/// Tokens of block `block` when there are `tokens` in all.
fn block_tokens(tokens: usize, block: usize) -> usize {
    const MOST: usize = BLOCK_TILES * TILE_TOKENS;
    tokens.saturating_sub(block * MOST).min(MOST)
}

/// `x = LayerNorm(x + sublayer)` for every tile.
fn add_and_norm(
    backend: &dyn Backend,
    x: &mut [Column],
    sublayer: &[Column],
    hidden: usize,
    norm: &Norm<'_>,
    tokens: usize,
) {
    let tiles = x.chunks_exact_mut(hidden).zip(sublayer.chunks_exact(hidden));
    for (tile, (x, s)) in tiles.enumerate() {
        backend.norm(x, s, norm, live(tokens, tile));
    }
}
