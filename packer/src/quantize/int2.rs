//! The int2 grid of a table's row: a scale, and for each run of 32 numbers a step and a zero, so
//! that the numbers lie close to what two bits can say.

use grouse_runtime::format::{Multiplier, RUN, value_i2};
use grouse_runtime::math::ROUND;

/// Scales that are tried for a row, as parts of the one with which the largest step covers twice
/// the largest magnitude. Four levels do best when they leave a run's ends out.
const SCALES: [f32; 5] = [0.5, 0.6, 0.7, 0.8, 1.0];
/// Largest and smallest part of a run's range that the levels may span.
const SPAN: (f32, f32) = (0.45, 1.05);
/// Between the lowest and the highest level, in quarters of a level.
const QUARTERS: f32 = 12.0;

/// A row's grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Scale of the row.
    pub scale: f32,
    /// One for each run of 32 values.
    pub runs: Vec<Multiplier>,
}

impl Grid {
    /// The grid on which `values` have the least squared error.
    pub fn of(values: &[f32]) -> Self {
        let largest = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        // A row of zeros, or one so small that its steps would be subnormal, keeps a scale of one.
        let unit = if largest > 1e-30 { 2.0 * largest / (QUARTERS * 15.0) } else { 1.0 };
        let candidate = |part: f32| {
            let scale = unit * part;
            let (errors, runs): (Vec<f64>, _) =
                values.chunks(RUN).map(|run| best(run, scale)).unzip();
            (errors.iter().sum::<f64>(), Self { scale, runs })
        };
        let best = SCALES.into_iter().map(candidate).min_by(|(a, _), (b, _)| a.total_cmp(b));
        best.map_or_else(|| Self { scale: unit, runs: Vec::new() }, |(_, grid)| grid)
    }

    /// The code next to `value`, which stands at position `at` of the row.
    pub fn code(&self, at: usize, value: f32) -> u8 {
        let run = self.runs[at / RUN];
        let nearest = (0..4_u8).min_by(|a, b| {
            let off = |code: u8| (value_i2(run, code) as f32 * self.scale - value).abs();
            off(*a).total_cmp(&off(*b))
        });
        nearest.unwrap_or(0)
    }
}

/// The least error of a run, and the multiplier that has it.
fn best(values: &[f32], scale: f32) -> (f64, Multiplier) {
    // The levels span 0, or come next to it.
    let lowest = values.iter().fold(0.0_f32, |m, v| m.min(*v));
    let highest = values.iter().fold(0.0_f32, |m, v| m.max(*v));
    let whole = (highest - lowest) / (QUARTERS * scale);
    let most = ((SPAN.1 * whole).ceil().clamp(1.0, 15.0)) as u8;
    let least = ((SPAN.0 * whole) as u8).clamp(1, most);
    let mut best = (f32::INFINITY, Multiplier::new(1, 6));
    for step in least..=most {
        for zero in 0..16 {
            let error = error(values, scale * f32::from(step), f32::from(zero));
            if error < best.0 {
                best = (error, Multiplier::new(step, zero));
            }
        }
    }
    (f64::from(best.0), best.1)
}

/// Squared error of a run with levels `(4 code − zero) × step`.
fn error(values: &[f32], step: f32, zero: f32) -> f32 {
    let inverse = 0.25 / step;
    let terms = values.iter().map(|v| {
        // Rounds without a call of the C library, which takes most of the time otherwise.
        let code = ((v * inverse + zero * 0.25) + ROUND) - ROUND;
        let d = v - (4.0 * code.clamp(0.0, 3.0) - zero) * step;
        d * d
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::tests::values;

    fn error_of(grid: &Grid, values: &[f32]) -> f32 {
        let each = values.iter().enumerate().map(|(at, v)| {
            let back = value_i2(grid.runs[at / RUN], grid.code(at, *v)) as f32 * grid.scale;
            (v - back) * (v - back)
        });
        each.sum()
    }

    #[test]
    fn four_levels_keep_most_of_a_normal_row() {
        let values = values(384);
        let energy: f32 = values.iter().map(|v| v * v).sum();
        // Four levels of equal distance leave 0.119 of a normal distribution's energy, at best.
        let error = error_of(&Grid::of(&values), &values) / energy;
        assert!(error < 0.12, "{error}");
    }

    #[test]
    fn odd_rows_have_grids() {
        let rows: [&[f32]; 5] = [&[], &[0.0; 33], &[1e-35; 40], &[5.0; 3], &[-2.0, 1e-3, 0.0]];
        for row in rows {
            let grid = Grid::of(row);
            assert_eq!(grid.runs.len(), row.len().div_ceil(RUN));
            assert!(grid.scale.is_finite() && grid.scale > 0.0);
            let energy: f32 = row.iter().map(|v| v * v).sum();
            assert!(error_of(&grid, row) <= 0.05 * energy + 1e-60, "{row:?} {grid:?}");
        }
    }
}
