//! The pruned model on candle's tape: its kept weights, biases and LayerNorms are trained, its
//! embedding tables are not.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::blocks::Blocks;
use super::ops::activation::activate;
use super::ops::attention::attention;
use super::ops::linear::group_linear;
use super::ops::norm::layer_norm;
use super::respell::Respell;
use super::whiten::Coordinates;
use crate::calibrate::LayerStats;
use crate::forward::Batch;
use crate::model::{Config, DenseModel, Embeddings, Layer, LayerNorm, Linear, Matrix, Pooling};

/// What is trained, and how to run it.
pub struct Student {
    config: Config,
    pooling: Pooling,
    normalize: bool,
    /// Round weights to int8 in the forward pass.
    int8: bool,
    /// How it reads, where that is not as the dense model does.
    respell: Option<Respell>,
    norm: Norm,
    layers: Vec<StudentLayer>,
}

/// A LayerNorm's gamma and beta.
struct Norm {
    gamma: Var,
    beta: Var,
}

/// One packed matrix: kept weights and bias.
struct Site {
    blocks: Arc<Blocks>,
    weights: Var,
    bias: Var,
}

struct StudentLayer {
    /// Query, key and value, stacked.
    qkv: Site,
    attention_output: Site,
    attention_norm: Norm,
    ffn_in: Site,
    ffn_out: Site,
    ffn_norm: Norm,
}

impl Norm {
    fn new(norm: &LayerNorm) -> Result<Self> {
        Ok(Self { gamma: vector(norm.gamma.clone())?, beta: vector(norm.beta.clone())? })
    }

    fn apply(&self, x: &Tensor, eps: f32) -> Result<Tensor> {
        layer_norm(x, &self.gamma, &self.beta, eps)
    }

    fn write_to(&self, norm: &mut LayerNorm) -> Result<()> {
        norm.gamma = self.gamma.to_vec1()?;
        norm.beta = self.beta.to_vec1()?;
        Ok(())
    }
}

impl Site {
    fn new(linears: &[&Linear]) -> Result<Self> {
        let stacked = Matrix {
            rows: linears.iter().map(|l| l.weight.rows).sum(),
            cols: linears.first().map_or(0, |l| l.weight.cols),
            data: linears.iter().flat_map(|l| l.weight.data.iter().copied()).collect(),
        };
        let blocks = Arc::new(Blocks::of(&stacked));
        Ok(Self {
            weights: vector(blocks.gather(&stacked))?,
            bias: vector(linears.iter().flat_map(|l| l.bias.iter().copied()).collect())?,
            blocks,
        })
    }

    fn apply(&self, x: &Tensor, int8: bool) -> Result<Tensor> {
        group_linear(x, &self.weights, &self.bias, &self.blocks, int8)
    }

    fn write_to(&self, linears: &mut [&mut Linear]) -> Result<()> {
        let weight = self.blocks.scatter(&self.weights.to_vec1()?);
        let bias: Vec<f32> = self.bias.to_vec1()?;
        let mut row = 0;
        for linear in linears {
            let rows = linear.weight.rows;
            linear
                .weight
                .data
                .copy_from_slice(&weight.data[row * weight.cols..][..rows * weight.cols]);
            linear.bias.copy_from_slice(&bias[row..row + rows]);
            row += rows;
        }
        Ok(())
    }
}

impl StudentLayer {
    fn new(layer: &Layer) -> Result<Self> {
        Ok(Self {
            qkv: Site::new(&[&layer.query, &layer.key, &layer.value])?,
            attention_output: Site::new(&[&layer.attention_output])?,
            attention_norm: Norm::new(&layer.attention_norm)?,
            ffn_in: Site::new(&[&layer.ffn_in])?,
            ffn_out: Site::new(&[&layer.ffn_out])?,
            ffn_norm: Norm::new(&layer.ffn_norm)?,
        })
    }

    fn vars(&self) -> [&Var; 12] {
        [
            &self.qkv.weights,
            &self.qkv.bias,
            &self.attention_output.weights,
            &self.attention_output.bias,
            &self.attention_norm.gamma,
            &self.attention_norm.beta,
            &self.ffn_in.weights,
            &self.ffn_in.bias,
            &self.ffn_out.weights,
            &self.ffn_out.bias,
            &self.ffn_norm.gamma,
            &self.ffn_norm.beta,
        ]
    }
}

fn vector(data: Vec<f32>) -> Result<Var> {
    let length = data.len();
    Var::from_vec(data, length, &Device::Cpu)
}

/// What a forward pass leaves on the tape.
pub struct Pass {
    /// State after attention and after feed-forward of every layer, `[tokens][hidden]` each.
    pub states: Vec<Tensor>,
    /// Pooled and, if the model says so, normalised: `[sentences][hidden]`.
    pub embeddings: Tensor,
}

impl Student {
    /// Takes `model`'s weights; its zeros are the mask.
    pub fn new(model: &DenseModel, int8: bool) -> Result<Self> {
        Ok(Self {
            config: model.config.clone(),
            pooling: model.pooling,
            normalize: model.normalize,
            int8,
            respell: None,
            norm: Norm::new(&model.embeddings.norm)?,
            layers: model.layers.iter().map(StudentLayer::new).collect::<Result<_>>()?,
        })
    }

    /// The same student with another spelling of what it reads.
    #[must_use]
    pub fn reading(self, respell: Option<Respell>) -> Self {
        Self { respell, ..self }
    }

    /// Everything that is trained, in an order that depends on the model only.
    pub fn vars(&self) -> Vec<&Var> {
        let norm = [&self.norm.gamma, &self.norm.beta];
        norm.into_iter().chain(self.layers.iter().flat_map(StudentLayer::vars)).collect()
    }

    /// Coordinates to train each of [`Student::vars`] in; only weights have any. `stats` say what
    /// the matrices' inputs are like.
    ///
    /// # Errors
    /// As [`Coordinates::new`].
    pub fn coordinates(&self, stats: &[LayerStats]) -> crate::Result<Vec<Option<Coordinates>>> {
        let mut all: Vec<Option<Coordinates>> = Vec::new();
        all.resize_with(self.vars().len(), || None);
        let layers = all[2..].chunks_exact_mut(12);
        for ((layer, stats), all) in self.layers.iter().zip(stats).zip(layers) {
            // Places of the weights in `StudentLayer::vars`.
            let sites = [(0, &layer.qkv), (2, &layer.attention_output), (6, &layer.ffn_in)];
            let sites = sites.into_iter().chain([(8, &layer.ffn_out)]);
            for ((place, site), input) in sites.zip(&stats.inputs) {
                let stored: Vec<f32> = site.weights.to_vec1()?;
                all[place] = Some(Coordinates::new(&site.blocks, &stored, input)?);
            }
        }
        Ok(all)
    }

    /// Runs a batch. `summed` is what [`summed_embeddings`] gave for it.
    ///
    /// A student that reads in another spelling has the state of a token's first piece in its place.
    pub fn run(&self, batch: &Batch, summed: &Tensor) -> Result<Pass> {
        let Some(respell) = &self.respell else { return self.run_as_it_is(batch, summed) };
        let (batch, places) = respell.batch(batch);
        let pass = self.run_as_it_is(&batch, &sum(respell.tables(), &batch)?)?;
        let places = Tensor::new(places, &Device::Cpu)?;
        let states =
            pass.states.iter().map(|s| s.index_select(&places, 0)).collect::<Result<_>>()?;
        Ok(Pass { states, ..pass })
    }

    fn run_as_it_is(&self, batch: &Batch, summed: &Tensor) -> Result<Pass> {
        let eps = self.config.layer_norm_eps;
        let starts = Arc::new(batch.starts.clone());
        let mut states = Vec::with_capacity(2 * self.layers.len());
        let mut hidden = self.norm.apply(summed, eps)?;
        for layer in &self.layers {
            let qkv = layer.qkv.apply(&hidden, self.int8)?;
            let mixed = attention(&qkv, &starts, self.config.heads)?;
            let sum = (layer.attention_output.apply(&mixed, self.int8)? + hidden)?;
            hidden = layer.attention_norm.apply(&sum, eps)?;
            states.push(hidden.clone());
            let wide = layer.ffn_in.apply(&hidden, self.int8)?;
            let wide = activate(&wide, self.config.activation)?;
            let sum = (layer.ffn_out.apply(&wide, self.int8)? + hidden)?;
            hidden = layer.ffn_norm.apply(&sum, eps)?;
            states.push(hidden.clone());
        }
        let pooled = pooling(self.pooling, batch)?.matmul(&hidden)?;
        let embeddings = if self.normalize { normalize(&pooled)? } else { pooled };
        Ok(Pass { states, embeddings })
    }

    /// Writes what is trained back into `model`, which must be the one that [`Student::new`] took
    /// or one with the same zeros.
    pub fn write_to(&self, model: &mut DenseModel) -> Result<()> {
        self.norm.write_to(&mut model.embeddings.norm)?;
        for (from, to) in self.layers.iter().zip(&mut model.layers) {
            from.qkv.write_to(&mut [&mut to.query, &mut to.key, &mut to.value])?;
            from.attention_output.write_to(&mut [&mut to.attention_output])?;
            from.attention_norm.write_to(&mut to.attention_norm)?;
            from.ffn_in.write_to(&mut [&mut to.ffn_in])?;
            from.ffn_out.write_to(&mut [&mut to.ffn_out])?;
            from.ffn_norm.write_to(&mut to.ffn_norm)?;
        }
        Ok(())
    }
}

/// Word, position and type embeddings of a batch before their LayerNorm, `[tokens][hidden]`.
pub fn summed_embeddings(model: &DenseModel, batch: &Batch) -> Result<Tensor> {
    sum(&model.embeddings, batch)
}

fn sum(tables: &Embeddings, batch: &Batch) -> Result<Tensor> {
    let hidden = tables.word.cols;
    let mut sums = Vec::with_capacity(batch.tokens() * hidden);
    for window in batch.starts.windows(2) {
        for (position, id) in batch.ids[window[0]..window[1]].iter().enumerate() {
            let rest = tables.position.row(position).iter().zip(tables.token_type.row(0));
            let word = tables.word.row(*id as usize);
            sums.extend(
                word.iter().zip(rest).map(|(word, (position, kind))| word + kind + position),
            );
        }
    }
    Tensor::from_vec(sums, (batch.tokens(), hidden), &Device::Cpu)
}

/// The matrix that pools states into sentences, `[sentences][tokens]`.
fn pooling(pooling: Pooling, batch: &Batch) -> Result<Tensor> {
    let mut weights = vec![0.0f32; batch.sentences() * batch.tokens()];
    for (row, window) in weights.chunks_exact_mut(batch.tokens()).zip(batch.starts.windows(2)) {
        match pooling {
            Pooling::Cls => row[window[0]] = 1.0,
            Pooling::Mean => row[window[0]..window[1]].fill(1.0 / (window[1] - window[0]) as f32),
        }
    }
    Tensor::from_vec(weights, (batch.sentences(), batch.tokens()), &Device::Cpu)
}

/// Every row divided by its length.
pub fn normalize(rows: &Tensor) -> Result<Tensor> {
    let lengths = (rows.sqr()?.sum_keepdim(1)? + 1e-24)?.sqrt()?;
    rows.broadcast_div(&lengths)
}
