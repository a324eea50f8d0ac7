//! `grouse pull`.

use crate::Result;

/// Fetch a model directory, checked and cached.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
