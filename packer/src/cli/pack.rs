//! `grouse pack`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use grouse_runtime::format::DataType;

use crate::heal::respell::Respell;
use crate::model::DenseModel;
use crate::pack::trim::{self, Chars, Vocabulary};
use crate::pack::{self, Options};
use crate::{Result, calibrate, import};

use super::output::say;
use super::print_json;

/// Pack a Hugging Face directory into one file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face model directory (config.json, model.safetensors, tokenizer).
    model_dir: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Number type of the encoder's matrices.
    #[arg(long, value_enum, default_value_t = Number::I8)]
    weights: Number,
    /// Number type of the word embeddings; with i4 and i2 the position embeddings are i4.
    #[arg(long, value_enum, default_value_t = TableNumber::I8)]
    embeddings: TableNumber,
    /// Sentences for calibration, one a line; a built-in set when left out.
    #[arg(long, value_name = "FILE")]
    calib: Option<PathBuf>,
    /// Most tokens of one text; the model's own maximum when left out.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    #[command(flatten)]
    vocabulary: VocabularyArgs,
    /// Block layout.
    #[arg(long, value_enum, default_value_t = Layout::R4k16)]
    layout: Layout,
    /// When zeros are skipped: where timing both forms here says that it pays, or wherever it
    /// makes the file smaller.
    #[arg(long, value_enum, default_value_t = Skip::Faster)]
    skip: Skip,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which word pieces are packed.
#[derive(Debug, clap::Args)]
pub struct VocabularyArgs {
    /// Keep only the word pieces that this text (and the built-in sentences) use: plain text, a
    /// sentence a line. Other words are split into kept pieces.
    #[arg(long, value_name = "FILE")]
    vocab_from: Option<PathBuf>,
    /// Keep so many pieces, the most frequent ones; all that the text uses when left out.
    #[arg(long, value_name = "N", requires = "vocab_from")]
    vocab_size: Option<usize>,
    /// Which single characters stay, whether the text has them or not.
    #[arg(long, value_enum, default_value_t, requires = "vocab_from")]
    vocab_chars: Chars,
}

impl VocabularyArgs {
    /// Trims the vocabulary of `model`, which `dir` holds, if that is asked for, and says on
    /// standard error what it does to the corpus.
    ///
    /// # Errors
    /// A bad corpus or size.
    pub fn trim(&self, model: &mut DenseModel, dir: &Path) -> Result<Option<Vocabulary>> {
        let Some(file) = &self.vocab_from else { return Ok(None) };
        let options = trim::Options { size: self.vocab_size, chars: self.vocab_chars };
        let vocabulary = Vocabulary::trim(model, dir, Some(file), options)?;
        eprintln!("{}", vocabulary.coverage);
        Ok(Some(vocabulary))
    }
}

impl VocabularyArgs {
    /// How `model`, whose tokenizer `dir` holds, is to be read when its vocabulary will be trimmed.
    ///
    /// # Errors
    /// As [`VocabularyArgs::trim`].
    pub fn respell(&self, model: &DenseModel, dir: &Path) -> Result<Option<Respell>> {
        let Some(file) = &self.vocab_from else { return Ok(None) };
        let options = trim::Options { size: self.vocab_size, chars: self.vocab_chars };
        trim::respell(model, dir, Some(file), options).map(Some)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Skip {
    /// Where the kernel of this machine is faster with groups.
    Faster,
    /// Wherever groups take fewer bytes: for a board with little flash.
    Smaller,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Number {
    /// 4-bit codes with a multiplier per 32 and a scale per output channel or row.
    I4,
    /// 8-bit integers with a scale per output channel (matrices) or row (embeddings).
    I8,
    /// Half precision.
    F16,
    /// Single precision.
    F32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TableNumber {
    /// 2-bit codes with a multiplier per 32 and a scale per row: for large vocabularies on small
    /// flash.
    I2,
    /// 4-bit codes likewise.
    I4,
    /// 8-bit integers with a scale per row.
    I8,
    /// Half precision.
    F16,
    /// Single precision.
    F32,
}

impl From<TableNumber> for DataType {
    fn from(number: TableNumber) -> Self {
        match number {
            TableNumber::I2 => Self::I2,
            TableNumber::I4 => Self::I4,
            TableNumber::I8 => Self::I8,
            TableNumber::F16 => Self::F16,
            TableNumber::F32 => Self::F32,
        }
    }
}

impl From<Number> for DataType {
    fn from(number: Number) -> Self {
        match number {
            Number::I4 => Self::I4,
            Number::I8 => Self::I8,
            Number::F16 => Self::F16,
            Number::F32 => Self::F32,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Layout {
    /// Tiles of 4 outputs by 16 inputs: for every instruction set.
    R4k16,
}

/// Sentences that the quantizer looks at.
pub const SENTENCES: usize = 1000;

/// Runs the command.
///
/// # Errors
/// A bad directory, calibration file or output path.
pub fn run(args: Args) -> Result<()> {
    let Layout::R4k16 = args.layout;
    let mut model = import::load_dir(&args.model_dir)?;
    let vocabulary = args.vocabulary.trim(&mut model, &args.model_dir)?;
    let weights = DataType::from(args.weights);
    let calibration = match &args.calib {
        Some(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        None => "built-in sentences".to_string(),
    };
    let stats = if weights.is_integer() {
        let sentences = calibrate::sentences(&model, args.calib.as_deref(), SENTENCES)?;
        Some(calibrate::collect(&model, &sentences)?)
    } else {
        None
    };
    let options = Options {
        weights,
        exceptions: Vec::new(),
        embeddings: args.embeddings.into(),
        max_tokens: args.max_tokens,
        calibration,
        vocabulary,
        measure: args.skip == Skip::Faster,
    };
    let packed = pack::pack(&model, stats.as_deref(), &options)?;
    pack::write(&args.output, &packed.bytes)?;
    let (kept, all) = model.encoder_weights();
    let density = kept as f64 / all as f64;
    if args.json {
        return print_json(&serde_json::json!({
            "file": args.output,
            "bytes": packed.bytes.len(),
            "density": density,
            "vocabulary": options.vocabulary,
            "matrices": packed.matrices,
        }));
    }
    say!(
        "{}: {:.2} MB, {} of {} encoder weights kept (density {:.3})",
        args.output.display(),
        packed.bytes.len() as f64 / 1e6,
        kept,
        all,
        density,
    );
    Ok(())
}
