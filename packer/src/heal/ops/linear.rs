//! `y = W x + b` with the kept weights of `W` only.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, Par};
use rayon::prelude::*;

use super::{CHUNK, Floats, add_rows, slice, view, view_mut};
use crate::heal::blocks::Blocks;

/// Rows of a weight gradient per piece of parallel work.
const GRAD_ROWS: usize = 64;

/// The operation; its arguments are x `[tokens][cols]`, the stored weights and the bias `[rows]`.
pub struct GroupLinear {
    blocks: Arc<Blocks>,
    /// Round the weights to int8, a scale per output row. The gradient passes through.
    int8: bool,
}

/// Applies [`GroupLinear`].
pub fn group_linear(
    x: &Tensor,
    weights: &Tensor,
    bias: &Tensor,
    blocks: &Arc<Blocks>,
    int8: bool,
) -> Result<Tensor> {
    x.apply_op3(weights, bias, GroupLinear { blocks: blocks.clone(), int8 })
}

impl GroupLinear {
    /// The weights in force.
    fn rounded(&self, stored: &[f32]) -> Option<Vec<f32>> {
        if !self.int8 {
            return None;
        }
        let blocks = &self.blocks;
        let peaks = blocks.row_peaks(stored);
        let mut out = stored.to_vec();
        let round = |row: &mut [f32], peak: f32| {
            let scale = (peak / 127.0).max(f32::MIN_POSITIVE);
            row.iter_mut().for_each(|w| *w = (*w / scale).round_ties_even() * scale);
        };
        let (shared, own) = out.split_at_mut(blocks.shared_rows * blocks.shared);
        let start = shared.len();
        if blocks.shared > 0 {
            shared.chunks_exact_mut(blocks.shared).zip(&peaks).for_each(|(r, p)| round(r, *p));
        }
        for g in blocks.groups.iter().filter(|g| g.inputs > 0) {
            let rows = own[g.at - start..][..g.rows * g.inputs].chunks_exact_mut(g.inputs);
            rows.zip(&peaks[g.first_row..]).for_each(|(row, peak)| round(row, *peak));
        }
        Some(out)
    }

    /// Inputs in gathered order, `[tokens][gathered]`.
    fn gather_inputs(&self, x: &[f32], out: &mut [f32]) {
        let blocks = &self.blocks;
        if blocks.gathered.is_empty() {
            return;
        }
        let rows = out.chunks_exact_mut(blocks.gathered.len()).zip(x.chunks_exact(blocks.cols));
        for (out, x) in rows {
            out.iter_mut().zip(&blocks.gathered).for_each(|(out, input)| *out = x[*input]);
        }
    }

    /// Outputs in block order, `[tokens][rows]`.
    fn gather_outputs(&self, y: &[f32], out: &mut [f32]) {
        let rows = self.blocks.rows;
        for (out, y) in out.chunks_exact_mut(rows).zip(y.chunks_exact(rows)) {
            out.iter_mut().zip(&self.blocks.order).for_each(|(out, output)| *out = y[*output]);
        }
    }

    fn forward(&self, x: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f32> {
        let blocks = &*self.blocks;
        let (rows, cols, width) = (blocks.rows, blocks.cols, blocks.gathered.len());
        let tokens = x.len() / cols;
        let mut out = vec![0.0; tokens * rows];
        out.par_chunks_mut(CHUNK * rows).zip(x.par_chunks(CHUNK * cols)).for_each(|(out, x)| {
            let tokens = x.len() / cols;
            let mut inputs = vec![0.0; tokens * width];
            self.gather_inputs(x, &mut inputs);
            let inputs = view(&inputs, tokens, width);
            let mut sums = vec![0.0; tokens * rows];
            let mut y = view_mut(&mut sums, tokens, rows);
            let shared = view(weights, blocks.shared_rows, blocks.shared);
            let into = y.as_mut().subcols_mut(0, blocks.shared_rows);
            let read = inputs.subcols(0, blocks.shared);
            matmul(into, Accum::Add, read, shared.transpose(), 1.0, Par::Seq);
            for g in &blocks.groups {
                let own = view(&weights[g.at..], g.rows, g.inputs);
                let into = y.as_mut().subcols_mut(g.first_row, g.rows);
                let read = inputs.subcols(g.first_input, g.inputs);
                matmul(into, Accum::Add, read, own.transpose(), 1.0, Par::Seq);
            }
            for (out, sums) in out.chunks_exact_mut(rows).zip(sums.chunks_exact(rows)) {
                for (out, (row, bias)) in out.iter_mut().zip(blocks.row_of.iter().zip(bias)) {
                    *out = sums[*row] + bias;
                }
            }
        });
        out
    }

    /// The gradients of x, the stored weights and the bias.
    fn backward(&self, x: &[f32], weights: &[f32], grad: &[f32]) -> [Vec<f32>; 3] {
        let blocks = &*self.blocks;
        let (rows, cols, width) = (blocks.rows, blocks.cols, blocks.gathered.len());
        let tokens = x.len() / cols;
        let mut inputs = vec![0.0; tokens * width];
        let mut outputs = vec![0.0; tokens * rows];
        let mut x_grad = vec![0.0; tokens * cols];
        x_grad
            .par_chunks_mut(CHUNK * cols)
            .zip(inputs.par_chunks_mut(CHUNK * width.max(1)))
            .zip(outputs.par_chunks_mut(CHUNK * rows))
            .zip(x.par_chunks(CHUNK * cols).zip(grad.par_chunks(CHUNK * rows)))
            .for_each(|(((x_grad, inputs), outputs), (x, grad))| {
                self.gather_inputs(x, inputs);
                self.gather_outputs(grad, outputs);
                let tokens = x.len() / cols;
                let y = view(outputs, tokens, rows);
                let mut sums = vec![0.0; tokens * width];
                let mut back = view_mut(&mut sums, tokens, width);
                let shared = view(weights, blocks.shared_rows, blocks.shared);
                let into = back.as_mut().subcols_mut(0, blocks.shared);
                matmul(into, Accum::Add, y.subcols(0, blocks.shared_rows), shared, 1.0, Par::Seq);
                for g in &blocks.groups {
                    let own = view(&weights[g.at..], g.rows, g.inputs);
                    let into = back.as_mut().subcols_mut(g.first_input, g.inputs);
                    let from = y.subcols(g.first_row, g.rows);
                    matmul(into, Accum::Add, from, own, 1.0, Par::Seq);
                }
                for (out, sums) in
                    x_grad.chunks_exact_mut(cols).zip(sums.chunks_exact(width.max(1)))
                {
                    for (out, at) in out.iter_mut().zip(&blocks.first_of) {
                        *out = sums.get(*at).copied().unwrap_or(0.0);
                    }
                    for (input, at) in &blocks.again {
                        out[*input] += sums[*at];
                    }
                }
            });
        let (inputs, y) = (view(&inputs, tokens, width), view(&outputs, tokens, rows));
        let mut weight_grad = vec![0.0; blocks.weights];
        let (shared, mut own) = weight_grad.split_at_mut(blocks.shared_rows * blocks.shared);
        let read = inputs.subcols(0, blocks.shared);
        shared.par_chunks_mut(GRAD_ROWS * blocks.shared.max(1)).enumerate().for_each(
            |(part, out)| {
                let rows = out.len() / blocks.shared;
                let from = y.subcols(part * GRAD_ROWS, rows).transpose();
                let out = view_mut(out, rows, blocks.shared);
                matmul(out, Accum::Add, from, read, 1.0, Par::Seq);
            },
        );
        let mut parts = Vec::with_capacity(blocks.groups.len());
        for g in &blocks.groups {
            let (part, rest) = own.split_at_mut(g.rows * g.inputs);
            // A dense matrix is one group; its rows are cut too.
            for (index, piece) in part.chunks_mut(GRAD_ROWS * g.inputs.max(1)).enumerate() {
                parts.push((g, index * GRAD_ROWS, piece));
            }
            own = rest;
        }
        parts.into_par_iter().for_each(|(g, first, out)| {
            let rows = out.len() / g.inputs;
            let from = y.subcols(g.first_row + first, rows).transpose();
            let read = inputs.subcols(g.first_input, g.inputs);
            matmul(view_mut(out, rows, g.inputs), Accum::Add, from, read, 1.0, Par::Seq);
        });
        if let Some(mask) = &blocks.mask {
            weight_grad.iter_mut().zip(mask).for_each(|(grad, mask)| *grad *= mask);
        }
        let mut bias_grad = vec![0.0; rows];
        add_rows(&mut bias_grad, grad);
        [x_grad, weight_grad, bias_grad]
    }
}

impl CustomOp3 for GroupLinear {
    fn name(&self) -> &'static str {
        "group-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, x_layout)?;
        let stored = slice(weights, weights_layout)?;
        let rounded = self.rounded(stored);
        let out = self.forward(x, rounded.as_deref().unwrap_or(stored), slice(bias, bias_layout)?);
        let shape = (out.len() / self.blocks.rows, self.blocks.rows);
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weights: &Tensor,
        _bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_floats, stored, grad) = (Floats::of(x)?, Floats::of(weights)?, Floats::of(&grad)?);
        let rounded = self.rounded(stored.get()?);
        let in_force = rounded.as_deref().unwrap_or(stored.get()?);
        let [x_grad, weight_grad, bias_grad] =
            self.backward(x_floats.get()?, in_force, grad.get()?);
        let tensor = |data, shape: &Shape| Tensor::from_vec(data, shape, &Device::Cpu);
        Ok((
            Some(tensor(x_grad, x.shape())?),
            Some(tensor(weight_grad, weights.shape())?),
            Some(tensor(bias_grad, &self.blocks.rows.into())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;
    use crate::model::Matrix;

    /// Eight rows, four groups, two shared inputs; with `odd`, a hole in one group.
    fn matrix(odd: bool) -> Matrix {
        let mut weight = Matrix::zeros(64, 34);
        for r in 0..64 {
            for c in 0..34 {
                if c < 2 || c % 4 == r / 16 {
                    weight.row_mut(r)[c] = ((r * 34 + c) as f32).sin() + 1.5;
                }
            }
        }
        if odd {
            weight.row_mut(3)[4] = 0.0;
        }
        weight
    }

    #[test]
    fn gradients_are_those_of_the_kept_weights() {
        for odd in [false, true] {
            let blocks = Arc::new(Blocks::of(&matrix(odd)));
            let mask = blocks.mask.clone().unwrap_or(vec![1.0; blocks.weights]);
            let mask = Tensor::from_vec(mask, blocks.weights, &Device::Cpu).unwrap();
            check::gradients(&[&[70, 34], &[blocks.weights], &[64]], |args| {
                // The stored weights are masked, as in training.
                let weights = (&args[1] * &mask)?;
                group_linear(&args[0], &weights, &args[2], &blocks, false)
            });
        }
    }

    #[test]
    fn equals_the_dense_product() {
        for odd in [false, true] {
            let weight = matrix(odd);
            let blocks = Arc::new(Blocks::of(&weight));
            let x = check::random(&[70, 34], 5);
            let tensor = |data: Vec<f32>, shape: &[usize]| {
                Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
            };
            let y = group_linear(
                &tensor(x.clone(), &[70, 34]),
                &tensor(blocks.gather(&weight), &[blocks.weights]),
                &tensor(vec![0.25; 64], &[64]),
                &blocks,
                false,
            );
            let y = y.unwrap().to_vec2::<f32>().unwrap();
            for (x, y) in x.chunks_exact(34).zip(&y) {
                for (r, y) in y.iter().enumerate() {
                    let sum: f32 = weight.row(r).iter().zip(x).map(|(w, x)| w * x).sum();
                    assert!((sum + 0.25 - y).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn rounded_weights_lie_on_the_rows_grid() {
        let weight = matrix(false);
        let op = GroupLinear { blocks: Arc::new(Blocks::of(&weight)), int8: true };
        let rounded = op.rounded(&op.blocks.gather(&weight)).unwrap();
        let rounded = op.blocks.scatter(&rounded);
        for r in 0..weight.rows {
            let scale = weight.row(r).iter().fold(0.0f32, |m, w| m.max(w.abs())) / 127.0;
            for (w, q) in weight.row(r).iter().zip(rounded.row(r)) {
                assert!((w - q).abs() <= 0.501 * scale);
                assert!((q / scale - (q / scale).round()).abs() < 1e-3);
            }
        }
    }
}
