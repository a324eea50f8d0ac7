//! Search for the sub-network: which level each matrix gets within one budget.
//!
//! As AE-BERT does it, candidates are drawn at random and judged cheaply; beside wholly random
//! ratios, half of the draws share the budget anew after the losses are disturbed. The better
//! quarter is judged on everything (successive halving), and the best is then improved by changes
//! of two matrices at a time that keep the budget (after EvoPress, Sieberling et al. 2024).

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::allocate::{Offer, allocate};
use crate::Result;

/// How much a candidate is judged on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breadth {
    /// A part of the held-out sentences.
    Part,
    /// All of them.
    Whole,
}

/// Where a candidate came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The knapsack's answer for the losses as they are.
    Seed,
    /// The same level everywhere.
    Uniform,
    /// Random ratios.
    Random,
    /// The knapsack's answer for disturbed losses.
    Disturbed,
    /// A changed copy of the best so far.
    Evolved,
}

/// A sub-network that was judged.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Candidate {
    /// Where it came from.
    pub origin: Origin,
    /// The level of each matrix.
    pub profile: Vec<usize>,
    /// What it takes of the budget.
    pub cost: u64,
    /// Sum of the matrices' losses.
    pub loss: f64,
    /// Agreement with the dense model, more is better.
    pub score: f64,
    /// Whether the score is over all held-out sentences.
    pub whole: bool,
}

/// Candidates drawn for each one that is judged on everything.
pub const HALVING: usize = 4;
/// Copies of the best that are tried in a generation.
pub const OFFSPRING: usize = 4;
/// Draws that may miss the budget before a random candidate is given up.
const DRAWS: usize = 50;
/// How far below the budget a random candidate may stay.
const SLACK: f64 = 0.03;

/// Generations after `count` random candidates.
pub fn generations(count: usize) -> usize {
    count / 2
}

/// Judges the `known` profiles and `count` candidates, improves the best, and returns all, the
/// best first. The answer depends on `seed` alone.
///
/// # Errors
/// Those of `judge`.
pub fn search(
    offers: &[Vec<Offer>],
    budget: u64,
    (count, seed): (usize, u64),
    known: impl IntoIterator<Item = (Origin, Vec<usize>)>,
    mut judge: impl FnMut(&[usize], Breadth) -> Result<f64>,
) -> Result<Vec<Candidate>> {
    let mut space = Space { offers, budget, random: StdRng::seed_from_u64(seed) };
    let mut judged: Vec<Candidate> = Vec::new();
    let mut whole: Vec<Candidate> = Vec::new();
    for (origin, profile) in known {
        let score = judge(&profile, Breadth::Whole)?;
        whole.push(space.candidate(origin, profile, score, true));
    }
    for number in 0..count {
        let drawn = if number % 2 == 0 {
            space.random().map(|p| (Origin::Random, p))
        } else {
            space.disturbed().map(|p| (Origin::Disturbed, p))
        };
        let Some((origin, profile)) = drawn else { continue };
        let score = judge(&profile, Breadth::Part)?;
        judged.push(space.candidate(origin, profile, score, false));
    }
    sort(&mut judged);
    let rest = judged.split_off(judged.len().div_ceil(HALVING));
    for mut candidate in judged {
        candidate.score = judge(&candidate.profile, Breadth::Whole)?;
        candidate.whole = true;
        whole.push(candidate);
    }
    sort(&mut whole);
    for _ in 0..generations(count) {
        let Some(best) = whole.first().map(|c| c.profile.clone()) else { break };
        for _ in 0..OFFSPRING {
            let Some(profile) = space.changed(&best) else { continue };
            if whole.iter().any(|c| c.profile == profile) {
                continue;
            }
            let score = judge(&profile, Breadth::Whole)?;
            whole.push(space.candidate(Origin::Evolved, profile, score, true));
        }
        sort(&mut whole);
    }
    whole.extend(rest);
    Ok(whole)
}

/// Best first; equal scores by the smaller loss.
fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.loss.total_cmp(&b.loss)));
}

/// All profiles within the budget, and the stream of random numbers.
struct Space<'a> {
    offers: &'a [Vec<Offer>],
    budget: u64,
    random: StdRng,
}

impl Space<'_> {
    fn cost(&self, profile: &[usize]) -> u64 {
        profile.iter().zip(self.offers).map(|(level, matrix)| matrix[*level].cost).sum()
    }

    fn candidate(&self, origin: Origin, profile: Vec<usize>, score: f64, whole: bool) -> Candidate {
        let loss = profile.iter().zip(self.offers).map(|(level, m)| m[*level].loss).sum();
        Candidate { origin, cost: self.cost(&profile), loss, profile, score, whole }
    }

    /// Ratios drawn uniformly, moved together until the budget is met, and put to the nearest
    /// levels.
    fn random(&mut self) -> Option<Vec<usize>> {
        for _ in 0..DRAWS {
            let draws: Vec<f64> =
                self.offers.iter().map(|_| self.random.random_range(0.02..0.98)).collect();
            let at = |shift: f64| -> Vec<usize> {
                let ratios =
                    draws.iter().map(|r| 1.0 / (1.0 + (-(r / (1.0 - r)).ln() - shift).exp()));
                ratios.zip(self.offers).map(|(ratio, matrix)| nearest(matrix, ratio)).collect()
            };
            let (mut low, mut high) = (-12.0, 12.0);
            for _ in 0..40 {
                let middle = (low + high) / 2.0;
                if self.cost(&at(middle)) > self.budget { high = middle } else { low = middle }
            }
            let profile = at(low);
            let cost = self.cost(&profile);
            if cost <= self.budget && cost as f64 >= (1.0 - SLACK) * self.budget as f64 {
                return Some(profile);
            }
        }
        None
    }

    /// The knapsack's answer when every matrix's loss is taken up to four times too large or
    /// too small.
    fn disturbed(&mut self) -> Option<Vec<usize>> {
        let offers: Vec<Vec<Offer>> = self
            .offers
            .iter()
            .map(|matrix| {
                let factor = self.random.random_range(-2.0f64..2.0).exp2();
                matrix.iter().map(|o| Offer { loss: o.loss * factor, ..*o }).collect()
            })
            .collect();
        allocate(&offers, self.budget)
    }

    /// One to three matrices a level up, and others down until the budget holds.
    fn changed(&mut self, best: &[usize]) -> Option<Vec<usize>> {
        for _ in 0..DRAWS {
            let mut profile = best.to_vec();
            for _ in 0..self.random.random_range(1..=3) {
                let up = self.random.random_range(0..profile.len());
                profile[up] = (profile[up] + 1).min(self.offers[up].len() - 1);
            }
            let raised: Vec<bool> = profile.iter().zip(best).map(|(new, old)| new > old).collect();
            for _ in 0..8 * profile.len() {
                if self.cost(&profile) <= self.budget {
                    break;
                }
                let down = self.random.random_range(0..profile.len());
                if !raised[down] {
                    profile[down] = profile[down].saturating_sub(1);
                }
            }
            if profile != best && self.cost(&profile) <= self.budget {
                return Some(profile);
            }
        }
        None
    }
}

/// The level whose cost is nearest to `ratio` of the dearest one's.
fn nearest(matrix: &[Offer], ratio: f64) -> usize {
    let most = matrix.iter().map(|o| o.cost).max().unwrap_or(0) as f64;
    let off = |level: &usize| (matrix[*level].cost as f64 - ratio * most).abs();
    (0..matrix.len()).min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten matrices of six levels; what the losses do not know is how matrices work together.
    fn offers() -> Vec<Vec<Offer>> {
        (0..10u64)
            .map(|m| {
                (0..6u64)
                    .map(|level| Offer {
                        cost: level * (10 + m),
                        loss: (1 + m % 3) as f64 * (1.0 - level as f64 / 5.0).powi(2),
                    })
                    .collect()
            })
            .collect()
    }

    fn judge(profile: &[usize], _: Breadth) -> Result<f64> {
        let pairs = profile.windows(2).map(|w| w[0].min(w[1]) as f64);
        Ok(pairs.sum::<f64>())
    }

    #[test]
    fn the_best_is_no_worse_than_the_seed_and_within_the_budget() {
        let offers = offers();
        for seed in 0..5 {
            let known = || allocate(&offers, 300).map(|profile| (Origin::Seed, profile));
            let found = search(&offers, 300, (64, seed), known(), judge).unwrap();
            let start = found.iter().find(|c| c.origin == Origin::Seed).unwrap();
            assert!(found[0].score > start.score);
            assert!(found.iter().all(|c| c.cost <= 300));
            assert_eq!(found, search(&offers, 300, (64, seed), known(), judge).unwrap());
        }
    }

    #[test]
    fn no_candidates_leave_the_seed() {
        let known = allocate(&offers(), 300).map(|profile| (Origin::Seed, profile));
        let found = search(&offers(), 300, (0, 0), known, judge).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].origin, Origin::Seed);
    }

    #[test]
    fn a_failing_judge_stops_the_search() {
        let refuse = |_: &[usize], _| Err(crate::Error::input("no", "none"));
        assert!(search(&offers(), 300, (4, 0), [], refuse).is_err());
    }
}
