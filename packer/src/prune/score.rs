//! How well a pruned model agrees with the dense one, on sentences that it was not fitted to.
//!
//! What an embedding is used for is ranking by similarity, so the judge compares similarities:
//! those of each sentence with relatives made from it (words left out, words of another sentence
//! put in), with its nearest neighbours in the text, and with others.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::eval::{cosine, spearman};
use crate::model::{DenseModel, Matrix};
use crate::{Result, forward};

/// Sentences with the dense model's embeddings, and the pairs that are compared.
pub struct Judge {
    sentences: Vec<Vec<u32>>,
    dense: Matrix,
    pairs: Vec<(usize, usize)>,
}

/// What a judge found; more is better.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Score {
    /// Spearman correlation of the pairs' similarities with the dense model's.
    pub ranking: f64,
    /// Mean cosine to the dense embeddings.
    pub cosine: f64,
}

impl Score {
    /// The number that candidates are compared by: rankings alone hardly tell good candidates
    /// apart, cosines alone prefer embeddings that stay where they were to ones that order well.
    pub fn agreement(&self) -> f64 {
        (self.ranking + self.cosine) / 2.0
    }
}

impl Judge {
    /// A judge on `sentences` (token ids with their first and last special token).
    ///
    /// # Errors
    /// As [`forward::embed_all`].
    pub fn new(model: &DenseModel, sentences: &[Vec<u32>], seed: u64) -> Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let count = sentences.len();
        let mut all = sentences.to_vec();
        let mut pairs = Vec::new();
        let mut relative = |ids: Vec<u32>, of: &[usize], pairs: &mut Vec<(usize, usize)>| {
            pairs.extend(of.iter().map(|s| (*s, all.len())));
            all.push(ids);
        };
        for (s, ids) in sentences.iter().enumerate() {
            for part in [0.2, 0.5] {
                relative(thinned(ids, part, &mut random), &[s], &mut pairs);
            }
            let other = random.random_range(0..count);
            relative(joined(ids, &sentences[other]), &[s, other], &mut pairs);
        }
        let dense = forward::embed_all(model, &all)?;
        for s in 0..count {
            let mut others: Vec<usize> = (0..count).filter(|o| *o != s).collect();
            others.shuffle(&mut random);
            pairs.extend(others.iter().take(3).map(|o| (s, *o)));
            others.sort_by(|a, b| {
                let to = |o: usize| cosine(dense.row(s), dense.row(o));
                to(*b).total_cmp(&to(*a))
            });
            pairs.extend(others.iter().take(2).map(|o| (s, *o)));
        }
        Ok(Self { sentences: all, dense, pairs })
    }

    /// Scores `model`.
    ///
    /// # Errors
    /// As [`forward::embed_all`].
    pub fn score(&self, model: &DenseModel) -> Result<Score> {
        let now = forward::embed_all(model, &self.sentences)?;
        let of = |m: &Matrix| -> Vec<f64> {
            self.pairs.iter().map(|(a, b)| cosine(m.row(*a), m.row(*b))).collect()
        };
        let cosines = (0..self.dense.rows).map(|i| cosine(now.row(i), self.dense.row(i)));
        Ok(Score {
            ranking: spearman(&of(&now), &of(&self.dense)),
            cosine: cosines.sum::<f64>() / self.dense.rows.max(1) as f64,
        })
    }
}

/// `ids` without about `part` of the words between its special tokens, one at least.
fn thinned(ids: &[u32], part: f64, random: &mut StdRng) -> Vec<u32> {
    let inner = 1..ids.len().saturating_sub(1);
    let out = random.random_range(inner.start..inner.end.max(inner.start + 1));
    let mut kept: Vec<u32> = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        let lost = inner.contains(&i) && (i == out || random.random_bool(part));
        if !lost {
            kept.push(*id);
        }
    }
    kept
}

/// The first half of `a` with the second half of `b`.
fn joined(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut out = a[..a.len().div_ceil(2)].to_vec();
    out.extend_from_slice(&b[b.len().div_ceil(2)..]);
    out
}
