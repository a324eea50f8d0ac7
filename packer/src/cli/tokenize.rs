//! `grouse tokenize`.

use crate::Result;

/// Tokenize texts with the runtime's own tokenizer.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
