//! `grouse prune`.

use crate::Result;

/// Prune the encoder into weight groups.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
