//! `grouse boards`.

use crate::Result;

/// List the boards that Grouse knows.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
