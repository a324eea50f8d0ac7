//! `grouse eval`.

use std::path::PathBuf;

use crate::Result;
use crate::engine::PackedFile;
use crate::eval::{self, intents};

use super::embed::EngineArgs;
use super::output::say;
use super::print_json;

/// Score a packed model on a benchmark.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    /// Pairs of sentences with scores: STS-Benchmark (TAB: genre, file, year, id, score, sentence 1,
    /// sentence 2), or SICK with its header.
    #[arg(long, value_name = "FILE", required_unless_present = "intents")]
    sts: Option<PathBuf>,
    /// Instead, texts with classes (JSON as CLINC150's: "train" and "test", lists of text and
    /// class): how many test texts are nearest to the mean of their class.
    #[arg(long, value_name = "FILE", conflicts_with = "sts")]
    intents: Option<PathBuf>,
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
    if let Some(path) = &args.intents {
        let intents = intents::read(path)?;
        let file = PackedFile::open(&args.file)?;
        let score = intents::score(&args.engine.engine(file.model()?)?, &intents)?;
        if args.json {
            return print_json(&score);
        }
        say!("classes   {}", score.classes);
        say!("texts     {}", score.texts);
        say!("accuracy  {:.2} %", score.accuracy);
        return Ok(());
    }
    let Some(path) = &args.sts else { return Ok(()) };
    let pairs = eval::read_sts(path)?;
    let file = PackedFile::open(&args.file)?;
    let score = eval::sts(&args.engine.engine(file.model()?)?, &pairs)?;
    if args.json {
        return print_json(&score);
    }
    say!("pairs     {}", score.pairs);
    say!("Spearman  {:.2}", score.spearman);
    say!("Pearson   {:.2}", score.pearson);
    Ok(())
}
