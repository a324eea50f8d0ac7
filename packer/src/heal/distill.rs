//! The objective of healing: the dense model's states, similarities and embeddings.

use candle_core::Tensor;

use super::loss::{Target, Weights};
use super::neighbours;
use super::student::{Student, summed_embeddings};
use super::text::Text;
use super::train::Objective;
use crate::Result;
use crate::agreement::Judge;
use crate::forward::Batch;
use crate::model::{DenseModel, Matrix};

/// Most held-out sentences that are judged on, variants not counted.
const MOST_JUDGED: usize = 128;
/// Sentences pushed through the student at once when it is judged.
const AT_ONCE: usize = 64;

/// Follow the dense model on unlabelled sentences.
pub struct Distill<'a> {
    teacher: &'a DenseModel,
    text: &'a Text,
    /// Neighbours of the text's lines.
    near: Vec<Vec<usize>>,
    judge: Judge,
    weights: Weights,
    sentences: usize,
    seed: u64,
}

impl<'a> Distill<'a> {
    /// `sentences` of `text` per step, drawn by `seed`.
    ///
    /// # Errors
    /// When a sentence does not fit the model.
    pub fn new(
        teacher: &'a DenseModel,
        text: &'a Text,
        weights: Weights,
        sentences: usize,
        seed: u64,
    ) -> Result<Self> {
        let step = text.held_out.len().div_ceil(MOST_JUDGED).max(1);
        let some: Vec<Vec<u32>> = text.held_out.iter().step_by(step).cloned().collect();
        let judge = Judge::new(teacher, &some, 0)?;
        let near = neighbours::nearest(teacher, &text.train)?;
        Ok(Self { teacher, text, near, judge, weights, sentences, seed })
    }
}

impl Objective for Distill<'_> {
    fn loss(&self, student: &Student, step: u32) -> Result<Tensor> {
        let ids = self.text.batch((self.seed, step), self.sentences, &self.near);
        let batch = Batch::new(&self.teacher.config, &ids)?;
        let target = Target::of(self.teacher, &batch)?;
        let pass = student.run(&batch, &summed_embeddings(self.teacher, &batch)?)?;
        Ok(target.loss(&pass, &self.weights)?)
    }

    fn score(&self, student: &Student) -> Result<f64> {
        let mut now = Matrix::zeros(0, self.teacher.config.hidden_size);
        for part in self.judge.sentences().chunks(AT_ONCE) {
            let batch = Batch::new(&self.teacher.config, part)?;
            let pass = student.run(&batch, &summed_embeddings(self.teacher, &batch)?)?;
            now.data.extend(pass.embeddings.flatten_all()?.to_vec1::<f32>()?);
            now.rows += part.len();
        }
        Ok(100.0 * self.judge.compare(&now).ranking)
    }

    fn score_name(&self) -> &'static str {
        "agreement"
    }
}
