//! `grouse eval`.

use std::path::PathBuf;

use crate::engine::PackedFile;
use crate::{Result, eval};

use super::embed::EngineArgs;
use super::output::say;
use super::print_json;

/// Score a packed model on a benchmark.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    /// STS-Benchmark pairs (TAB: genre, file, year, id, score, sentence 1, sentence 2).
    #[arg(long, value_name = "FILE")]
    sts: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A bad file or benchmark.
pub fn run(args: Args) -> Result<()> {
    let pairs = eval::read_sts(&args.sts)?;
    let file = PackedFile::open(&args.file)?;
    let engine = args.engine.engine(file.model()?)?;
    let score = eval::sts(&engine, &pairs)?;
    if args.json {
        return print_json(&score);
    }
    say!("pairs     {}", score.pairs);
    say!("Spearman  {:.2}", score.spearman);
    say!("Pearson   {:.2}", score.pearson);
    Ok(())
}
