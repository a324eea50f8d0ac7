//! Rounding of weights to int8: to the nearest, or with the error carried on to weights not yet
//! rounded (OBQ/GPTQ: Frantar et al. 2022, arXiv 2210.17323).

use faer::linalg::solvers::DenseSolveCore;
use faer::{Mat, Side};
use rayon::prelude::*;

use crate::model::Matrix;
use crate::pack::discover::Pattern;

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

/// Scales per output and weights rounded to the nearest, of `weight[r][c] / equalize[c]`.
pub fn nearest(weight: &Matrix, equalize: &[f32]) -> (Vec<f32>, Vec<i8>) {
    let mut scales = Vec::with_capacity(weight.rows);
    let mut weights = Vec::with_capacity(weight.data.len());
    for r in 0..weight.rows {
        let row = || weight.row(r).iter().zip(equalize).map(|(w, e)| equalized(*w, *e));
        let scale = row_scale(row());
        scales.push(scale);
        weights.extend(row().map(|w| round(w, scale)));
    }
    (scales, weights)
}

/// Weights rounded group by group, input after input, each rounding error carried on to the
/// inputs that follow so that the outputs change least on inputs with this second moment.
///
/// Falls back to the nearest in a group whose second moment cannot be inverted.
pub fn compensated(
    weight: &Matrix,
    pattern: &Pattern,
    equalize: &[f32],
    scales: &[f32],
    second_moment: &Matrix,
) -> Vec<i8> {
    let cols = weight.cols;
    let mut out = vec![0_i8; weight.data.len()];
    for group in &pattern.groups {
        let mut inputs: Vec<usize> = pattern.inputs(group).collect();
        // The inputs with the most energy first: their errors have the most others to go to.
        let energy = |i: usize| second_moment.row(i)[i] * equalize[i] * equalize[i];
        inputs.sort_by(|a, b| energy(*b).total_cmp(&energy(*a)).then(a.cmp(b)));
        let carry = carry_factors(&inputs, equalize, second_moment);
        let rows: Vec<(usize, Vec<i8>)> = group
            .outputs
            .par_iter()
            .map(|output| {
                let r = usize::from(*output);
                let source = weight.row(r);
                let mut row: Vec<f64> =
                    inputs.iter().map(|i| f64::from(equalized(source[*i], equalize[*i]))).collect();
                (r, round_row(&mut row, f64::from(scales[r]), carry.as_ref()))
            })
            .collect();
        for (r, row) in rows {
            for (i, q) in inputs.iter().zip(row) {
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

fn round_row(row: &mut [f64], scale: f64, carry: Option<&Matrix>) -> Vec<i8> {
    let mut q = Vec::with_capacity(row.len());
    for k in 0..row.len() {
        let value = row[k];
        let rounded = (value / scale).round_ties_even().clamp(-127.0, 127.0);
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
        // Coarse steps make the difference plain.
        let scales = vec![0.1; rows];
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
        let plain: Vec<i8> = weight.data.iter().map(|w| round(*w, 0.1)).collect();
        let better = compensated(&weight, &Pattern::dense(rows, cols), &equalize, &scales, &moment);
        assert!(error(&better) < 0.3 * error(&plain), "{} {}", error(&better), error(&plain));
    }
}
