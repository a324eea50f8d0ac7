//! How well a changed model agrees with the dense one, on sentences that it was not fitted to.
//!
//! What an embedding is used for is ranking by similarity, so similarities are compared: those of
//! each sentence with variants of it, with its nearest neighbours in the text, and with others.
//! Pruning judges sub-networks by it, healing the student.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::eval::{cosine, spearman};
use crate::model::{DenseModel, Matrix};
use crate::{Result, forward};

pub mod variants;

use variants::variant;

/// Variants of each sentence.
const VARIANTS: usize = 2;
/// Nearest sentences that each is compared with.
const NEAREST: usize = 3;
/// Other sentences that each is compared with.
const OTHERS: usize = 3;

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
        for (s, ids) in sentences.iter().enumerate() {
            for _ in 0..VARIANTS {
                let other = &sentences[random.random_range(0..count)];
                pairs.push((s, all.len()));
                all.push(variant(ids, other, &mut random));
            }
        }
        let dense = forward::embed_all(model, &all)?;
        for s in 0..count {
            let mut others: Vec<usize> = (0..count).filter(|o| *o != s).collect();
            others.shuffle(&mut random);
            pairs.extend(others.iter().take(OTHERS).map(|o| (s.min(*o), s.max(*o))));
            others.sort_by(|a, b| {
                let to = |o: usize| cosine(dense.row(s), dense.row(o));
                to(*b).total_cmp(&to(*a)).then(a.cmp(b))
            });
            pairs.extend(others.iter().take(NEAREST).map(|o| (s.min(*o), s.max(*o))));
        }
        pairs.sort_unstable();
        pairs.dedup();
        Ok(Self { sentences: all, dense, pairs })
    }

    /// The sentences whose embeddings [`Judge::compare`] wants, variants included.
    pub fn sentences(&self) -> &[Vec<u32>] {
        &self.sentences
    }

    /// Scores `model`.
    ///
    /// # Errors
    /// As [`forward::embed_all`].
    pub fn score(&self, model: &DenseModel) -> Result<Score> {
        Ok(self.compare(&forward::embed_all(model, &self.sentences)?))
    }

    /// Scores embeddings of [`Judge::sentences`], `[sentences][hidden]`. Numbers that are not
    /// finite give a score that is not.
    pub fn compare(&self, now: &Matrix) -> Score {
        let of = |m: &Matrix| -> Vec<f64> {
            self.pairs.iter().map(|(a, b)| cosine(m.row(*a), m.row(*b))).collect()
        };
        let similar = of(now);
        let cosines = (0..self.dense.rows).map(|i| cosine(now.row(i), self.dense.row(i)));
        let sound = similar.iter().all(|s| s.is_finite());
        Score {
            ranking: if sound { spearman(&similar, &of(&self.dense)) } else { f64::NAN },
            cosine: cosines.sum::<f64>() / self.dense.rows.max(1) as f64,
        }
    }
}
