//! A packed model on this host: mapped, validated, and run over texts on several threads,
//! in batches.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use grouse_runtime::encoder::{Encoder, Offload};
use grouse_runtime::kernels::{self, Backend};
use grouse_runtime::mapped::MappedFile;
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;
use rayon::prelude::*;

use crate::{Error, Result};

/// A mapped file and where it came from.
#[derive(Debug)]
pub struct PackedFile {
    path: PathBuf,
    map: MappedFile,
}

impl PackedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let map = MappedFile::open(path).map_err(Error::io("read", path))?;
        Ok(Self { path: path.to_path_buf(), map })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Validates the file.
    ///
    /// # Errors
    /// What is wrong with it, by [`Model::open`].
    pub fn model(&self) -> Result<Model<'_>> {
        Model::open(self.map.bytes()).map_err(Error::runtime(self.path.display().to_string()))
    }
}

/// One text's answer.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Its tokens' ids, `[CLS]` and `[SEP]` included.
    pub ids: Vec<u32>,
    /// Whether the text had more tokens than the model takes.
    pub truncated: bool,
    /// The embedding, `[hidden_size]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub embedding: Vec<f32>,
}

/// The backend called `name`, or the default.
///
/// # Errors
/// When there is no such backend; the message lists them.
pub fn backend(name: Option<&str>) -> Result<&'static dyn Backend> {
    let Some(name) = name else { return Ok(kernels::default()) };
    kernels::by_name(name).ok_or_else(|| {
        let here: Vec<&str> = kernels::available().map(|b| b.name()).collect();
        let cause = match kernels::entries().iter().find(|entry| entry.name == name) {
            Some(entry) => {
                format!(
                    "this processor cannot run the backend \"{name}\": it needs {}",
                    entry.needs
                )
            }
            None => format!("there is no backend \"{name}\""),
        };
        Error::input(cause, format!("choose one of: {}", here.join(", ")))
    })
}

/// Tokens of a batch, where there are texts enough: beyond it a call gains little.
const BATCH_TOKENS: usize = 256;

/// A batch is not made smaller than this to give every thread one.
const LEAST_TOKENS: usize = 32;

/// A cache line: what an arena is allocated in, so that it starts at one.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Runs a model over texts.
pub struct Engine<'m> {
    model: Model<'m>,
    backend: &'static dyn Backend,
    pool: rayon::ThreadPool,
    /// Arenas of earlier calls.
    arenas: Mutex<Vec<Vec<Line>>>,
}

impl<'m> Engine<'m> {
    /// An engine with `threads` threads (all cores when `None`); the answers do not depend on it.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(
        model: Model<'m>,
        backend: &'static dyn Backend,
        threads: Option<usize>,
    ) -> Result<Self> {
        let pool =
            rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build().map_err(
                |e| Error::input(format!("cannot start threads: {e}"), "use fewer --threads"),
            )?;
        Ok(Self { model, backend, pool, arenas: Mutex::default() })
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// The backend.
    pub fn backend(&self) -> &'static dyn Backend {
        self.backend
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Tokenizes `text` up to the model's maximum.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn tokenize(&self, text: &str) -> Result<Answer> {
        let mut ids = vec![0; self.model.arch().max_tokens as usize];
        let encoded = self
            .model
            .tokenizer()
            .encode(text, &mut ids)
            .map_err(|e| Error::runtime(format!("tokenizing {}", quote(text)))(e))?;
        ids.truncate(encoded.tokens);
        Ok(Answer {
            text: text.to_string(),
            ids,
            truncated: encoded.truncated,
            embedding: Vec::new(),
        })
    }

    /// Embeds `texts`; answers come in their order. `done` is called after each text.
    ///
    /// # Errors
    /// The first failing text's, which it names.
    pub fn embed(&self, texts: &[String], done: impl Fn() + Sync) -> Result<Vec<Answer>> {
        let answers = self
            .pool
            .install(|| texts.par_iter().map(|text| self.tokenize(text)).collect::<Vec<_>>());
        let mut answers: Vec<Answer> = answers.into_iter().collect::<Result<_>>()?;
        let ids: Vec<&[u32]> = answers.iter().map(|answer| answer.ids.as_slice()).collect();
        let embeddings = self.embed_ids(&ids, done).map_err(|(number, error)| {
            let text = texts.get(number).map_or("", String::as_str);
            Error::runtime(format!("embedding {}", quote(text)))(error)
        })?;
        for (answer, embedding) in
            answers.iter_mut().zip(embeddings.chunks_exact(self.model.arch().hidden_size as usize))
        {
            answer.embedding = embedding.to_vec();
        }
        Ok(answers)
    }

    /// Embeds `texts` one after the other, with the products of int8 groups by way of `offload`.
    ///
    /// # Errors
    /// The first failing text's, which it names.
    pub fn embed_offloaded(
        &self,
        texts: &[String],
        offload: &mut Offload<'_>,
    ) -> Result<Vec<Answer>> {
        let embed = |text: &String| {
            let mut answer = self.tokenize(text)?;
            let named = |error| Error::runtime(format!("embedding {}", quote(text)))(error);
            let plan = Plan::new(&self.model, answer.ids.len()).map_err(named)?;
            let mut arena = vec![Line([0; 64]); plan.arena_bytes().div_ceil(size_of::<Line>())];
            let arena = bytemuck::must_cast_slice_mut(&mut arena);
            let mut encoder =
                Encoder::with_plan(&self.model, self.backend, arena, plan).map_err(named)?;
            answer.embedding = vec![0.0; self.model.arch().hidden_size as usize];
            encoder
                .embed_offloaded(&[&answer.ids], &mut answer.embedding, offload)
                .map_err(named)?;
            Ok(answer)
        };
        texts.iter().map(embed).collect()
    }

    /// Embeds texts given as ids, `[texts][hidden_size]`; `done` is called after each text.
    ///
    /// Texts beside one another share calls, unpadded; a text alone is worked on by all threads.
    ///
    /// # Errors
    /// The first failing text's number and error.
    pub fn embed_ids(
        &self,
        texts: &[&[u32]],
        done: impl Fn() + Sync,
    ) -> std::result::Result<Vec<f32>, (usize, grouse_runtime::Error)> {
        let hidden = self.model.arch().hidden_size as usize;
        let lengths: Vec<usize> = texts.iter().map(|ids| ids.len()).collect();
        let batches = batches(&lengths, self.threads());
        // Batches are as many as threads, or a multiple, but for a few short texts or long ones.
        let inner = if batches.len() < self.threads() { self.threads() } else { 1 };
        let mut out = vec![0.0; texts.len() * hidden];
        let mut rest = out.as_mut_slice();
        let mut jobs = Vec::new();
        for batch in batches {
            let (here, after) = rest.split_at_mut(batch.len() * hidden);
            rest = after;
            jobs.push((batch, here));
        }
        let results: Vec<_> = self.pool.install(|| {
            let jobs = jobs.into_par_iter().with_max_len(1);
            let run = |(batch, out): (Range<usize>, &mut [f32])| {
                let first = batch.start;
                let texts = texts.get(batch).unwrap_or_default();
                self.batch(texts, inner, out).map_err(|(number, error)| (first + number, error))?;
                texts.iter().for_each(|_| done());
                Ok(())
            };
            jobs.map(run).collect()
        });
        results.into_iter().collect::<std::result::Result<(), _>>()?;
        Ok(out)
    }

    /// Embeds `texts` in one call.
    fn batch(
        &self,
        texts: &[&[u32]],
        threads: usize,
        out: &mut [f32],
    ) -> std::result::Result<(), (usize, grouse_runtime::Error)> {
        let tokens = texts.iter().map(|ids| ids.len()).sum();
        let plan = Plan::for_batch(&self.model, tokens).map_err(|e| (0, e))?.with_threads(threads);
        let mut arena = self.arenas().pop().unwrap_or_default();
        let lines = plan.arena_bytes().div_ceil(size_of::<Line>());
        if arena.len() < lines {
            arena = vec![Line([0; 64]); lines];
        }
        let bytes = bytemuck::must_cast_slice_mut(&mut arena);
        let result = Encoder::with_plan(&self.model, self.backend, bytes, plan)
            .map_err(|e| (0, e))
            .and_then(|mut encoder| {
                encoder.embed_batch(texts, out).map_err(|error| {
                    // Which of them was it? Each by itself tells.
                    let hidden = out.len() / texts.len().max(1);
                    let mut alone = texts.iter().zip(out.chunks_exact_mut(hidden.max(1)));
                    let failing = alone.position(|(ids, out)| encoder.embed(ids, out).is_err());
                    (failing.unwrap_or(0), error)
                })
            });
        self.arenas().push(arena);
        result
    }

    fn arenas(&self) -> MutexGuard<'_, Vec<Vec<Line>>> {
        // A thread that panicked left nothing half done: an arena may hold anything.
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Divides texts of `lengths` tokens into adjacent batches of about [`BATCH_TOKENS`], as many for
/// every thread.
fn batches(lengths: &[usize], threads: usize) -> Vec<Range<usize>> {
    let all: usize = lengths.iter().sum();
    let count = all.div_ceil(BATCH_TOKENS).next_multiple_of(threads.max(1)).max(1);
    let target = all.div_ceil(count).max(LEAST_TOKENS);
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut last = None;
    let mut before = 0;
    for (i, length) in lengths.iter().enumerate() {
        // The batch that the text's middle falls into.
        let batch = (before + length / 2) / target;
        before += length;
        match batches.last_mut() {
            Some(range) if last == Some(batch) => range.end = i + 1,
            _ => batches.push(i..i + 1),
        }
        last = Some(batch);
    }
    batches
}

/// The start of `text`, to name it in an error.
fn quote(text: &str) -> String {
    const MOST: usize = 40;
    let start: String = text.chars().take(MOST).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("\"{start}{more}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_text_once_and_are_as_many_for_every_thread() {
        for (lengths, threads, want) in [
            (vec![], 2, 0),
            (vec![12], 2, 1),
            (vec![128; 8], 2, 4),
            (vec![16; 8], 2, 2),
            (vec![16; 64], 1, 4),
            (vec![512, 2, 512], 1, 3),
            (vec![8; 4], 2, 1),
        ] {
            let batches = batches(&lengths, threads);
            assert_eq!(batches.len(), want, "{lengths:?}");
            let texts: Vec<usize> = batches.into_iter().flatten().collect();
            assert_eq!(texts, (0..lengths.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_names_a_long_text_by_its_start() {
        assert_eq!(quote("short"), "\"short\"");
        assert_eq!(quote(&"é".repeat(50)), format!("\"{}…\"", "é".repeat(40)));
    }
}
