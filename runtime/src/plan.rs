//! The memory plan: how many arena bytes a model needs for a given number of tokens, and where
//! each buffer lies.

use crate::error::{Error, Result};
use crate::format::{DataType, MatrixKind, TILE_DEPTH, round_up};
use crate::view::Model;

/// Tokens that pass through a matrix at a time: the height of the projection and feed-forward
/// buffers. Each weight is read once per this many tokens.
pub const TOKEN_TILE: usize = 16;

/// Every buffer starts at a multiple of this many bytes from the arena's start.
const BUFFER_ALIGN: usize = 64;

/// Sizes of the encoder's buffers, in elements, and of the arena, in bytes.
///
/// Attention's buffers and the feed-forward tile never live together and share their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Plan {
    /// Most tokens of one text.
    pub tokens: usize,
    /// f32 `[tokens][hidden]`: the residual stream.
    pub hidden: usize,
    /// f32: either Q, K and V `[tokens][3 × hidden]`, one head's transposed keys
    /// `[head size][tokens]`, one row of scores `[tokens]` and one of context `[head size]`, or the
    /// feed-forward tile `[TOKEN_TILE][intermediate]`.
    pub work: usize,
    /// f32 `[TOKEN_TILE][hidden]`: a sub-layer's output before the residual is added.
    pub projection: usize,
    /// int8 `[TOKEN_TILE][largest input]`: quantized rows.
    pub rows: usize,
    /// int8 `[TOKEN_TILE][deepest int8 group]`: a group's gathered inputs.
    pub panel_i8: usize,
    /// f32 `[TOKEN_TILE][deepest float group]`: the same for float weights.
    pub panel_f32: usize,
    /// Row length of `panel_i8` in elements.
    pub depth_i8: usize,
    /// Row length of `panel_f32` in elements.
    pub depth_f32: usize,
}

impl Plan {
    /// The plan for texts of up to `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::TooManyTokens`] when the model's position table is shorter.
    pub fn new(model: &Model<'_>, tokens: usize) -> Result<Self> {
        let arch = model.arch();
        let limit = arch.max_tokens as usize;
        if tokens > limit {
            return Err(Error::TooManyTokens { tokens, limit });
        }
        let hidden = arch.hidden_size as usize;
        let inner = arch.intermediate_size as usize;
        let head = hidden / arch.heads as usize;
        let (mut cols, mut depth_i8, mut depth_f32) = (0, 0, 0);
        for i in 0..arch.layers as usize {
            let layer = model.layer(i)?;
            for kind in MatrixKind::ALL {
                let matrix = layer.matrix(kind);
                let is_int8 = matrix.weights() == DataType::I8;
                if is_int8 {
                    cols = cols.max(matrix.cols());
                }
                for group in matrix.groups() {
                    let depth = group?.depth();
                    if is_int8 {
                        depth_i8 = depth_i8.max(round_up(depth, TILE_DEPTH));
                    } else {
                        depth_f32 = depth_f32.max(depth);
                    }
                }
            }
        }
        let attention = tokens * 3 * hidden + head * tokens + tokens + head;
        let feed_forward = TOKEN_TILE * inner;
        Ok(Self {
            tokens,
            hidden: tokens * hidden,
            work: attention.max(feed_forward),
            projection: TOKEN_TILE * hidden,
            rows: TOKEN_TILE * cols,
            panel_i8: TOKEN_TILE * depth_i8,
            panel_f32: TOKEN_TILE * depth_f32,
            depth_i8,
            depth_f32,
        })
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
        let floats = [self.hidden, self.work, self.projection, self.panel_f32];
        let bytes = [self.rows, self.panel_i8];
        floats.iter().map(|n| round_up(n * size_of::<f32>(), BUFFER_ALIGN)).sum::<usize>()
            + bytes.iter().map(|n| round_up(*n, BUFFER_ALIGN)).sum::<usize>()
    }

    /// Cuts `arena` into the planned buffers.
    ///
    /// # Errors
    /// [`Error::ArenaTooSmall`], and [`Error::Misaligned`] when the arena does not start at a
    /// multiple of four bytes.
    pub(crate) fn carve<'a>(&self, arena: &'a mut [u8]) -> Result<Buffers<'a>> {
        let needed = self.arena_bytes();
        let available = arena.len();
        let mut rest = arena;
        let mut take = |bytes: usize| -> Result<&'a mut [u8]> {
            let all = core::mem::take(&mut rest);
            let (buffer, after) = all
                .split_at_mut_checked(round_up(bytes, BUFFER_ALIGN))
                .ok_or(Error::ArenaTooSmall { needed, available })?;
            rest = after;
            buffer.get_mut(..bytes).ok_or(Error::ArenaTooSmall { needed, available })
        };
        let mut floats = |count: usize| -> Result<&'a mut [f32]> {
            bytemuck::try_cast_slice_mut(take(count * size_of::<f32>())?)
                .map_err(|_| Error::Misaligned { needed: align_of::<f32>() })
        };
        Ok(Buffers {
            hidden: floats(self.hidden)?,
            work: floats(self.work)?,
            projection: floats(self.projection)?,
            panel_f32: floats(self.panel_f32)?,
            rows: bytemuck::must_cast_slice_mut(take(self.rows)?),
            panel_i8: bytemuck::must_cast_slice_mut(take(self.panel_i8)?),
        })
    }
}

/// The arena cut into buffers; see [`Plan`] for their shapes.
#[derive(Debug)]
pub(crate) struct Buffers<'a> {
    pub(crate) hidden: &'a mut [f32],
    pub(crate) work: &'a mut [f32],
    pub(crate) projection: &'a mut [f32],
    pub(crate) panel_f32: &'a mut [f32],
    pub(crate) rows: &'a mut [i8],
    pub(crate) panel_i8: &'a mut [i8],
}
