//! `grouse flash`.

use std::path::PathBuf;
use std::time::Duration;

use grouse_boards::catalogue::ImageFormat;
use grouse_boards::runner::fit::Fit;
use grouse_boards::runner::flash::{self, Tool, What};
use grouse_boards::runner::{Progress, picture};
use grouse_boards::{Board, Firmware, Options, Session};

use crate::engine::PackedFile;
use crate::{Error, Result};

use super::output::say;
use super::run::{Terminal, board_error};

/// Build the firmware, lay out firmware and model, write the image and put it on the board by
/// the board's own tool.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    /// The board; `grouse boards` lists them.
    #[arg(long, value_name = "B")]
    board: String,
    /// Print the layout and write its picture, and nothing else.
    #[arg(long)]
    dry_run: bool,
    /// Where the image and the picture go.
    #[arg(short, long, value_name = "DIR", default_value = "flash")]
    output: PathBuf,
    /// Kind of image instead of the board's own.
    #[arg(long, value_enum, value_name = "KIND")]
    format: Option<Format>,
    /// Write the firmware only; the model on the board stays.
    #[arg(long, conflicts_with = "model_only")]
    firmware_only: bool,
    /// Write the model only; the firmware on the board stays.
    #[arg(long)]
    model_only: bool,
    /// Ask the board on this serial port which model it holds, and skip one that is the same.
    #[arg(long, value_name = "PORT", conflicts_with = "model_only")]
    port: Option<String>,
    /// A built firmware image instead of building one from source.
    #[arg(long, value_name = "ELF")]
    firmware: Option<PathBuf>,
}

/// Kinds of image on the command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Uf2,
    Hex,
    Bin,
    Elf,
}

impl From<Format> for ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Uf2 => Self::Uf2,
            Format::Hex => Self::Hex,
            Format::Bin => Self::Bin,
            Format::Elf => Self::Elf,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the model does not fit, no tool is installed or it fails, and for bad input.
pub fn run(args: Args) -> Result<()> {
    let board = Board::by_id(&args.board).map_err(board_error)?;
    let file = PackedFile::open(&args.file)?;
    let model = file.model()?;
    let name = args.file.display().to_string();
    let terminal = Terminal::new(false);
    let listener = |progress: Progress<'_>| terminal.hear(progress);
    let firmware = match &args.firmware {
        Some(path) => Firmware::open(path).and_then(|f| f.check(&board).map(|()| f)),
        None => Firmware::build(&board, &listener),
    }
    .map_err(board_error)?;
    let most = model.arch().max_tokens as usize;
    let fit = |tokens| Fit::new(&board, &firmware, &model, tokens);
    let mut layout = fit(most).map_err(Error::runtime(name.clone()))?;
    if let Some(longest) = layout.longest.filter(|longest| (*longest as usize) < most) {
        // The board takes shorter texts than the model; the host asks for so many (`--tokens`).
        layout = fit(longest as usize).map_err(Error::runtime(name.clone()))?;
    }
    terminal.finish();
    super::fit::table(&layout)?;
    std::fs::create_dir_all(&args.output).map_err(Error::io("create", &args.output))?;
    let drawn = args.output.join("layout.svg");
    std::fs::write(&drawn, picture::svg(&board, &layout)).map_err(Error::io("write", &drawn))?;
    say!("picture: {}", drawn.display());
    super::fit::verdict(&name, &layout)?;
    if args.dry_run {
        return Ok(());
    }
    let mut what = match (args.firmware_only, args.model_only) {
        (true, _) => What::Firmware,
        (_, true) => What::Model,
        _ => What::Both,
    };
    // Where everything is erased first, nothing can be left as it is.
    let whole = board.flash.as_ref().is_some_and(|flash| flash.whole);
    if let (Some(port), What::Both, false) = (&args.port, what, whole) {
        let options = Options { max_tokens: Some(2), ..Options::default() };
        let options = Options { timeout: Duration::from_secs(30), ..options };
        if Session::connect(&board, port, &args.file, &options, &listener).is_ok() {
            say!("the board holds this model already: writing the firmware only");
            what = What::Firmware;
        }
    }
    let own = board.flash.as_ref().map_or(ImageFormat::Elf, |flash| flash.format);
    let format = args.format.map_or(own, ImageFormat::from);
    let files = flash::write(&board, &firmware, &args.file, what, format, &args.output);
    let files = files.map_err(board_error)?;
    for file in &files {
        say!("{}: {} bytes", file.path.display(), file.bytes);
        for (what, address, bytes) in &file.pieces {
            say!("  {what:<8} {address:#010x}  {bytes:>10} bytes");
        }
    }
    if board.flash.is_none() {
        say!("{} is emulated: `grouse run {name} --board {}` boots it", board.id, board.id);
        return Ok(());
    }
    let tool = Tool::find(&board, &files).map_err(board_error)?;
    tool.run(&board, &files, &listener).map_err(board_error)?;
    terminal.finish();
    say!("flashed by {}", tool.program());
    Ok(())
}
