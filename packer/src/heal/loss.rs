//! How far the student is from the dense model on one batch.

use candle_core::{Device, Result, Tensor};
use grouse_runtime::format::MatrixKind;

use super::ops::distance::distance;
use super::student::{Pass, normalize};
use crate::forward::{self, Batch};
use crate::model::DenseModel;

/// What the dense model says about a batch.
pub struct Target {
    /// State after attention and after feed-forward of every layer, `[tokens][hidden]` each.
    states: Vec<Tensor>,
    /// Their energy around each channel's mean.
    energies: Vec<f64>,
    /// `[sentences][hidden]`, each of length 1.
    embeddings: Tensor,
}

/// Weights of the loss's parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// Relative error of the states, mean over them.
    pub states: f64,
    /// Relative error of the matrix of the batch's similarities.
    pub similarities: f64,
    /// 1 − cosine to the dense embedding.
    pub embeddings: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { states: 1.0, similarities: 1.0, embeddings: 1.0 }
    }
}

impl Target {
    /// Runs the dense model.
    pub fn of(teacher: &DenseModel, batch: &Batch) -> Result<Self> {
        let mut states = Vec::with_capacity(2 * teacher.layers.len());
        let last = forward::run(teacher, batch, |layer, kind, input| match kind {
            MatrixKind::FeedForwardIn => states.push(input.clone()),
            MatrixKind::Qkv if layer > 0 => states.push(input.clone()),
            _ => {}
        });
        let pooled = forward::pool(teacher, batch, &last);
        states.push(last);
        let shape = (pooled.rows, pooled.cols);
        let embeddings = normalize(&Tensor::from_vec(pooled.data, shape, &Device::Cpu)?)?;
        let states = states
            .into_iter()
            .map(|s| Tensor::from_vec(s.data, (s.rows, s.cols), &Device::Cpu))
            .collect::<Result<Vec<_>>>()?;
        let energies = states
            .iter()
            .map(|s| {
                let centred = s.broadcast_sub(&s.mean_keepdim(0)?)?;
                Ok(f64::from(centred.sqr()?.sum_all()?.to_scalar::<f32>()?).max(1e-12))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { states, energies, embeddings })
    }

    /// The loss of a pass over the same batch, a scalar on the tape.
    pub fn loss(&self, pass: &Pass, weights: &Weights) -> Result<Tensor> {
        let embeddings = normalize(&pass.embeddings)?;
        let cosine = (&embeddings * &self.embeddings)?.sum(1)?.mean_all()?;
        let mut loss = ((1.0 - cosine)? * weights.embeddings)?;
        let similarities = |e: &Tensor| e.matmul(&e.t()?);
        let wanted = similarities(&self.embeddings)?;
        let wrong = (similarities(&embeddings)? - &wanted)?.sqr()?.sum_all()?;
        // The diagonal is 1 whatever the model says.
        let ones = wanted.dim(0)? as f32;
        let energy = wanted.sqr()?.sum_all()?.to_scalar::<f32>()? - ones;
        loss = (loss + (wrong * (weights.similarities / f64::from(energy.max(1e-3))))?)?;
        if weights.states > 0.0 {
            let share = weights.states / self.states.len() as f64;
            for ((state, wanted), energy) in
                pass.states.iter().zip(&self.states).zip(&self.energies)
            {
                let wrong = distance(state, wanted)?;
                loss = (loss + (wrong * (share / energy))?)?;
            }
        }
        Ok(loss)
    }
}
