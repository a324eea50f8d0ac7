//! `grouse fit`.

use std::path::PathBuf;

use grouse_boards::runner::fit::Fit;
use grouse_boards::{Board, Firmware};

use crate::engine::PackedFile;
use crate::{Error, Result};

use super::output::say;
use super::print_json;
use super::run::{Terminal, board_error};

/// Tell whether a packed model fits a board: flash, RAM, arena, margins, and an estimate of the time.
///
/// The firmware is built for it, so that its figures are those of the linker.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    /// The board; `grouse boards` lists them.
    #[arg(long, value_name = "B")]
    board: String,
    /// Tokens of the longest text; the model's own maximum when left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..))]
    tokens: Option<u16>,
    /// A built firmware image instead of building one from source.
    #[arg(long, value_name = "ELF")]
    firmware: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the model does not fit, and for a bad file, an unknown board, or a failing build.
pub fn run(args: Args) -> Result<()> {
    let board = Board::by_id(&args.board).map_err(board_error)?;
    let file = PackedFile::open(&args.file)?;
    let model = file.model()?;
    let terminal = Terminal::new(false);
    let firmware = match &args.firmware {
        Some(path) => Firmware::open(path).and_then(|f| f.check(&board).map(|()| f)),
        None => Firmware::build(&board, &|progress| terminal.hear(progress)),
    };
    terminal.finish();
    let firmware = firmware.map_err(board_error)?;
    let tokens = args.tokens.map_or(model.arch().max_tokens as usize, usize::from);
    let name = args.file.display().to_string();
    let fit = Fit::new(&board, &firmware, &model, tokens).map_err(Error::runtime(name.clone()))?;
    if args.json {
        print_json(&fit)?;
    } else {
        table(&fit)?;
    }
    verdict(&name, &fit)
}

/// Prints the figures for people.
pub(super) fn table(fit: &Fit) -> Result<()> {
    say!("{}, {} tokens", fit.board, fit.tokens);
    say!("{:<8} {:>12} {:>12} {:>12}", "", "needed", "there", "margin");
    for share in &fit.memory {
        say!(
            "{:<8} {:>12} {:>12} {:>12}  {}",
            share.region,
            share.needed,
            share.available,
            share.margin,
            share.of
        );
    }
    say!("RAM in all: {} bytes", fit.ram_bytes);
    for length in &fit.lengths {
        let note = if length.fits { "" } else { "  does not fit" };
        say!("  {:>4} tokens: {:>10} bytes of arena{note}", length.tokens, length.arena_bytes);
    }
    if let Some(longest) = fit.longest {
        say!("longest text: {longest} tokens");
    }
    match &fit.estimate {
        Some(estimate) => say!(
            "estimate for {} tokens: {} instructions; {:.0} ms, if each takes {} cycles at {} MHz \
             (assumed, not measured)",
            fit.tokens,
            estimate.instructions,
            estimate.milliseconds,
            estimate.cycles_per_instruction,
            estimate.clock_hz / 1_000_000
        ),
        None => say!("no estimate: nobody has counted this kind of weights on this core"),
    }
    Ok(())
}

/// The error of a model that does not fit.
pub(super) fn verdict(name: &str, fit: &Fit) -> Result<()> {
    let short = fit.memory.iter().filter(|share| share.margin < 0);
    let short: Vec<String> = short
        .map(|s| format!("{} needs {} bytes, {} are there", s.region, s.needed, s.available))
        .collect();
    if short.is_empty() {
        return Ok(());
    }
    let what = format!("{name} does not fit {}: {}", fit.board, short.join("; "));
    Err(Error::input(what, fit.advice.join("; or ")))
}
