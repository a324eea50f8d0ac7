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
    /// Divergence of each sentence's neighbours in the batch, see [`TEMPERATURE`].
    pub neighbours: f64,
    /// Relative error of the last state once more.
    pub last: f64,
}

/// Similarities are divided by it before the softmax that makes neighbours of them.
const TEMPERATURE: f64 = 0.05;

impl Default for Weights {
    fn default() -> Self {
        let env = |n: &str, d: f64| std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
        Self {
            states: env("H_STATES", 1.0),
            similarities: env("H_SIM", 1.0),
            embeddings: env("H_EMB", 1.0),
            neighbours: env("H_KL", 0.0),
            last: env("H_LAST", 0.0),
        }
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
        if weights.neighbours > 0.0 {
            let wrong = divergence(&similarities(&embeddings)?, &wanted)?;
            loss = (loss + (wrong * weights.neighbours)?)?;
        }
        if weights.states > 0.0 {
            let share = weights.states / self.states.len() as f64;
            let last = self.states.len() - 1;
            for (at, ((state, wanted), energy)) in
                pass.states.iter().zip(&self.states).zip(&self.energies).enumerate()
            {
                let wrong = distance(state, wanted)?;
                let share = if at == last { share + weights.last } else { share };
                loss = (loss + (wrong * (share / energy))?)?;
            }
        }
        Ok(loss)
    }
}

/// Mean over sentences of the Kullback–Leibler divergence of their neighbours: the softmax of the
/// similarities to the other sentences of the batch, the dense model's against the student's.
/// Both matrices are `[sentences][sentences]`.
fn divergence(similar: &Tensor, wanted: &Tensor) -> Result<Tensor> {
    let count = wanted.dim(0)?;
    let others = (1.0 - Tensor::eye(count, similar.dtype(), &Device::Cpu)?)?;
    // Similarities are at most 1: no exponential overflows.
    let logits = |s: &Tensor| (s - 1.0)? / TEMPERATURE;
    let total = |l: &Tensor| ((l.exp()? * &others)?.sum_keepdim(1)? + 1e-30)?.log();
    let logs = |s: &Tensor| {
        let logits = logits(s)?;
        logits.broadcast_sub(&total(&logits)?)
    };
    let wanted = logs(wanted)?;
    let part = (wanted.exp()? * &others)?;
    (part * (wanted - logs(similar)?)?)?.sum_all()? / count as f64
}
