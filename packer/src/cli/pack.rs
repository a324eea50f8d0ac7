//! `grouse pack`.

use crate::Result;

/// Pack a Hugging Face directory into one file.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
