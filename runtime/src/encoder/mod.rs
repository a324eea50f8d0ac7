//! The encoder: ids in, hidden states and an embedding out, in a caller-given arena.

mod attention;
pub mod linear;

use crate::error::{Error, Result};
use crate::format::{self, Arch, MatrixKind};
use crate::kernels::{Activation, Backend};
use crate::math;
use crate::plan::{Buffers, Plan, TOKEN_TILE};
use crate::view::{Layer, Model};

use attention::Attention;
use linear::{Rows, Scratch, linear};

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
        let plan = Plan::new(model, max_tokens)?;
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
        self.forward(ids)?;
        self.pool(out)
    }

    /// Runs all layers; [`Encoder::hidden_states`] holds the result.
    ///
    /// # Errors
    /// As [`Encoder::embed`].
    pub fn forward(&mut self, ids: &[u32]) -> Result<()> {
        self.tokens = 0;
        self.embed_tokens(ids)?;
        self.tokens = ids.len();
        for i in 0..self.model.arch().layers as usize {
            let layer = self.model.layer(i)?;
            self.attention(&layer)?;
            self.feed_forward(&layer)?;
        }
        Ok(())
    }

    /// Hidden states of the last text, `[tokens][hidden_size]`.
    pub fn hidden_states(&self) -> &[f32] {
        let length = self.tokens * self.model.arch().hidden_size as usize;
        self.buffers.hidden.get(..length).unwrap_or_default()
    }

    /// Word + position + token type 0, then LayerNorm.
    fn embed_tokens(&mut self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::NoTokens);
        }
        if ids.len() > self.plan.tokens {
            return Err(Error::TooManyTokens { tokens: ids.len(), limit: self.plan.tokens });
        }
        let Arch { hidden_size, vocab_size, layer_norm_eps, .. } = *self.model.arch();
        let hidden = hidden_size as usize;
        let tables = self.model.embeddings();
        // The projection buffer is idle here; its first row holds the position vector.
        let position = self.buffers.projection.get_mut(..hidden).unwrap_or_default();
        for (t, (id, x)) in ids.iter().zip(self.buffers.hidden.chunks_exact_mut(hidden)).enumerate()
        {
            if *id >= vocab_size || !tables.word.read_row(*id as usize, x) {
                return Err(Error::TokenOutOfRange { id: *id, vocab_size });
            }
            if !tables.position.read_row(t, position) {
                return Err(Error::TooManyTokens { tokens: ids.len(), limit: self.plan.tokens });
            }
            for ((x, p), s) in x.iter_mut().zip(position.iter()).zip(tables.token_type) {
                *x = (*x + p) + s;
            }
            self.backend.layer_norm(x, tables.gamma, tables.beta, layer_norm_eps);
        }
        Ok(())
    }

    fn attention(&mut self, layer: &Layer<'_>) -> Result<()> {
        let arch = self.model.arch();
        let hidden = arch.hidden_size as usize;
        let heads = arch.heads as usize;
        let size = hidden / heads;
        let Buffers { hidden: states, work, projection, panel_f32, rows, panel_i8 } =
            &mut self.buffers;
        let Plan { depth_i8, depth_f32, .. } = self.plan;
        let mut scratch = Scratch { rows, panel_i8, panel_f32, depth_i8, depth_f32 };
        let too_small = Error::ArenaTooSmall { needed: self.plan.work, available: work.len() };

        let (qkv, rest) = work.split_at_mut_checked(self.tokens * 3 * hidden).ok_or(too_small)?;
        let (keys, rest) = rest.split_at_mut_checked(size * self.tokens).ok_or(too_small)?;
        let (scores, rest) = rest.split_at_mut_checked(self.tokens).ok_or(too_small)?;
        let context = rest.get_mut(..size).ok_or(too_small)?;

        let states = states.get_mut(..self.tokens * hidden).ok_or(too_small)?;
        let matrix = layer.matrix(MatrixKind::Qkv);
        let tiles = states.chunks(TOKEN_TILE * hidden).zip(qkv.chunks_mut(TOKEN_TILE * 3 * hidden));
        for (x, out) in tiles {
            let input = Rows { data: x, stride: hidden, width: hidden };
            linear(self.backend, matrix, &mut scratch, input, out)?;
        }
        let factor = 1.0 / math::sqrt(size as f32);
        Attention { qkv, keys, scores, context, hidden, heads, factor }.run(self.backend);

        let matrix = layer.matrix(MatrixKind::AttentionOutput);
        let tiles = states.chunks_mut(TOKEN_TILE * hidden).zip(qkv.chunks(TOKEN_TILE * 3 * hidden));
        for (x, context) in tiles {
            let out = projection.get_mut(..x.len()).ok_or(too_small)?;
            let input = Rows { data: context, stride: 3 * hidden, width: hidden };
            linear(self.backend, matrix, &mut scratch, input, out)?;
            let norm = (layer.attention_gamma, layer.attention_beta, arch.layer_norm_eps);
            add_and_norm(self.backend, x, out, hidden, norm);
        }
        Ok(())
    }

    fn feed_forward(&mut self, layer: &Layer<'_>) -> Result<()> {
        let arch = self.model.arch();
        let hidden = arch.hidden_size as usize;
        let inner = arch.intermediate_size as usize;
        let activation = match arch.activation {
            format::ACTIVATION_GELU => Activation::Gelu,
            format::ACTIVATION_GELU_TANH => Activation::GeluTanh,
            _ => Activation::Relu,
        };
        let Buffers { hidden: states, work, projection, panel_f32, rows, panel_i8 } =
            &mut self.buffers;
        let Plan { depth_i8, depth_f32, .. } = self.plan;
        let mut scratch = Scratch { rows, panel_i8, panel_f32, depth_i8, depth_f32 };
        let too_small = Error::ArenaTooSmall { needed: self.plan.work, available: work.len() };

        let states = states.get_mut(..self.tokens * hidden).ok_or(too_small)?;
        for x in states.chunks_mut(TOKEN_TILE * hidden) {
            let tokens = x.len() / hidden;
            let up = work.get_mut(..tokens * inner).ok_or(too_small)?;
            let input = Rows { data: x, stride: hidden, width: hidden };
            linear(self.backend, layer.matrix(MatrixKind::FeedForwardIn), &mut scratch, input, up)?;
            self.backend.activate(up, activation);
            let out = projection.get_mut(..x.len()).ok_or(too_small)?;
            let input = Rows { data: up, stride: inner, width: inner };
            linear(
                self.backend,
                layer.matrix(MatrixKind::FeedForwardOut),
                &mut scratch,
                input,
                out,
            )?;
            let norm = (layer.ffn_gamma, layer.ffn_beta, arch.layer_norm_eps);
            add_and_norm(self.backend, x, out, hidden, norm);
        }
        Ok(())
    }

    /// Pools the last text's hidden states.
    fn pool(&self, out: &mut [f32]) -> Result<()> {
        let arch = self.model.arch();
        let hidden = arch.hidden_size as usize;
        if out.len() != hidden {
            return Err(Error::OutputLength { needed: hidden, available: out.len() });
        }
        out.fill(0.0);
        let pooled = if arch.pooling == format::POOLING_CLS { 1 } else { self.tokens };
        for row in self.hidden_states().chunks_exact(hidden).take(pooled) {
            out.iter_mut().zip(row).for_each(|(o, v)| *o += v);
        }
        out.iter_mut().for_each(|o| *o /= pooled as f32);
        if arch.normalize == 1 {
            let norm = math::sqrt(self.backend.sum_of_squares(out));
            let norm = if norm > 1e-12 { norm } else { 1e-12 };
            out.iter_mut().for_each(|o| *o /= norm);
        }
        if out.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(Error::NotFinite) }
    }
}

/// `x = LayerNorm(x + sublayer)` for every token.
fn add_and_norm(
    backend: &dyn Backend,
    x: &mut [f32],
    sublayer: &[f32],
    hidden: usize,
    (gamma, beta, eps): (&[f32], &[f32], f32),
) {
    for (x, s) in x.chunks_exact_mut(hidden).zip(sublayer.chunks_exact(hidden)) {
        x.iter_mut().zip(s).for_each(|(x, s)| *x += s);
        backend.layer_norm(x, gamma, beta, eps);
    }
}
