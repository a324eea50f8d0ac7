//! One matrix before pruning: its least-squares problem, and the versions of it at any level.

use faer::{Mat, MatRef};
use grouse_runtime::format::MatrixKind;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::groups::{self, Groups, Sizes};
use super::options::Steps;
use super::polish::{Problem, polish};
use super::refit;
use super::solve::product;
use super::version::{Dense, Version};
use crate::calibrate::InputStats;
use crate::model::Linear;
use crate::{Error, Result};

/// Ridge on the second moment, as a part of its mean diagonal: keeps the factorization sound.
const RIDGE: f64 = 0.001;
/// Noise that every input is taken to have, as a part of its own variance. Inputs of other texts,
/// and those that come out of a pruned layer below, differ from the calibration's by as much.
const NOISE: f64 = 0.1;

/// How much of a matrix to keep, and in which form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Weights to keep / all weights; 0 drops the matrix (its bias becomes the mean output).
    pub density: f64,
    /// Groups of outputs.
    pub groups: usize,
    /// Fraction of the inputs that all outputs keep; as many as the density allows when `None`.
    pub shared: Option<f64>,
}

/// How long to look for a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Random starts of the search by importance.
    pub starts: usize,
    /// Rounds of the search by the true error.
    pub rounds: usize,
}

/// For the pattern that is kept in the end.
pub const WHOLE: Effort = Effort { starts: 2, rounds: 12 };

/// A matrix of an encoder layer (query, key and value stacked) and what its inputs are like.
pub struct Target {
    weights: Mat<f64>,
    bias: Vec<f64>,
    mean: Vec<f64>,
    /// Centred: a bias can be moved for free, so only the spread around the mean can be lost.
    moment: Mat<f64>,
    noisy: Mat<f64>,
    lambda: f64,
    /// `E[y xᵀ]`, `[rows][cols]`.
    target: Mat<f64>,
    /// Output energy.
    energy: f64,
    steps: Steps,
}

impl Target {
    /// The stacked `linears` of one matrix and the statistics of their input; `steps` are done
    /// with its versions.
    ///
    /// # Errors
    /// [`Error::Input`] for statistics that are of another shape or not finite.
    pub fn new(
        layer: usize,
        kind: MatrixKind,
        linears: &[&Linear],
        input: &InputStats,
        steps: Steps,
    ) -> Result<Self> {
        check(layer, kind, linears, input)?;
        let cols = input.mean.len();
        let mean: Vec<f64> = input.mean.iter().map(|m| f64::from(*m)).collect();
        let weights = stack(linears, cols);
        let moment = Mat::from_fn(cols, cols, |i, j| {
            f64::from(input.second_moment.data[i * cols + j]) - mean[i] * mean[j]
        });
        let noisy = Mat::from_fn(cols, cols, |i, j| {
            moment[(i, j)] * if i == j { 1.0 + NOISE } else { 1.0 }
        });
        let target = product(weights.as_ref(), noisy.as_ref());
        let diagonal = (0..cols).map(|j| moment[(j, j)]).sum::<f64>() / cols as f64;
        Ok(Self {
            energy: energy(&weights, moment.as_ref()),
            weights,
            bias: linears.iter().flat_map(|l| l.bias.iter().map(|b| f64::from(*b))).collect(),
            mean,
            moment,
            noisy,
            // An input that never moves leaves a diagonal of 0; the factorization needs more.
            lambda: (RIDGE * diagonal).max(1e-12),
            target,
            steps,
        })
    }

    /// The best version found at `level`.
    ///
    /// # Errors
    /// [`Error::Input`] when the statistics cannot be solved.
    pub fn version(&self, level: &Level, effort: Effort, seed: u64) -> Result<Version> {
        let (rows, cols) = self.shape();
        let sizes = Sizes::new(rows, cols, level.density, level.groups, level.shared);
        let importance = Mat::from_fn(rows, cols, |i, j| {
            self.weights[(i, j)].powi(2) * self.moment[(j, j)].max(0.0)
        });
        let mut random = StdRng::seed_from_u64(seed);
        let (mut groups, _) =
            groups::search(importance.as_ref(), &sizes, effort.starts, &mut random);
        if self.steps.polish {
            polish(&self.problem(), &sizes, &mut groups, effort.rounds)?;
        }
        self.fit(groups)
    }

    /// The version that keeps exactly what `groups` keep.
    ///
    /// # Errors
    /// [`Error::Input`] when the statistics cannot be solved.
    pub fn fit(&self, groups: Groups) -> Result<Version> {
        let new = if self.steps.refit {
            refit::refit(&self.problem(), &self.weights, &groups)?
        } else {
            let kept = |i: usize, j: usize| {
                groups.cols[j] == groups.rows[i] || groups.cols[j] == groups.shared()
            };
            let (rows, cols) = self.shape();
            Mat::from_fn(rows, cols, |i, j| if kept(i, j) { self.weights[(i, j)] } else { 0.0 })
        };
        let lost = energy(&(&new - &self.weights), self.moment.as_ref());
        let error = if self.energy > 0.0 { lost / self.energy } else { 0.0 };
        let dense = Dense { weights: &self.weights, bias: &self.bias, mean: &self.mean };
        Ok(Version::new(groups, &new, &dense, error))
    }

    /// What each input carries to the outputs: energy around its mean, `[cols]`.
    pub fn carried(&self) -> Vec<f64> {
        let squares = |j: usize| self.weights.col_as_slice(j).iter().map(|w| w * w).sum::<f64>();
        (0..self.mean.len()).map(|j| self.moment[(j, j)] * squares(j)).collect()
    }

    /// Outputs and inputs.
    pub fn shape(&self) -> (usize, usize) {
        (self.weights.nrows(), self.weights.ncols())
    }

    fn problem(&self) -> Problem<'_> {
        Problem { moment: self.noisy.as_ref(), target: self.target.as_ref(), lambda: self.lambda }
    }
}

fn check(layer: usize, kind: MatrixKind, linears: &[&Linear], input: &InputStats) -> Result<()> {
    let cols = input.mean.len();
    let moment = &input.second_moment;
    let fits = linears.iter().all(|linear| linear.weight.cols == cols)
        && (moment.rows, moment.cols) == (cols, cols);
    let finite = moment.data.iter().chain(&input.mean).all(|v| v.is_finite());
    if fits && finite {
        return Ok(());
    }
    let what = if fits { "are not finite" } else { "belong to another shape" };
    Err(Error::input(
        format!("layer {layer}, {}: the calibration statistics {what}", kind.name()),
        "calibrate this model with ordinary text",
    ))
}

/// The linear layers below one another.
fn stack(linears: &[&Linear], cols: usize) -> Mat<f64> {
    let mut rows: Vec<&[f32]> = Vec::new();
    for linear in linears {
        rows.extend(linear.weight.data.chunks_exact(cols));
    }
    Mat::from_fn(rows.len(), cols, |i, j| f64::from(rows[i][j]))
}

/// Output energy of `weights`: the trace of `W C Wᵀ`.
fn energy(weights: &Mat<f64>, moment: MatRef<'_, f64>) -> f64 {
    let seen = product(weights.as_ref(), moment);
    let column = |j: usize| -> f64 {
        weights.col_as_slice(j).iter().zip(seen.col_as_slice(j)).map(|(a, b)| a * b).sum()
    };
    (0..weights.ncols()).map(column).sum()
}
