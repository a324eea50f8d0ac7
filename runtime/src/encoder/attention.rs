//! Self-attention in floats, for float weights: every text's tokens with one another, head after
//! head.

use crate::error::{Error, Result};
use crate::kernels::{Attend, Backend, Column, TILE_TOKENS};
use crate::math;

use super::Heads;

/// Buffers and shapes of one layer's attention.
pub(super) struct Attention<'a> {
    /// `[tiles][3 × hidden]`: Q, K, V; the context replaces Q.
    pub(super) qkv: &'a mut [Column],
    /// At least [`crate::plan::HeadPlan::columns`].
    pub(super) work: &'a mut [Column],
    pub(super) shape: Heads,
}

impl Attention<'_> {
    /// Writes softmax(Q Kᵀ / √d) V over Q for the text of `count` tokens from token `first`.
    pub(super) fn run(self, backend: &dyn Backend, (first, count): (usize, usize)) -> Result<()> {
        let Heads { hidden, heads, size } = self.shape;
        let available = self.work.len();
        let too_small = Error::ArenaTooSmall { needed: count + 2 * size, available };
        let (scores, rest) = self.work.split_at_mut_checked(count).ok_or(too_small)?;
        let (query, rest) = rest.split_at_mut_checked(size).ok_or(too_small)?;
        let context = rest.get_mut(..size).ok_or(too_small)?;
        let stride = 3 * hidden;
        let factor = 1.0 / math::sqrt(size as f32);
        let end = first + count;
        for tile in first / TILE_TOKENS..end.div_ceil(TILE_TOKENS) {
            let start = tile * TILE_TOKENS;
            let lanes = (first.max(start) - start, end.min(start + TILE_TOKENS) - start);
            for head in 0..heads {
                let at = tile * stride + head * size;
                query.copy_from_slice(self.qkv.get(at..at + size).ok_or(too_small)?);
                let key = hidden + head * size;
                let value = hidden + key;
                let qkv = &*self.qkv;
                let job = Attend { query, qkv, stride, key, value, first, count, factor, lanes };
                backend.attend(&job, scores, context);
                // This head's query of this tile is not read again: the context takes its place.
                let slot = self.qkv.get_mut(at..at + size).ok_or(too_small)?;
                replace(slot, context, lanes);
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
