//! Runs the counted cases as a Linux program: natively, or under user-mode QEMU with the plugin.
//!
//! `grouse-insn-guest MODEL [tokens=32,128] [backend=all] [cases=encoder,kernels]` writes a JSON
//! line for each case and fails when a backend differs from the scalar one.

use std::path::Path;
use std::process::ExitCode;

use bytemuck::{Pod, Zeroable};
use grouse_insn_cases::{Request, run};
use grouse_runtime::mapped::MappedFile;
use grouse_runtime::view::Model;

/// Bytes for arena and results, enough for BERT-large at 512 tokens.
const MEMORY: usize = 128 << 20;

/// 64 bytes that start at a multiple of 64.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(path) = words.next() else {
        eprintln!("error: name a model file");
        return ExitCode::FAILURE;
    };
    match guest(Path::new(&path), &words.collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: a backend differs from the scalar one");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn guest(path: &Path, words: &[String]) -> Result<bool, String> {
    let file = MappedFile::open(path).map_err(|e| format!("cannot map {}: {e}", path.display()))?;
    let model = Model::open(file.bytes()).map_err(|e| format!("{}: {e}", path.display()))?;
    let request =
        Request::parse(words.iter().map(String::as_str)).map_err(|failure| failure.to_string())?;
    let mut memory = vec![Line([0; 64]); MEMORY / size_of::<Line>()];
    let memory = bytemuck::must_cast_slice_mut(&mut memory);
    let mut text = String::new();
    let equal = run(&request, &model, memory, &mut text).map_err(|f| f.to_string());
    // What was counted before a failure is told as well: the plugin has counted it, too.
    print!("{text}");
    equal
}
