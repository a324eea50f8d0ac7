//! AdamW whose state can be saved: candle-nn's keeps its moments to itself.

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use rayon::prelude::*;

use super::whiten::Coordinates;
use crate::lanes;

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

    /// One step at `rate`, in each parameter's coordinates where there are any. The gradients'
    /// joint norm is cut to `longest`. Nothing is changed when a gradient is not finite; the norm
    /// that is returned then is not either.
    pub fn step(
        &mut self,
        (vars, coordinates): (&[&Var], &[Option<Coordinates>]),
        grads: &GradStore,
        rate: f64,
        longest: f64,
    ) -> Result<f64> {
        let mut grads: Vec<Option<Vec<f32>>> = vars
            .iter()
            .map(|var| grads.get(var).map(|g| g.flatten_all()?.to_vec1()).transpose())
            .collect::<Result<_>>()?;
        let square = |grad: &Vec<f32>| -> f64 {
            grad.chunks(PIECE).map(|p| f64::from(lanes::sum(p, |g| g * g))).sum()
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
            let Some(grad) = &mut grads[index] else { continue };
            let coordinates = coordinates.get(index).and_then(Option::as_ref);
            if let Some(coordinates) = coordinates {
                coordinates.gradient(grad);
            }
            // The gradient is overwritten with the change.
            grad.par_chunks_mut(PIECE)
                .zip(self.first[index].par_chunks_mut(PIECE))
                .zip(self.second[index].par_chunks_mut(PIECE))
                .for_each(|((grad, first), second)| {
                    for (grad, (m, v)) in grad.iter_mut().zip(first.iter_mut().zip(second)) {
                        let now = *grad * cut;
                        *m = BETA1 * *m + (1.0 - BETA1) * now;
                        *v = BETA2 * *v + (1.0 - BETA2) * now * now;
                        *grad = rate * *m / ((*v * unbias).sqrt() + EPS);
                    }
                });
            if let Some(coordinates) = coordinates {
                coordinates.change(grad);
            }
            let mut values: Vec<f32> = var.flatten_all()?.to_vec1()?;
            values.iter_mut().zip(grad).for_each(|(value, change)| *value -= *change);
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition in f64, on gradients of a known function; then the cut.
    #[test]
    fn steps_are_those_of_the_definition() {
        let var = Var::new(&[1.0f32, -2.0, 0.5], &Device::Cpu).unwrap();
        let mut adam = Adam::new(&[&var]);
        let (mut x, mut m, mut v) = ([1.0f64, -2.0, 0.5], [0.0f64; 3], [0.0f64; 3]);
        for step in 1..=20 {
            // Gradient of Σ x⁴ / 4 is x³.
            let loss = (var.powf(4.0).unwrap() * 0.25).unwrap().sum_all().unwrap();
            let norm = adam.step((&[&var], &[]), &loss.backward().unwrap(), 0.01, 2.0).unwrap();
            let length = x.iter().map(|x| x.powi(6)).sum::<f64>().sqrt();
            assert!((norm - length).abs() < 1e-3 * length);
            for i in 0..3 {
                let grad = x[i].powi(3) * (2.0 / length).min(1.0);
                m[i] = 0.9 * m[i] + 0.1 * grad;
                v[i] = 0.99 * v[i] + 0.01 * grad * grad;
                let (m, v) = (m[i] / (1.0 - 0.9f64.powi(step)), v[i] / (1.0 - 0.99f64.powi(step)));
                x[i] -= 0.01 * m / (v.sqrt() + 1e-8);
            }
            for (got, wanted) in var.to_vec1::<f32>().unwrap().iter().zip(&x) {
                assert!((f64::from(*got) - wanted).abs() < 1e-4, "{got} for {wanted}");
            }
        }
    }

    #[test]
    fn a_gradient_that_is_no_number_changes_nothing() {
        let var = Var::new(&[0.0f32], &Device::Cpu).unwrap();
        let mut adam = Adam::new(&[&var]);
        let before = adam.clone();
        let grads = var.sqrt().unwrap().sum_all().unwrap().backward().unwrap();
        assert!(!adam.step((&[&var], &[]), &grads, 0.1, 1.0).unwrap().is_finite());
        assert_eq!(adam, before);
        assert_eq!(var.to_vec1::<f32>().unwrap(), [0.0]);
    }
}
