//! Self-attention in floats, for float weights: every text's tokens with one another, head after
//! head.

use crate::error::{Error, Result};
use crate::kernels::{Attend, Backend, Column, TILE_TOKENS};
use crate::math;

use super::layer::Heads;

/// Buffers and shapes of one layer's attention, for the queries of some adjacent tiles.
pub(super) struct Attention<'a> {
    /// `[these tiles][hidden]`: the context replaces them.
    pub(super) queries: &'a mut [Column],
    /// The first of these tiles, counted from the first of all.
    pub(super) tile: usize,
    /// `[all tiles][2 × hidden]`: keys and values.
    pub(super) keys_values: &'a [Column],
    /// At least [`crate::plan::HeadPlan::columns`].
    pub(super) work: &'a mut [Column],
    pub(super) shape: Heads,
}

impl Attention<'_> {
    /// Writes softmax(Q Kᵀ / √d) V over those Q that belong to the text of `count` tokens from
    /// token `first`.
    pub(super) fn run(self, backend: &dyn Backend, (first, count): (usize, usize)) -> Result<()> {
        let Heads { hidden, heads, size } = self.shape;
        let available = self.work.len();
        let too_small = Error::ArenaTooSmall { needed: count + size, available };
        let (scores, rest) = self.work.split_at_mut_checked(count).ok_or(too_small)?;
        let context = rest.get_mut(..size).ok_or(too_small)?;
        let (qkv, stride) = (self.keys_values, 2 * hidden);
        let factor = 1.0 / math::sqrt(size as f32);
        let end = first + count;
        for (t, queries) in self.queries.chunks_exact_mut(hidden.max(1)).enumerate() {
            let start = (self.tile + t) * TILE_TOKENS;
            if start >= end || start + TILE_TOKENS <= first {
                continue;
            }
            let lanes = (first.max(start) - start, end.min(start + TILE_TOKENS) - start);
            for (head, query) in queries.chunks_exact_mut(size.max(1)).take(heads).enumerate() {
                let key = head * size;
                let value = hidden + key;
                let job = Attend { query, qkv, stride, key, value, first, count, factor, lanes };
                backend.attend(&job, scores, context);
                // This head's query of this tile is not read again: the context takes its place.
                replace(query, context, lanes);
            }
        }
        Ok(())
    }
}

/// Copies the lanes of one text, and leaves those of others.
pub(super) fn replace(to: &mut [Column], from: &[Column], (first, end): (usize, usize)) {
    for (to, from) in to.iter_mut().zip(from) {
        if (first, end) == (0, TILE_TOKENS) {
            *to = *from;
        } else {
            to.iter_mut().zip(from).take(end).skip(first).for_each(|(t, f)| *t = *f);
        }
    }
}
