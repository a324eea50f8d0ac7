//! Prunes one matrix: pattern, polish, refit, bias.

use faer::{Mat, MatRef};
use grouse_runtime::format::MatrixKind;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::groups::{self, Groups, Sizes};
use super::polish::{Problem, polish};
use super::report::MatrixReport;
use super::solve::product;
use super::{Named, Options, refit};
use crate::calibrate::InputStats;
use crate::{Error, Result};

/// Ridge on the second moment, as a part of its mean diagonal: keeps the factorization sound.
const RIDGE: f64 = 0.001;
/// Noise that every input is taken to have, as a part of its own variance. Inputs of other texts,
/// and those that come out of a pruned layer below, differ from the calibration's by as much.
const NOISE: f64 = 0.1;
/// Random starts of the search by importance.
const STARTS: usize = 2;
/// Rounds of the search by the true error.
const ROUNDS: usize = 12;

/// Prunes `linears`, stacked, in place, into `count` groups.
pub fn prune(
    layer: usize,
    kind: MatrixKind,
    linears: &mut [Named<'_>],
    input: &InputStats,
    (options, count): (&Options, usize),
    seed: u64,
) -> Result<MatrixReport> {
    let cols = input.mean.len();
    check(layer, kind, linears, input)?;
    let mean: Vec<f64> = input.mean.iter().map(|m| f64::from(*m)).collect();
    let weights = stack(linears, cols);
    let rows = weights.nrows();
    // Centred: a bias can be moved for free, so only the spread around the mean can be lost.
    let moment = Mat::from_fn(cols, cols, |i, j| {
        f64::from(input.second_moment.data[i * cols + j]) - mean[i] * mean[j]
    });
    let noisy =
        Mat::from_fn(cols, cols, |i, j| moment[(i, j)] * if i == j { 1.0 + NOISE } else { 1.0 });
    let target = product(weights.as_ref(), noisy.as_ref());
    let diagonal = (0..cols).map(|j| moment[(j, j)]).sum::<f64>() / cols as f64;
    // An input that never moves leaves a diagonal of 0; the factorization needs more.
    let lambda = (RIDGE * diagonal).max(1e-12);
    let problem = Problem { moment: noisy.as_ref(), target: target.as_ref(), lambda };

    let sizes = Sizes::new(rows, cols, options.density, count, options.shared);
    let importance =
        Mat::from_fn(rows, cols, |i, j| weights[(i, j)].powi(2) * moment[(j, j)].max(0.0));
    let mut random = StdRng::seed_from_u64(seed);
    let (mut groups, _) = groups::search(importance.as_ref(), &sizes, STARTS, &mut random);
    polish(&problem, &sizes, &mut groups, ROUNDS)?;
    let new = refit::refit(&problem, &weights, &groups)?;

    let loss = lost(&new, &weights, moment.as_ref());
    let all = energy(&weights, product(weights.as_ref(), moment.as_ref()).as_ref());
    unstack(linears, &new, &weights, &mean, &groups);
    let kept = linears.iter().map(|(_, linear)| linear.weight.nonzeros()).sum();
    Ok(MatrixReport {
        layer,
        order: kind as usize,
        matrix: kind.name(),
        rows,
        cols,
        kept,
        density: kept as f64 / (rows * cols) as f64,
        groups: groups.count,
        shared: groups.inputs_at(groups.shared()).len(),
        dropped: groups.inputs_at(groups.dropped()).len(),
        error: if all > 0.0 { loss / all } else { 0.0 },
    })
}

fn check(layer: usize, kind: MatrixKind, linears: &[Named<'_>], input: &InputStats) -> Result<()> {
    let cols = input.mean.len();
    let moment = &input.second_moment;
    let fits = linears.iter().all(|(_, linear)| linear.weight.cols == cols)
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
fn stack(linears: &[Named<'_>], cols: usize) -> Mat<f64> {
    let mut rows: Vec<&[f32]> = Vec::new();
    for (_, linear) in linears {
        rows.extend(linear.weight.data.chunks_exact(cols));
    }
    Mat::from_fn(rows.len(), cols, |i, j| f64::from(rows[i][j]))
}

/// Writes the refitted weights back and moves the mean of what is lost into the bias.
fn unstack(
    linears: &mut [Named<'_>],
    new: &Mat<f64>,
    old: &Mat<f64>,
    mean: &[f64],
    groups: &Groups,
) {
    let mut row = 0;
    for (_, linear) in linears {
        for r in 0..linear.weight.rows {
            let group = groups.rows[row];
            let mut shift = 0.0;
            for (j, weight) in linear.weight.row_mut(r).iter_mut().enumerate() {
                let place = groups.cols[j];
                let kept = place == group || place == groups.shared();
                let was_zero = *weight == 0.0;
                *weight = new[(row, j)] as f32;
                // Zero means pruned, so what is kept must not round to it.
                if kept && !was_zero && *weight == 0.0 {
                    *weight = f32::MIN_POSITIVE;
                }
                shift += (old[(row, j)] - f64::from(*weight)) * mean[j];
            }
            linear.bias[r] = (f64::from(linear.bias[r]) + shift) as f32;
            row += 1;
        }
    }
}

/// Output energy of `new - old`.
fn lost(new: &Mat<f64>, old: &Mat<f64>, moment: MatRef<'_, f64>) -> f64 {
    let difference = new - old;
    let seen = product(difference.as_ref(), moment);
    energy(&difference, seen.as_ref())
}

/// Sum of the products of two matrices' entries.
fn energy(a: &Mat<f64>, b: MatRef<'_, f64>) -> f64 {
    (0..a.ncols()).map(|j| (0..a.nrows()).map(|i| a[(i, j)] * b[(i, j)]).sum::<f64>()).sum()
}
