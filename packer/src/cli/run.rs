//! `grouse run`.

use crate::Result;

/// Run a packed model on a board.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
