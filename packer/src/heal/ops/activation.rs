//! The activation between the two feed-forward matrices.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use grouse_runtime::math;
use rayon::prelude::*;

use super::{Floats, slice};
use crate::model::Activation;

/// Numbers per piece of parallel work.
const PIECE: usize = 1 << 14;
/// √(2/π)
const TANH_SCALE: f32 = 0.797_884_6;
const TANH_CUBE: f32 = 0.044_715;

/// The operation.
pub struct Activate(Activation);

/// Applies [`Activate`].
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    x.apply_op1(Activate(activation))
}

fn map(x: &[f32], one: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(out, x)| {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = one(*x));
    });
    out
}

fn map2(x: &[f32], grad: &[f32], slope: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut out = grad.to_vec();
    out.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(out, x)| {
        out.iter_mut().zip(x).for_each(|(out, x)| *out *= slope(*x));
    });
    out
}

impl Activate {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        // One arm per function, so that the compiler can vectorise each.
        match self.0 {
            Activation::Gelu => map(x, math::gelu),
            Activation::GeluTanh => {
                map(x, |x| 0.5 * x * (1.0 + (TANH_SCALE * (x + TANH_CUBE * x * x * x)).tanh()))
            }
            Activation::Relu => map(x, |x| x.max(0.0)),
        }
    }

    fn backward(&self, x: &[f32], grad: &[f32]) -> Vec<f32> {
        match self.0 {
            // Φ(x) + x φ(x)
            Activation::Gelu => map2(x, grad, |x| {
                let below = 0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2));
                // 1 / √(2π)
                below + x * 0.398_942_3 * math::exp(-0.5 * x * x)
            }),
            Activation::GeluTanh => map2(x, grad, |x| {
                let tanh = (TANH_SCALE * (x + TANH_CUBE * x * x * x)).tanh();
                let inner = TANH_SCALE * (1.0 + 3.0 * TANH_CUBE * x * x);
                0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner
            }),
            Activation::Relu => map2(x, grad, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        }
    }
}

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.forward(slice(x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let out = self.backward(Floats::of(x)?.get()?, Floats::of(&grad)?.get()?);
        Ok(Some(Tensor::from_vec(out, x.shape(), &Device::Cpu)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn gradients_of_all_kinds() {
        for kind in [Activation::Gelu, Activation::GeluTanh] {
            // Three times wider than the test's numbers, to reach the tails.
            check::gradients(&[&[13, 7]], |args| activate(&(&args[0] * 3.0)?, kind));
        }
        // No differences across the corner.
        check::gradients(&[&[13, 7]], |args| activate(&(&args[0] + 2.0)?, Activation::Relu));
        check::gradients(&[&[13, 7]], |args| activate(&(&args[0] - 2.0)?, Activation::Relu));
    }
}
