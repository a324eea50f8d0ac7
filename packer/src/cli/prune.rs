//! `grouse prune`.

use std::path::PathBuf;

use serde_json::json;

use super::output::say;
use super::print_json;
use crate::prune::{self, Options};
use crate::{Result, calibrate, forward, import};

/// Prune the encoder into weight groups.
///
/// Writes a Hugging Face directory whose zeros are the pruned weights. Nothing is trained: the
/// groups are chosen, and what they keep is refitted, on calibration text.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face model directory (config.json, model.safetensors, tokenizer).
    model_dir: PathBuf,
    /// Directory to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Weights to keep / all weights of the encoder's linear layers.
    #[arg(long, value_name = "D", default_value = "0.5", value_parser = fraction)]
    density: f64,
    /// Sentences for calibration, one a line, beside the built-in set.
    #[arg(long, value_name = "FILE")]
    calib: Option<PathBuf>,
    /// Groups per matrix; chosen by the density when left out.
    #[arg(long, value_name = "G")]
    groups: Option<usize>,
    /// Fraction of the inputs that all outputs of a matrix keep; as many as the density allows
    /// when left out.
    #[arg(long, value_name = "F", value_parser = fraction)]
    shared: Option<f64>,
    /// Seed of the searches' random starts.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Candidates of the search over group counts.
    #[arg(long, value_name = "N", default_value = "0", value_parser = zero)]
    search: u32,
    /// Steps of healing by training.
    #[arg(long, value_name = "STEPS", default_value = "0", value_parser = zero)]
    heal: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Calibration sentences on which the result is compared with the dense model.
const COMPARED: usize = 256;

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    import::check_output(&args.model_dir, &args.output)?;
    let dense = import::load_dir(&args.model_dir)?;
    let sentences =
        calibrate::anchored_sentences(&dense, args.calib.as_deref(), calibrate::SENTENCES)?;
    let stats = calibrate::collect(&dense, &sentences)?;
    let options = Options {
        density: args.density,
        groups: args.groups,
        shared: args.shared,
        seed: args.seed,
    };
    let mut model = dense.clone();
    let report = prune::prune(&mut model, &stats, &options)?;
    if report.was_sparse() {
        eprintln!(
            "the checkpoint was sparse already (density {:.4}); its zeros stay pruned",
            report.density_before
        );
    }
    let cosine = {
        let step = sentences.len().div_ceil(COMPARED);
        let some: Vec<_> = sentences.iter().step_by(step).collect();
        let before = forward::embed_all(&dense, &some)?;
        let after = forward::embed_all(&model, &some)?;
        mean_cosine(&before.data, &after.data, before.cols)
    };
    let calibration = args.calib.as_deref().and_then(|path| path.file_name());
    let record = json!({
        "grouse": env!("CARGO_PKG_VERSION"),
        "source": dense.name,
        "calibration": {
            "file": calibration.map(|name| name.to_string_lossy()),
            "sentences": sentences.len(),
            "tokens": sentences.iter().map(Vec::len).sum::<usize>(),
        },
        "search": args.search,
        "heal": args.heal,
        "embedding_cosine": cosine,
        "pruning": report,
    });
    import::save_dir(&model, &args.model_dir, &args.output, &record)?;
    if args.json {
        return print_json(&record);
    }
    say!("{report}");
    say!("mean cosine to the dense embedding: {cosine:.4} (calibration text)");
    say!("written: {}", args.output.display());
    Ok(())
}

/// Mean cosine between the rows of two matrices of `cols` columns.
fn mean_cosine(a: &[f32], b: &[f32], cols: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let rows = a.chunks_exact(cols).zip(b.chunks_exact(cols));
    let sum: f64 =
        rows.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)).sum();
    sum / (a.len() / cols.max(1)).max(1) as f64
}

fn fraction(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("give a number from 0 to 1, like 0.5".into()),
    }
}

/// The flag is part of the command line's contract, what it does is not there yet.
fn zero(text: &str) -> std::result::Result<u32, String> {
    match text.parse() {
        Ok(0) => Ok(0),
        Ok(_) => Err("this comes in a later version; 0 is the only value so far".into()),
        Err(_) => Err("give a whole number".into()),
    }
}
