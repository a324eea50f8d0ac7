//! Softmax attention of each sentence over itself.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatRef, Par};
use rayon::prelude::*;

use super::{Floats, slice, view, view_mut};
use crate::forward::attention_weights;
use crate::lanes;

/// The operation; its argument is query, key and value side by side, `[tokens][3 · hidden]`.
pub struct Attention {
    /// First token of every sentence, and the end of the last.
    starts: Arc<Vec<usize>>,
    heads: usize,
}

/// Applies [`Attention`]: `[tokens][hidden]`.
pub fn attention(qkv: &Tensor, starts: &Arc<Vec<usize>>, heads: usize) -> Result<Tensor> {
    qkv.apply_op1(Attention { starts: starts.clone(), heads })
}

/// Columns of one head's query, key and value.
struct Head {
    size: usize,
    columns: [usize; 3],
    scale: f32,
}

impl Attention {
    /// Cuts rows of `width` into sentences.
    fn sentences<'d>(&self, data: &'d mut [f32], width: usize) -> Vec<&'d mut [f32]> {
        let mut rest = data;
        let mut parts = Vec::with_capacity(self.starts.len());
        for window in self.starts.windows(2) {
            let (part, tail) = rest.split_at_mut((window[1] - window[0]) * width);
            parts.push(part);
            rest = tail;
        }
        parts
    }

    fn head(&self, head: usize, hidden: usize) -> Head {
        let size = hidden / self.heads;
        let columns = [0, 1, 2].map(|part| part * hidden + head * size);
        Head { size, columns, scale: 1.0 / (size as f32).sqrt() }
    }

    fn forward(&self, qkv: &[f32], hidden: usize) -> Vec<f32> {
        let width = 3 * hidden;
        let mut out = vec![0.0; qkv.len() / 3];
        let parts = self.sentences(&mut out, hidden);
        parts.into_par_iter().zip(self.starts.par_windows(2)).for_each(|(out, window)| {
            let tokens = window[1] - window[0];
            let qkv = view(&qkv[window[0] * width..window[1] * width], tokens, width);
            let mut out = view_mut(out, tokens, hidden);
            let mut weights = vec![0.0; tokens * tokens];
            for head in 0..self.heads {
                let head_columns = self.head(head, hidden);
                let [q, k, v] = head_columns.split(qkv);
                attention_weights(q, k, &mut weights);
                let into = out.as_mut().subcols_mut(head * head_columns.size, head_columns.size);
                matmul(into, Accum::Replace, view(&weights, tokens, tokens), v, 1.0, Par::Seq);
            }
        });
        out
    }

    fn backward(&self, qkv: &[f32], grad: &[f32], hidden: usize) -> Vec<f32> {
        let width = 3 * hidden;
        let mut out = vec![0.0; qkv.len()];
        let parts = self.sentences(&mut out, width);
        parts.into_par_iter().zip(self.starts.par_windows(2)).for_each(|(out, window)| {
            let tokens = window[1] - window[0];
            let qkv = view(&qkv[window[0] * width..window[1] * width], tokens, width);
            let grad = view(&grad[window[0] * hidden..window[1] * hidden], tokens, hidden);
            let mut out = view_mut(out, tokens, width);
            let mut weights = vec![0.0; tokens * tokens];
            let mut back = vec![0.0; tokens * tokens];
            for head in 0..self.heads {
                let columns = self.head(head, hidden);
                let [q, k, v] = columns.split(qkv);
                attention_weights(q, k, &mut weights);
                let grad = grad.subcols(head * columns.size, columns.size);
                let p = view(&weights, tokens, tokens);
                let into = out.as_mut().subcols_mut(columns.columns[2], columns.size);
                matmul(into, Accum::Replace, p.transpose(), grad, 1.0, Par::Seq);
                let into = view_mut(&mut back, tokens, tokens);
                matmul(into, Accum::Replace, grad, v.transpose(), 1.0, Par::Seq);
                // Through the softmax: dS = P ∘ (dP − row sums of P ∘ dP).
                for (p, d) in weights.chunks_exact(tokens).zip(back.chunks_exact_mut(tokens)) {
                    let mean = lanes::sum_pairs(p, d, |p, d| p * d);
                    p.iter().zip(d).for_each(|(p, d)| *d = p * (*d - mean));
                }
                let d = view(&back, tokens, tokens);
                let into = out.as_mut().subcols_mut(columns.columns[0], columns.size);
                matmul(into, Accum::Replace, d, k, columns.scale, Par::Seq);
                let into = out.as_mut().subcols_mut(columns.columns[1], columns.size);
                matmul(into, Accum::Replace, d.transpose(), q, columns.scale, Par::Seq);
            }
        });
        out
    }
}

impl Head {
    fn split<'d>(&self, qkv: MatRef<'d, f32>) -> [MatRef<'d, f32>; 3] {
        self.columns.map(|first| qkv.subcols(first, self.size))
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        let out = self.forward(slice(qkv, layout)?, width / 3);
        Ok((CpuStorage::F32(out), (tokens, width / 3).into()))
    }

    fn bwd(&self, qkv: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = qkv.dims2()?;
        let grad = grad.contiguous()?;
        let out = self.backward(Floats::of(qkv)?.get()?, Floats::of(&grad)?.get()?, width / 3);
        Ok(Some(Tensor::from_vec(out, qkv.shape(), &Device::Cpu)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn gradients_of_several_sentences() {
        let starts = Arc::new(vec![0, 1, 4, 11]);
        check::gradients(&[&[11, 36]], |args| attention(&args[0], &starts, 3));
    }
}
