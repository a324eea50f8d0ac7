//! `grouse inspect`.

use std::path::PathBuf;

use crate::Result;
use crate::engine::PackedFile;
use crate::inspect::Inspection;

use super::print_json;

/// Show what is inside a packed file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A bad file.
pub fn run(args: Args) -> Result<()> {
    let file = PackedFile::open(&args.file)?;
    let inspection = Inspection::of(&file.model()?)?;
    if args.json {
        return print_json(&inspection);
    }
    print!("{inspection}");
    Ok(())
}
