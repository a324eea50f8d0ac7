//! Healing: trains the weights that pruning kept.
//!
//! [`heal`] needs no label: the pruned model learns to do what the dense model does, on plain
//! text. [`fine_tune`] trains it on a task's labels. In both, what is pruned stays pruned: only
//! kept weights ([`blocks`]), biases and LayerNorms are parameters; the embedding tables stay as
//! they are. [`student`] is the model on candle's tape, [`ops`] its operations, [`train`] the
//! loop.

use std::path::PathBuf;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::model::DenseModel;
use crate::prune::sequential;
use crate::{Error, Result, calibrate};

pub mod adam;
pub mod blocks;
mod checkpoint;
pub mod distill;
pub mod loss;
pub mod neighbours;
pub mod ops;
pub mod respell;
pub mod student;
pub mod task;
pub mod text;
pub mod train;
pub mod whiten;

use distill::Distill;
use loss::Weights;
use respell::Respell;
use student::Student;
use task::Task;
use text::Text;
use train::{Keeping, Objective, Report, Schedule};
use whiten::Coordinates;

/// How to heal or fine-tune.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Steps.
    pub steps: u32,
    /// Sentences (of a task: examples) per step.
    pub sentences: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Of the order of the text and of the variants.
    pub seed: u64,
    /// Round the weights to int8 in every step, as packing will.
    pub int8: bool,
    /// How far to go, before the first step, towards the least squares fit on the pruned model's own
    /// inputs ([`sequential`]); 0 leaves it out.
    pub refit: f64,
    /// How far to go from the weights before healing to those after it; of fine-tuning all the
    /// way.
    pub blend: f64,
    /// Where to keep the state of the run.
    pub checkpoint: Option<PathBuf>,
    /// Go on from that state.
    pub resume: bool,
}

/// Rate of healing unless the caller says otherwise.
pub const RATE: f64 = 3e-4;
/// Rate of fine-tuning unless the caller says otherwise.
pub const TASK_RATE: f64 = 2e-4;
/// Sentences per step unless the caller says otherwise.
pub const SENTENCES: usize = 32;
/// Part of the way of the fit before the first step unless the caller says otherwise.
pub const REFIT: f64 = 1.0;
/// Part of the way unless the caller says otherwise.
pub const BLEND: f64 = 0.5;
/// Sentences of the text from which it is known what a matrix's inputs are like.
const WHITENED: usize = 600;
/// Judgements of a short run, about.
const JUDGEMENTS: u32 = 20;
/// Steps between judgements. A judgement takes as long as some steps; work since the last is lost
/// when the program is killed.
const BETWEEN: std::ops::RangeInclusive<u32> = 25..=100;

/// Trains the kept weights of `pruned` on `text` to match `teacher`, in place.
///
/// `stop` is asked after every step; when it says so, the best so far is kept. The result depends
/// on the seed but not on the number of threads.
///
/// # Errors
///
/// [`Error::Input`] when the two models do not belong together, when the training fails at any
/// rate, or when there is nothing to resume; [`Error::Io`] for the checkpoint to resume from.
pub fn heal(
    teacher: &DenseModel,
    pruned: &mut DenseModel,
    text: &Text,
    options: &Options,
    stop: &dyn Fn() -> bool,
) -> Result<Report> {
    heal_trimmed(teacher, pruned, text, None, options, stop)
}

/// The same for a vocabulary that will be trimmed: the student reads in the pieces that are left.
///
/// # Errors
///
/// As [`heal`].
pub fn heal_trimmed(
    teacher: &DenseModel,
    pruned: &mut DenseModel,
    text: &Text,
    respell: Option<Respell>,
    options: &Options,
    stop: &dyn Fn() -> bool,
) -> Result<Report> {
    check_pair(teacher, pruned)?;
    options.check()?;
    let before = train::get(&Student::new(pruned, options.int8)?.vars())?;
    if options.refit > 0.0 {
        sequential::refit(teacher, pruned, &text.train, options.refit)?;
    }
    let spelled: Option<Vec<u8>> = respell.as_ref().map(|respell| respell.bytes().collect());
    let student = Student::new(pruned, options.int8)?.reading(respell);
    let weights = Weights::default();
    let objective = Distill::new(teacher, text, weights, options.sentences, options.seed)?;
    let step = text.train.len().div_ceil(WHITENED).max(1);
    let some: Vec<Vec<u32>> = text.train.iter().step_by(step).cloned().collect();
    let coordinates = student.coordinates(&calibrate::collect(pruned, &some)?)?;
    let schedule = options.schedule("heal");
    let mut hash = fingerprint(&student, options, &schedule)?;
    hash.update(spelled.unwrap_or_default());
    for ids in text.train.iter().chain(&text.held_out) {
        hash.update((ids.len() as u64).to_le_bytes());
        hash.update(bytemuck::cast_slice::<u32, u8>(ids));
    }
    let mut report = run((&student, &coordinates), &objective, &schedule, options, hash, stop)?;
    train::blend(&student.vars(), &before, options.blend)?;
    report.result = objective.score(&student)?;
    student.write_to(pruned)?;
    Ok(report)
}

/// Trains the kept weights of `pruned` on a task's labels, in place. A classifier's head is in the
/// second part of the answer.
///
/// # Errors
///
/// As [`heal`].
pub fn fine_tune(
    pruned: &mut DenseModel,
    task: &Task,
    options: &Options,
    stop: &dyn Fn() -> bool,
) -> Result<(Report, Option<task::Head>)> {
    options.check()?;
    let student = Student::new(pruned, options.int8)?;
    let objective = task.objective(pruned, options)?;
    let schedule = options.schedule("fine-tune");
    let mut hash = fingerprint(&student, options, &schedule)?;
    task.update(&mut hash);
    let report = run((&student, &[]), &objective, &schedule, options, hash, stop)?;
    let head = objective.head()?;
    drop(objective);
    student.write_to(pruned)?;
    Ok((report, head))
}

fn run(
    student: (&Student, &[Option<Coordinates>]),
    objective: &dyn Objective,
    schedule: &Schedule,
    options: &Options,
    hash: Sha256,
    stop: &dyn Fn() -> bool,
) -> Result<Report> {
    let fingerprint: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let keeping = options.checkpoint.as_ref().map(|file| Keeping {
        file: file.clone(),
        resume: options.resume,
        fingerprint,
    });
    train::train(student, objective, schedule, keeping.as_ref(), stop)
}

impl Options {
    fn check(&self) -> Result<()> {
        if !(self.rate > 0.0 && self.rate <= 1.0) {
            return Err(Error::input(
                format!("the learning rate {} is not above 0 and up to 1", self.rate),
                format!("{RATE} is a good start"),
            ));
        }
        if !(0.0..=1.0).contains(&self.refit) {
            return Err(Error::input(
                format!("{} of the way to the fit before the first step", self.refit),
                format!("give a number from 0 (none) to 1; {REFIT} is a good start"),
            ));
        }
        if !(self.blend > 0.0 && self.blend <= 1.0) {
            return Err(Error::input(
                format!("{} of the way to the healed weights", self.blend),
                format!("give a number above 0 and up to 1; {BLEND} is a good start"),
            ));
        }
        if !(2..=4096).contains(&self.sentences) {
            return Err(Error::input(
                format!("{} sentences per step", self.sentences),
                format!("give 2 to 4096; {SENTENCES} is a good start"),
            ));
        }
        Ok(())
    }

    fn schedule(&self, name: &'static str) -> Schedule {
        let judge_every = (self.steps / JUDGEMENTS).clamp(*BETWEEN.start(), *BETWEEN.end());
        Schedule { name, steps: self.steps, rate: self.rate, judge_every }
    }
}

/// Refuses a pair of models of which one was not made from the other.
fn check_pair(teacher: &DenseModel, pruned: &DenseModel) -> Result<()> {
    let (t, p) = (&teacher.embeddings, &pruned.embeddings);
    let same_tables = t.word == p.word && t.position == p.position && t.token_type == p.token_type;
    let what = if teacher.config != pruned.config || teacher.pooling != pruned.pooling {
        "shape"
    } else if teacher.tokenizer != pruned.tokenizer {
        "vocabulary"
    } else if !same_tables {
        "embedding tables"
    } else {
        return Ok(());
    };
    Err(Error::input(
        format!("{} and {} differ in {what}", pruned.name, teacher.name),
        "give the dense model that the pruned one was made from",
    ))
}

/// A hash of what a run starts from and how it goes.
fn fingerprint(student: &Student, options: &Options, schedule: &Schedule) -> Result<Sha256> {
    #[derive(Serialize)]
    struct Settings<'a> {
        version: &'static str,
        schedule: &'a Schedule,
        sentences: usize,
        seed: u64,
        int8: bool,
    }
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION"),
        schedule,
        sentences: options.sentences,
        seed: options.seed,
        int8: options.int8,
    };
    let settings = serde_json::to_vec(&settings)
        .map_err(|e| Error::input(format!("cannot write the settings: {e}"), "report this"))?;
    let mut hash = Sha256::new();
    hash.update(settings);
    for var in student.vars() {
        hash.update(bytemuck::cast_slice::<f32, u8>(&var.flatten_all()?.to_vec1()?));
    }
    Ok(hash)
}
