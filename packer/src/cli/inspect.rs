//! `grouse inspect`.

use std::path::PathBuf;

use grouse_runtime::kernels;
use serde::Serialize;

use crate::Result;
use crate::cpu::CpuReport;
use crate::engine::PackedFile;
use crate::inspect::Inspection;
use crate::self_test::SelfTest;
use crate::{pack, report};

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
    /// Also run the texts that the file carries, through every backend of this processor; exit code
    /// 1 when any differs.
    #[arg(long, requires = "file")]
    self_test: bool,
    /// Write a page that shows the same: HTML that needs nothing else.
    #[arg(long, value_name = "FILE.html", requires = "file")]
    html: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was asked for in one document.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    file: Option<Inspection>,
    /// With `--cpu`; alone it is the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<CpuReport>,
    /// With `--self-test`.
    #[serde(skip_serializing_if = "Option::is_none")]
    self_test: Option<SelfTest>,
}

/// Runs the command.
///
/// # Errors
/// A bad file, a bad name in GROUSE_BACKEND, or a self-test that fails.
pub fn run(args: Args) -> Result<()> {
    let cpu = args.cpu.then(CpuReport::new).transpose()?;
    let packed = args.file.as_deref().map(PackedFile::open).transpose()?;
    let model = packed.as_ref().map(PackedFile::model).transpose()?;
    let file = model.as_ref().map(Inspection::of).transpose()?;
    let test = model.as_ref().filter(|_| args.self_test);
    let self_test = test.map(|model| SelfTest::run(model, kernels::available())).transpose()?;
    if let (Some(path), Some(file)) = (&args.html, &file) {
        pack::write_page(path, &report::packed::html(file))?;
    }
    let verdict = self_test.as_ref().and_then(SelfTest::verdict);
    match (file, cpu) {
        (None, Some(cpu)) if args.json => print_json(&cpu)?,
        (file, cpu) if args.json => print_json(&Document { file, cpu, self_test })?,
        (file, cpu) => {
            let parts = [
                file.map(|file| file.to_string()),
                self_test.map(|test| format!("self-test\n{test}")),
                cpu.map(|cpu| cpu.to_string()),
            ];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            output::write(format_args!("{}", parts.join("\n")))?;
        }
    }
    verdict.map_or(Ok(()), Err)
}
