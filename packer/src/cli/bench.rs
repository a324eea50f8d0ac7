//! `grouse bench`.

use std::path::PathBuf;

use serde_json::json;

use crate::Result;
use crate::bench;
use crate::engine::PackedFile;
use crate::progress::Progress;

use super::embed::EngineArgs;
use super::output::say;
use super::print_json;

/// Measure how long a packed model takes on this host, from ids to embeddings.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    /// Tokens of a text, one or several numbers.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "16,32,128")]
    seq: Vec<usize>,
    /// Texts of a call.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A bad file or backend, or a length that the model does not take.
pub fn run(args: Args) -> Result<()> {
    let file = PackedFile::open(&args.file)?;
    let engine = args.engine.engine(file.model()?)?;
    for seq in &args.seq {
        bench::check_length(&engine, *seq)?;
    }
    let progress = Progress::start("measuring", args.seq.len() as u64, "shapes");
    let mut shapes = Vec::new();
    for seq in &args.seq {
        shapes.push(bench::measure(&engine, *seq, usize::from(args.batch))?);
        progress.advance(1);
    }
    progress.finish();
    let (backend, threads) = (engine.backend().name(), engine.threads());
    if args.json {
        return print_json(&json!({
            "file": args.file,
            "backend": backend,
            "threads": threads,
            "shapes": shapes,
        }));
    }
    say!("{}, backend {backend}, threads: {threads}", args.file.display());
    say!("\ntokens  texts   median ms      p10      p90  repetitions");
    for s in &shapes {
        say!(
            "{:>6} {:>6} {:>11.3} {:>8.3} {:>8.3} {:>12}",
            s.seq,
            s.batch,
            s.median_ms,
            s.p10_ms,
            s.p90_ms,
            s.repetitions
        );
    }
    Ok(())
}
