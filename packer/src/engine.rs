//! A packed model on this host: mapped, validated, and run over many texts on several threads.

use std::path::{Path, PathBuf};

use grouse_runtime::encoder::Encoder;
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

/// Runs a model over texts.
pub struct Engine<'m> {
    model: Model<'m>,
    backend: &'static dyn Backend,
    pool: rayon::ThreadPool,
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
        Ok(Self { model, backend, pool })
    }

    /// Tokenizes `text` up to the model's maximum.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn tokenize(&self, text: &str) -> Result<Answer> {
        let mut ids = vec![0; self.model.arch().max_tokens as usize];
        let encoded =
            self.model.tokenizer().encode(text, &mut ids).map_err(Error::runtime("tokenizing"))?;
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
    /// The first failing text's.
    pub fn embed(&self, texts: &[String], done: impl Fn() + Sync) -> Result<Vec<Answer>> {
        let max_tokens = self.model.arch().max_tokens as usize;
        let hidden = self.model.arch().hidden_size as usize;
        let plan = Plan::new(&self.model, max_tokens).map_err(Error::runtime("planning"))?;
        self.pool.install(|| {
            texts
                .par_iter()
                .map_init(
                    // Floats, so that the arena is aligned.
                    || vec![0.0_f32; plan.arena_bytes().div_ceil(size_of::<f32>())],
                    |arena, text| {
                        let mut answer = self.tokenize(text)?;
                        let arena = bytemuck::must_cast_slice_mut(arena);
                        answer.embedding = vec![0.0; hidden];
                        Encoder::new(&self.model, self.backend, arena, max_tokens)
                            .and_then(|mut e| e.embed(&answer.ids, &mut answer.embedding))
                            .map_err(Error::runtime("embedding"))?;
                        done();
                        Ok(answer)
                    },
                )
                .collect()
        })
    }
}
