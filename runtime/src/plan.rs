//! The memory plan: how many arena bytes a model needs for a given number of tokens, and where
//! each buffer lies.

use crate::encoder::linear::Scratch;
use crate::error::{Error, Result};
use crate::format::{DataType, MatrixKind, TILE_DEPTH, round_up};
use crate::kernels::{Column, PANEL_BYTES, TILE_TOKENS, int4};
use crate::view::Model;

/// Tiles of 16 tokens that pass through a matrix at a time: the height of the projection and
/// feed-forward buffers. Each weight is read once per this many tiles.
pub const BLOCK_TILES: usize = 2;

/// Sizes of the encoder's buffers and of the arena.
///
/// Buffers of activations are counted in columns of 16 tokens ([`Column`]), panels in bytes. The
/// arena holds the residual stream, the queries, and `work`, which the threads divide anew for
/// each phase of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Plan {
    /// Most tokens of one call.
    pub tokens: usize,
    /// Parts that a call's tiles are divided into, each with a scratch of its own. With the
    /// feature `std` they run on as many threads; at most one for a tile.
    pub threads: usize,
    /// Columns `[tiles][hidden]`: the residual stream. The queries take as many.
    pub hidden: usize,
    /// Columns: either keys and values `[tiles][2 × hidden]` and a scratch of
    /// [`Plan::attention`] for each thread, or one of [`Plan::feed_forward`].
    pub work: usize,
    /// Columns of a thread's scratch in attention: panels, columns, unpacked rows, and then Q, K and V of a block
    /// `[block tiles][3 × hidden]`, or [`HeadPlan::columns`], or a block's output.
    pub attention: usize,
    /// Columns of a thread's scratch in the feed-forward part: panels, columns, unpacked rows, and a block's
    /// intermediate `[block tiles][intermediate]` and output `[block tiles][hidden]`.
    pub feed_forward: usize,
    /// Bytes `[block tiles][deepest int8 or int4 group][32]`: a group's quantized inputs.
    pub panels: usize,
    /// Columns `[block tiles][deepest float group]`: the same for float weights.
    pub columns: usize,
    /// Inputs of the deepest int8 or int4 group, rounded up to 16.
    pub capacity: usize,
    /// Bytes `[int4::ROWS][deepest int4 group]`: rows of an int4 group as int8.
    pub unpacked: usize,
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

    /// The plan for batches of up to `tokens` tokens in all.
    ///
    /// # Errors
    /// None for an opened model.
    pub fn for_batch(model: &Model<'_>, tokens: usize) -> Result<Self> {
        let arch = model.arch();
        let hidden = arch.hidden_size as usize;
        let inner = arch.intermediate_size as usize;
        let head = hidden / (arch.heads as usize).max(1);
        let (mut capacity, mut depth, mut unpacked) = (0, 0, 0);
        for i in 0..arch.layers as usize {
            let layer = model.layer(i)?;
            for kind in MatrixKind::ALL {
                let matrix = layer.matrix(kind);
                for group in matrix.groups() {
                    let group = group?.depth();
                    let padded = round_up(group, TILE_DEPTH);
                    match matrix.weights() {
                        DataType::I8 => capacity = capacity.max(padded),
                        DataType::I4 => {
                            capacity = capacity.max(padded);
                            unpacked = unpacked.max(int4::ROWS * padded);
                        }
                        DataType::F16 | DataType::F32 => depth = depth.max(group),
                    }
                }
            }
        }
        let tiles = tokens.div_ceil(TILE_TOKENS);
        let block = tiles.min(BLOCK_TILES);
        // A text may begin anywhere in a tile that it shares with others.
        let longest = tokens.min(arch.max_tokens as usize) + TILE_TOKENS - 1;
        let positions = round_up(longest, TILE_TOKENS).min(tiles * TILE_TOKENS);
        let head = HeadPlan { positions, size: head }.columns();
        let (panels, columns) = (block * capacity * PANEL_BYTES, block * depth);
        let linear = [panels, unpacked].map(|b| b.div_ceil(size_of::<Column>()));
        let linear = linear.iter().sum::<usize>() + columns;
        let plan = Self {
            tokens,
            threads: 1,
            hidden: tiles * hidden,
            work: 0,
            attention: linear + head.max(block * 3 * hidden),
            feed_forward: linear + block * (inner + hidden),
            panels,
            columns,
            capacity,
            unpacked,
        };
        Ok(plan.with_threads(1))
    }

    /// The same for `threads` threads, each of which needs a scratch of its own; no more than
    /// there are tiles of 16 tokens. The results have the same bits for any number.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        let threads = threads.clamp(1, self.tokens.div_ceil(TILE_TOKENS).max(1));
        let attention = 2 * self.hidden + threads * self.attention;
        Self { threads, work: attention.max(threads * self.feed_forward), ..self }
    }

    /// The largest number of tokens whose plan fits `arena` bytes; `None` when not even two fit.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn longest(model: &Model<'_>, arena: usize) -> Result<Option<Self>> {
        for tokens in (2..=model.arch().max_tokens as usize).rev() {
            let plan = Self::new(model, tokens)?;
            if plan.arena_bytes() <= arena {
                return Ok(Some(plan));
            }
        }
        Ok(None)
    }

    /// Bytes of the whole arena.
    pub fn arena_bytes(&self) -> usize {
        (2 * self.hidden + self.work) * size_of::<Column>()
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
        let (hidden, rest) = columns.split_at_mut_checked(self.hidden).ok_or(too_small)?;
        let (queries, work) = rest.split_at_mut_checked(self.hidden).ok_or(too_small)?;
        Ok(Buffers { hidden, queries, work })
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
    pub(crate) queries: &'a mut [Column],
    pub(crate) work: &'a mut [Column],
}
