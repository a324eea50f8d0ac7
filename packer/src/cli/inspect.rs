//! `grouse inspect`.

use std::path::PathBuf;

use serde::Serialize;

use crate::Result;
use crate::cpu::CpuReport;
use crate::engine::PackedFile;
use crate::inspect::Inspection;

use super::{output, print_json};

/// Show what is inside a packed file, or which kernels this processor runs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    #[arg(required_unless_present = "cpu")]
    file: Option<PathBuf>,
    /// Show the backends of this build: what each needs, whether this processor runs it, and
    /// which is chosen.
    #[arg(long)]
    cpu: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A file and the processor in one document.
#[derive(Serialize)]
struct Both {
    #[serde(flatten)]
    file: Inspection,
    cpu: CpuReport,
}

/// Runs the command.
///
/// # Errors
/// A bad file, or a bad name in GROUSE_BACKEND.
pub fn run(args: Args) -> Result<()> {
    let cpu = args.cpu.then(CpuReport::new).transpose()?;
    let file = match &args.file {
        Some(path) => Some(Inspection::of(&PackedFile::open(path)?.model()?)?),
        None => None,
    };
    match (file, cpu) {
        (Some(file), Some(cpu)) if args.json => print_json(&Both { file, cpu }),
        (Some(file), None) if args.json => print_json(&file),
        (None, Some(cpu)) if args.json => print_json(&cpu),
        (file, cpu) => {
            if let Some(file) = &file {
                output::write(format_args!("{file}"))?;
            }
            if let Some(cpu) = cpu {
                let gap = if file.is_some() { "\n" } else { "" };
                output::write(format_args!("{gap}{cpu}"))?;
            }
            Ok(())
        }
    }
}
