//! `grouse demo`.

use crate::Result;

/// The whole way on one real model, from nothing.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
