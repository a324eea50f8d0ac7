//! Self-attention: every text's tokens with one another, head after head.

use crate::kernels::{Attend, Backend, Column, TILE_TOKENS};

/// Buffers and shapes of one layer's attention.
pub(super) struct Attention<'a> {
    /// `[tiles][3 × hidden]`: Q, K, V; the context replaces Q.
    pub(super) qkv: &'a mut [Column],
    /// A column for every token.
    pub(super) scores: &'a mut [Column],
    /// `[2 × head size]`: a tile's query and its context.
    pub(super) work: &'a mut [Column],
    pub(super) hidden: usize,
    pub(super) heads: usize,
    /// 1/√(head size).
    pub(super) factor: f32,
}

impl Attention<'_> {
    /// Writes softmax(Q Kᵀ / √d) V over Q for the text of `count` tokens from token `first`.
    pub(super) fn run(&mut self, backend: &dyn Backend, first: usize, count: usize) {
        let stride = 3 * self.hidden;
        let size = self.hidden / self.heads;
        let (query, context) = self.work.split_at_mut(size.min(self.work.len()));
        let end = first + count;
        for tile in first / TILE_TOKENS..end.div_ceil(TILE_TOKENS) {
            let start = tile * TILE_TOKENS;
            let lanes = (first.max(start) - start, end.min(start + TILE_TOKENS) - start);
            for head in 0..self.heads {
                let at = tile * stride + head * size;
                let Some(slot) = self.qkv.get_mut(at..at + size) else { return };
                query.copy_from_slice(slot);
                let key = self.hidden + head * size;
                let job = Attend {
                    query,
                    qkv: self.qkv,
                    stride,
                    key,
                    value: self.hidden + key,
                    first,
                    count,
                    factor: self.factor,
                    lanes,
                };
                backend.attend(&job, self.scores, context);
                // This head's query of this tile is not read again: the context takes its place,
                // but for the lanes of other texts.
                let Some(slot) = self.qkv.get_mut(at..at + size) else { return };
                for (s, c) in slot.iter_mut().zip(context.iter()) {
                    if lanes == (0, TILE_TOKENS) {
                        *s = *c;
                    } else {
                        let lanes = s.iter_mut().zip(c).take(lanes.1).skip(lanes.0);
                        lanes.for_each(|(s, c)| *s = *c);
                    }
                }
            }
        }
    }
}
