//! `grouse embed`.

use crate::Result;

/// Embed texts with a packed model.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
