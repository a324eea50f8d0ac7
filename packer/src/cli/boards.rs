//! `grouse boards`.

use std::io::Write;

use grouse_boards::Board;
use serde_json::json;

use crate::{Error, Result};

/// List the boards that Grouse knows.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: Args) -> Result<()> {
    let boards = Board::all().map_err(super::run::board_error)?;
    let mut text = String::new();
    if args.json {
        text = json!({ "boards": boards }).to_string() + "\n";
    } else {
        for board in &boards {
            let Board { id, description, core, clock_hz, target, .. } = board;
            let start = match &board.qemu {
                Some(qemu) => format!("QEMU {}", qemu.machine.as_ref().unwrap_or(&qemu.program)),
                None => "real: `grouse flash`, then `grouse run --port`".into(),
            };
            text += &format!("{id}\n  {description}\n");
            text += &format!("  {core} at {} MHz, {target}, {start}\n", clock_hz / 1_000_000);
            for (name, region) in board.regions.iter().flat_map(|regions| regions.all()) {
                text += &format!(
                    "  {name:<6} {:#010x}  {:>9} KiB\n",
                    region.origin,
                    region.length / 1024
                );
            }
            if let Some(bytes) = board.arena_bytes {
                text += &format!("  arena  by the system {:>7} KiB\n", bytes / 1024);
            }
        }
    }
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write", super::output::NAME))
}
