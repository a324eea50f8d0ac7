//! Calibration: what every linear layer sees when the dense model reads sample sentences.

use std::path::Path;

use grouse_runtime::format::MatrixKind;
use grouse_runtime::tokenizer::Tokenizer;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::forward::{self, Batch};
use crate::model::{DenseModel, Matrix};
use crate::progress::Progress;
use crate::{Error, Result};

pub mod moments;

/// Sentences that are used at most unless the caller says otherwise.
pub const SENTENCES: usize = 2_000;
/// Fewer sentences than this say nothing about a model's inputs.
pub const FEWEST: usize = 16;
/// How often the built-in sentences are repeated beside a long file at most.
const MOST_REPEATS: usize = 4;
/// Rows of real inputs kept by [`collect`].
const SAMPLES: usize = 1_024;
/// Tokens that [`collect`] pushes through the model at once.
const TOKENS_AT_ONCE: usize = 8_192;

/// Sentences of this project, for when no file is given.
const BUILT_IN: &str = include_str!("calibration.txt");

/// Statistics of one linear layer's input over all tokens of the calibration sentences.
#[derive(Debug, Clone)]
pub struct InputStats {
    /// Tokens seen.
    pub tokens: usize,
    /// Mean of each input, `[cols]`.
    pub mean: Vec<f32>,
    /// Largest magnitude of each input, `[cols]`.
    pub max_abs: Vec<f32>,
    /// Second moment `E[x xᵀ]`, `[cols][cols]`.
    pub second_moment: Matrix,
    /// A few rows of real inputs, evenly spread over the text, `[samples][cols]`.
    pub samples: Matrix,
}

/// Statistics of a layer's four inputs, in the order of `grouse_runtime::format::MatrixKind`.
#[derive(Debug, Clone)]
pub struct LayerStats {
    /// Input of query, key and value; of attention output; of feed-forward up; of feed-forward down.
    pub inputs: [InputStats; 4],
}

/// As [`sentences`], but a file's sentences are joined by the built-in ones, repeated until they
/// make up about half of the tokens.
///
/// Pruning fits the weights to the text. A narrow text alone costs more on every other text than
/// it gains on its own (`docs/pruning.md`).
///
/// # Errors
///
/// As [`sentences`].
pub fn anchored_sentences(
    model: &DenseModel,
    file: Option<&Path>,
    limit: usize,
) -> Result<Vec<Vec<u32>>> {
    let anchor = sentences(model, None, usize::MAX)?;
    if file.is_none() {
        return Ok(anchor);
    }
    let mut all = sentences(model, file, limit)?;
    let tokens = |list: &[Vec<u32>]| list.iter().map(Vec::len).sum::<usize>();
    // More repeats would only cost time: the file's own part has fallen to a half before.
    let repeats = (tokens(&all) / tokens(&anchor).max(1)).clamp(1, MOST_REPEATS);
    for _ in 0..repeats {
        all.extend_from_slice(&anchor);
    }
    Ok(all)
}

/// Token ids of calibration sentences: of `file` (plain text, a sentence a line), else of the
/// built-in set.
///
/// At most `limit` lines are used, one from each of `limit` equal stretches of the file, chosen by
/// a fixed seed: the same file gives the same sentences.
///
/// # Errors
///
/// [`Error::Input`] for a file that is not UTF-8 text or has too few lines, [`Error::Io`] for one
/// that cannot be read, [`Error::Runtime`] when the model's own tokenizer section is refused.
pub fn sentences(model: &DenseModel, file: Option<&Path>, limit: usize) -> Result<Vec<Vec<u32>>> {
    let read;
    let (text, name) = match file {
        None => (BUILT_IN, "the built-in sentences".to_string()),
        Some(path) => {
            read = read_text(path)?;
            (read.as_str(), path.display().to_string())
        }
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.len() < FEWEST {
        return Err(Error::input(
            format!("{name}: {} lines of text; calibration needs {FEWEST} at least", lines.len()),
            "give a plain text file with a sentence a line, some hundreds of them or more",
        ));
    }
    tokenize(model, &spread(&lines, limit))
}

/// The built-in sentences.
pub fn built_in() -> impl Iterator<Item = &'static str> {
    BUILT_IN.lines()
}

/// Token ids of each text, cut at the model's most tokens.
///
/// # Errors
///
/// [`Error::Runtime`] when the model's own tokenizer section is refused.
pub fn tokenize(model: &DenseModel, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
    let tokenizer = Tokenizer::open(&model.tokenizer)
        .map_err(Error::runtime("the model's tokenizer section"))?;
    let mut ids = vec![0u32; model.max_tokens];
    texts
        .iter()
        .map(|text| {
            let encoded = tokenizer.encode(text, &mut ids);
            let encoded = encoded.map_err(Error::runtime("tokenizing a sentence"))?;
            Ok(ids[..encoded.tokens].to_vec())
        })
        .collect()
}

/// The lines of `file` (plain UTF-8 text), if there is one, that are not blank, and the built-in
/// sentences.
///
/// # Errors
///
/// [`Error::Input`] for a file that is not UTF-8 text, [`Error::Io`] for one that cannot be read.
pub fn corpus(file: Option<&Path>) -> Result<Vec<String>> {
    let text = file.map(read_text).transpose()?.unwrap_or_default();
    let lines = text.lines().chain(BUILT_IN.lines()).map(str::trim);
    Ok(lines.filter(|line| !line.is_empty()).map(String::from).collect())
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let remedy = "give a plain UTF-8 text file with a sentence a line";
    if bytes.contains(&0) {
        return Err(Error::input(format!("{} is a binary file", path.display()), remedy));
    }
    String::from_utf8(bytes).map_err(|e| {
        Error::input(
            format!("{} is not UTF-8: byte {}", path.display(), e.utf8_error().valid_up_to()),
            remedy,
        )
    })
}

/// One line from each of `limit` equal stretches.
fn spread<'a>(lines: &[&'a str], limit: usize) -> Vec<&'a str> {
    if lines.len() <= limit {
        return lines.to_vec();
    }
    let mut random = StdRng::seed_from_u64(lines.len() as u64);
    (0..limit)
        .map(|i| {
            let (from, to) = (i * lines.len() / limit, (i + 1) * lines.len() / limit);
            lines[random.random_range(from..to)]
        })
        .collect()
}

/// Statistics of every matrix's input when `model` reads `sentences`, a [`LayerStats`] per layer.
///
/// # Errors
///
/// As [`Batch::new`], and [`Error::Input`] when there are no sentences.
pub fn collect(model: &DenseModel, sentences: &[Vec<u32>]) -> Result<Vec<LayerStats>> {
    if sentences.is_empty() {
        return Err(Error::input(
            "there are no calibration sentences",
            "give a text file with a sentence a line",
        ));
    }
    let tokens: usize = sentences.iter().map(Vec::len).sum();
    let config = &model.config;
    let mut sums: Vec<[Sum; 4]> = Vec::new();
    sums.resize_with(config.layers, || {
        MatrixKind::ALL.map(|kind| match kind {
            MatrixKind::FeedForwardOut => Sum::new(config.intermediate_size),
            _ => Sum::new(config.hidden_size),
        })
    });
    let picks = sample_rows(tokens);
    let progress = Progress::start("calibrate", sentences.len() as u64, "sentences");
    let mut first_token = 0;
    let mut rest = sentences;
    while !rest.is_empty() {
        let mut count = 0;
        let mut size = 0;
        while count < rest.len() && (count == 0 || size + rest[count].len() <= TOKENS_AT_ONCE) {
            size += rest[count].len();
            count += 1;
        }
        let batch = Batch::new(config, &rest[..count])?;
        let from = picks.partition_point(|t| *t < first_token);
        let to = picks.partition_point(|t| *t < first_token + size);
        forward::run(model, &batch, |layer, kind, x| {
            sums[layer][kind as usize].add(x, picks[from..to].iter().map(|t| t - first_token));
        });
        first_token += size;
        rest = &rest[count..];
        progress.advance(count as u64);
    }
    progress.finish();
    Ok(sums.into_iter().map(|inputs| LayerStats { inputs: inputs.map(Sum::finish) }).collect())
}

/// Which tokens become samples: seeded, ascending.
fn sample_rows(tokens: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..tokens).collect();
    all.shuffle(&mut StdRng::seed_from_u64(1));
    all.truncate(SAMPLES);
    all.sort_unstable();
    all
}

/// Running sums of one input.
struct Sum {
    tokens: usize,
    sum: Vec<f64>,
    max_abs: Vec<f32>,
    moment: Vec<f64>,
    samples: Vec<f32>,
}

impl Sum {
    fn new(cols: usize) -> Self {
        Self {
            tokens: 0,
            sum: vec![0.0; cols],
            max_abs: vec![0.0; cols],
            moment: vec![0.0; cols * cols],
            samples: Vec::new(),
        }
    }

    fn add(&mut self, x: &Matrix, picks: impl Iterator<Item = usize>) {
        self.tokens += x.rows;
        for row in x.data.chunks_exact(x.cols) {
            for ((sum, most), value) in self.sum.iter_mut().zip(&mut self.max_abs).zip(row) {
                *sum += f64::from(*value);
                *most = most.max(value.abs());
            }
        }
        moments::add_products(&mut self.moment, x, x, true);
        for pick in picks {
            self.samples.extend_from_slice(x.row(pick));
        }
    }

    fn finish(mut self) -> InputStats {
        let cols = self.sum.len();
        moments::mirror(&mut self.moment, cols);
        let tokens = self.tokens as f64;
        let data = self.moment.iter().map(|v| (v / tokens) as f32).collect();
        InputStats {
            tokens: self.tokens,
            mean: self.sum.iter().map(|v| (v / tokens) as f32).collect(),
            max_abs: self.max_abs,
            second_moment: Matrix { rows: cols, cols, data },
            samples: Matrix { rows: self.samples.len() / cols.max(1), cols, data: self.samples },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_sentences_are_plain_and_different() {
        let lines: Vec<&str> = BUILT_IN.lines().collect();
        assert!(lines.len() >= 400);
        let mut sorted = lines.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), lines.len());
        assert!(lines.iter().all(|line| !line.is_empty() && line.trim() == *line));
    }

    #[test]
    fn lines_are_spread_over_the_whole_file() {
        let names: Vec<String> = (0..1_000).map(|i| i.to_string()).collect();
        let lines: Vec<&str> = names.iter().map(String::as_str).collect();
        let some = spread(&lines, 10);
        assert_eq!(some, spread(&lines, 10));
        for (part, line) in some.iter().enumerate() {
            let number: usize = line.parse().unwrap();
            assert_eq!(number / 100, part);
        }
        assert_eq!(spread(&lines, 5_000), lines);
    }

    #[test]
    fn files_that_are_not_text_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for bytes in [&b"a\0b"[..], &b"caf\xe9\n"[..]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(read_text(&path).is_err());
        }
        std::fs::write(&path, "café\n").unwrap();
        assert_eq!(read_text(&path).unwrap(), "café\n");
        assert!(read_text(dir.path()).is_err());
    }
}
