//! `grouse run`.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use grouse_boards::catalogue::Unit;
use grouse_boards::runner::Listener;
use grouse_boards::{
    Answer, Board, Firmware, FirstBoot, Info, Offloaded, Options, Progress, Session, Stages,
    Variant,
};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::engine::PackedFile;
use crate::{Error, Result};

use super::texts::TextArgs;
use super::{board_test, run_all};

/// Run a packed model on a board: JSON lines of text, ids, embedding and the board's figures.
#[derive(Debug, clap::Args)]
#[command(mut_arg("texts", |texts| texts.required_unless_present("self_test")))]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    /// The board; `grouse boards` lists them. `all` runs the texts on every board that can be emulated
    /// here and compares their bits with this host's, in one table.
    #[arg(long, value_name = "B|all")]
    board: String,
    #[command(flatten)]
    texts: TextArgs,
    /// Print nothing but the JSON lines (notes on truncated texts are left out); with --self-test,
    /// its result as JSON.
    #[arg(long)]
    json: bool,
    /// Talk to the board on this serial port (/dev/ttyACM0, COM3) instead of booting an emulator. It
    /// must hold the firmware and this model: `grouse flash`.
    #[arg(long, value_name = "PORT", conflicts_with_all = ["firmware", "log"])]
    port: Option<String>,
    /// Run the texts that the file carries through every backend of the board (or the one of
    /// --backend) and compare the hashes, instead of texts of your own. Exit code 1 when any differs.
    #[arg(long, conflicts_with_all = ["texts", "input", "stages", "accelerator"])]
    self_test: bool,
    /// Let an emulated board test itself before the first text, by every backend, as a real one does
    /// when it meets a model. Left out, that is held back: an emulator meets its model every time.
    #[arg(long, conflicts_with = "port")]
    first_boot: bool,
    /// Tell what each stage took: tokenize, embed, attention, feed-forward, pool.
    #[arg(long)]
    stages: bool,
    /// Kernels to use on the board. All give the same bits.
    #[arg(long, value_name = "NAME", env = "GROUSE_BACKEND")]
    backend: Option<String>,
    /// Let an accelerator work out int8 groups: `model`, the software model behind registers in the
    /// board's memory, or the name of a fault, which that model then has. All give the same bits.
    #[arg(long, value_name = "model|FAULT")]
    accelerator: Option<String>,
    /// Most tokens of one text; the model's own maximum when left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    tokens: Option<u32>,
    /// A built firmware image instead of building one from source.
    #[arg(long, value_name = "ELF")]
    firmware: Option<PathBuf>,
    /// Longest wait for one answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Show the firmware's log on standard error.
    #[arg(short = 'v', long, visible_alias = "verbose")]
    log: bool,
}

/// A line of output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    text: &'a str,
    ids: &'a [u32],
    truncated: bool,
    embedding: &'a [f32],
    board: &'a str,
    backend: &'a str,
    #[serde(flatten)]
    work: Work,
    /// Arena bytes used for the number of tokens in force.
    arena_bytes: u64,
    /// Flash bytes of the firmware without the model.
    flash_bytes: u64,
    /// Flash bytes of the model.
    model_bytes: u64,
    /// Statics, stack and the arena's used part.
    ram_bytes: u64,
    /// The stack's depth during this text.
    stack_bytes: u32,
    /// Work of the stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    stages: Option<Stages>,
    /// What the accelerator did so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    accelerator: Option<&'a Offloaded>,
}

/// Work from text to embedding, and that of it before the encoder, as the board can tell it.
#[derive(Debug, Default, Serialize)]
struct Work {
    /// As the emulator counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokenize_instructions: Option<u64>,
    /// By the core's own counter.
    #[serde(skip_serializing_if = "Option::is_none")]
    cycles: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokenize_cycles: Option<u64>,
    /// By the clock of the operating system; an emulator's is the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    nanoseconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokenize_nanoseconds: Option<u64>,
}

impl Work {
    fn new(unit: Unit, answer: &Answer) -> Self {
        let (all, tokenize) = (Some(answer.work), Some(answer.tokenize_work));
        let nothing = Self::default();
        match unit {
            Unit::Instructions => {
                Self { instructions: all, tokenize_instructions: tokenize, ..nothing }
            }
            Unit::Cycles => Self { cycles: all, tokenize_cycles: tokenize, ..nothing },
            Unit::Nanoseconds => {
                Self { nanoseconds: all, tokenize_nanoseconds: tokenize, ..nothing }
            }
        }
    }
}

/// Runs the command.
///
/// # Errors
/// A bad file or text, an unknown or too small board, a missing tool, a failing firmware.
pub fn run(args: Args) -> Result<()> {
    if args.board == "all" {
        return everywhere(&args);
    }
    let board = Board::by_id(&args.board).map_err(board_error)?;
    let texts = args.texts.read()?;
    let file = args.self_test.then(|| PackedFile::open(&args.file)).transpose()?;
    let terminal = Terminal::new(args.log);
    let listener = |progress: Progress<'_>| terminal.hear(progress);
    let options = args.options();
    let mut session = match &args.port {
        Some(port) => Session::connect(&board, port, &args.file, &options, &listener),
        None => boot(&args, &board, &options, &listener),
    }
    .map_err(board_error)?;
    let info = session.info().clone();
    terminal.hear(Progress::Step(&format!(
        "{} is ready: {} of {} arena bytes for {} tokens, backend {}",
        board.id, info.arena_bytes, info.arena_available, info.max_tokens, info.backend
    )));
    if info.firmware != env!("CARGO_PKG_VERSION") {
        eprintln!(
            "note: the firmware on {} is of version {}, this program of {}: `grouse flash --firmware-only` \
             brings it up to date",
            board.id,
            info.firmware,
            env!("CARGO_PKG_VERSION")
        );
    }
    tell_first_boot(&session.first_boot().map_err(board_error)?, args.first_boot);
    if let Some(file) = file {
        let result = board_test::run(&mut session, &options, &file.model()?, args.json);
        terminal.finish();
        return result;
    }
    for (number, text) in texts.iter().enumerate() {
        let answer = if args.stages { session.bench(text) } else { session.embed(text) };
        let answer = answer.map_err(board_error)?;
        if answer.truncated && !args.json {
            let limit = answer.ids.len();
            eprintln!("note: text {} is longer than {limit} tokens and was truncated", number + 1);
        }
        print_line(text, &answer, &info, board.counter.unit)?;
    }
    terminal.finish();
    Ok(())
}

impl Args {
    fn options(&self) -> Options {
        Options {
            max_tokens: self.tokens,
            backend: self.backend.clone(),
            accelerator: self.accelerator.clone(),
            timeout: Duration::from_secs(self.timeout),
            first_boot: self.first_boot,
        }
    }
}

/// `--board all`.
fn everywhere(args: &Args) -> Result<()> {
    let one = [
        ("--port", args.port.is_some()),
        ("--firmware", args.firmware.is_some()),
        ("--accelerator", args.accelerator.is_some()),
        ("--self-test", args.self_test),
        ("--stages", args.stages),
    ];
    if let Some((option, _)) = one.iter().find(|(_, given)| *given) {
        return Err(Error::input(
            format!("{option} is for one board"),
            "name it: `--board B`; `grouse boards` lists them",
        ));
    }
    let texts = args.texts.read()?;
    let terminal = Terminal::new(args.log);
    let listener = |progress: Progress<'_>| terminal.hear(progress);
    let result = run_all::run(&args.file, &texts, &args.options(), args.json, &listener);
    terminal.finish();
    result
}

/// Says what went wrong at first boot, or, when asked, how it went.
fn tell_first_boot(first_boot: &FirstBoot, asked: bool) {
    match first_boot {
        FirstBoot::Ran { failed, .. } if !failed.is_empty() => eprintln!(
            "warning: at first boot the self-test failed by {}: their answers may be wrong; \
             --self-test says what differs",
            failed.join(" and ")
        ),
        FirstBoot::Ran { passed, .. } if asked => {
            eprintln!("first boot: the self-test passed, {passed} texts by all backends");
        }
        FirstBoot::NotRun { why } if asked => eprintln!("first boot: no self-test: {why}"),
        _ => {}
    }
}

/// Builds the firmware, unless one is named, and boots it in the board's emulator.
fn boot<'l>(
    args: &Args,
    board: &Board,
    options: &Options,
    listener: Listener<'l>,
) -> grouse_boards::Result<Session<'l>> {
    let firmware = match &args.firmware {
        Some(path) => Firmware::open(path)?,
        // The shipped image has no room for a model of hardware.
        None if args.accelerator.is_some() => {
            Firmware::build_with(board, Variant::AcceleratorModel, listener)?
        }
        None => Firmware::build(board, listener)?,
    };
    Session::boot(board, &firmware, &args.file, options, listener)
}

/// An error of the boards as one of this program.
pub(super) fn board_error(error: grouse_boards::Error) -> Error {
    Error::input(error.to_string(), error.remedy())
}

/// Every line is written as soon as it is there: an emulated board takes its time.
fn print_line(text: &str, answer: &Answer, info: &Info, unit: Unit) -> Result<()> {
    let line = Line {
        text,
        ids: &answer.ids,
        truncated: answer.truncated,
        embedding: &answer.embedding,
        board: &info.board,
        backend: &info.backend,
        work: Work::new(unit, answer),
        arena_bytes: info.arena_bytes,
        flash_bytes: info.flash_bytes,
        model_bytes: info.model_bytes,
        ram_bytes: info.ram_bytes,
        stack_bytes: answer.stack_bytes,
        stages: answer.stages,
        accelerator: answer.offloaded.as_ref(),
    };
    let mut line = serde_json::to_string(&line)
        .map_err(|e| Error::input(format!("cannot print an answer: {e}"), "report this"))?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::io("write", super::output::NAME))
}

/// Progress on standard error: a spinner on a terminal, a line a step elsewhere.
pub(super) struct Terminal {
    spinner: Option<ProgressBar>,
    log: bool,
    /// The first crate of a build, so that a fresh build says nothing.
    told: Cell<bool>,
}

impl Terminal {
    pub(super) fn new(log: bool) -> Self {
        let spinner = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(spinner) = &spinner {
            spinner.enable_steady_tick(Duration::from_millis(120));
        }
        Self { spinner, log, told: Cell::new(false) }
    }

    pub(super) fn hear(&self, progress: Progress<'_>) {
        match (progress, &self.spinner) {
            (Progress::Log(line), Some(spinner)) if self.log => {
                spinner.suspend(|| eprintln!("{line}"))
            }
            (Progress::Log(line), None) if self.log => eprintln!("{line}"),
            (Progress::Log(_), _) => {}
            (Progress::Step(step), Some(spinner)) => spinner.set_message(step.to_owned()),
            (Progress::Step(step), None) => eprintln!("{step}"),
            (Progress::Detail(detail), Some(spinner)) => spinner.set_message(detail.to_owned()),
            (Progress::Detail(_), None) => {
                if !self.told.replace(true) {
                    eprintln!("compiling; this takes a minute the first time");
                }
            }
        }
    }

    pub(super) fn finish(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
