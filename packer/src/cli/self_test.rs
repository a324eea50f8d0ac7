//! `grouse self-test`.

use std::path::PathBuf;

use grouse_runtime::kernels;

use crate::Result;
use crate::engine::{self, PackedFile};
use crate::self_test::SelfTest;

use super::{output, print_json};

/// Run the texts that a packed file carries and compare the hashes of their embeddings.
///
/// Every backend that this processor runs is tried. Exit code 1 when any differs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    /// Only this backend.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A bad file or backend, a file without a self-test, and any difference.
pub fn run(args: Args) -> Result<()> {
    let file = PackedFile::open(&args.file)?;
    let model = file.model()?;
    let result = match &args.backend {
        Some(name) => SelfTest::run(&model, [engine::backend(Some(name))?])?,
        None => SelfTest::run(&model, kernels::available())?,
    };
    if args.json {
        print_json(&result)?;
    } else {
        output::write(format_args!("{result}"))?;
    }
    result.verdict().map_or(Ok(()), Err)
}
