//! LayerNorm of every row.

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{CHUNK, Floats, add_rows, slice};
use crate::lanes;

/// The operation; its arguments are x `[rows][width]`, gamma and beta `[width]`.
pub struct Norm {
    eps: f32,
}

/// Applies [`Norm`].
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f32) -> Result<Tensor> {
    x.apply_op3(gamma, beta, Norm { eps })
}

impl Norm {
    /// Mean of a row and 1 / its deviation.
    fn moments(&self, row: &[f32]) -> (f32, f32) {
        let count = row.len() as f32;
        let mean = lanes::sum(row, |x| x) / count;
        let variance = lanes::sum(row, |x| (x - mean) * (x - mean)) / count;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }

    /// The gradients of x, gamma and beta.
    fn backward(&self, x: &[f32], gamma: &[f32], grad: &[f32]) -> [Vec<f32>; 3] {
        let width = gamma.len();
        let mut out = vec![0.0; x.len()];
        // Each piece sums its own rows; the pieces are added in order.
        let sums: Vec<(Vec<f32>, Vec<f32>)> = out
            .par_chunks_mut(CHUNK * width)
            .zip(x.par_chunks(CHUNK * width).zip(grad.par_chunks(CHUNK * width)))
            .map(|(out, (x, grad))| {
                let (mut gamma_grad, mut beta_grad) = (vec![0.0; width], vec![0.0; width]);
                let mut unit = vec![0.0; width];
                let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
                for (out, (x, grad)) in out.chunks_exact_mut(width).zip(rows) {
                    let (mean, scale) = self.moments(x);
                    unit.iter_mut().zip(x).for_each(|(unit, x)| *unit = (x - mean) * scale);
                    for (out, (grad, gamma)) in out.iter_mut().zip(grad.iter().zip(gamma)) {
                        *out = grad * gamma;
                    }
                    let sum = lanes::sum(out, |x| x) / width as f32;
                    let product = lanes::sum_pairs(out, &unit, |a, b| a * b) / width as f32;
                    for (out, unit) in out.iter_mut().zip(&unit) {
                        *out = scale * (*out - sum - unit * product);
                    }
                    for (sum, (grad, unit)) in gamma_grad.iter_mut().zip(grad.iter().zip(&unit)) {
                        *sum += grad * unit;
                    }
                    beta_grad.iter_mut().zip(grad).for_each(|(sum, grad)| *sum += grad);
                }
                (gamma_grad, beta_grad)
            })
            .collect();
        let (mut gamma_grad, mut beta_grad) = (vec![0.0; width], vec![0.0; width]);
        for (gamma, beta) in &sums {
            add_rows(&mut gamma_grad, gamma);
            add_rows(&mut beta_grad, beta);
        }
        [out, gamma_grad, beta_grad]
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, x_layout)?;
        let (gamma, beta) = (slice(gamma, gamma_layout)?, slice(beta, beta_layout)?);
        let width = gamma.len();
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(CHUNK * width).zip(x.par_chunks(CHUNK * width)).for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let (mean, scale) = self.moments(x);
                for (out, (x, (gamma, beta))) in
                    out.iter_mut().zip(x.iter().zip(gamma.iter().zip(beta)))
                {
                    *out = (x - mean) * scale * gamma + beta;
                }
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        _beta: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let [x_grad, gamma_grad, beta_grad] = self.backward(
            Floats::of(x)?.get()?,
            Floats::of(gamma)?.get()?,
            Floats::of(&grad)?.get()?,
        );
        let tensor = |data, shape: &Shape| Tensor::from_vec(data, shape, &Device::Cpu).map(Some);
        Ok((
            tensor(x_grad, x.shape())?,
            tensor(gamma_grad, gamma.shape())?,
            tensor(beta_grad, gamma.shape())?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn gradients_of_all_three() {
        check::gradients(&[&[70, 9], &[9], &[9]], |args| {
            layer_norm(&args[0], &args[1], &args[2], 1e-12)
        });
    }
}
