//! Fine-tuning on labels: sentence pairs with scores, or sentences with classes.

use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use grouse_runtime::tokenizer::Tokenizer;
use rand::Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Options;
use super::student::{Student, normalize, summed_embeddings};
use super::text::{permuted, stream};
use super::train::Objective;
use crate::eval::{cosine, read_sts, spearman};
use crate::forward::Batch;
use crate::model::DenseModel;
use crate::{Error, Result};

/// One example in so many is held out to judge by.
const HELD_OUT_SHARE: usize = 10;
/// Most examples held out.
const MOST_HELD_OUT: usize = 512;
/// Fewer examples than this train nothing.
const FEWEST: usize = 32;
/// Classes are few: every class has a row of the head and of the answer.
const MOST_CLASSES: usize = 1_000;
/// What the head's inputs, of length 1, are multiplied by, so that its outputs can differ enough.
const HEAD_SCALE: f64 = 16.0;
/// Examples pushed through the model at once when judging.
const AT_ONCE: usize = 64;

/// A task's examples.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Sentence pairs with how similar they are, 0 to 1: the cosine is to be that.
    Sts(Vec<([Vec<u32>; 2], f32)>),
    /// Sentences with the number of their class.
    Classify {
        /// Names, sorted.
        classes: Vec<String>,
        /// Sentence and class.
        examples: Vec<(Vec<u32>, u32)>,
    },
}

/// A linear classifier on the embedding: `weight · embedding + bias`, the largest wins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Head {
    /// Names.
    pub classes: Vec<String>,
    /// `[classes][hidden]`.
    pub weight: Vec<Vec<f32>>,
    /// `[classes]`.
    pub bias: Vec<f32>,
}

impl Task {
    /// Reads an STS-Benchmark file.
    ///
    /// # Errors
    /// As [`read_sts`]; [`Error::Input`] for too few pairs or when all have one score.
    pub fn sts(model: &DenseModel, file: &Path) -> Result<Self> {
        let pairs = read_sts(file)?;
        enough(file, pairs.len())?;
        let most = pairs.iter().map(|p| p.score).fold(f64::MIN, f64::max);
        let least = pairs.iter().map(|p| p.score).fold(f64::MAX, f64::min);
        if most <= least || least < 0.0 {
            return Err(Error::input(
                format!("{}: scores from {least} to {most}", file.display()),
                "scores start at 0 (nothing in common), and pairs differ in them",
            ));
        }
        // STS-Benchmark goes to 5; other files say by their largest score where they end.
        let top = most.max(5.0);
        let tokenize = tokenizer(model)?;
        let examples = pairs.iter().map(|pair| {
            let ids = [tokenize(&pair.first)?, tokenize(&pair.second)?];
            Ok((ids, (pair.score / top) as f32))
        });
        Ok(Self::Sts(examples.collect::<Result<_>>()?))
    }

    /// Reads lines of a class, a TAB and a sentence.
    ///
    /// # Errors
    /// [`Error::Input`] for a line without a TAB, too few lines, one class or more than 1,000.
    pub fn classify(model: &DenseModel, file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
        let name = file.display();
        let text = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            Error::input(format!("{name} is not UTF-8 (byte {at})"), "convert it to UTF-8")
        })?;
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let Some((class, sentence)) = line.split_once('\t') else {
                return Err(Error::input(
                    format!("{name}, line {}: no TAB", number + 1),
                    "a line is a class, a TAB and a sentence",
                ));
            };
            lines.push((class.trim(), sentence.trim()));
        }
        enough(file, lines.len())?;
        let mut classes: Vec<&str> = lines.iter().map(|(class, _)| *class).collect();
        classes.sort_unstable();
        classes.dedup();
        if !(2..=MOST_CLASSES).contains(&classes.len()) {
            return Err(Error::input(
                format!("{name}: {} classes", classes.len()),
                format!(
                    "give 2 to {MOST_CLASSES} classes; a line is a class, a TAB and a sentence"
                ),
            ));
        }
        let tokenize = tokenizer(model)?;
        let examples = lines.iter().map(|(class, sentence)| {
            let class = classes.partition_point(|c| c < class) as u32;
            Ok((tokenize(sentence)?, class))
        });
        let examples = examples.collect::<Result<_>>()?;
        Ok(Self::Classify { examples, classes: classes.iter().map(|c| c.to_string()).collect() })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Self::Sts(examples) => examples.len(),
            Self::Classify { examples, .. } => examples.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds all examples to a run's fingerprint.
    pub(super) fn update(&self, hash: &mut Sha256) {
        hash.update(format!("{self:?}"));
    }

    /// What to train.
    pub(super) fn objective<'a>(
        &'a self,
        model: &'a DenseModel,
        options: &Options,
    ) -> Result<Labelled<'a>> {
        let count = self.len();
        let share = HELD_OUT_SHARE.max(count.div_ceil(MOST_HELD_OUT));
        let held = |at: usize| permuted(at, count, options.seed ^ 0x5EED).is_multiple_of(share);
        let (held_out, train) = (0..count).partition(|at| held(*at));
        let head = match self {
            Self::Sts(_) => None,
            Self::Classify { classes, .. } => Some([
                Var::zeros((model.config.hidden_size, classes.len()), DType::F32, &Device::Cpu)?,
                Var::zeros(classes.len(), DType::F32, &Device::Cpu)?,
            ]),
        };
        Ok(Labelled {
            task: self,
            model,
            train,
            held_out,
            head,
            examples: options.sentences,
            seed: options.seed,
        })
    }
}

fn enough(file: &Path, count: usize) -> Result<()> {
    if count >= FEWEST {
        return Ok(());
    }
    Err(Error::input(
        format!("{} has {count} examples", file.display()),
        format!("fine-tuning needs {FEWEST} at least, and is sensible with a thousand"),
    ))
}

fn tokenizer(model: &DenseModel) -> Result<impl Fn(&str) -> Result<Vec<u32>> + '_> {
    let tokenizer = Tokenizer::open(&model.tokenizer)
        .map_err(Error::runtime("the model's tokenizer section"))?;
    Ok(move |text: &str| {
        let mut ids = vec![0; model.max_tokens];
        let encoded = tokenizer.encode(text, &mut ids);
        let encoded = encoded.map_err(Error::runtime(format!("tokenizing \"{text}\"")))?;
        ids.truncate(encoded.tokens);
        Ok(ids)
    })
}

/// A task as an objective.
pub(super) struct Labelled<'a> {
    task: &'a Task,
    model: &'a DenseModel,
    train: Vec<usize>,
    held_out: Vec<usize>,
    /// A classifier's weight `[hidden][classes]` and bias.
    head: Option<[Var; 2]>,
    examples: usize,
    seed: u64,
}

impl Labelled<'_> {
    /// Embeddings of length 1, `[sentences][hidden]`.
    fn embed<S: AsRef<[u32]>>(&self, student: &Student, sentences: &[S]) -> Result<Tensor> {
        let batch = Batch::new(&self.model.config, sentences)?;
        let summed = summed_embeddings(self.model, &batch)?;
        Ok(normalize(&student.run(&batch, &summed)?.embeddings)?)
    }

    /// Every example once in a seeded order, then again in another.
    fn draw(&self, step: u32) -> Vec<usize> {
        let count = self.train.len();
        let first = u64::from(step) * self.examples as u64;
        (first..first + self.examples as u64)
            .map(|drawn| {
                let (round, at) = (drawn / count as u64, (drawn % count as u64) as usize);
                self.train[permuted(at, count, stream(self.seed, round).random())]
            })
            .collect()
    }

    fn outputs(&self, embeddings: &Tensor, [weight, bias]: &[Var; 2]) -> Result<Tensor> {
        Ok((embeddings.matmul(weight)? * HEAD_SCALE)?.broadcast_add(bias)?)
    }

    /// The trained head.
    pub fn head(&self) -> Result<Option<Head>> {
        let (Some([weight, bias]), Task::Classify { classes, .. }) = (&self.head, self.task) else {
            return Ok(None);
        };
        Ok(Some(Head {
            classes: classes.clone(),
            weight: (weight.t()? * HEAD_SCALE)?.to_vec2()?,
            bias: bias.to_vec1()?,
        }))
    }
}

impl Objective for Labelled<'_> {
    fn loss(&self, student: &Student, step: u32) -> Result<Tensor> {
        let drawn = self.draw(step);
        match self.task {
            Task::Sts(examples) => {
                let side = |side: usize| drawn.iter().map(move |at| &examples[*at].0[side]);
                let sentences: Vec<&Vec<u32>> = side(0).chain(side(1)).collect();
                let embeddings = self.embed(student, &sentences)?;
                let (a, b) = (
                    embeddings.narrow(0, 0, drawn.len())?,
                    embeddings.narrow(0, drawn.len(), drawn.len())?,
                );
                let cosines = (a * b)?.sum(1)?;
                let wanted: Vec<f32> = drawn.iter().map(|at| examples[*at].1).collect();
                let wanted = Tensor::from_vec(wanted, drawn.len(), &Device::Cpu)?;
                Ok((cosines - wanted)?.sqr()?.mean_all()?)
            }
            Task::Classify { examples, .. } => {
                let sentences: Vec<&Vec<u32>> = drawn.iter().map(|at| &examples[*at].0).collect();
                let embeddings = self.embed(student, &sentences)?;
                let Some(head) = &self.head else {
                    return Err(Error::input("a classifier without a head", "report this"));
                };
                let outputs = self.outputs(&embeddings, head)?;
                let classes: Vec<u32> = drawn.iter().map(|at| examples[*at].1).collect();
                let classes = Tensor::from_vec(classes, (drawn.len(), 1), &Device::Cpu)?;
                // Cross-entropy: log Σ exp − the right class's output.
                let peaks = outputs.max_keepdim(1)?.detach();
                let sums = outputs.broadcast_sub(&peaks)?.exp()?.sum_keepdim(1)?.log()?;
                let right = outputs.gather(&classes, 1)?;
                Ok(((sums + peaks)? - right)?.mean_all()?)
            }
        }
    }

    fn score(&self, student: &Student) -> Result<f64> {
        match self.task {
            Task::Sts(examples) => {
                let (mut cosines, mut scores) = (Vec::new(), Vec::new());
                for part in self.held_out.chunks(AT_ONCE / 2) {
                    let sentences: Vec<&Vec<u32>> =
                        part.iter().flat_map(|at| &examples[*at].0).collect();
                    let embeddings = self.embed(student, &sentences)?.to_vec2::<f32>()?;
                    cosines.extend(embeddings.as_chunks().0.iter().map(|[a, b]| cosine(a, b)));
                    scores.extend(part.iter().map(|at| f64::from(examples[*at].1)));
                }
                if cosines.iter().any(|c| !c.is_finite()) {
                    return Ok(f64::NAN);
                }
                Ok(100.0 * spearman(&cosines, &scores))
            }
            Task::Classify { examples, .. } => {
                let Some(head) = &self.head else { return Ok(0.0) };
                let mut right = 0;
                for part in self.held_out.chunks(AT_ONCE) {
                    let sentences: Vec<&Vec<u32>> =
                        part.iter().map(|at| &examples[*at].0).collect();
                    let outputs = self.outputs(&self.embed(student, &sentences)?, head)?;
                    let said: Vec<u32> = outputs.argmax(1)?.to_vec1()?;
                    right +=
                        said.iter().zip(part).filter(|(s, at)| **s == examples[**at].1).count();
                }
                Ok(100.0 * right as f64 / self.held_out.len().max(1) as f64)
            }
        }
    }

    fn score_name(&self) -> &'static str {
        match self.task {
            Task::Sts(_) => "Spearman",
            Task::Classify { .. } => "accuracy",
        }
    }

    fn vars(&self) -> Vec<&Var> {
        self.head.iter().flatten().collect()
    }
}
