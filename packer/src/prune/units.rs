//! Whole attention heads and feed-forward neurons: in which order they can go.
//!
//! A unit is a head's or a neuron's inputs of the matrix that reads it: attention output, or the
//! second feed-forward matrix. They are eliminated one after the other by what their loss adds to
//! the refitted error, the weights of all that are left being refitted in between: structured
//! optimal brain surgeon, as in ZipLM (Kurtic, Frantar, Alistarh 2023). The order is nested, so one
//! elimination serves every fraction.

use faer::Mat;

use super::groups::ROW_UNIT;
use super::polish::Problem;
use super::solve::{Factor, column_energy, gram, pick, product};
use crate::Result;

/// Of many units, this part of those that are left goes at once.
const AT_ONCE: usize = 16;
/// From this many on, units come in whole kernel tiles.
const MANY: usize = 16 * ROW_UNIT;

/// The units that one half of a layer is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Units {
    /// Inputs of a unit: 1 of a neuron, the head size of a head.
    size: usize,
    /// Place of each unit in the order of elimination: the last has the greatest.
    rank: Vec<usize>,
    /// Energy of the refitted weights that read each input, when so many units are left; from all
    /// downwards.
    weights: Vec<(usize, Vec<f64>)>,
}

impl Units {
    /// Ranks the inputs of `problem`, `size` adjacent ones being a unit.
    ///
    /// # Errors
    /// [`crate::Error::Input`] when the statistics cannot be solved.
    pub fn new(problem: &Problem<'_>, size: usize) -> Result<Self> {
        let all: Vec<usize> = (0..problem.moment.ncols()).collect();
        let factor = Factor::new(problem.moment, &all, problem.lambda)?;
        let mut weights = factor.solve_rows(problem.target.to_owned());
        let mut inverse = gram(factor.inverse().as_ref());
        let mut left: Vec<usize> = (0..all.len() / size.max(1)).collect();
        let mut rank = vec![0; left.len()];
        let mut gone = 0;
        let mut energies = Vec::new();
        while !left.is_empty() {
            let mut energy = vec![0.0; all.len()];
            for (at, unit) in left.iter().enumerate() {
                for i in 0..size {
                    energy[unit * size + i] = column_energy(&weights, at * size + i);
                }
            }
            energies.push((left.len(), energy));
            let mut worths = Vec::with_capacity(left.len());
            for at in 0..left.len() {
                let unit: Vec<usize> = (at * size..(at + 1) * size).collect();
                let factor = Factor::new(inverse.as_ref(), &unit, 0.0)?;
                let lost = factor.whiten(columns(&weights, &unit).transpose().to_owned());
                let worth: f64 = (0..lost.ncols()).map(|i| column_energy(&lost, i)).sum();
                worths.push((worth, at));
            }
            worths.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            worths.truncate((left.len() / AT_ONCE).max(1));
            for (_, at) in &worths {
                rank[left[*at]] = gone;
                gone += 1;
            }
            let goes = |unit: usize| worths.iter().any(|(_, at)| *at == unit);
            let inputs = |gone: bool| -> Vec<usize> {
                let units = (0..left.len()).filter(|unit| goes(*unit) == gone);
                units.flat_map(|unit| unit * size..(unit + 1) * size).collect()
            };
            let (lost, kept) = (inputs(true), inputs(false));
            let factor = Factor::new(inverse.as_ref(), &lost, 0.0)?;
            let between = factor.whiten(pick(inverse.as_ref(), &lost, &kept));
            let moved = factor.whiten(columns(&weights, &lost).transpose().to_owned());
            weights = columns(&weights, &kept) - product(moved.transpose(), between.as_ref());
            inverse = pick(inverse.as_ref(), &kept, &kept) - gram(between.as_ref());
            let mut at = 0;
            left.retain(|_| {
                at += 1;
                !goes(at - 1)
            });
        }
        Ok(Self { size, rank, weights: energies })
    }

    /// Inputs of a unit.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether each input stays when the part `kept` of the units does.
    pub fn stay(&self, kept: f64) -> Vec<bool> {
        let all = self.rank.len();
        let gone = all - count(all, kept);
        self.rank.iter().flat_map(|rank| std::iter::repeat_n(*rank >= gone, self.size)).collect()
    }
}

impl Units {
    /// How much an error of each input counts when the part `kept` of the units stays: the energy
    /// of the weights that read it. Those that stay do the work of those that went.
    pub fn loudness(&self, kept: f64) -> &[f64] {
        let left = count(self.rank.len(), kept);
        let known = self.weights.iter().min_by_key(|(units, _)| units.abs_diff(left));
        known.map_or(&[], |(_, energies)| energies)
    }
}

/// How many of `all` units the part `kept` is: at least one, whole kernel tiles of many.
pub fn count(all: usize, kept: f64) -> usize {
    let unit = if all >= MANY && all.is_multiple_of(ROW_UNIT) { ROW_UNIT } else { 1 };
    ((kept * (all / unit) as f64).round() as usize).max(1) * unit
}

fn columns(matrix: &Mat<f64>, which: &[usize]) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), which.len(), |i, k| matrix[(i, which[k])])
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// What the inputs `kept` explain, by a solve of its own.
    fn explained(problem: &Problem<'_>, kept: &[usize]) -> f64 {
        let factor = Factor::new(problem.moment, kept, problem.lambda).unwrap();
        let rows: Vec<usize> = (0..problem.target.nrows()).collect();
        let white = factor.whiten(pick(problem.target, &rows, kept).transpose().to_owned());
        (0..white.ncols()).map(|i| column_energy(&white, i)).sum()
    }

    /// Few units go one by one, and the one that goes is always the one whose loss costs least.
    #[test]
    fn the_cheapest_unit_goes_first() {
        for size in [1, 3] {
            let (rows, cols) = (7, 4 * size);
            let mut random = StdRng::seed_from_u64(size as u64);
            let x = Mat::from_fn(cols, 40, |_, _| random.random::<f64>() - 0.5);
            let moment = product(x.as_ref(), x.transpose());
            let weights = Mat::from_fn(rows, cols, |_, _| random.random::<f64>() - 0.5);
            let target = product(weights.as_ref(), moment.as_ref());
            let problem =
                Problem { moment: moment.as_ref(), target: target.as_ref(), lambda: 1e-3 };
            let units = Units::new(&problem, size).unwrap();
            let mut left: Vec<usize> = (0..4).collect();
            for gone in 0..3 {
                let without = |unit: usize| -> f64 {
                    let kept = left.iter().filter(|u| **u != unit);
                    let kept: Vec<usize> = kept.flat_map(|u| u * size..(u + 1) * size).collect();
                    explained(&problem, &kept)
                };
                let cheapest = left.iter().copied();
                let cheapest = cheapest.max_by(|a, b| without(*a).total_cmp(&without(*b))).unwrap();
                assert_eq!(units.rank[cheapest], gone);
                left.retain(|u| *u != cheapest);
            }
            let stay = units.stay(0.25);
            let last = (0..cols).filter(|j| stay[*j]).collect::<Vec<_>>();
            assert_eq!(last, (left[0] * size..(left[0] + 1) * size).collect::<Vec<_>>());
        }
    }

    #[test]
    fn many_units_come_in_whole_tiles() {
        assert_eq!(count(12, 0.5), 6);
        assert_eq!(count(12, 0.01), 1);
        assert_eq!(count(1536, 0.33), 512);
        assert_eq!(count(1536, 0.001), 16);
        assert_eq!(count(1536, 1.0), 1536);
        assert_eq!(count(100, 1.0), 100);
    }
}
