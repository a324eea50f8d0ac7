//! `grouse eval`.

use crate::Result;

/// Score a packed model on a benchmark.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
