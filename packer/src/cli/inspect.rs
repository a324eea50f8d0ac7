//! `grouse inspect`.

use crate::Result;

/// Show what is inside a packed file.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
