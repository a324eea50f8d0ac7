//! Grouse: `grouse-engine FILE CASES BACKEND`; the backend `default` leaves the choice to the runtime.

use std::path::Path;

use anyhow::{Context, Result};
use grouse_peers::{Batch, Engine, arguments, cases, serve};
use grouse_runtime::encoder::Encoder;
use grouse_runtime::kernels;
use grouse_runtime::mapped::MappedFile;
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;

/// The arena begins at a cache line.
const ARENA_ALIGN: usize = 64;

struct Grouse<'m, 'a> {
    encoder: Encoder<'m, 'a>,
    hidden: usize,
}

impl Engine for Grouse<'_, '_> {
    fn embed(&mut self, batch: &Batch, out: &mut Vec<f32>) -> Result<()> {
        out.resize(batch.len() * self.hidden, 0.0);
        for (ids, embedding) in batch.iter().zip(out.chunks_exact_mut(self.hidden)) {
            self.encoder.embed(ids, embedding)?;
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let [file, cases_file, backend] = arguments(["FILE", "CASES", "BACKEND"])?;
    let cases = cases(Path::new(&cases_file))?;
    let backend = match backend.as_str() {
        "default" => kernels::default(),
        name => kernels::by_name(name).with_context(|| {
            let names: Vec<_> = kernels::available().map(|b| b.name()).collect();
            format!("no backend is called {name:?}; there are {}", names.join(", "))
        })?,
    };
    let mapped = MappedFile::open(Path::new(&file)).with_context(|| file.clone())?;
    let model = Model::open(mapped.bytes()).with_context(|| file.clone())?;
    let tokens = cases.values().flatten().map(Vec::len).max().unwrap_or(2);
    let needed = Plan::new(&model, tokens)?.arena_bytes();
    let mut memory = vec![0_u8; needed + ARENA_ALIGN];
    let start = memory.as_ptr().align_offset(ARENA_ALIGN);
    let arena = memory.get_mut(start..start + needed).context("the arena cannot be aligned")?;
    let encoder = Encoder::new(&model, backend, arena, tokens)?;
    let hidden = model.arch().hidden_size as usize;
    eprintln!("backend {}", backend.name());
    serve(&mut Grouse { encoder, hidden }, &cases)
}
