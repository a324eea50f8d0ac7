//! The line protocol between `benches/peers/run` and an engine: a child process that holds one
//! model and answers one request a line.
//!
//! A child prints `READY` once its model is loaded. To `RUN case` it answers the milliseconds of
//! one inference, to `EMBED case` the embeddings as one JSON list. It ends with its input.

use std::collections::BTreeMap;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Sentences of one length, as token ids: `[sentences][tokens]`.
pub type Batch = Vec<Vec<u32>>;

/// One inference engine with its model loaded.
pub trait Engine {
    /// Runs `batch` and appends its embeddings, `[sentences][hidden]`, to the empty `out`.
    ///
    /// # Errors
    /// The engine's own.
    fn embed(&mut self, batch: &Batch, out: &mut Vec<f32>) -> Result<()>;
}

/// Reads the cases, `{"name": [[ids…]…]}`.
///
/// # Errors
/// When the file cannot be read, is not that JSON, or a batch mixes lengths.
pub fn cases(path: &Path) -> Result<BTreeMap<String, Batch>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let cases: BTreeMap<String, Batch> =
        serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
    for (name, batch) in &cases {
        let tokens = batch.first().map_or(0, Vec::len);
        if tokens == 0 || batch.iter().any(|ids| ids.len() != tokens) {
            bail!("case {name}: sentences of one length, at least one token each, are needed");
        }
    }
    Ok(cases)
}

/// Answers requests from standard input until it ends.
///
/// # Errors
/// An unknown request or case, or what the engine reports.
pub fn serve(engine: &mut dyn Engine, cases: &BTreeMap<String, Batch>) -> Result<()> {
    let mut embeddings = Vec::new();
    answer(|request, name| {
        let batch = cases.get(name).with_context(|| format!("no case is called {name:?}"))?;
        embeddings.clear();
        let start = Instant::now();
        engine.embed(batch, &mut embeddings)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        match request {
            "RUN" => Ok(milliseconds.to_string()),
            "EMBED" => Ok(serde_json::to_string(&embeddings)?),
            _ => bail!("no request is called {request:?}"),
        }
    })
}

/// Says `READY`, then prints what `reply` makes of every `request name` of standard input.
///
/// # Errors
/// Those of `reply`, and of the standard streams.
pub fn answer(mut reply: impl FnMut(&str, &str) -> Result<String>) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "READY")?;
    out.flush()?;
    for line in stdin().lock().lines() {
        let line = line?;
        let (request, name) = line.split_once(' ').unwrap_or((&line, ""));
        writeln!(out, "{}", reply(request, name)?)?;
        out.flush()?;
    }
    Ok(())
}

/// The command line's arguments, as many as there are names.
///
/// # Errors
/// When there are fewer or more.
pub fn arguments<const N: usize>(names: [&str; N]) -> Result<[String; N]> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    <[String; N]>::try_from(given)
        .map_err(|_| anyhow::anyhow!("these arguments are needed: {}", names.join(" ")))
}

/// Mean over the tokens and L2 norm 1: appends the embeddings of hidden states
/// `[sentences][tokens][hidden]` to `out`, for engines whose model ends with the last layer.
pub fn pool(states: &[f32], tokens: usize, hidden: usize, out: &mut Vec<f32>) {
    for sentence in states.chunks_exact(tokens * hidden) {
        let start = out.len();
        out.resize(start + hidden, 0.0);
        let Some(mean) = out.get_mut(start..) else { continue };
        for state in sentence.chunks_exact(hidden) {
            mean.iter_mut().zip(state).for_each(|(m, s)| *m += s);
        }
        // The mean's divisor falls out of the norm.
        let norm = mean.iter().map(|m| m * m).sum::<f32>().sqrt().max(1e-12);
        mean.iter_mut().for_each(|m| *m /= norm);
    }
}
