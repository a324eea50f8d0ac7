//! AdamW whose state can be saved: candle-nn's keeps its moments to itself.

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use rayon::prelude::*;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.99;
const EPS: f32 = 1e-8;
/// Numbers per piece of parallel work.
const PIECE: usize = 1 << 14;

/// The optimizer's state: first and second moment of every parameter, and the steps done.
#[derive(Debug, Clone, PartialEq)]
pub struct Adam {
    /// Steps done.
    pub steps: u32,
    /// Mean gradient of each parameter.
    pub first: Vec<Vec<f32>>,
    /// Mean squared gradient of each parameter.
    pub second: Vec<Vec<f32>>,
}

impl Adam {
    /// No step done yet.
    pub fn new(vars: &[&Var]) -> Self {
        let zeros = || vars.iter().map(|v| vec![0.0; v.elem_count()]).collect::<Vec<_>>();
        Self { steps: 0, first: zeros(), second: zeros() }
    }

    /// One step at `rate`. The gradients' joint norm is cut to `longest`. Nothing is changed when
    /// a gradient is not finite; the norm that is returned then is not either.
    pub fn step(
        &mut self,
        vars: &[&Var],
        grads: &GradStore,
        rate: f64,
        longest: f64,
    ) -> Result<f64> {
        let grads: Vec<Option<Vec<f32>>> = vars
            .iter()
            .map(|var| grads.get(var).map(|g| g.flatten_all()?.to_vec1()).transpose())
            .collect::<Result<_>>()?;
        let square = |grad: &Vec<f32>| -> f64 {
            grad.chunks(PIECE).map(|p| f64::from(p.iter().map(|g| g * g).sum::<f32>())).sum()
        };
        let norm = grads.iter().flatten().map(square).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let cut = if norm > longest { (longest / norm) as f32 } else { 1.0 };
        self.steps += 1;
        let steps = self.steps.min(1 << 20) as i32;
        let rate = (rate / (1.0 - f64::from(BETA1).powi(steps))) as f32;
        let unbias = (1.0 / (1.0 - f64::from(BETA2).powi(steps))) as f32;
        for (index, var) in vars.iter().enumerate() {
            let Some(grad) = &grads[index] else { continue };
            let mut values: Vec<f32> = var.flatten_all()?.to_vec1()?;
            values
                .par_chunks_mut(PIECE)
                .zip(self.first[index].par_chunks_mut(PIECE))
                .zip(self.second[index].par_chunks_mut(PIECE))
                .zip(grad.par_chunks(PIECE))
                .for_each(|(((values, first), second), grad)| {
                    let moments = first.iter_mut().zip(second.iter_mut());
                    for ((value, (m, v)), grad) in values.iter_mut().zip(moments).zip(grad) {
                        let grad = grad * cut;
                        *m = BETA1 * *m + (1.0 - BETA1) * grad;
                        *v = BETA2 * *v + (1.0 - BETA2) * grad * grad;
                        *value -= rate * *m / ((*v * unbias).sqrt() + EPS);
                    }
                });
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
        }
        Ok(norm)
    }
}
