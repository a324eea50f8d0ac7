//! candle, f32: `candle MODEL_DIR CASES`.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use grouse_peers::{Batch, Engine, arguments, cases, pool, serve};

struct Candle(BertModel);

impl Engine for Candle {
    fn embed(&mut self, batch: &Batch, out: &mut Vec<f32>) -> Result<()> {
        let tokens = batch[0].len();
        let ids = Tensor::from_vec(batch.concat(), (batch.len(), tokens), &Device::Cpu)?;
        let states = self.0.forward(&ids, &ids.zeros_like()?, None)?;
        let hidden = states.dim(2)?;
        pool(&states.flatten_all()?.to_vec1::<f32>()?, tokens, hidden, out);
        Ok(())
    }
}

fn main() -> Result<()> {
    let [dir, cases_file] = arguments(["MODEL_DIR", "CASES"])?;
    let cases = cases(Path::new(&cases_file))?;
    let dir = Path::new(&dir);
    let config: Config = serde_json::from_str(&std::fs::read_to_string(dir.join("config.json"))?)
        .context("config.json")?;
    let weights = std::fs::read(dir.join("model.safetensors")).context("model.safetensors")?;
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
    serve(&mut Candle(BertModel::load(weights, &config)?), &cases)
}
