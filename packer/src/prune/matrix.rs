//! One matrix before pruning: its least-squares problem, and the versions of it at any level.

use faer::{Mat, MatRef};
use grouse_runtime::format::MatrixKind;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::groups::{self, Groups, Sizes};
use super::options::Steps;
use super::polish::{Problem, polish};
use super::refit;
use super::solve::{pick, product};
use super::units::Units;
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
    /// Heads or neurons kept / all: outputs of a sub-layer's first matrix, inputs of its second.
    pub units: f64,
}

impl Level {
    /// A matrix of `whole` outputs and inputs, of which `left` are those of heads or neurons that
    /// stay.
    pub fn sizes(&self, whole: (usize, usize), left: (usize, usize)) -> Sizes {
        let part = (left.0 * left.1) as f64 / (whole.0 * whole.1).max(1) as f64;
        let within = if part > 0.0 { (self.density / part).min(1.0) } else { 0.0 };
        if within >= DENSE {
            return Sizes::new(left.0, left.1, 1.0, 1, None);
        }
        Sizes::new(left.0, left.1, within, self.groups, self.shared)
    }
}

/// From this density on all is kept: groups would save nothing.
pub const DENSE: f64 = 0.95;

/// Where a matrix has the heads or neurons of its sub-layer.
#[derive(Debug, Clone, Copy)]
pub enum Axis {
    /// They are its outputs, three times over of query, key and value.
    Outputs,
    /// They are its inputs.
    Inputs,
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
pub struct Target<'a> {
    weights: Mat<f64>,
    bias: Vec<f64>,
    mean: Vec<f64>,
    /// Centred: a bias can be moved for free, so only the spread around the mean can be lost.
    moment: Mat<f64>,
    noisy: Mat<f64>,
    lambda: f64,
    /// `E[y xᵀ]`, `[rows][cols]`.
    target: Mat<f64>,
    /// Where errors are judged: the second moment around `mean`, of other text than the one that
    /// is fitted to.
    judged: Option<Mat<f64>>,
    steps: Steps,
    units: Option<(Axis, &'a Units)>,
}

impl<'a> Target<'a> {
    /// The stacked `linears` of one matrix and the statistics of their input; `steps` are done
    /// with its versions. Without `units` no level can leave any out.
    ///
    /// # Errors
    /// [`Error::Input`] for statistics that are of another shape or not finite.
    pub fn new(
        layer: usize,
        kind: MatrixKind,
        linears: &[&Linear],
        input: &InputStats,
        steps: Steps,
        units: Option<(Axis, &'a Units)>,
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
            judged: None,
            weights,
            bias: linears.iter().flat_map(|l| l.bias.iter().map(|b| f64::from(*b))).collect(),
            mean,
            moment,
            noisy,
            // An input that never moves leaves a diagonal of 0; the factorization needs more.
            lambda: (RIDGE * diagonal).max(1e-12),
            target,
            steps,
            units,
        })
    }

    /// Judges errors on other text than that which is fitted to.
    pub fn judged_by(mut self, other: &InputStats) -> Self {
        let (cols, mean) = (self.mean.len(), &self.mean);
        let off = |i: usize| f64::from(other.mean[i]) - mean[i];
        self.judged = Some(Mat::from_fn(cols, cols, |i, j| {
            let spread = f64::from(other.second_moment.data[i * cols + j])
                - f64::from(other.mean[i]) * f64::from(other.mean[j]);
            spread + off(i) * off(j)
        }));
        self
    }

    /// The best version found at `level`.
    ///
    /// # Errors
    /// [`Error::Input`] when the statistics cannot be solved.
    pub fn version(&self, level: &Level, effort: Effort, seed: u64) -> Result<Version> {
        let (rows, cols) = self.left(level.units);
        let sizes = level.sizes(self.shape(), (rows.len(), cols.len()));
        let importance = Mat::from_fn(rows.len(), cols.len(), |i, j| {
            self.weights[(rows[i], cols[j])].powi(2) * self.moment[(cols[j], cols[j])].max(0.0)
        });
        let mut random = StdRng::seed_from_u64(seed);
        let (mut groups, _) =
            groups::search(importance.as_ref(), &sizes, effort.starts, &mut random);
        if self.steps.polish {
            let moment = pick(self.noisy.as_ref(), &cols, &cols);
            let target = pick(self.target.as_ref(), &rows, &cols);
            let (moment, target) = (moment.as_ref(), target.as_ref());
            let problem = Problem { moment, target, lambda: self.lambda };
            polish(&problem, &sizes, &mut groups, effort.rounds)?;
        }
        self.fit(groups.spread(self.shape(), &rows, &cols), level.units)
    }

    /// Outputs and inputs that are left when the part `units` of the heads or neurons stays.
    fn left(&self, units: f64) -> (Vec<usize>, Vec<usize>) {
        let (rows, cols) = self.shape();
        let all = |n: usize| (0..n).collect::<Vec<_>>();
        let Some((axis, list)) = self.units.filter(|_| units < 1.0) else {
            return (all(rows), all(cols));
        };
        let stay = list.stay(units);
        let those = |n: usize| (0..n).filter(|i| stay[i % stay.len()]).collect();
        match axis {
            Axis::Outputs => (those(rows), all(cols)),
            Axis::Inputs => (all(rows), those(cols)),
        }
    }

    /// The version that keeps exactly what `groups` keep, the part `units` of the heads or neurons.
    ///
    /// # Errors
    /// [`Error::Input`] when the statistics cannot be solved.
    pub fn fit(&self, groups: Groups, units: f64) -> Result<Version> {
        let new = if self.steps.refit {
            refit::refit(&self.problem(), &self.weights, &groups)?
        } else {
            let kept = |i: usize, j: usize| {
                let (row, col) = (groups.rows[i], groups.cols[j]);
                row != groups.dropped() && (col == row || col == groups.shared())
            };
            let (rows, cols) = self.shape();
            Mat::from_fn(rows, cols, |i, j| if kept(i, j) { self.weights[(i, j)] } else { 0.0 })
        };
        let error = self.error(&new, &groups, units);
        let dense = Dense { weights: &self.weights, bias: &self.bias, mean: &self.mean };
        Ok(Version::new(groups, &new, &dense, error))
    }

    /// Energy of the outputs' change / energy of the outputs around their mean. Where it is known
    /// who reads an output, it counts as loud as it is read; what is lost with an output that is
    /// not there any more shows in the matrix that read it.
    fn error(&self, new: &Mat<f64>, groups: &Groups, units: f64) -> f64 {
        let moment = self.judged.as_ref().unwrap_or(&self.moment).as_ref();
        let (rows, cols) = self.shape();
        let loud = |units: f64| match self.units {
            Some((Axis::Outputs, list)) => {
                let read = list.loudness(units);
                // A query or a key moves what its head says: as loud as the head.
                let parts = rows / read.len().max(1);
                let head = |i: usize| {
                    let from = i / list.size() * list.size();
                    let head = &read[from..from + list.size()];
                    head.iter().sum::<f64>() / list.size() as f64
                };
                (0..rows)
                    .map(|i| match i / read.len() {
                        part if part + 1 == parts => read[i % read.len()],
                        _ => head(i % read.len()),
                    })
                    .collect()
            }
            _ => vec![1.0; rows],
        };
        let change = Mat::from_fn(rows, cols, |i, j| match groups.rows[i] {
            place if place == groups.dropped() => 0.0,
            _ => new[(i, j)] - self.weights[(i, j)],
        });
        let all = energy(&self.weights, moment, &loud(1.0));
        let lost = energy(&change, moment, &loud(units));
        if all > 0.0 { lost / all } else { 0.0 }
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

    /// Its least-squares problem.
    pub fn problem(&self) -> Problem<'_> {
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

/// Output energy of `weights`, each output times its `loud`: the trace of `W C Wᵀ`.
fn energy(weights: &Mat<f64>, moment: MatRef<'_, f64>, loud: &[f64]) -> f64 {
    let seen = product(weights.as_ref(), moment);
    let column = |j: usize| -> f64 {
        let pairs = weights.col_as_slice(j).iter().zip(seen.col_as_slice(j));
        pairs.zip(loud).map(|((a, b), loud)| a * b * loud).sum()
    };
    (0..weights.ncols()).map(column).sum()
}
