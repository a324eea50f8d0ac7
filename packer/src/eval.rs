//! Benchmarks: sentence pairs of STS, Spearman and Pearson; intents.

use std::path::Path;

use crate::engine::Engine;
use crate::progress::Progress;
use crate::{Error, Result};

pub mod intents;

/// One pair of an STS file.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The people's score: 0 to 5 in STS, 1 to 5 in SICK.
    pub score: f64,
    /// First sentence.
    pub first: String,
    /// Second sentence.
    pub second: String,
}

/// What `grouse eval --sts` prints.
#[derive(Debug, Clone, serde::Serialize)]
pub struct StsScore {
    /// Number of pairs.
    pub pairs: usize,
    /// Spearman rank correlation × 100 of cosine similarities with the scores.
    pub spearman: f64,
    /// Pearson correlation × 100.
    pub pearson: f64,
}

/// Fields of score, first and second sentence in a file without a header: STS-Benchmark's.
const STS_FIELDS: [usize; 3] = [4, 5, 6];
/// The same by name, in a file with a header: SICK's.
const SICK_NAMES: [&str; 3] = ["relatedness_score", "sentence_A", "sentence_B"];

/// Reads sentence pairs, fields split at TAB only: an STS-Benchmark file (no header; genre, file,
/// year, id, score, first sentence, second sentence, and perhaps more) or one like SICK's, whose
/// header names `sentence_A`, `sentence_B` and `relatedness_score`.
///
/// # Errors
/// When the file cannot be read, is not UTF-8, or a line has too few fields or no number as score.
pub fn read_sts(path: &Path) -> Result<Vec<Pair>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let name = path.display();
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::input(format!("{name} is not UTF-8 (byte {at})"), "convert it to UTF-8")
    })?;
    let header: Vec<&str> = text.lines().next().unwrap_or("").split('\t').map(str::trim).collect();
    let named = SICK_NAMES.map(|name| header.iter().position(|field| *field == name));
    let (places, headers) = match named {
        [Some(score), Some(first), Some(second)] => ([score, first, second], 1),
        _ => (STS_FIELDS, 0),
    };
    let needed = 1 + places.into_iter().max().unwrap_or(0);
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate().skip(headers) {
        if line.is_empty() {
            continue;
        }
        let bad = |what: String| {
            Error::input(
                format!("{name}, line {}: {what}", number + 1),
                "an STS-Benchmark line is genre, file, year, id, score, sentence 1, sentence 2, \
                 split by TAB; a file with a header names sentence_A, sentence_B and \
                 relatedness_score there",
            )
        };
        let fields: Vec<&str> = line.split('\t').collect();
        let [Some(score), Some(first), Some(second)] = places.map(|at| fields.get(at)) else {
            return Err(bad(format!("{} fields instead of {needed} or more", fields.len())));
        };
        let score: f64 = score
            .trim()
            .parse()
            .ok()
            .filter(|s: &f64| s.is_finite())
            .ok_or_else(|| bad(format!("\"{score}\" is not a score")))?;
        pairs.push(Pair { score, first: (*first).into(), second: (*second).into() });
    }
    if pairs.len() < 2 {
        return Err(Error::input(
            format!("{name} has {} pairs", pairs.len()),
            "correlations need at least two",
        ));
    }
    Ok(pairs)
}

/// Scores the engine's model on `pairs`.
///
/// # Errors
/// The first failing text's.
pub fn sts(engine: &Engine<'_>, pairs: &[Pair]) -> Result<StsScore> {
    let texts: Vec<String> =
        pairs.iter().flat_map(|p| [p.first.clone(), p.second.clone()]).collect();
    let progress = Progress::start("embedding", texts.len() as u64, "sentences");
    let answers = engine.embed(&texts, || progress.advance(1))?;
    progress.finish();
    let similarities: Vec<f64> = answers
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[a, b]| cosine(&a.embedding, &b.embedding))
        .collect();
    let scores: Vec<f64> = pairs.iter().map(|p| p.score).collect();
    Ok(StsScore {
        pairs: pairs.len(),
        spearman: 100.0 * spearman(&similarities, &scores),
        pearson: 100.0 * pearson(&similarities, &scores),
    })
}

/// Cosine of the angle between two vectors; 0 when one is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

/// Pearson correlation; 0 when one side is constant.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len()) as f64;
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    let norm = (aa * bb).sqrt();
    if norm > 0.0 { ab / norm } else { 0.0 }
}

/// Spearman rank correlation; equal values share their mean rank.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|i, j| values[*i].total_cmp(&values[*j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for run in order.chunk_by(|i, j| values[*i] == values[*j]) {
        let mean = start as f64 + (run.len() as f64 - 1.0) / 2.0;
        run.iter().for_each(|i| ranks[*i] = mean);
        start += run.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_agree_with_their_definition() {
        // Worked out apart, from the definition, in f64.
        let a = [0.1, 0.4, 0.35, 0.8, 0.8, 0.05];
        let b = [1.0, 2.0, 3.5, 3.0, 5.0, 0.0];
        assert!((spearman(&a, &b) - 0.782_690_898_1).abs() < 1e-9, "{}", spearman(&a, &b));
        assert!((pearson(&a, &b) - 0.844_629_944_4).abs() < 1e-9, "{}", pearson(&a, &b));
    }

    #[test]
    fn a_reversed_order_is_minus_one() {
        assert!((spearman(&[1.0, 2.0, 3.0], &[9.0, 4.0, 1.0]) + 1.0).abs() < 1e-12);
    }

    #[test]
    fn quotes_and_extra_fields_are_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sts.csv");
        let line = "g\tf\ty\t0001\t2.5\tHe said \"no\tShe said \"yes\textra\textra\n";
        std::fs::write(&path, line.repeat(2)).unwrap();
        let pairs = read_sts(&path).unwrap();
        assert_eq!(pairs[0].first, "He said \"no");
        assert_eq!(pairs[0].second, "She said \"yes");
    }

    #[test]
    fn a_header_says_where_the_fields_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sick.txt");
        let head = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n";
        let lines = "1\tA dog\tA cat\t3.5\tNEUTRAL\n2\tA man\tA boy\t4\tNEUTRAL\n";
        std::fs::write(&path, [head, lines].concat()).unwrap();
        let pairs = read_sts(&path).unwrap();
        let first = Pair { score: 3.5, first: "A dog".into(), second: "A cat".into() };
        assert_eq!((pairs.len(), &pairs[0]), (2, &first));
        std::fs::write(&path, [head, "1\tA dog\n"].concat()).unwrap();
        assert!(read_sts(&path).unwrap_err().to_string().contains("line 2: 2 fields"));
    }

    #[test]
    fn a_short_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sts.csv");
        std::fs::write(&path, "a\tb\n").unwrap();
        assert!(read_sts(&path).unwrap_err().to_string().contains("line 1: 2 fields"));
    }
}
