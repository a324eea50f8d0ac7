//! Sentences for healing: which are held out, and which make a batch.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::agreement::variants::variant;
use crate::model::DenseModel;
use crate::{Error, Result, calibrate};

/// Longer sentences are cut: attention and memory grow with the longest.
const MOST_TOKENS: usize = 128;
/// One run of lines in so many is held out.
const HELD_OUT_SHARE: usize = 16;
/// Lines of a run that is held out together.
const RUN: usize = 4;
/// Most sentences held out.
const MOST_HELD_OUT: usize = 512;

/// Token ids of all sentences, in the order of the text.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Sentences to train on.
    pub train: Vec<Vec<u32>>,
    /// Sentences to judge on: never trained on, nor is a line that says the same.
    pub held_out: Vec<Vec<u32>>,
}

impl Text {
    /// Reads `file`, if given, and the built-in sentences.
    ///
    /// # Errors
    ///
    /// As [`calibrate::sentences`].
    pub fn read(model: &DenseModel, file: Option<&std::path::Path>) -> Result<Self> {
        let mut all = match file {
            Some(_) => calibrate::sentences(model, file, usize::MAX)?,
            None => Vec::new(),
        };
        all.extend(calibrate::sentences(model, None, usize::MAX)?);
        Self::split(all)
    }

    /// Splits sentences; a run of neighbouring lines goes to one side as a whole.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] when too few different sentences are left to train on.
    pub fn split(mut all: Vec<Vec<u32>>) -> Result<Self> {
        for ids in &mut all {
            if ids.len() > MOST_TOKENS {
                // The last token ends the sentence for the model.
                let end = ids.pop();
                ids.truncate(MOST_TOKENS - 1);
                ids.extend(end);
            }
        }
        let mut seen = std::collections::HashSet::new();
        all.retain(|ids| ids.len() > 2 && seen.insert(ids.clone()));
        let share = HELD_OUT_SHARE.max(all.len().div_ceil(MOST_HELD_OUT));
        let mut text = Self { train: Vec::new(), held_out: Vec::new() };
        for (number, ids) in all.into_iter().enumerate() {
            let held = (number / RUN).is_multiple_of(share);
            if held { &mut text.held_out } else { &mut text.train }.push(ids);
        }
        if text.train.len() < 64 || text.held_out.len() < 2 {
            return Err(Error::input(
                format!("{} different sentences to heal on", text.train.len()),
                "give a text of some hundred lines or more, a sentence a line",
            ));
        }
        Ok(text)
    }

    /// The sentences of step `step`, in pairs: a line, and beside it one of the lines that are
    /// nearest to it (half of the pairs; `near` has them, if any), the line that follows, or a
    /// variant of itself.
    pub fn batch(
        &self,
        (seed, step): (u64, u32),
        sentences: usize,
        near: &[Vec<usize>],
    ) -> Vec<Vec<u32>> {
        let pairs = sentences.div_ceil(2).max(1);
        let mut batch = Vec::with_capacity(2 * pairs);
        let count = self.train.len();
        let mut random = stream(seed, u64::from(step));
        for pair in 0..pairs {
            let drawn = u64::from(step) * pairs as u64 + pair as u64;
            let at = self.place(seed, drawn, count);
            let first = &self.train[at];
            let near = near.get(at).filter(|near| !near.is_empty());
            let second = match (near, random.random_range(0..4)) {
                (Some(near), 0 | 1) => self.train[near[random.random_range(0..near.len())]].clone(),
                (None, 0) | (_, 2) => self.train[(at + 1) % count].clone(),
                _ => {
                    let other = &self.train[random.random_range(0..count)];
                    variant(first, other, &mut random)
                }
            };
            batch.push(first.clone());
            batch.push(second);
        }
        batch.truncate(sentences);
        batch
    }

    /// Line of the `drawn`-th pair: every line once, in a seeded order, then again in another.
    fn place(&self, seed: u64, drawn: u64, count: usize) -> usize {
        let (round, at) = (drawn / count as u64, drawn % count as u64);
        permuted(at as usize, count, seed.wrapping_mul(31).wrapping_add(round))
    }
}

/// Place of `at` in a seeded permutation of `0..count`, without storing it: a Feistel network on
/// the next power of four, walked until it falls inside.
pub(super) fn permuted(at: usize, count: usize, key: u64) -> usize {
    let bits = (usize::BITS - count.leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << bits) - 1;
    let mut value = at as u64;
    loop {
        let (mut left, mut right) = (value >> bits, value & mask);
        for round in 0..4u64 {
            let mixed = (right ^ key.rotate_left(17 * round as u32))
                .wrapping_add(round)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (left, right) = (right, left ^ ((mixed ^ (mixed >> 29)) >> 7 & mask));
        }
        value = left << bits | right;
        if (value as usize) < count {
            return value as usize;
        }
    }
}

/// Random numbers of one step: the same whether or not the run was interrupted before it.
pub fn stream(seed: u64, step: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(count: u32) -> Vec<Vec<u32>> {
        (0..count).map(|n| (0..4 + n % 5).map(|t| 10 + n * 10 + t).collect()).collect()
    }

    proptest! {
        #[test]
        fn every_place_comes_once(count in 1usize..600, key: u64) {
            let mut places: Vec<usize> = (0..count).map(|at| permuted(at, count, key)).collect();
            places.sort_unstable();
            prop_assert_eq!(places, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nothing_held_out_is_trained_on() {
        let mut all = lines(500);
        all.extend(lines(40));
        let text = Text::split(all).unwrap();
        assert_eq!(text.train.len() + text.held_out.len(), 500);
        assert!(text.held_out.iter().all(|ids| !text.train.contains(ids)));
        assert!(text.held_out.len() >= 500 / HELD_OUT_SHARE);
        assert!(Text::split(lines(20)).is_err());
    }

    #[test]
    fn a_step_has_the_same_sentences_whenever_it_comes() {
        let text = Text::split(lines(300)).unwrap();
        for (seed, step) in [(0, 0), (0, 77), (3, 5)] {
            let batch = text.batch((seed, step), 9, &[]);
            assert_eq!(batch.len(), 9);
            assert_eq!(batch, text.batch((seed, step), 9, &[]));
        }
        assert_ne!(text.batch((0, 0), 8, &[]), text.batch((0, 1), 8, &[]));
        assert_ne!(text.batch((0, 0), 8, &[]), text.batch((1, 0), 8, &[]));
    }

    #[test]
    fn about_half_of_the_pairs_are_near() {
        let text = Text::split(lines(300)).unwrap();
        // Far from what follows in the text, so that the two cannot be mistaken.
        let far = |at: usize| (at + 100) % text.train.len();
        let near: Vec<Vec<usize>> = (0..text.train.len()).map(|at| vec![far(at)]).collect();
        let place = |ids: &Vec<u32>| text.train.iter().position(|line| line == ids);
        let batch = text.batch((0, 0), 400, &near);
        let pairs = batch.as_chunks::<2>().0.iter();
        let found = pairs.filter(|[a, b]| place(a).map(far) == place(b)).count();
        assert!((70..130).contains(&found), "{found}");
    }
}
