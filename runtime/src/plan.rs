//! The memory plan: how many arena bytes a model needs for a given number of tokens, and where
//! each buffer lies.

use crate::encoder::linear::Scratch;
use crate::error::{Error, Result};
use crate::format::{DataType, MatrixKind, TILE_DEPTH, round_up};
use crate::kernels::{Column, PANEL_BYTES, TILE_TOKENS, int4};
use crate::view::Model;

/// Tiles of 16 tokens that pass through a matrix at a time where there is memory: the height of the
/// projection and feed-forward buffers. Each weight is read once per this many tiles.
pub const BLOCK_TILES: usize = 2;

/// Sizes of the encoder's buffers and of the arena.
///
/// Buffers of activations are counted in columns of 16 tokens ([`Column`]). The arena holds the
/// residual stream and `work`, which is divided anew for each phase of a layer. The results have
/// the same bits whatever the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Plan {
    /// Most tokens of one call.
    pub tokens: usize,
    /// Parts that a call's tiles are divided into, each with a scratch of its own. With the
    /// feature `std` they run on as many threads; at most one for a tile.
    pub threads: usize,
    /// Tiles that pass through a matrix at a time: [`BLOCK_TILES`], or 1 to save memory.
    pub block: usize,
    /// Columns `[tiles][hidden]`: the residual stream.
    pub hidden: usize,
    /// Columns: either queries, keys and values `[tiles][3 × hidden]` and a scratch of
    /// [`Plan::attention`] for each thread, or one of [`Plan::feed_forward`].
    pub work: usize,
    /// Columns of a thread's scratch in attention: [`Plan::attention_linear`], and then Q, K and V
    /// of a block `[block][3 × hidden]` (of one tile, Q alone: K and V lie where they stay), or
    /// one head's buffers, or a block's output `[block][hidden]`.
    pub attention: usize,
    /// Columns of a thread's scratch in the feed-forward part: [`Plan::feed_forward_linear`], and a
    /// block's intermediate `[block][intermediate]` and output `[block][hidden]`.
    pub feed_forward: usize,
    /// What the matrices of attention need.
    pub attention_linear: LinearPlan,
    /// What the matrices of the feed-forward part need.
    pub feed_forward_linear: LinearPlan,
}

/// Sizes of the buffers of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LinearPlan {
    /// Bytes `[block][deepest int8 or int4 group][32]`: a group's quantized inputs.
    pub panels: usize,
    /// Columns `[block][deepest float group]`: the same for float weights.
    pub columns: usize,
    /// Inputs of the deepest int8 or int4 group, rounded up to 16.
    pub capacity: usize,
    /// Bytes `[int4::ROWS][deepest int4 group]`: rows of an int4 group as int8.
    pub unpacked: usize,
}

impl LinearPlan {
    /// What `kinds` need in all layers of `model`, `block` tiles at a time.
    fn new(model: &Model<'_>, kinds: [MatrixKind; 2], block: usize) -> Result<Self> {
        let mut this = Self::default();
        for i in 0..model.arch().layers as usize {
            let layer = model.layer(i)?;
            for kind in kinds {
                let matrix = layer.matrix(kind);
                for group in matrix.groups() {
                    let group = group?.depth();
                    let padded = round_up(group, TILE_DEPTH);
                    match matrix.weights() {
                        DataType::I8 => this.capacity = this.capacity.max(padded),
                        DataType::I4 | DataType::I2 => {
                            this.capacity = this.capacity.max(padded);
                            this.unpacked = this.unpacked.max(int4::ROWS * padded);
                        }
                        DataType::F16 | DataType::F32 => {
                            this.columns = this.columns.max(block * group);
                        }
                    }
                }
            }
        }
        Ok(Self { panels: block * this.capacity * PANEL_BYTES, ..this })
    }

    /// The larger of each.
    fn max(self, other: Self) -> Self {
        Self {
            panels: self.panels.max(other.panels),
            columns: self.columns.max(other.columns),
            capacity: self.capacity.max(other.capacity),
            unpacked: self.unpacked.max(other.unpacked),
        }
    }

    /// Columns of all.
    fn size(&self) -> usize {
        let bytes = [self.panels, self.unpacked].map(|b| b.div_ceil(size_of::<Column>()));
        bytes.iter().sum::<usize>() + self.columns
    }

    /// Cuts a thread's scratch into the buffers of a linear layer and what follows them.
    pub(crate) fn cut<'a>(
        &self,
        scratch: &'a mut [Column],
    ) -> Option<(Scratch<'a>, &'a mut [Column])> {
        let panels = self.panels.div_ceil(size_of::<Column>());
        let (panels, rest) = scratch.split_at_mut_checked(panels)?;
        let (columns, rest) = rest.split_at_mut_checked(self.columns)?;
        let unpacked = self.unpacked.div_ceil(size_of::<Column>());
        let (unpacked, rest) = rest.split_at_mut_checked(unpacked)?;
        let panels = bytemuck::must_cast_slice_mut(panels.as_flattened_mut());
        let unpacked = bytemuck::must_cast_slice_mut(unpacked.as_flattened_mut());
        Some((Scratch { panels, capacity: self.capacity, columns, unpacked }, rest))
    }
}

impl Plan {
    /// The plan for texts of up to `tokens` tokens in one call.
    ///
    /// # Errors
    /// [`Error::TooManyTokens`] when the model's position table is shorter.
    pub fn new(model: &Model<'_>, tokens: usize) -> Result<Self> {
        let limit = model.arch().max_tokens as usize;
        if tokens > limit {
            return Err(Error::TooManyTokens { tokens, limit });
        }
        Self::for_batch(model, tokens)
    }

    /// As [`Plan::new`], with as little memory as can be: one tile at a time passes through a
    /// matrix, so each weight is read once for every 16 tokens instead of 32.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn compact(model: &Model<'_>, tokens: usize) -> Result<Self> {
        Ok(Self::new(model, tokens)?.smaller(Self::sized(model, tokens, 1)?))
    }

    /// [`Plan::new`] where it fits `arena` bytes, else [`Plan::compact`], whether that fits or not.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn fitting(model: &Model<'_>, tokens: usize, arena: usize) -> Result<Self> {
        let plan = Self::new(model, tokens)?;
        if plan.arena_bytes() <= arena { Ok(plan) } else { Self::compact(model, tokens) }
    }

    /// The plan for batches of up to `tokens` tokens in all.
    ///
    /// # Errors
    /// None for an opened model.
    pub fn for_batch(model: &Model<'_>, tokens: usize) -> Result<Self> {
        Self::sized(model, tokens, BLOCK_TILES)
    }

    /// The same plan for `model`, whichever it was made for.
    pub(crate) fn remade(&self, model: &Model<'_>) -> Result<Self> {
        Ok(Self::sized(model, self.tokens, self.block)?.with_threads(self.threads))
    }

    fn sized(model: &Model<'_>, tokens: usize, block: usize) -> Result<Self> {
        let arch = model.arch();
        let hidden = arch.hidden_size as usize;
        let inner = arch.intermediate_size as usize;
        let head = hidden / (arch.heads as usize).max(1);
        let tiles = tokens.div_ceil(TILE_TOKENS);
        let high = tiles.min(block);
        let [qkv, output, up, down] = MatrixKind::ALL;
        let attention_linear = LinearPlan::new(model, [qkv, output], high)?;
        let feed_forward_linear = LinearPlan::new(model, [up, down], high)?;
        // A text may begin anywhere in a tile that it shares with others.
        let longest = tokens.min(arch.max_tokens as usize) + TILE_TOKENS - 1;
        let positions = round_up(longest, TILE_TOKENS).min(tiles * TILE_TOKENS);
        let head = HeadPlan { positions, size: head }.columns();
        let projected = if block == 1 { hidden } else { high * 3 * hidden };
        let plan = Self {
            tokens,
            threads: 1,
            block,
            hidden: tiles * hidden,
            work: 0,
            attention: attention_linear.size() + head.max(projected),
            feed_forward: feed_forward_linear.size() + high * (inner + hidden),
            attention_linear,
            feed_forward_linear,
        };
        Ok(plan.with_threads(1))
    }

    /// The one of two that takes fewer bytes.
    fn smaller(self, other: Self) -> Self {
        if self.arena_bytes() <= other.arena_bytes() { self } else { other }
    }

    /// The same for `threads` threads, each of which needs a scratch of its own; no more than
    /// there are tiles of 16 tokens, and one where one tile at a time passes. The results have the
    /// same bits for any number.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        let most = if self.block == 1 { 1 } else { self.tokens.div_ceil(TILE_TOKENS).max(1) };
        let threads = threads.clamp(1, most);
        let attention = 3 * self.hidden + threads * self.attention;
        Self { threads, work: attention.max(threads * self.feed_forward), ..self }
    }

    /// What any matrix of the model needs.
    pub fn linear(&self) -> LinearPlan {
        self.attention_linear.max(self.feed_forward_linear)
    }

    /// The largest number of tokens whose plan fits `arena` bytes; `None` when not even two fit.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn longest(model: &Model<'_>, arena: usize) -> Result<Option<Self>> {
        for tokens in (2..=model.arch().max_tokens as usize).rev() {
            let plan = Self::fitting(model, tokens, arena)?;
            if plan.arena_bytes() <= arena {
                return Ok(Some(plan));
            }
        }
        Ok(None)
    }

    /// Bytes of the whole arena.
    pub fn arena_bytes(&self) -> usize {
        (self.hidden + self.work) * size_of::<Column>()
    }

    /// Cuts `arena` into the planned buffers.
    ///
    /// # Errors
    /// [`Error::ArenaTooSmall`], and [`Error::Misaligned`] when the arena does not start at a
    /// multiple of four bytes.
    pub(crate) fn carve<'a>(&self, arena: &'a mut [u8]) -> Result<Buffers<'a>> {
        let needed = self.arena_bytes();
        let available = arena.len();
        let too_small = Error::ArenaTooSmall { needed, available };
        let arena = arena.get_mut(..needed).ok_or(too_small)?;
        let columns: &mut [Column] = bytemuck::try_cast_slice_mut(arena)
            .map_err(|_| Error::Misaligned { needed: align_of::<Column>() })?;
        let (hidden, work) = columns.split_at_mut_checked(self.hidden).ok_or(too_small)?;
        Ok(Buffers { hidden, work })
    }
}

/// Sizes of one head's buffers in attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadPlan {
    /// Positions of the text's tiles, a multiple of 16.
    pub(crate) positions: usize,
    /// Head size.
    pub(crate) size: usize,
}

impl HeadPlan {
    /// Inputs of a query's panel: the head size rounded up to 16.
    pub(crate) fn depth(&self) -> usize {
        round_up(self.size, TILE_DEPTH)
    }

    /// Numbers per row: of the keys, or of the values.
    pub(crate) fn rows(&self) -> usize {
        self.positions.max(self.depth())
    }

    /// Columns of scores `[block][positions]` and context `[block][size]`.
    pub(crate) fn activations(&self) -> usize {
        BLOCK_TILES * (self.positions + self.size)
    }

    /// Bytes of a block's panels, of the queries or of the softmax.
    pub(crate) fn panels(&self) -> usize {
        BLOCK_TILES * self.rows() * PANEL_BYTES
    }

    /// Bytes of the keys' block, and of the values'.
    pub(crate) fn block(&self) -> usize {
        self.positions * self.depth()
    }

    /// Columns of all: activations, panels, two blocks, and six numbers for every row (scale and
    /// sum of each block, zero, one).
    pub(crate) fn columns(&self) -> usize {
        let bytes = self.panels() + 2 * self.block() + 6 * self.rows() * size_of::<f32>();
        self.activations() + bytes.div_ceil(size_of::<Column>())
    }
}

/// The arena cut into buffers; see [`Plan`] for their shapes.
#[derive(Debug)]
pub(crate) struct Buffers<'a> {
    pub(crate) hidden: &'a mut [Column],
    pub(crate) work: &'a mut [Column],
}
