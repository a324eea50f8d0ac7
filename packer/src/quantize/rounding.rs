//! Rounding of weights to int8 and int4: to the nearest, or with the error carried on to weights not yet
//! rounded (OBQ/GPTQ: Frantar et al. 2022, arXiv 2210.17323).

use faer::linalg::solvers::DenseSolveCore;
use faer::{Mat, Side};
use grouse_runtime::format::{Multiplier, RUN};
use rayon::prelude::*;

use crate::model::Matrix;
use crate::pack::discover::Pattern;

use super::int4::Grid;

/// Share of the mean diagonal that is added to the second moment before it is inverted.
const DAMPING: f64 = 0.01;

/// The scale that maps the largest magnitude of a row to 127.
pub fn row_scale(row: impl Iterator<Item = f32>) -> f32 {
    let largest = row.fold(0.0_f32, |m, w| m.max(w.abs()));
    // A row of zeros, or one so small that its steps would be subnormal, keeps a scale of one.
    if largest > 1e-30 { largest / 127.0 } else { 1.0 }
}

/// `value / scale` to the nearest int8 in −127..=127.
pub fn round(value: f32, scale: f32) -> i8 {
    (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8
}

/// A matrix on its grid: `W[r][c] ≈ scale[r] × weights[r][c] × equalize[c]`.
#[derive(Debug, Clone)]
pub struct Rounded {
    /// `[rows]`.
    pub scale: Vec<f32>,
    /// `[rows][cols]`; 0 outside the groups.
    pub weights: Vec<i8>,
    /// The multipliers of each row's runs, in block order; empty for int8.
    pub runs: Vec<Vec<Multiplier>>,
}

/// `weight[r][c] / equalize[c]` to the nearest int8, the largest of a row to 127.
pub fn nearest_int8(weight: &Matrix, equalize: &[f32]) -> Rounded {
    let mut scale = Vec::with_capacity(weight.rows);
    let mut weights = Vec::with_capacity(weight.data.len());
    for r in 0..weight.rows {
        let row = || weight.row(r).iter().zip(equalize).map(|(w, e)| equalized(*w, *e));
        let of_row = row_scale(row());
        scale.push(of_row);
        weights.extend(row().map(|w| round(w, of_row)));
    }
    Rounded { scale, weights, runs: Vec::new() }
}

/// The same to the nearest int4, on grids that fit inputs with this second moment.
pub fn nearest_int4(
    weight: &Matrix,
    pattern: &Pattern,
    equalize: &[f32],
    second_moment: &Matrix,
) -> Rounded {
    let cols = weight.cols;
    let mut scale = vec![1.0; weight.rows];
    let mut weights = vec![0; weight.data.len()];
    let mut runs = vec![Vec::new(); weight.rows];
    for group in &pattern.groups {
        let inputs: Vec<usize> = pattern.inputs(group).collect();
        let energy: Vec<f32> = inputs
            .iter()
            .map(|i| second_moment.row(*i)[*i] * equalize[*i] * equalize[*i])
            .collect();
        let rows = group.outputs.par_iter().map(|output| {
            let source = weight.row(usize::from(*output));
            let row: Vec<f32> =
                inputs.iter().map(|i| equalized(source[*i], equalize[*i])).collect();
            let grid = Grid::of(&row, &energy);
            (usize::from(*output), row, grid)
        });
        for (r, row, grid) in rows.collect::<Vec<_>>() {
            for (at, (i, v)) in inputs.iter().zip(row).enumerate() {
                weights[r * cols + i] = grid.run(at).value(grid.code(at, v)) as i8;
            }
            scale[r] = grid.scale;
            runs[r] = grid.runs;
        }
    }
    Rounded { scale, weights, runs }
}

/// Weights rounded group by group, input after input, on the grid of `nearest`, each rounding
/// error carried on to the inputs that follow so that the outputs change least on inputs with this
/// second moment.
///
/// Falls back to the nearest in a group whose second moment cannot be inverted.
pub fn compensated(
    weight: &Matrix,
    pattern: &Pattern,
    equalize: &[f32],
    nearest: &Rounded,
    second_moment: &Matrix,
) -> Vec<i8> {
    let cols = weight.cols;
    let mut out = vec![0_i8; weight.data.len()];
    for group in &pattern.groups {
        // Each with its place in the block.
        let mut inputs: Vec<(usize, usize)> = pattern.inputs(group).enumerate().collect();
        // The inputs with the most energy first: their errors have the most others to go to.
        let energy = |i: usize| second_moment.row(i)[i] * equalize[i] * equalize[i];
        inputs.sort_by(|(_, a), (_, b)| energy(*b).total_cmp(&energy(*a)).then(a.cmp(b)));
        let order: Vec<usize> = inputs.iter().map(|(_, i)| *i).collect();
        let carry = carry_factors(&order, equalize, second_moment);
        let rows: Vec<(usize, Vec<i8>)> = group
            .outputs
            .par_iter()
            .map(|output| {
                let r = usize::from(*output);
                let source = weight.row(r);
                let mut row: Vec<f64> =
                    order.iter().map(|i| f64::from(equalized(source[*i], equalize[*i]))).collect();
                let levels: Vec<Levels> = match nearest.runs.get(r) {
                    Some(runs) => {
                        inputs.iter().map(|(at, _)| Levels::int4(runs[at / RUN])).collect()
                    }
                    None => vec![Levels::INT8; order.len()],
                };
                (r, round_row(&mut row, f64::from(nearest.scale[r]), &levels, carry.as_ref()))
            })
            .collect();
        for (r, row) in rows {
            for (i, q) in order.iter().zip(row) {
                out[r * cols + i] = q;
            }
        }
    }
    out
}

/// `w / e`, and 0 for an input that is not read.
fn equalized(w: f32, e: f32) -> f32 {
    if e == 0.0 { 0.0 } else { w / e }
}

/// The numbers that a weight may become: whole multiples of `step`.
#[derive(Debug, Clone, Copy)]
struct Levels {
    step: f64,
    /// In steps.
    lowest: f64,
    highest: f64,
}

impl Levels {
    const INT8: Self = Self { step: 1.0, lowest: -127.0, highest: 127.0 };

    fn int4(run: Multiplier) -> Self {
        let zero = f64::from(run.zero());
        Self { step: f64::from(run.step()), lowest: -zero, highest: 15.0 - zero }
    }
}

fn round_row(row: &mut [f64], scale: f64, levels: &[Levels], carry: Option<&Matrix>) -> Vec<i8> {
    let mut q = Vec::with_capacity(row.len());
    for (k, levels) in levels.iter().enumerate() {
        let value = row[k];
        let steps = (value / (scale * levels.step)).round_ties_even();
        let rounded = steps.clamp(levels.lowest, levels.highest) * levels.step;
        q.push(rounded as i8);
        if let Some(carry) = carry {
            let error = value - rounded * scale;
            for (w, c) in row[k + 1..].iter_mut().zip(&carry.row(k)[k + 1..]) {
                *w -= error * f64::from(*c);
            }
        }
    }
    q
}

/// `U[k][j] / U[k][k]` with `(H + λI)⁻¹ = Uᵀ U`, over the equalized inputs in their order.
fn carry_factors(inputs: &[usize], equalize: &[f32], second_moment: &Matrix) -> Option<Matrix> {
    let n = inputs.len();
    if n == 0 {
        return None;
    }
    let entry = |a: usize, b: usize| {
        let (i, j) = (inputs[a], inputs[b]);
        f64::from(second_moment.row(i)[j]) * f64::from(equalize[i]) * f64::from(equalize[j])
    };
    let mean = (0..n).map(|k| entry(k, k)).sum::<f64>() / n as f64;
    let damping = DAMPING * mean + 1e-12;
    let moment = Mat::from_fn(n, n, |a, b| entry(a, b) + if a == b { damping } else { 0.0 });
    let inverse = moment.llt(Side::Lower).ok()?.inverse();
    let factor = inverse.llt(Side::Lower).ok()?;
    let lower = factor.L();
    let mut carry = Matrix::zeros(n, n);
    for k in 0..n {
        for j in k..n {
            carry.row_mut(k)[j] = (lower[(j, k)] / lower[(k, k)]) as f32;
        }
    }
    carry.data.iter().all(|v| v.is_finite()).then_some(carry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compensation_lowers_the_output_error_on_correlated_inputs() {
        let (rows, cols, tokens) = (8, 24, 400);
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut weight = Matrix::zeros(rows, cols);
        weight.data.iter_mut().for_each(|w| *w = random());
        let mut samples = Matrix::zeros(tokens, cols);
        for t in 0..tokens {
            let common = random();
            samples.row_mut(t).iter_mut().for_each(|x| *x = common + 0.1 * random());
        }
        let mut moment = Matrix::zeros(cols, cols);
        for t in 0..tokens {
            for i in 0..cols {
                for j in 0..cols {
                    moment.row_mut(i)[j] += samples.row(t)[i] * samples.row(t)[j] / tokens as f32;
                }
            }
        }
        let equalize = vec![1.0; cols];
        let error = |q: &[i8]| -> f64 {
            let mut total = 0.0;
            for t in 0..tokens {
                for r in 0..rows {
                    let d: f32 = (0..cols)
                        .map(|c| {
                            (weight.row(r)[c] - 0.1 * f32::from(q[r * cols + c]))
                                * samples.row(t)[c]
                        })
                        .sum();
                    total += f64::from(d * d);
                }
            }
            total
        };
        let pattern = Pattern::dense(rows, cols);
        // Coarse steps make the difference plain.
        let weights = weight.data.iter().map(|w| round(*w, 0.1)).collect();
        let plain = Rounded { scale: vec![0.1; rows], weights, runs: Vec::new() };
        let better = compensated(&weight, &pattern, &equalize, &plain, &moment);
        let (better, plain) = (error(&better), error(&plain.weights));
        assert!(better < 0.3 * plain, "{better} {plain}");
    }
}
