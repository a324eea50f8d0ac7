//! BERT's tensor names and shapes.

use super::weights::Checkpoint;
use crate::model::{Config, Embeddings, Layer, LayerNorm, Linear, Matrix};
use crate::{Error, Result};

/// Reads embeddings and layers; tensor names may start with `bert.` (or another single word).
pub fn read(tensors: &Checkpoint, config: &Config) -> Result<(Embeddings, Vec<Layer>)> {
    let reader = Reader { tensors, prefix: prefix(tensors) };
    let hidden = config.hidden_size;
    let embeddings = Embeddings {
        word: reader.matrix("embeddings.word_embeddings.weight", config.vocab_size, hidden)?,
        position: reader.matrix(
            "embeddings.position_embeddings.weight",
            config.max_positions,
            hidden,
        )?,
        token_type: reader.matrix(
            "embeddings.token_type_embeddings.weight",
            config.token_types,
            hidden,
        )?,
        norm: reader.norm("embeddings.LayerNorm", hidden)?,
    };
    let layers = (0..config.layers).map(|l| reader.layer(l, config)).collect::<Result<_>>()?;
    let extra = format!("{}encoder.layer.{}.", reader.prefix, config.layers);
    if tensors.names().any(|name| name.starts_with(&extra)) {
        return Err(Error::input(
            format!("the weights have more layers than num_hidden_layers = {}", config.layers),
            "correct config.json: weights and config do not belong together",
        ));
    }
    Ok((embeddings, layers))
}

/// What stands before "embeddings." in this checkpoint.
pub fn prefix(tensors: &Checkpoint) -> String {
    let tail = "embeddings.word_embeddings.weight";
    let name = tensors.names().find(|name| name.ends_with(tail)).unwrap_or(tail);
    name[..name.len() - tail.len()].to_string()
}

/// The names that a LayerNorm's weight and bias may have, newest first.
pub const NORM_NAMES: [(&str, &str); 2] = [("weight", "bias"), ("gamma", "beta")];

struct Reader<'a> {
    tensors: &'a Checkpoint,
    prefix: String,
}

impl Reader<'_> {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let data = self.tensors.read(&format!("{}{name}", self.prefix), &[rows, cols])?;
        Ok(Matrix { rows, cols, data })
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear> {
        let weight = self.matrix(&format!("{name}.weight"), outputs, inputs)?;
        let bias = self.tensors.read(&format!("{}{name}.bias", self.prefix), &[outputs])?;
        Ok(Linear { weight, bias })
    }

    fn norm(&self, name: &str, width: usize) -> Result<LayerNorm> {
        let full = format!("{}{name}", self.prefix);
        let [new, old] = NORM_NAMES;
        let is_old = self.tensors.has(&format!("{full}.{}", old.0));
        let (weight, bias) = if is_old { old } else { new };
        Ok(LayerNorm {
            gamma: self.tensors.read(&format!("{full}.{weight}"), &[width])?,
            beta: self.tensors.read(&format!("{full}.{bias}"), &[width])?,
        })
    }

    fn layer(&self, index: usize, config: &Config) -> Result<Layer> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let at = format!("encoder.layer.{index}.");
        let linear =
            |name: &str, outputs, inputs| self.linear(&format!("{at}{name}"), outputs, inputs);
        let norm = |name: &str| self.norm(&format!("{at}{name}"), hidden);
        Ok(Layer {
            query: linear("attention.self.query", hidden, hidden)?,
            key: linear("attention.self.key", hidden, hidden)?,
            value: linear("attention.self.value", hidden, hidden)?,
            attention_output: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: norm("attention.output.LayerNorm")?,
            ffn_in: linear("intermediate.dense", wide, hidden)?,
            ffn_out: linear("output.dense", hidden, wide)?,
            ffn_norm: norm("output.LayerNorm")?,
        })
    }
}
