//! `grouse prune`.

use std::path::PathBuf;

use grouse_runtime::format::DataType;
use serde_json::json;

use super::heal::{HealArgs, clean_up, say_report};
use super::output::say;
use super::print_json;
use super::shrink::ShrinkArgs;
use crate::eval::cosine;
use crate::model::{DenseModel, Layer, Matrix};
use crate::prune::cost::Measure;
use crate::prune::options::dense_cost;
use crate::prune::{self, Method, Options, Steps};
use crate::report::{self, Example, Page};
use crate::{Error, Result, calibrate, forward, import, pack};

/// Prune the encoder into weight groups.
///
/// Writes a Hugging Face directory whose zeros are the pruned weights. The groups are chosen, and
/// what they keep is refitted, on calibration text; nothing is trained unless --heal or --task ask
/// for it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face model directory (config.json, model.safetensors, tokenizer).
    model_dir: PathBuf,
    /// Directory to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Weights to keep / all weights of the encoder's linear layers.
    #[arg(
        long,
        value_name = "D",
        default_value = "0.5",
        value_parser = fraction,
        allow_negative_numbers = true
    )]
    density: f64,
    /// Instead of a density: bytes of the packed file (int8 weights and embeddings).
    #[arg(long, value_name = "N", conflicts_with_all = ["density", "macs"])]
    bytes: Option<u64>,
    /// Instead of a density: multiply-accumulates per token in the encoder's linear layers, as the
    /// kernels run them (padding counts).
    #[arg(long, value_name = "N", conflicts_with = "density")]
    macs: Option<u64>,
    /// Sentences for calibration, one a line, beside the built-in set.
    #[arg(long, value_name = "FILE")]
    calib: Option<PathBuf>,
    /// Groups per matrix; chosen by the density when left out.
    #[arg(long, value_name = "G")]
    groups: Option<usize>,
    /// Fraction of the inputs that all outputs of a matrix keep; as many as the density allows
    /// when left out.
    #[arg(long, value_name = "F", value_parser = fraction, allow_negative_numbers = true)]
    shared: Option<f64>,
    /// Seed of the searches' random starts.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// How weights are chosen.
    #[arg(long, value_enum, default_value_t)]
    method: MethodArg,
    /// Leave out a step, to see what it brings.
    #[arg(long, value_enum, value_name = "STEP", value_delimiter = ',')]
    without: Vec<Step>,
    /// Random candidates of the search for the density of every matrix; 0 leaves the allocation by
    /// what each matrix loses. 64 take some minutes.
    #[arg(long, value_name = "N", default_value = "0")]
    search: usize,
    /// Steps of healing by training.
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    heal: u32,
    #[command(flatten)]
    healing: HealArgs,
    #[command(flatten)]
    shrink: ShrinkArgs,
    /// Write a page that shows what was kept and why: HTML that needs nothing else. The same
    /// figures are in grouse.json.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// [`Method`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum MethodArg {
    /// Groups, the density of every matrix chosen by what its outputs are worth.
    #[default]
    Auto,
    /// Groups, the same density everywhere (PGB without its choice of counts).
    Groups,
    /// Whole heads and feed-forward neurons (after Kwon et al. 2022), the rest refitted.
    Rows,
    /// Single weights of least magnitude removed: the runtime gains nothing from them.
    Magnitude,
    /// Single weights removed by magnitude times input norm (Sun et al. 2023), as above.
    Wanda,
}

impl From<MethodArg> for Method {
    fn from(arg: MethodArg) -> Self {
        match arg {
            MethodArg::Auto => Self::Auto,
            MethodArg::Groups => Self::Groups,
            MethodArg::Rows => Self::Rows,
            MethodArg::Magnitude => Self::Magnitude,
            MethodArg::Wanda => Self::Wanda,
        }
    }
}

/// A step that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// The search for better groups on the true error.
    Polish,
    /// The least-squares refit of the kept weights.
    Refit,
    /// The fit of all matrices, one after the other, to the inputs that pruned ones give.
    Sequential,
    /// The removal of whole heads and neurons.
    Units,
    /// The choice of the number of groups, matrix by matrix.
    Counts,
}

/// Pairs of sentences in the report.
const EXAMPLES: usize = 12;

/// Calibration sentences on which the result is compared with the dense model.
const COMPARED: usize = 256;

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    import::check_output(&args.model_dir, &args.output)?;
    args.healing.check(args.heal)?;
    let dense = import::load_dir(&args.model_dir)?;
    let sentences =
        calibrate::anchored_sentences(&dense, args.calib.as_deref(), calibrate::SENTENCES)?;
    let shrink = args.shrink.start(&dense, &args.model_dir)?;
    let (measure, density) = match &shrink {
        Some(shrink) => (shrink.choice.measure(), shrink.choice.budget()),
        None => budget(&args, &dense)?,
    };
    let options = Options {
        method: args.method.into(),
        steps: Steps {
            polish: !args.without.contains(&Step::Polish),
            refit: !args.without.contains(&Step::Refit),
            sequential: !args.without.contains(&Step::Sequential),
            units: !args.without.contains(&Step::Units),
            counts: !args.without.contains(&Step::Counts),
        },
        density,
        measure,
        groups: args.groups,
        shared: args.shared,
        search: args.search,
        seed: args.seed,
    };
    let mut model = dense.clone();
    let found = prune::prune(&mut model, &sentences, &options)?;
    if found.was_sparse() {
        eprintln!(
            "the checkpoint was sparse already (density {:.4}); its zeros stay pruned",
            found.density_before
        );
    }
    let trained = if args.healing.asks(args.heal) {
        let respell = match &shrink {
            Some(shrink) => args.shrink.respell(shrink, &dense, &args.model_dir)?,
            None => None,
        };
        let run = (args.heal, args.seed);
        args.healing.run(Some(&dense), &mut model, run, respell, &args.output)?
    } else {
        json!({})
    };
    let cosine = {
        let step = sentences.len().div_ceil(COMPARED);
        let some: Vec<_> = sentences.iter().step_by(step).collect();
        let before = forward::embed_all(&dense, &some)?;
        let after = forward::embed_all(&model, &some)?;
        mean_cosine(&before, &after)
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
        "heal": trained["heal"],
        "fine_tune": trained["fine_tune"],
        "embedding_cosine": cosine,
        "pruning": found,
    });
    import::save_dir(&model, &args.model_dir, &args.output, &record)?;
    clean_up(&trained, &args.output);
    if let Some(path) = &args.report {
        let examples = examples(&dense, &model)?;
        let name = &dense.name;
        let page = Page { model: name, report: &found, cosine, examples: &examples };
        pack::write_page(path, &report::html(&page))?;
    }
    let pack = |shrink| {
        args.shrink.pack(shrink, &args.model_dir, &model, args.calib.as_deref(), &args.output)
    };
    let shrunk = shrink.as_ref().map(pack).transpose()?;
    if args.json {
        let mut record = record;
        if let Some(shrunk) = &shrunk {
            record["device"] = json!(shrink);
            record["packed"] = json!(shrunk);
        }
        return print_json(&record);
    }
    say!("{found}");
    say_report(&trained)?;
    say!("mean cosine to the dense embedding: {cosine:.4} (calibration text)");
    say!("written: {}", args.output.display());
    if let (Some(shrink), Some(shrunk)) = (&shrink, &shrunk) {
        say!("{}", shrink.report(shrunk));
    }
    Ok(())
}

/// What the budget counts, and its part of the dense model's.
fn budget(args: &Args, dense: &DenseModel) -> Result<(Measure, f64)> {
    let part = |measure: Measure, amount: u64, fixed: u64, unit: &str| -> Result<(Measure, f64)> {
        let all = dense_cost(dense, measure);
        let remedy = format!("choose above {fixed} and up to {}", fixed + all);
        if amount <= fixed {
            let why = match measure {
                Measure::Bytes => format!("embeddings and tokenizer alone take {fixed}"),
                _ => "nothing would be left".into(),
            };
            return Err(Error::input(format!("{amount} {unit}: {why}"), remedy));
        }
        if amount > fixed + all {
            let why = format!("the dense model takes {}, there is nothing to prune", fixed + all);
            return Err(Error::input(format!("{amount} {unit}: {why}"), remedy));
        }
        Ok((measure, (amount - fixed) as f64 / all as f64))
    };
    match (args.bytes, args.macs) {
        (Some(bytes), _) => part(Measure::Bytes, bytes, fixed_bytes(dense)?, "bytes"),
        (None, Some(macs)) => part(Measure::Macs, macs, 0, "multiply-accumulates"),
        (None, None) => Ok((Measure::Weights, args.density)),
    }
}

/// Bytes of the packed file that do not depend on the encoder's weights.
fn fixed_bytes(dense: &DenseModel) -> Result<u64> {
    let mut empty = dense.clone();
    for (_, linear) in empty.layers.iter_mut().flat_map(|layer| layer.linears_mut()) {
        linear.weight.data.fill(0.0);
    }
    let options = pack::Options {
        weights: DataType::F32,
        embeddings: DataType::I8,
        max_tokens: None,
        calibration: String::new(),
        vocabulary: None,
        measure: false,
        exceptions: Vec::new(),
    };
    let packed = pack::pack(&empty, None, &options)?.bytes.len() as u64;
    // The biases are counted with the matrices; the factors that integers have for each input of
    // a packed matrix are not, and floats have none.
    let biases: usize =
        dense.layers.iter().flat_map(Layer::linears).map(|(_, l)| l.bias.len()).sum();
    let stacked = |layer: &Layer| -> usize {
        let read = [&layer.query, &layer.attention_output, &layer.ffn_in, &layer.ffn_out];
        read.iter().map(|linear| linear.weight.cols).sum()
    };
    let factors: usize = dense.layers.iter().map(stacked).sum();
    Ok((packed + (factors * size_of::<f32>()) as u64)
        .saturating_sub((biases * size_of::<f32>()) as u64))
}

/// Built-in sentences that the dense model finds alike, more or less.
fn examples(dense: &DenseModel, pruned: &DenseModel) -> Result<Vec<Example>> {
    let texts: Vec<&str> = calibrate::built_in().step_by(5).collect();
    let ids = calibrate::tokenize(dense, &texts)?;
    let (before, after) = (forward::embed_all(dense, &ids)?, forward::embed_all(pruned, &ids)?);
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    for a in 0..texts.len() {
        for b in 0..a {
            pairs.push((cosine(before.row(a), before.row(b)), a, b));
        }
    }
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0));
    // From the most alike to the least, closer together at the top.
    let picks = (0..EXAMPLES).map(|i| pairs.len() * i * i * i / EXAMPLES.pow(3));
    Ok(picks
        .filter_map(|pick| pairs.get(pick))
        .map(|(before, a, b)| Example {
            first: texts[*a].into(),
            second: texts[*b].into(),
            before: *before,
            after: cosine(after.row(*a), after.row(*b)),
        })
        .collect())
}

/// Mean cosine between the rows of two matrices.
fn mean_cosine(a: &Matrix, b: &Matrix) -> f64 {
    (0..a.rows).map(|row| cosine(a.row(row), b.row(row))).sum::<f64>() / a.rows.max(1) as f64
}

fn fraction(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("give a number from 0 to 1, like 0.5".into()),
    }
}
