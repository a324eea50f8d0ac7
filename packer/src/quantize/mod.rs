//! Turns f32 weights into int8 with scales, by calibration.
//!
//! Per matrix: choose how strongly the input channels are equalized ([`equalize`]), then round the
//! weights so that the errors of neighbours cancel on real inputs ([`rounding`]).

pub mod equalize;
pub mod rounding;

use grouse_runtime::kernels::scalar::quantize_row;
use rayon::prelude::*;

use crate::calibrate::InputStats;
use crate::model::Matrix;
use crate::pack::discover::Pattern;

/// An int8 matrix: `W[r][c] ≈ scale[r] × q[r][c] × equalize[c]`.
#[derive(Debug, Clone)]
pub struct Int8Matrix {
    /// Factors that multiply the inputs at run time, `[cols]`; 0 for inputs that no group reads.
    pub equalize: Vec<f32>,
    /// `[rows]`.
    pub scale: Vec<f32>,
    /// `[rows][cols]`; 0 outside the groups.
    pub weights: Vec<i8>,
    /// Output error on the calibration samples, relative to the outputs' energy.
    pub error: f64,
    /// The chosen strength of equalization.
    pub alpha: f32,
}

/// Sample rows on which candidates are judged.
const JUDGED: usize = 256;

/// Strengths of equalization that are tried, from none to all on the weights' side.
const ALPHAS: [f32; 8] = [0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// Quantizes `weight` within `pattern`, with the inputs' statistics.
///
/// Every strength in a fixed list is tried with plain rounding; the one with the least output
/// error on the samples is then rounded with error compensation.
pub fn quantize(weight: &Matrix, pattern: &Pattern, stats: &InputStats) -> Int8Matrix {
    let samples = &spread(&stats.samples, JUDGED);
    let exact = exact_outputs(weight, samples);
    let energy: f64 = exact.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    let candidate = |alpha: f32| {
        let equalize = equalize::factors(weight, pattern, &stats.max_abs, alpha);
        let (scale, weights) = rounding::nearest(weight, &equalize);
        let error = output_error(&equalize, &scale, &weights, samples, &exact);
        Int8Matrix { equalize, scale, weights, error: error / energy.max(1e-30), alpha }
    };
    let mut candidates: Vec<Int8Matrix> = ALPHAS.par_iter().map(|a| candidate(*a)).collect();
    candidates.sort_by(|a, b| a.error.total_cmp(&b.error));
    let plain = candidates.swap_remove(0);
    let weights =
        rounding::compensated(weight, pattern, &plain.equalize, &plain.scale, &stats.second_moment);
    let error = output_error(&plain.equalize, &plain.scale, &weights, samples, &exact);
    let error = error / energy.max(1e-30);
    // Compensation is fitted on all tokens and judged on the samples; it must not lose.
    if error < plain.error { Int8Matrix { weights, error, ..plain } } else { plain }
}

/// At most `count` rows of `samples`, evenly spread.
fn spread(samples: &Matrix, count: usize) -> Matrix {
    let rows = samples.rows.min(count);
    let data =
        (0..rows).flat_map(|i| samples.row(i * samples.rows / rows.max(1)).to_vec()).collect();
    Matrix { rows, cols: samples.cols, data }
}

/// `samples × weightᵀ`, `[samples][rows]`.
fn exact_outputs(weight: &Matrix, samples: &Matrix) -> Vec<f32> {
    let mut out = vec![0.0; samples.rows * weight.rows];
    out.par_chunks_mut(weight.rows.max(1)).enumerate().for_each(|(s, out)| {
        let x = samples.row(s);
        for (o, y) in out.iter_mut().enumerate() {
            *y = weight.row(o).iter().zip(x).map(|(w, x)| w * x).sum();
        }
    });
    out
}

/// Squared error of the quantized matrix on quantized samples.
fn output_error(
    equalize: &[f32],
    scale: &[f32],
    weights: &[i8],
    samples: &Matrix,
    exact: &[f32],
) -> f64 {
    let cols = samples.cols;
    let errors: Vec<f64> = (0..samples.rows)
        .into_par_iter()
        .map(|s| {
            let mut q = vec![0_i8; cols];
            let row = quantize_row(samples.row(s), equalize, &mut q);
            let exact = &exact[s * scale.len()..(s + 1) * scale.len()];
            let mut error = 0.0;
            for ((w, scale), y) in weights.chunks_exact(cols).zip(scale).zip(exact) {
                let products =
                    w.iter().zip(&q).map(|(w, q)| i32::from(*w) * (i32::from(*q) - row.zero));
                let sum: i32 = products.sum();
                let d = f64::from(sum as f32 * (row.scale * scale) - y);
                error += d * d;
            }
            error
        })
        .collect();
    errors.iter().sum()
}

/// Quantizes a table row by row: int8 values and one scale per row.
pub fn table(table: &Matrix) -> (Vec<i8>, Vec<f32>) {
    let mut values = Vec::with_capacity(table.data.len());
    let mut scales = Vec::with_capacity(table.rows);
    for r in 0..table.rows {
        let row = table.row(r);
        let scale = rounding::row_scale(row.iter().copied());
        scales.push(scale);
        values.extend(row.iter().map(|v| rounding::round(*v, scale)));
    }
    (values, scales)
}
