//! Counts instructions per sentence and per kernel on every Arm target, under QEMU, and compares
//! the bits of all of them.

mod crop;
mod emulate;
mod error;
mod images;
mod record;
mod table;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::emulate::Asked;
use crate::error::{Error, Result};
use crate::images::Images;
use crate::record::{Record, Subject};
use crate::targets::Target;

/// Count guest instructions under QEMU: whole sentences and single matrices, on every target.
///
/// Instructions are not cycles: they say how much work is done, not how fast a core is.
#[derive(Debug, Parser)]
#[command(name = "grouse-insn", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    count: Count,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Crop(crop::Args),
}

#[derive(Debug, clap::Args)]
struct Count {
    /// A packed model; may be given several times.
    #[arg(long, value_name = "FILE", required = true)]
    model: Vec<PathBuf>,
    /// Targets to count on; all when left out.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = targets::by_name)]
    targets: Vec<&'static Target>,
    /// Numbers of tokens.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "32")]
    tokens: Vec<u16>,
    /// Backend, or all of a target's backends.
    #[arg(long, value_name = "NAME", default_value = "all")]
    backend: String,
    /// What to count: whole encoders, single matrices.
    #[arg(long, value_name = "CASE", value_delimiter = ',', value_parser = ["encoder", "kernels"],
          default_value = "encoder")]
    cases: Vec<String>,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Crop(args)) => crop::run(&args),
        None => count(cli.count),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn count(args: Count) -> Result<()> {
    let targets =
        if args.targets.is_empty() { targets::TARGETS.iter().collect() } else { args.targets };
    let subjects: Vec<Subject> =
        args.model.iter().map(|path| Subject::open(path)).collect::<Result<_>>()?;
    images::check_tools(&targets)?;
    let images = Images::build(&targets)?;
    let asked = Asked { tokens: &args.tokens, backend: &args.backend, cases: &args.cases };
    let mut records = Vec::new();
    let mut skipped = Vec::new();
    for subject in &subjects {
        for target in &targets {
            eprintln!("counting {} on {}", subject.name, target.name);
            match emulate::run(target, &images, subject, &asked) {
                Err(Error::LeftOut(what)) => skipped.push(what),
                found => records.extend(found?),
            }
        }
    }
    if args.json {
        for record in &records {
            let line = serde_json::to_string(record).map_err(|e| Error::Output(e.to_string()))?;
            println!("{line}");
        }
    } else {
        print!("{}", table::tables(&subjects, &targets, &records));
    }
    skipped.iter().for_each(|what| eprintln!("left out: {what}"));
    if records.is_empty() {
        return Err(Error::Input("no target could run what was asked".into()));
    }
    Record::check_bits(&records)?;
    eprintln!("the same bits from {} runs, on all targets and backends", records.len());
    Ok(())
}
