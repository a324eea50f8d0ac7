//! Self-attention of all tokens with all tokens, head after head.

use crate::kernels::Backend;

/// Buffers and shapes of one layer's attention.
pub(super) struct Attention<'a> {
    /// f32 `[tokens][3 × hidden]`: Q, K, V; the context replaces Q.
    pub(super) qkv: &'a mut [f32],
    /// f32 `[head size][tokens]`: one head's keys, transposed.
    pub(super) keys: &'a mut [f32],
    /// f32 `[tokens]`.
    pub(super) scores: &'a mut [f32],
    /// f32 `[head size]`.
    pub(super) context: &'a mut [f32],
    pub(super) hidden: usize,
    pub(super) heads: usize,
    /// 1/√(head size).
    pub(super) factor: f32,
}

impl Attention<'_> {
    /// Writes softmax(Q Kᵀ / √d) V over Q.
    pub(super) fn run(&mut self, backend: &dyn Backend) {
        let stride = 3 * self.hidden;
        let size = self.hidden / self.heads;
        let tokens = self.scores.len();
        for head in 0..self.heads {
            let query = head * size;
            let key = self.hidden + query;
            let value = key + self.hidden;
            for (t, row) in self.qkv.chunks_exact(stride).enumerate() {
                let row = row.get(key..).unwrap_or_default();
                for (k, column) in row.iter().zip(self.keys.chunks_exact_mut(tokens)) {
                    if let Some(c) = column.get_mut(t) {
                        *c = *k;
                    }
                }
            }
            for t in 0..tokens {
                let at = t * stride + query;
                let q = self.qkv.get(at..).and_then(|rest| rest.get(..size)).unwrap_or_default();
                backend.vector_matrix(q, self.keys, tokens, self.scores);
                backend.softmax(self.scores, self.factor);
                let values = self.qkv.get(value..).unwrap_or_default();
                backend.vector_matrix(self.scores, values, stride, self.context);
                // This head's query of this token is not read again: the context takes its place.
                let slot = self.qkv.get_mut(at..).unwrap_or_default();
                slot.iter_mut().zip(self.context.iter()).for_each(|(s, c)| *s = *c);
            }
        }
    }
}
