//! `grouse prune --board`: prunes, trims and packs a model so that it fits a device.

use std::path::{Path, PathBuf};

use grouse_boards::Board;
use grouse_boards::runner::fit::{Estimate, Work};
use grouse_runtime::mapped::MappedFile;
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;
use serde::Serialize;

use crate::calibrate;
use crate::heal::respell::Respell;
use crate::model::DenseModel;
use crate::pack::trim::{self, Chars, Vocabulary};
use crate::pack::vocab::WordPiece;
use crate::pack::{self, Options};
use crate::shrink::{self, Choice, Room, Time};
use crate::{Error, Result};

use super::pack::SENTENCES;
use super::run::board_error;

/// Shrinking to a device.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Shrinking to a device")]
pub struct ShrinkArgs {
    /// Choose number types, vocabulary and density so that the model fits this board, and write the
    /// packed file, too.
    #[arg(long, value_name = "B", conflicts_with_all = ["density", "bytes", "macs", "method"])]
    board: Option<String>,
    /// Instead of the board's: bytes for the packed file.
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["density", "bytes", "macs", "method"])]
    flash: Option<u64>,
    /// Instead of the board's: bytes of RAM for the encoder's arena.
    #[arg(long, value_name = "BYTES")]
    ram: Option<u64>,
    /// Most tokens of one text on the device.
    #[arg(long, value_name = "N", default_value_t = 64)]
    tokens: usize,
    /// Most milliseconds that a text of so many tokens may take, by the estimate of `grouse fit`
    /// (instructions counted under QEMU, cycles assumed): less of the encoder is kept until it does.
    #[arg(long, value_name = "MS", requires = "board", value_parser = positive)]
    latency: Option<f64>,
    /// Text like the device's, a sentence a line, by which the vocabulary is trimmed; the built-in
    /// sentences when left out.
    #[arg(long, value_name = "FILE")]
    vocab_from: Option<PathBuf>,
    /// Which single characters stay in a trimmed vocabulary.
    #[arg(long, value_enum, default_value_t = Chars::Corpus)]
    vocab_chars: Chars,
    /// The packed file; by default the output directory's name with \".grouse\".
    #[arg(long, value_name = "FILE")]
    packed: Option<PathBuf>,
}

/// A device and what is to be done for it.
#[derive(Debug, Serialize)]
pub struct Shrink {
    board: Option<String>,
    room: Room,
    /// What is to be done.
    pub choice: Choice,
}

/// What came out.
#[derive(Debug, Serialize)]
pub struct Shrunk {
    file: PathBuf,
    bytes: u64,
    arena_bytes: usize,
    /// For a text of the most tokens, by the board's clock and cost figures.
    estimated_milliseconds: Option<f64>,
    vocabulary: Option<Vocabulary>,
}

impl ShrinkArgs {
    /// What is to be done to `model`, which `dir` holds; `None` unless a device was named.
    ///
    /// # Errors
    /// An unknown board, and a model that does not fit.
    pub fn start(&self, model: &DenseModel, dir: &Path) -> Result<Option<Shrink>> {
        let board = self.board.as_deref().map(Board::by_id).transpose().map_err(board_error)?;
        let (flash, arena) = board.as_ref().map(limits).unzip();
        let Some(file) = self.flash.or(flash) else { return Ok(None) };
        let most = model.config.max_positions;
        if !(2..=most).contains(&self.tokens) {
            return Err(Error::input(
                format!("--tokens {} is out of range for {}", self.tokens, model.name),
                format!("choose 2 to {most}"),
            ));
        }
        let time = self.latency.zip(board.clone());
        let time = time.map(|(milliseconds, board)| Time { milliseconds, board });
        let room = Room { file, arena: self.ram.or(arena), tokens: self.tokens, time };
        let corpus = calibrate::corpus(self.vocab_from.as_deref())?;
        let texts: Vec<&str> = corpus.iter().map(String::as_str).collect();
        let least = trim::least(&WordPiece::from_dir(dir)?, &texts, self.vocab_chars)?;
        let choice = shrink::choose(model, &room, least)?;
        let shrink = Shrink { board: board.map(|b| b.id), room, choice };
        eprintln!("{}", shrink.words());
        Ok(Some(shrink))
    }

    /// Packs `model`, whose tokenizer `dir` holds, as chosen, to the file beside `output`.
    ///
    /// # Errors
    /// What packing refuses, and a result that does not fit after all.
    pub fn pack(
        &self,
        shrink: &Shrink,
        dir: &Path,
        model: &DenseModel,
        calib: Option<&Path>,
        output: &Path,
    ) -> Result<Shrunk> {
        let Shrink { room, choice, .. } = shrink;
        let mut pieces = choice.vocabulary;
        let mut last = None;
        for _ in 0..3 {
            let (bytes, vocabulary) = self.packed(shrink, model, dir, pieces, calib)?;
            let size = bytes.len() as u64;
            let now = pieces.unwrap_or(model.config.vocab_size);
            let next = shrink::refill(model, room, now, size, shrink.piece_bytes(model));
            let fits = size <= room.file;
            // A percent of the vocabulary is not worth another minute.
            let worth = choice.vocabulary.is_some() && next > now + now / 100;
            if fits {
                last = Some((bytes, vocabulary));
            }
            if fits && !worth {
                break;
            }
            pieces = Some(next);
        }
        let (bytes, vocabulary) = last.ok_or_else(|| {
            Error::input(
                format!("the packed model does not fit {} bytes", room.file),
                "give a smaller --flash: the estimate was too low by the difference",
            )
        })?;
        let file = match &self.packed {
            Some(file) => file.clone(),
            None => PathBuf::from(format!("{}.grouse", output.display())),
        };
        pack::write(&file, &bytes)?;
        let map = MappedFile::open(&file).map_err(Error::io("read back", &file))?;
        let refused = || Error::runtime("the packed model");
        let packed = Model::open(map.bytes()).map_err(refused())?;
        let arena = Plan::compact(&packed, room.tokens).map_err(refused())?.arena_bytes();
        if let Some(limit) = room.arena.filter(|limit| arena as u64 > *limit) {
            let longest = Plan::longest(&packed, limit as usize).map_err(refused())?;
            let longest = longest.map_or(0, |plan| plan.tokens);
            return Err(Error::input(
                format!("{} tokens take {arena} bytes of RAM, the device has {limit}", room.tokens),
                format!("{} is written; it runs with --tokens {longest}", file.display()),
            ));
        }
        let time = self.board.as_deref().map(Board::by_id).transpose().map_err(board_error)?;
        let work = Work::new(&packed, room.tokens).map_err(refused())?;
        let took = time.and_then(|board| Estimate::of(&board, &work)).map(|e| e.milliseconds);
        if let (Some(took), Some(limit)) = (took, self.latency)
            && took > limit
        {
            return Err(Error::input(
                format!(
                    "the packed model takes {took:.1} ms by the estimate, {limit} were allowed"
                ),
                format!("{} is written; give a smaller --latency", file.display()),
            ));
        }
        if let Some(vocabulary) = &vocabulary {
            eprintln!("{}", vocabulary.coverage);
        }
        let bytes = bytes.len() as u64;
        let (arena_bytes, estimated_milliseconds) = (arena, took);
        Ok(Shrunk { file, bytes, arena_bytes, estimated_milliseconds, vocabulary })
    }

    /// How the model is to be read while it is healed, if its vocabulary will be trimmed.
    ///
    /// # Errors
    /// As [`ShrinkArgs::start`].
    pub fn respell(
        &self,
        shrink: &Shrink,
        dense: &DenseModel,
        dir: &Path,
    ) -> Result<Option<Respell>> {
        let Some(pieces) = shrink.choice.vocabulary else { return Ok(None) };
        let options = trim::Options { size: Some(pieces), chars: self.vocab_chars };
        trim::respell(dense, dir, self.vocab_from.as_deref(), options).map(Some)
    }

    fn packed(
        &self,
        Shrink { room, choice, .. }: &Shrink,
        model: &DenseModel,
        dir: &Path,
        pieces: Option<usize>,
        calib: Option<&Path>,
    ) -> Result<(Vec<u8>, Option<Vocabulary>)> {
        let mut model = model.clone();
        let vocabulary = match pieces {
            None => None,
            size => {
                let options = trim::Options { size, chars: self.vocab_chars };
                let corpus = self.vocab_from.as_deref();
                Some(Vocabulary::trim(&mut model, dir, corpus, options)?)
            }
        };
        let sentences = calibrate::sentences(&model, calib, SENTENCES)?;
        let stats = calibrate::collect(&model, &sentences)?;
        let options = Options {
            weights: choice.weights(),
            exceptions: Vec::new(),
            embeddings: choice.embeddings(),
            max_tokens: Some(room.tokens),
            calibration: "as in pruning".into(),
            vocabulary: vocabulary.clone(),
            measure: false,
        };
        Ok((pack::pack(&model, Some(&stats), &options)?.bytes, vocabulary))
    }
}

impl Shrink {
    /// Bytes that a piece takes: its row and, about, its name.
    fn piece_bytes(&self, model: &DenseModel) -> u64 {
        let row = self.choice.row_bytes(model.config.hidden_size);
        (row + model.tokenizer.len() / model.config.vocab_size) as u64
    }

    fn words(&self) -> String {
        let Self { board, room, choice } = self;
        let name = board.as_deref().unwrap_or("the device");
        let arena = room.arena.map_or(String::new(), |a| format!(" and {a} bytes of arena"));
        let time = match &room.time {
            Some(time) => format!(", and {} ms for {} tokens", time.milliseconds, room.tokens),
            None => String::new(),
        };
        let vocabulary = match choice.vocabulary {
            Some(pieces) => format!("about {pieces} pieces of the vocabulary"),
            None => "the whole vocabulary".into(),
        };
        let density = if choice.density < 1.0 {
            let of = if choice.by_time { "multiplications" } else { "bytes" };
            format!("{:.1} % of the encoder's {of}", 100.0 * choice.density)
        } else {
            "the whole encoder".into()
        };
        format!(
            "{name} has {} bytes for the model{arena}{time}: keeping {vocabulary} and {density}, weights \
             {}, embeddings {} (all-MiniLM-L6-v2 lost about {:.1} points on STS-Benchmark dev by \
             as much, without healing)",
            room.file,
            choice.weights().name(),
            choice.embeddings().name(),
            choice.expected_loss,
        )
    }

    /// The result in words.
    pub fn report(&self, shrunk: &Shrunk) -> String {
        let Shrunk { file, bytes, arena_bytes, estimated_milliseconds, .. } = shrunk;
        let time = estimated_milliseconds.map_or(String::new(), |ms| {
            format!("; about {ms:.0} ms a text of so many, an estimate (`grouse fit`)")
        });
        let ram = match self.room.arena {
            Some(arena) => format!(" of {arena}"),
            None => String::new(),
        };
        format!(
            "packed: {}, {bytes} of {} bytes; arena at {} tokens {arena_bytes}{ram} bytes{time}",
            file.display(),
            self.room.file,
            self.room.tokens,
        )
    }
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| *value > 0.0 && value.is_finite());
    value.ok_or_else(|| "give a number of milliseconds above 0, like 500".into())
}

/// Bytes for the packed file and for the arena.
fn limits(board: &Board) -> (u64, u64) {
    (board.model_available(), board.arena_available())
}
