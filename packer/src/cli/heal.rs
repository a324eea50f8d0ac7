//! `grouse heal`, and what `grouse prune --heal` shares with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::output::say;
use super::pack::VocabularyArgs;
use super::print_json;
use crate::heal::respell::Respell;
use crate::heal::task::Task;
use crate::heal::text::Text;
use crate::heal::train::Report;
use crate::heal::{self, Options};
use crate::model::DenseModel;
use crate::{Error, Result, import};

/// Train a pruned model's kept weights.
///
/// The pruned weights stay pruned. On plain text, the model learns to match the dense model it was
/// made from; with --task, it is then fine-tuned on labels. Ctrl-C keeps the best so far.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory that `grouse prune` wrote.
    pruned_dir: PathBuf,
    /// The dense model that it was made from; without it, --task alone is done.
    #[arg(long, value_name = "DIR", required_unless_present = "task")]
    teacher: Option<PathBuf>,
    /// Directory to write.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Steps of healing.
    #[arg(long, value_name = "STEPS", default_value_t = 600)]
    steps: u32,
    #[command(flatten)]
    healing: HealArgs,
    #[command(flatten)]
    vocabulary: VocabularyArgs,
    /// Seed of the order of the text.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Options of healing and fine-tuning.
#[derive(Debug, clap::Args)]
pub struct HealArgs {
    /// Plain text to heal on, a sentence a line, beside the built-in sentences.
    #[arg(long, value_name = "FILE")]
    heal_text: Option<PathBuf>,
    /// Highest learning rate of healing.
    #[arg(long, value_name = "R", default_value_t = heal::RATE)]
    heal_rate: f64,
    /// Sentences per step.
    #[arg(long, value_name = "N", default_value_t = heal::SENTENCES)]
    heal_batch: usize,
    /// How far to go, before the first step, towards the least squares fit on the inputs that the
    /// pruned model really has; 0 leaves it out.
    #[arg(long, value_name = "PART", default_value_t = heal::REFIT)]
    heal_refit: f64,
    /// How far to go from the weights before healing to those after it: averages are better than
    /// either.
    #[arg(long, value_name = "PART", default_value_t = heal::BLEND)]
    heal_blend: f64,
    /// Round the weights to int8 in every step, as packing will.
    #[arg(long)]
    heal_int8: bool,
    /// Go on from where a run with the same options was stopped.
    #[arg(long)]
    resume: bool,
    /// Fine-tune on labels.
    #[arg(long, value_name = "TASK", requires = "train")]
    task: Option<TaskKind>,
    /// Labels: an STS-Benchmark file, or lines of class, TAB, sentence.
    #[arg(long, value_name = "FILE", requires = "task")]
    train: Option<PathBuf>,
    /// Steps of fine-tuning; three times through the file when left out.
    #[arg(long, value_name = "STEPS", requires = "task")]
    task_steps: Option<u32>,
    /// Highest learning rate of fine-tuning.
    #[arg(long, value_name = "R", default_value_t = heal::TASK_RATE, requires = "task")]
    task_rate: f64,
}

/// What to fine-tune on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TaskKind {
    /// Sentence pairs with a score: the cosine is to follow it.
    Sts,
    /// Sentences with a class: a linear head is trained too, and written to grouse.json.
    Classify,
}

/// Times through the file when fine-tuning.
const ROUNDS: usize = 3;

impl HealArgs {
    /// Whether there is anything to train.
    pub fn asks(&self, steps: u32) -> bool {
        steps > 0 || self.task.is_some()
    }

    /// Refuses what can be refused before long work.
    ///
    /// # Errors
    /// A file that is not there.
    pub fn check(&self, steps: u32) -> Result<()> {
        for path in [&self.heal_text, &self.train].into_iter().flatten() {
            std::fs::metadata(path).map_err(Error::io("read", path))?;
        }
        if self.resume && !self.asks(steps) {
            return Err(Error::input(
                "--resume without healing or fine-tuning",
                "give the options of the run that was stopped, --heal and --task among them",
            ));
        }
        Ok(())
    }

    /// Heals for `steps` and fine-tunes, as far as asked for; the answer is for `grouse.json`.
    ///
    /// # Errors
    /// As [`heal::heal`] and [`heal::fine_tune`].
    pub fn run(
        &self,
        teacher: Option<&DenseModel>,
        model: &mut DenseModel,
        (steps, seed): (u32, u64),
        respell: Option<Respell>,
        output: &Path,
    ) -> Result<Value> {
        let stop = stop_on_interrupt()?;
        let stop = move || stop.load(Ordering::Relaxed);
        let [heal_file, tune_file] = checkpoint_files(output);
        let mut record = json!({});
        let mut options = Options {
            steps,
            sentences: self.heal_batch,
            rate: self.heal_rate,
            seed,
            int8: self.heal_int8,
            refit: self.heal_refit,
            blend: self.heal_blend,
            checkpoint: Some(heal_file.clone()),
            resume: self.resume,
        };
        if let Some(teacher) = teacher.filter(|_| steps > 0) {
            let text = Text::read(teacher, self.heal_text.as_deref())?;
            let report = heal::heal_trimmed(teacher, model, &text, respell, &options, &stop)?;
            told(&report, &heal_file);
            let name = self.heal_text.as_deref().and_then(Path::file_name);
            record["heal"] = json!({
                "text": name.map(|name| name.to_string_lossy()),
                "sentences": text.train.len(),
                "held_out": text.held_out.len(),
                "sentences_per_step": options.sentences,
                "rate": options.rate,
                "int8": options.int8,
                "refit": options.refit,
                "blend": options.blend,
                "seed": seed,
                "report": report,
            });
            // The run may have been stopped before it came to the task.
            options.resume = self.resume && tune_file.is_file();
        }
        let (Some(kind), Some(train)) = (self.task, &self.train) else { return Ok(record) };
        if stop() {
            return Ok(record);
        }
        let task = match kind {
            TaskKind::Sts => Task::sts(model, train)?,
            TaskKind::Classify => Task::classify(model, train)?,
        };
        let rounds = (ROUNDS * task.len()).div_ceil(options.sentences.max(1)) as u32;
        options.steps = self.task_steps.unwrap_or(rounds);
        options.rate = self.task_rate;
        options.checkpoint = Some(tune_file.clone());
        let (report, head) = heal::fine_tune(model, &task, &options, &stop)?;
        told(&report, &tune_file);
        record["fine_tune"] = json!({
            "file": train.file_name().map(|name| name.to_string_lossy()),
            "examples": task.len(),
            "examples_per_step": options.sentences,
            "rate": options.rate,
            "head": head,
            "report": report,
        });
        Ok(record)
    }
}

/// Where healing and fine-tuning keep their state: beside the output.
fn checkpoint_files(output: &Path) -> [PathBuf; 2] {
    ["heal", "fine-tune"].map(|part| {
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{part}"));
        output.with_file_name(name)
    })
}

/// Removes the kept state of a run that is whole and written. A file that stays does no harm.
pub fn clean_up(record: &Value, output: &Path) {
    let whole = ["heal", "fine_tune"].iter().all(|part| {
        let report = &record[*part]["report"];
        report["done"] == report["steps"]
    });
    if whole {
        for file in checkpoint_files(output) {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Says on stderr when a run was stopped.
fn told(report: &Report, checkpoint: &Path) {
    if report.done < report.steps {
        eprintln!(
            "stopped after step {}; the weights of step {} are kept. The same command with --resume \
             goes on from {}",
            report.done,
            report.best_step,
            checkpoint.display()
        );
    }
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; once more to stop at once");
    })
    .map_err(|e| Error::input(format!("cannot watch for Ctrl-C: {e}"), "report this"))?;
    Ok(flag)
}

/// One line for people.
///
/// # Errors
/// When standard output cannot be written.
pub fn say_report(record: &Value) -> Result<()> {
    for (name, what) in [("heal", "healed"), ("fine_tune", "fine-tuned")] {
        let report = &record[name]["report"];
        if let Some(score) = report["score"].as_str() {
            let number = |key: &str| report[key].as_f64().unwrap_or(f64::NAN);
            say!(
                "{what}: {score} {:.2} before, {:.2} at step {} of {}, {:.2} of the result \
                 ({:.1} min)",
                number("before"),
                number("best"),
                number("best_step"),
                number("done"),
                number("result"),
                number("seconds") / 60.0
            );
        }
    }
    Ok(())
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    import::check_output(&args.pruned_dir, &args.output)?;
    args.healing.check(args.steps)?;
    if !args.healing.asks(args.steps) {
        return Err(Error::input("0 steps and no task", "give --steps 600, or --task and --train"));
    }
    let teacher = args.teacher.as_deref().map(import::load_dir).transpose()?;
    let mut model = import::load_dir(&args.pruned_dir)?;
    let mut record = import::read_mark(&args.pruned_dir)?;
    let run = (args.steps, args.seed);
    let respell = match &teacher {
        Some(teacher) => args.vocabulary.respell(teacher, &args.pruned_dir)?,
        None => None,
    };
    let trained = args.healing.run(teacher.as_ref(), &mut model, run, respell, &args.output)?;
    for name in ["heal", "fine_tune"] {
        if !trained[name].is_null() {
            record[name] = trained[name].clone();
        }
    }
    import::save_dir(&model, &args.pruned_dir, &args.output, &record)?;
    clean_up(&trained, &args.output);
    if args.json {
        return print_json(&record);
    }
    say_report(&trained)?;
    say!("written: {}", args.output.display());
    Ok(())
}
