//! The objective of healing: the dense model's states, similarities and embeddings.

use candle_core::Tensor;

use super::judge::Judge;
use super::loss::{Target, Weights};
use super::student::{Student, summed_embeddings};
use super::text::Text;
use super::train::Objective;
use crate::Result;
use crate::forward::Batch;
use crate::model::DenseModel;

/// Follow the dense model on unlabelled sentences.
pub struct Distill<'a> {
    teacher: &'a DenseModel,
    text: &'a Text,
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
        let judge = Judge::new(teacher, &text.held_out)?;
        Ok(Self { teacher, text, judge, weights, sentences, seed })
    }
}

impl Objective for Distill<'_> {
    fn loss(&self, student: &Student, step: u32) -> Result<Tensor> {
        let ids = self.text.batch(self.seed, step, self.sentences);
        let batch = Batch::new(&self.teacher.config, &ids)?;
        let target = Target::of(self.teacher, &batch)?;
        let pass = student.run(&batch, &summed_embeddings(self.teacher, &batch)?)?;
        Ok(target.loss(&pass, &self.weights)?)
    }

    fn score(&self, student: &Student) -> Result<f64> {
        self.judge.score(student, self.teacher)
    }

    fn score_name(&self) -> &'static str {
        "agreement"
    }
}
