//! `grouse pull`.

use std::path::PathBuf;

use super::output::say;
use super::print_json;
use crate::{Result, pull};

/// Fetch a model directory, checked and cached.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of a sentence-transformers model, or owner/name as on the hub.
    #[arg(default_value = pull::DEFAULT)]
    model: String,
    /// Copy the model to this directory.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let dir = pull::fetch(&args.model, args.output.as_deref())?;
    if args.json {
        return print_json(&serde_json::json!({ "model": args.model, "directory": dir }));
    }
    say!("{}", dir.display());
    Ok(())
}
