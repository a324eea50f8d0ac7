//! rten: `rten MODEL.onnx CASES`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use grouse_peers::{Batch, Engine, arguments, cases, serve};
use rten::{Model, ModelOptions, RunOptions, ThreadPool};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, Tensor};

struct Rten {
    model: Model,
    options: RunOptions,
}

impl Engine for Rten {
    fn embed(&mut self, batch: &Batch, out: &mut Vec<f32>) -> Result<()> {
        let ids: Vec<i32> =
            batch.iter().flatten().map(|id| i32::try_from(*id)).collect::<Result<_, _>>()?;
        let ids = NdTensor::from_data([batch.len(), batch[0].len()], ids);
        let answer = self.model.run_one(ids.into(), Some(self.options.clone()))?;
        let answer: Tensor<f32> = answer.into_tensor().context("the embedding is not f32")?;
        out.extend(answer.iter());
        Ok(())
    }
}

fn main() -> Result<()> {
    let [file, cases_file] = arguments(["MODEL.onnx", "CASES"])?;
    let cases = cases(Path::new(&cases_file))?;
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(&file)?;
    let pool = Arc::new(ThreadPool::with_num_threads(1));
    let options = RunOptions::default().with_thread_pool(Some(pool));
    serve(&mut Rten { model, options }, &cases)
}
