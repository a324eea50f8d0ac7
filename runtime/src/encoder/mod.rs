//! The encoder: ids in, hidden states and an embedding out, in a caller-given arena.

mod attention;
mod attention8;
mod layer;
pub mod linear;
mod offload;
mod parts;

use crate::error::{Error, Result};
use crate::format::{self, Arch};
use crate::kernels::scalar::{live, sum};
use crate::kernels::{Backend, Norm, TILE_TOKENS};
use crate::math;
use crate::plan::{Buffers, Plan};
use crate::view::Model;

use layer::Run;

pub use offload::Offload;

/// A model ready to run: its weights in place, its buffers in the arena.
pub struct Encoder<'m, 'a> {
    model: Model<'m>,
    backend: &'static dyn Backend,
    plan: Plan,
    buffers: Buffers<'a>,
    tokens: usize,
    clock: Option<fn() -> u64>,
    stages: Stages,
}

/// Ticks that the stages of the last call took, by [`Encoder::with_clock`]'s clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stages {
    /// Looking up words and positions, and their LayerNorm.
    pub embed: u64,
    /// All layers' Q, K and V, attention, its output and LayerNorm.
    pub attention: u64,
    /// All layers' feed-forward parts and LayerNorms.
    pub feed_forward: u64,
    /// Pooling and normalisation.
    pub pool: u64,
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
    /// Prepares to run texts of up to `max_tokens` tokens in `arena`, which must hold what
    /// [`Plan::compact`] takes and start at a multiple of four bytes; the plan is
    /// [`Plan::fitting`].
    ///
    /// # Errors
    /// [`Error::ArenaTooSmall`], [`Error::TooManyTokens`], [`Error::Misaligned`].
    pub fn new(
        model: &Model<'m>,
        backend: &'static dyn Backend,
        arena: &'a mut [u8],
        max_tokens: usize,
    ) -> Result<Self> {
        let plan = Plan::fitting(model, max_tokens, arena.len())?;
        Self::with_plan(model, backend, arena, plan)
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

    /// Prepares to run as `plan` says: on several threads, say, by [`Plan::with_threads`].
    ///
    /// With the feature `std` the threads are those of the rayon pool that the call runs in, and
    /// the calling thread if it is one of them; without it the parts of a call follow one another.
    ///
    /// # Errors
    /// [`Error::ArenaTooSmall`], [`Error::Misaligned`].
    pub fn with_plan(
        model: &Model<'m>,
        backend: &'static dyn Backend,
        arena: &'a mut [u8],
        plan: Plan,
    ) -> Result<Self> {
        // Sizes of this model, whichever the plan was made for.
        let plan = plan.remade(model)?;
        let buffers = plan.carve(arena)?;
        let (clock, stages) = (None, Stages::default());
        Ok(Self { model: *model, backend, plan, buffers, tokens: 0, clock, stages })
    }

    /// The same with its stages timed by `clock`, whose ticks [`Encoder::stages`] counts.
    #[must_use]
    pub fn with_clock(self, clock: fn() -> u64) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// What the stages of the last call took; zeros without a clock.
    pub fn stages(&self) -> Stages {
        self.stages
    }

    fn now(&self) -> u64 {
        self.clock.map_or(0, |clock| clock())
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
        self.embed_with(texts, out, None)
    }

    /// As [`Encoder::embed_batch`], with the products of int8 groups by way of an accelerator. The
    /// bits are the same, whatever the device does; [`Offload::report`] says what it did.
    ///
    /// There is one device: the parts of a call follow one another, on one thread.
    ///
    /// # Errors
    /// As [`Encoder::embed`]; a fault of the device is none.
    pub fn embed_offloaded(
        &mut self,
        texts: &[&[u32]],
        out: &mut [f32],
        offload: &mut Offload<'_>,
    ) -> Result<()> {
        self.embed_with(texts, out, Some(offload))
    }

    fn embed_with(
        &mut self,
        texts: &[&[u32]],
        out: &mut [f32],
        offload: Option<&mut Offload<'_>>,
    ) -> Result<()> {
        let hidden = self.model.arch().hidden_size as usize;
        if out.len() != texts.len() * hidden {
            let needed = texts.len() * hidden;
            return Err(Error::OutputLength { needed, available: out.len() });
        }
        self.forward_with(texts, offload)?;
        let mut first = 0;
        let start = self.now();
        for (text, out) in texts.iter().zip(out.chunks_exact_mut(hidden.max(1))) {
            self.pool(first, text.len(), out)?;
            first += text.len();
        }
        self.stages.pool = self.now().wrapping_sub(start);
        Ok(())
    }

    /// Runs all layers; [`Encoder::hidden_state`] gives the result.
    ///
    /// # Errors
    /// As [`Encoder::embed`].
    pub fn forward(&mut self, texts: &[&[u32]]) -> Result<()> {
        self.forward_with(texts, None)
    }

    fn forward_with(
        &mut self,
        texts: &[&[u32]],
        mut offload: Option<&mut Offload<'_>>,
    ) -> Result<()> {
        self.tokens = 0;
        let mut stages = Stages::default();
        let mut before = self.now();
        let clock = self.clock;
        let mut lap = |stage: &mut u64| {
            let Some(clock) = clock else { return };
            let now = clock();
            *stage = stage.wrapping_add(now.wrapping_sub(before));
            before = now;
        };
        self.embed_tokens(texts)?;
        lap(&mut stages.embed);
        self.tokens = texts.iter().map(|text| text.len()).sum();
        for i in 0..self.model.arch().layers as usize {
            let layer = self.model.layer(i)?;
            let (arch, plan) = (self.model.arch(), &self.plan);
            let run = Run { backend: self.backend, layer, arch, plan, tokens: self.tokens };
            let Buffers { hidden, work } = &mut self.buffers;
            run.project(hidden, work, offload.as_deref_mut())?;
            run.attend(texts, hidden, work, offload.as_deref_mut())?;
            lap(&mut stages.attention);
            run.feed_forward(hidden, work, offload.as_deref_mut())?;
            lap(&mut stages.feed_forward);
        }
        self.stages = stages;
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
        let Buffers { hidden: states, work } = &mut self.buffers;
        // The buffers of the layers are idle here; they hold a word and a position vector.
        let too_small = Error::ArenaTooSmall { needed: 2 * hidden, available: work.len() };
        let work = work.as_flattened_mut();
        let (word, rest) = work.split_at_mut_checked(hidden).ok_or(too_small)?;
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
        for (tile, x) in states.chunks_exact_mut(hidden.max(1)).enumerate() {
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
