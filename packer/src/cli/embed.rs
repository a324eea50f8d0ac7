//! `grouse embed`.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use crate::engine::{self, Answer, Engine, PackedFile};
use crate::{Error, Result};

use super::accelerator::{self, Accelerator};
use super::texts::TextArgs;

/// Texts embedded between two writes: enough for all threads, little to keep in memory.
const BATCH: usize = 256;

/// Embed texts with a packed model: JSON lines of text, ids and embedding.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Let an accelerator work out int8 groups: `model`, its software model, or the name of a
    /// fault, which that model has from the fifth group on. All give the same bits.
    #[arg(long, value_name = "model|FAULT", conflicts_with = "threads")]
    accelerator: Option<String>,
    /// Print nothing but the JSON lines (notes on truncated texts are left out).
    #[arg(long)]
    json: bool,
}

/// How to run a model on this host.
#[derive(Debug, clap::Args)]
pub struct EngineArgs {
    /// Threads; all cores when left out. The answers do not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Kernels to use; `grouse inspect --cpu` lists them. All give the same bits.
    #[arg(long, value_name = "NAME", env = "GROUSE_BACKEND")]
    backend: Option<String>,
}

impl EngineArgs {
    /// An engine over `model`.
    ///
    /// # Errors
    /// When the backend is unknown.
    pub fn engine<'m>(&self, model: grouse_runtime::view::Model<'m>) -> Result<Engine<'m>> {
        let backend = engine::backend(self.backend.as_deref())?;
        Engine::new(model, backend, self.threads.map(usize::from))
    }
}

/// Runs the command.
///
/// # Errors
/// A bad file, text or backend.
pub fn run(args: Args) -> Result<()> {
    let texts = args.texts.read()?;
    let file = PackedFile::open(&args.file)?;
    let engine = args.engine.engine(file.model()?)?;
    if let Some(name) = &args.accelerator {
        let mut accelerator = Accelerator::open(name, &engine)?;
        let print = |first, answers: &[Answer]| print_lines(answers, first, args.json);
        let report = accelerator.embed(&engine, &texts, BATCH, print)?;
        if !args.json {
            eprintln!("note: {}", accelerator::words(&report));
        }
        return Ok(());
    }
    for (batch, texts) in texts.chunks(BATCH).enumerate() {
        let answers = engine.embed(texts, || ())?;
        print_lines(&answers, batch * BATCH, args.json)?;
    }
    Ok(())
}

/// Prints answers as JSON lines; `first` is the number of texts before them.
///
/// # Errors
/// When standard output cannot be written.
pub fn print_lines(answers: &[Answer], first: usize, quiet: bool) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (i, answer) in answers.iter().enumerate() {
        if answer.truncated && !quiet {
            let limit = answer.ids.len();
            eprintln!(
                "note: text {} is longer than {limit} tokens and was truncated",
                first + i + 1
            );
        }
        let line = serde_json::to_string(answer)
            .map_err(|e| Error::input(format!("cannot print an answer: {e}"), "report this"))?;
        writeln!(out, "{line}").map_err(Error::io("write", super::output::NAME))?;
    }
    out.flush().map_err(Error::io("write", super::output::NAME))
}
