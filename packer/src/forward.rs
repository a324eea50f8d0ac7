//! The dense encoder in f32: what calibration listens to and pruning is judged by.
//!
//! Sentences are never padded: the token rows of all sentences lie below one another in one
//! matrix, linear layers see them as one batch and attention looks at one sentence at a time.
//! Work is cut into pieces of fixed size, so the answer does not depend on the thread count.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use grouse_runtime::format::MatrixKind;
use grouse_runtime::math;
use rayon::prelude::*;

use crate::model::{Activation, Config, DenseModel, Layer, LayerNorm, Linear, Matrix, Pooling};
use crate::{Error, Result, lanes};

/// Token rows per piece of parallel work.
const CHUNK: usize = 128;

/// Token ids of several sentences in one list.
#[derive(Debug, Clone)]
pub struct Batch {
    /// All ids, sentence after sentence.
    pub ids: Vec<u32>,
    /// Where each sentence starts in `ids`, and the end of the last.
    pub starts: Vec<usize>,
}

impl Batch {
    /// Joins sentences for `config`.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for a sentence that is empty or longer than the position table, and for an
    /// id outside the vocabulary.
    pub fn new<S: AsRef<[u32]>>(config: &Config, sentences: &[S]) -> Result<Self> {
        let mut batch = Self { ids: Vec::new(), starts: vec![0] };
        for (number, sentence) in sentences.iter().enumerate() {
            let ids = sentence.as_ref();
            if ids.is_empty() || ids.len() > config.max_positions {
                return Err(Error::input(
                    format!("sentence {} has {} tokens", number + 1, ids.len()),
                    format!("this model takes 1 to {} tokens", config.max_positions),
                ));
            }
            if let Some(id) = ids.iter().find(|id| **id as usize >= config.vocab_size) {
                return Err(Error::input(
                    format!(
                        "sentence {}: token {id} is outside the vocabulary of {}",
                        number + 1,
                        config.vocab_size
                    ),
                    "use the tokenizer that belongs to this model",
                ));
            }
            batch.ids.extend_from_slice(ids);
            batch.starts.push(batch.ids.len());
        }
        Ok(batch)
    }

    /// Number of sentences.
    pub fn sentences(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of tokens of all sentences.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// The hidden states after the embedding block, `[tokens][hidden]`.
pub fn embeddings(model: &DenseModel, batch: &Batch) -> Matrix {
    let tables = &model.embeddings;
    let mut out = Matrix::zeros(batch.tokens(), model.config.hidden_size);
    for window in batch.starts.windows(2) {
        for (position, token) in (window[0]..window[1]).enumerate() {
            let word = tables.word.row(batch.ids[token] as usize);
            let rest = tables.position.row(position).iter().zip(tables.token_type.row(0));
            for ((out, word), (position, kind)) in out.row_mut(token).iter_mut().zip(word).zip(rest)
            {
                *out = word + kind + position;
            }
        }
    }
    normalize_rows(&mut out, &tables.norm, model.config.layer_norm_eps);
    out
}

/// One encoder layer: `[tokens][hidden]` in and out. `see` gets the input of each of the four
/// matrices, in order.
pub fn layer(
    config: &Config,
    layer: &Layer,
    batch: &Batch,
    input: &Matrix,
    mut see: impl FnMut(MatrixKind, &Matrix),
) -> Matrix {
    see(MatrixKind::Qkv, input);
    let mixed = attention(config, layer, batch, input);
    see(MatrixKind::AttentionOutput, &mixed);
    let hidden = attention_end(config, layer, input, &mixed);
    see(MatrixKind::FeedForwardIn, &hidden);
    let wide = feed_forward_start(config, layer, &hidden);
    see(MatrixKind::FeedForwardOut, &wide);
    feed_forward_end(config, layer, &hidden, &wide)
}

/// Attention without its output matrix: the heads' mixed values, `[tokens][hidden]`.
pub fn attention(config: &Config, layer: &Layer, batch: &Batch, input: &Matrix) -> Matrix {
    let query = linear(input, &layer.query);
    let key = linear(input, &layer.key);
    let value = linear(input, &layer.value);
    attend(&query, &key, &value, &batch.starts, config.heads)
}

/// Attention output, residual and LayerNorm.
pub fn attention_end(config: &Config, layer: &Layer, input: &Matrix, mixed: &Matrix) -> Matrix {
    residual(linear(mixed, &layer.attention_output), input, &layer.attention_norm, config)
}

/// The first feed-forward matrix and the activation, `[tokens][intermediate]`.
pub fn feed_forward_start(config: &Config, layer: &Layer, hidden: &Matrix) -> Matrix {
    let mut wide = linear(hidden, &layer.ffn_in);
    activate(&mut wide, config.activation);
    wide
}

/// The second feed-forward matrix, residual and LayerNorm.
pub fn feed_forward_end(config: &Config, layer: &Layer, hidden: &Matrix, wide: &Matrix) -> Matrix {
    residual(linear(wide, &layer.ffn_out), hidden, &layer.ffn_norm, config)
}

/// Runs all layers and returns the last hidden states, `[tokens][hidden]`. `see` gets the layer's
/// number and the input of each of its four matrices.
pub fn run(
    model: &DenseModel,
    batch: &Batch,
    mut see: impl FnMut(usize, MatrixKind, &Matrix),
) -> Matrix {
    let mut hidden = embeddings(model, batch);
    for (index, weights) in model.layers.iter().enumerate() {
        hidden = layer(&model.config, weights, batch, &hidden, |kind, x| see(index, kind, x));
    }
    hidden
}

/// The embedding of each sentence, `[sentences][hidden]`.
///
/// # Errors
///
/// As [`Batch::new`].
pub fn embed_all<S: AsRef<[u32]>>(model: &DenseModel, sentences: &[S]) -> Result<Matrix> {
    let mut out = Matrix::zeros(sentences.len(), model.config.hidden_size);
    // Bounds the memory: about 16 MB of widest activations per thousand short sentences.
    const SENTENCES: usize = 256;
    for (part, rows) in
        sentences.chunks(SENTENCES).zip(out.data.chunks_mut(SENTENCES * model.config.hidden_size))
    {
        let batch = Batch::new(&model.config, part)?;
        let hidden = run(model, &batch, |_, _, _| {});
        rows.copy_from_slice(&pool(model, &batch, &hidden).data);
    }
    Ok(out)
}

/// The embedding of one sentence of token ids, `[hidden]`: pooled and, if the model says so, of
/// length 1.
///
/// # Errors
///
/// As [`Batch::new`].
pub fn embed(model: &DenseModel, ids: &[u32]) -> Result<Vec<f32>> {
    Ok(embed_all(model, &[ids])?.data)
}

/// Pools hidden states into one row per sentence.
pub fn pool(model: &DenseModel, batch: &Batch, hidden: &Matrix) -> Matrix {
    let mut out = Matrix::zeros(batch.sentences(), hidden.cols);
    for (sentence, window) in batch.starts.windows(2).enumerate() {
        let row = out.row_mut(sentence);
        match model.pooling {
            Pooling::Cls => row.copy_from_slice(hidden.row(window[0])),
            Pooling::Mean => {
                for token in window[0]..window[1] {
                    row.iter_mut().zip(hidden.row(token)).for_each(|(sum, x)| *sum += x);
                }
                let count = (window[1] - window[0]) as f32;
                row.iter_mut().for_each(|sum| *sum /= count);
            }
        }
        if model.normalize {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            row.iter_mut().for_each(|x| *x /= length);
        }
    }
    out
}

/// `y = W x + b` for every row of `input`: `[tokens][outputs]`.
pub fn linear(input: &Matrix, linear: &Linear) -> Matrix {
    let weight = &linear.weight;
    let (outputs, inputs) = (weight.rows, weight.cols);
    let mut out = Matrix::zeros(input.rows, outputs);
    let transposed = MatRef::from_row_major_slice(&weight.data, outputs, inputs).transpose();
    out.data.par_chunks_mut(CHUNK * outputs).zip(input.data.par_chunks(CHUNK * inputs)).for_each(
        |(out, input)| {
            let rows = input.len() / inputs;
            out.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(&linear.bias));
            let input = MatRef::from_row_major_slice(input, rows, inputs);
            let out = MatMut::from_row_major_slice_mut(out, rows, outputs);
            matmul(out, Accum::Add, input, transposed, 1.0, Par::Seq);
        },
    );
    out
}

/// Softmax attention of each sentence over itself, `[tokens][hidden]`.
pub fn attend(q: &Matrix, k: &Matrix, v: &Matrix, starts: &[usize], heads: usize) -> Matrix {
    let hidden = q.cols;
    let size = hidden / heads;
    let mut out = Matrix::zeros(q.rows, hidden);
    let mut rest = out.data.as_mut_slice();
    let mut parts = Vec::with_capacity(starts.len());
    for window in starts.windows(2) {
        let (part, tail) = rest.split_at_mut((window[1] - window[0]) * hidden);
        parts.push((window[0]..window[1], part));
        rest = tail;
    }
    parts.into_par_iter().for_each(|(tokens, out)| {
        let span = tokens.start * hidden..tokens.end * hidden;
        let [q, k, v] = [q, k, v]
            .map(|m| MatRef::from_row_major_slice(&m.data[span.clone()], tokens.len(), hidden));
        let mut out = MatMut::from_row_major_slice_mut(out, tokens.len(), hidden);
        let mut weights = vec![0.0f32; tokens.len() * tokens.len()];
        for head in 0..heads {
            let [q, k, v] = [q, k, v].map(|m| m.subcols(head * size, size));
            attention_weights(q, k, &mut weights);
            let weights = MatRef::from_row_major_slice(&weights, tokens.len(), tokens.len());
            let into = out.as_mut().subcols_mut(head * size, size);
            matmul(into, Accum::Replace, weights, v, 1.0, Par::Seq);
        }
    });
    out
}

/// One head's `softmax(q kᵀ / √size)` of a sentence, `[tokens][tokens]`; `q` and `k` are
/// `[tokens][size]`.
pub fn attention_weights(q: MatRef<'_, f32>, k: MatRef<'_, f32>, out: &mut [f32]) {
    let tokens = q.nrows();
    let scale = 1.0 / (q.ncols() as f32).sqrt();
    let into = MatMut::from_row_major_slice_mut(out, tokens, tokens);
    matmul(into, Accum::Replace, q, k.transpose(), scale, Par::Seq);
    for row in out.chunks_exact_mut(tokens) {
        let most = lanes::max(row);
        // The runtime's exponential can be vectorised, the system's is a call for each.
        row.iter_mut().for_each(|value| *value = math::exp(*value - most));
        let scale = 1.0 / lanes::sum(row, |x| x);
        row.iter_mut().for_each(|value| *value *= scale);
    }
}

fn activate(values: &mut Matrix, activation: Activation) {
    // One arm per function, so that the compiler can inline and vectorise each.
    match activation {
        Activation::Gelu => {
            apply(values, math::gelu);
        }
        Activation::GeluTanh => apply(values, |x| {
            // sqrt(2/π)
            0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
        }),
        Activation::Relu => apply(values, |x| x.max(0.0)),
    }
}

fn apply(values: &mut Matrix, one: impl Fn(f32) -> f32 + Sync) {
    let cols = values.cols;
    values.data.par_chunks_mut(CHUNK * cols).for_each(|part| {
        part.iter_mut().for_each(|x| *x = one(*x));
    });
}

fn residual(mut out: Matrix, input: &Matrix, norm: &LayerNorm, config: &Config) -> Matrix {
    out.data.iter_mut().zip(&input.data).for_each(|(out, x)| *out += x);
    normalize_rows(&mut out, norm, config.layer_norm_eps);
    out
}

/// LayerNorm of every row, in place.
pub fn normalize_rows(values: &mut Matrix, norm: &LayerNorm, eps: f32) {
    let cols = values.cols;
    values.data.par_chunks_mut(CHUNK * cols).for_each(|part| {
        for row in part.chunks_exact_mut(cols) {
            let mean = lanes::sum(row, |x| x) / cols as f32;
            let variance = lanes::sum(row, |x| (x - mean) * (x - mean)) / cols as f32;
            let scale = 1.0 / (variance + eps).sqrt();
            for (x, (gamma, beta)) in row.iter_mut().zip(norm.gamma.iter().zip(&norm.beta)) {
                *x = (*x - mean) * scale * gamma + beta;
            }
        }
    });
}
