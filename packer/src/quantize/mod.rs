//! Turns f32 weights into int8 or int4 with scales, by calibration.
//!
//! Per matrix: choose how strongly the input channels are equalized ([`equalize`]), then round the
//! weights so that the errors of neighbours cancel on real inputs ([`rounding`]).

pub mod equalize;
pub mod int2;
pub mod int4;
pub mod rounding;

use grouse_runtime::format::{DataType, RUN, table_row_i2, table_row_i4};
use grouse_runtime::kernels::scalar::quantize_row;
use rayon::prelude::*;

use crate::calibrate::InputStats;
use crate::model::Matrix;
use crate::pack::discover::Pattern;

use int4::Grid;
use rounding::Rounded;

/// An int8 or int4 matrix: `W[r][c] ≈ scale[r] × q[r][c] × equalize[c]`.
#[derive(Debug, Clone)]
pub struct QuantizedMatrix {
    /// Factors that multiply the inputs at run time, `[cols]`; 0 for inputs that no group reads.
    pub equalize: Vec<f32>,
    /// Scales and weights.
    pub rounded: Rounded,
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
pub fn quantize(
    weight: &Matrix,
    pattern: &Pattern,
    stats: &InputStats,
    number: DataType,
) -> QuantizedMatrix {
    let samples = &spread(&stats.samples, JUDGED);
    let exact = exact_outputs(weight, samples);
    let energy: f64 = exact.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    let candidate = |alpha: f32| {
        let equalize = equalize::factors(weight, pattern, &stats.max_abs, alpha);
        let rounded = if number == DataType::I4 {
            rounding::nearest_int4(weight, pattern, &equalize, &stats.second_moment)
        } else {
            rounding::nearest_int8(weight, &equalize)
        };
        let error = output_error(&equalize, &rounded, samples, &exact);
        QuantizedMatrix { equalize, rounded, error: error / energy.max(1e-30), alpha }
    };
    let mut candidates: Vec<QuantizedMatrix> = ALPHAS.par_iter().map(|a| candidate(*a)).collect();
    candidates.sort_by(|a, b| a.error.total_cmp(&b.error));
    let plain = candidates.swap_remove(0);
    let QuantizedMatrix { equalize, rounded, .. } = &plain;
    let weights = rounding::compensated(weight, pattern, equalize, rounded, &stats.second_moment);
    let rounded = Rounded { weights, ..rounded.clone() };
    let error = output_error(equalize, &rounded, samples, &exact) / energy.max(1e-30);
    // Compensation is fitted on all tokens and judged on the samples; it must not lose.
    if error < plain.error { QuantizedMatrix { rounded, error, ..plain } } else { plain }
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
fn output_error(equalize: &[f32], rounded: &Rounded, samples: &Matrix, exact: &[f32]) -> f64 {
    let cols = samples.cols;
    let Rounded { scale, weights, .. } = rounded;
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
pub fn table_int8(table: &Matrix) -> (Vec<i8>, Vec<f32>) {
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

/// The same in int4: rows in the file's form, and one scale per row.
pub fn table_int4(table: &Matrix) -> (Vec<u8>, Vec<f32>) {
    let energy = vec![1.0; table.cols];
    let rows: Vec<(Vec<u8>, f32)> = (0..table.rows)
        .into_par_iter()
        .map(|r| {
            let row = table.row(r);
            let grid = Grid::of(row, &energy);
            let mut bytes = Vec::with_capacity(table_row_i4(row.len()));
            for (run, (values, multiplier)) in row.chunks(RUN).zip(&grid.runs).enumerate() {
                bytes.push(multiplier.0);
                for (pair, values) in values.chunks(2).enumerate() {
                    let at = run * RUN + 2 * pair;
                    let code = |i: usize| values.get(i).map_or(0, |v| grid.code(at + i, *v));
                    bytes.push(code(0) | code(1) << 4);
                }
            }
            (bytes, grid.scale)
        })
        .collect();
    let (bytes, scales): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    (bytes.concat(), scales)
}

/// The same in int2.
pub fn table_int2(table: &Matrix) -> (Vec<u8>, Vec<f32>) {
    let rows: Vec<(Vec<u8>, f32)> = (0..table.rows)
        .into_par_iter()
        .map(|r| {
            let row = table.row(r);
            let grid = int2::Grid::of(row);
            let mut bytes = Vec::with_capacity(table_row_i2(row.len()));
            for (run, (values, multiplier)) in row.chunks(RUN).zip(&grid.runs).enumerate() {
                bytes.push(multiplier.0);
                for (four, values) in values.chunks(4).enumerate() {
                    let codes = values
                        .iter()
                        .enumerate()
                        .map(|(i, value)| grid.code(run * RUN + 4 * four + i, *value) << (2 * i));
                    bytes.push(codes.fold(0, |byte, code| byte | code));
                }
            }
            (bytes, grid.scale)
        })
        .collect();
    let (bytes, scales): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    (bytes.concat(), scales)
}

#[cfg(test)]
mod tests {
    /// Seeded values that are nearly normal, for the number types' tests.
    pub fn values(count: usize) -> Vec<f32> {
        let mut state = 7_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        // The sum of some is nearly normal.
        (0..count).map(|_| (0..6).map(|_| random()).sum()).collect()
    }
}
