//! tract: `tract MODEL.onnx CASES`. One plan for every length, as a program with texts of any
//! length has it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use grouse_peers::{Batch, Engine, arguments, cases, serve};
use tract_onnx::prelude::*;

struct Tract(Arc<TypedRunnableModel>);

impl Engine for Tract {
    fn embed(&mut self, batch: &Batch, out: &mut Vec<f32>) -> Result<()> {
        let ids: Vec<i64> = batch.iter().flatten().map(|id| i64::from(*id)).collect();
        let ids = Tensor::from_shape(&[batch.len(), batch[0].len()], &ids)?;
        let answer = self.0.run(tvec!(ids.into()))?;
        out.extend_from_slice(answer[0].to_plain_array_view::<f32>()?.as_slice().unwrap_or(&[]));
        Ok(())
    }
}

fn main() -> Result<()> {
    let [file, cases_file] = arguments(["MODEL.onnx", "CASES"])?;
    let cases = cases(Path::new(&cases_file))?;
    let model = tract_onnx::onnx().model_for_path(&file)?;
    let (batch, tokens) = (model.symbols.sym("batch"), model.symbols.sym("tokens"));
    let fact = i64::fact([batch.to_dim(), tokens.to_dim()]);
    let plan = model.with_input_fact(0, fact.into())?.into_optimized()?.into_runnable()?;
    serve(&mut Tract(plan), &cases)
}
