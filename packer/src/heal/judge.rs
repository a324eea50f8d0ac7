//! How well the student's similarities agree with the dense model's on held-out sentences.

use super::student::{Student, summed_embeddings};
use super::text::{stream, variant};
use crate::Result;
use crate::eval::{cosine, spearman};
use crate::forward::{self, Batch};
use crate::model::DenseModel;

/// Most sentences that are judged on, variants included.
const MOST: usize = 384;
/// Nearest sentences that each is compared with.
const NEAREST: usize = 6;
/// Sentences pushed through the student at once.
const AT_ONCE: usize = 64;

/// Held-out sentences, pairs of them, and what the dense model says of each pair.
pub struct Judge {
    sentences: Vec<Vec<u32>>,
    pairs: Vec<(usize, usize)>,
    wanted: Vec<f64>,
}

impl Judge {
    /// Every held-out sentence and a variant of it; each is compared with the one, with its
    /// nearest by the dense embedding and with as many at random, so that similarities are spread.
    pub fn new(teacher: &DenseModel, held_out: &[Vec<u32>]) -> Result<Self> {
        let step = held_out.len().div_ceil(MOST / 2).max(1);
        let some: Vec<&Vec<u32>> = held_out.iter().step_by(step).collect();
        let mut random = stream(0, 0);
        let mut sentences = Vec::new();
        for (number, ids) in some.iter().enumerate() {
            sentences.push((*ids).clone());
            sentences.push(variant(ids, some[(number + 1) % some.len()], &mut random));
        }
        let matrix = forward::embed_all(teacher, &sentences)?;
        let embeddings: Vec<Vec<f32>> = (0..matrix.rows).map(|r| matrix.row(r).to_vec()).collect();
        let count = sentences.len();
        let mut pairs = Vec::new();
        for a in 0..count {
            let mut near: Vec<(f64, usize)> = (0..count)
                .filter(|b| *b != a)
                .map(|b| (-cosine(&embeddings[a], &embeddings[b]), b))
                .collect();
            near.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
            pairs.extend(near.iter().take(NEAREST).map(|(_, b)| (a.min(*b), a.max(*b))));
            let far = near.len() / (NEAREST + 1);
            pairs.extend(
                near.iter().skip(NEAREST).step_by(far.max(1)).map(|(_, b)| (a.min(*b), a.max(*b))),
            );
        }
        pairs.sort_unstable();
        pairs.dedup();
        let wanted = similarities(&pairs, &embeddings);
        Ok(Self { sentences, pairs, wanted })
    }

    /// Spearman correlation × 100 of the pairs' similarities with the dense model's.
    ///
    /// # Errors
    /// When the arithmetic fails.
    pub fn score(&self, student: &Student, teacher: &DenseModel) -> Result<f64> {
        let mut embeddings = Vec::with_capacity(self.sentences.len());
        for part in self.sentences.chunks(AT_ONCE) {
            let batch = Batch::new(&teacher.config, part)?;
            let summed = summed_embeddings(teacher, &batch)?;
            embeddings.extend(student.run(&batch, &summed)?.embeddings.to_vec2::<f32>()?);
        }
        let similar = similarities(&self.pairs, &embeddings);
        if similar.iter().any(|s| !s.is_finite()) {
            return Ok(f64::NAN);
        }
        Ok(100.0 * spearman(&similar, &self.wanted))
    }
}

fn similarities(pairs: &[(usize, usize)], embeddings: &[Vec<f32>]) -> Vec<f64> {
    pairs.iter().map(|(a, b)| cosine(&embeddings[*a], &embeddings[*b])).collect()
}
