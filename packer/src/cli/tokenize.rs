//! `grouse tokenize`.

use std::path::PathBuf;

use crate::Result;
use crate::engine::{self, Engine, PackedFile};

use super::embed::print_lines;
use super::texts::TextArgs;

/// Tokenize texts with the runtime's own tokenizer: JSON lines of text, ids, truncated.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    #[command(flatten)]
    texts: TextArgs,
    /// Print nothing but the JSON lines (notes on truncated texts are left out).
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A bad file or text.
pub fn run(args: Args) -> Result<()> {
    let texts = args.texts.read()?;
    let file = PackedFile::open(&args.file)?;
    let engine = Engine::new(file.model()?, engine::backend(None)?, Some(1))?;
    let answers: Vec<_> = texts.iter().map(|t| engine.tokenize(t)).collect::<Result<_>>()?;
    print_lines(&answers, 0, args.json)
}
