//! The int4 grid: which scale a row gets and which multiplier each run of 32 numbers, so that the
//! numbers lie close to what four bits can say.

use grouse_runtime::format::{Multiplier, RUN};
use grouse_runtime::math::ROUND;

/// Largest magnitude of a multiple of the scale: kernels take int8.
const MOST: f32 = 127.0;

/// Scales that are tried for a row, as parts of the one that maps its largest magnitude to 127.
const SCALES: [f32; 8] = [0.76, 0.84, 0.92, 1.0, 1.08, 1.16, 1.24, 1.32];

/// Least part of a run's range that a multiplier must cover to be tried.
const COVER: f32 = 0.7;

/// A row's grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Scale of the row.
    pub scale: f32,
    /// One for each run of 32 values.
    pub runs: Vec<Multiplier>,
}

impl Grid {
    /// The grid on which `values` have the least squared error, each weighted by its energy.
    pub fn of(values: &[f32], energy: &[f32]) -> Self {
        let largest = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        // A row of zeros, or one so small that its steps would be subnormal, keeps a scale of one.
        let unit = if largest > 1e-30 { largest / MOST } else { 1.0 };
        let candidate = |part: f32| {
            let scale = unit * part;
            let mut error = 0.0;
            let runs = values.chunks(RUN).zip(energy.chunks(RUN)).map(|(values, energy)| {
                let (multiplier, of_run) = best(values, energy, scale);
                error += f64::from(of_run);
                multiplier
            });
            let runs = runs.collect();
            (error, Self { scale, runs })
        };
        let candidates = SCALES.into_iter().map(candidate);
        let best = candidates.min_by(|(a, _), (b, _)| a.total_cmp(b));
        best.map_or_else(|| Self { scale: unit, runs: Vec::new() }, |(_, grid)| grid)
    }

    /// The code next to `value`, which stands at position `at` of the row.
    pub fn code(&self, at: usize, value: f32) -> u8 {
        let run = self.run(at);
        let steps = (value / (self.scale * f32::from(run.step()))).round_ties_even();
        (steps + f32::from(run.zero())).clamp(0.0, 15.0) as u8
    }

    /// The multiplier of position `at`.
    pub fn run(&self, at: usize) -> Multiplier {
        self.runs[at / RUN]
    }
}

/// The multiplier with the least error for a run, and the error.
fn best(values: &[f32], energy: &[f32], scale: f32) -> (Multiplier, f32) {
    let lowest = values.iter().fold(0.0_f32, |m, v| m.min(*v));
    let highest = values.iter().fold(0.0_f32, |m, v| m.max(*v));
    let steps = ((highest - lowest) / (15.0 * scale)).clamp(0.0, 15.0);
    let most = (steps.ceil() as u8).clamp(1, 15);
    let least = ((COVER * steps) as u8).clamp(1, most);
    let mut best = (Multiplier::new(1, 7), f32::INFINITY);
    for step in least..=most {
        let zero = (-lowest / (scale * f32::from(step))).round() as i32;
        for zero in zero - 1..=zero + 1 {
            let multiplier = Multiplier::new(step, zero.clamp(0, 15) as u8);
            if multiplier.is_sound() {
                let error = error(values, energy, scale, multiplier);
                if error < best.1 {
                    best = (multiplier, error);
                }
            }
        }
    }
    if best.1 == f32::INFINITY { (best.0, error(values, energy, scale, best.0)) } else { best }
}

/// Weighted squared error of a run.
fn error(values: &[f32], energy: &[f32], scale: f32, multiplier: Multiplier) -> f32 {
    let step = scale * f32::from(multiplier.step());
    let (inverse, zero) = (1.0 / step, f32::from(multiplier.zero()));
    let terms = values.iter().zip(energy).map(|(v, e)| {
        // Rounds without a call of the C library, which takes most of the time otherwise.
        let steps = (v * inverse + ROUND) - ROUND;
        let d = v - steps.clamp(-zero, 15.0 - zero) * step;
        e * d * d
    });
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::tests::values;

    fn error_of(grid: &Grid, values: &[f32]) -> f32 {
        let each = values.iter().enumerate().map(|(at, v)| {
            let back = grid.run(at).value(grid.code(at, *v)) as f32 * grid.scale;
            (v - back) * (v - back)
        });
        each.sum()
    }

    #[test]
    fn a_grid_beats_one_symmetric_step_per_run() {
        let values = values(384);
        let grid = Grid::of(&values, &[1.0; 384]);
        assert!(grid.runs.iter().all(|m| m.is_sound()));
        let symmetric: f32 = values
            .chunks(RUN)
            .map(|run| {
                let step = run.iter().fold(0.0_f32, |m, v| m.max(v.abs())) / 7.0;
                run.iter().map(|v| (v - (v / step).round() * step).powi(2)).sum::<f32>()
            })
            .sum();
        let error = error_of(&grid, &values);
        assert!(error < 0.8 * symmetric, "{error} {symmetric}");
    }

    #[test]
    fn odd_rows_have_sound_grids() {
        let rows: [&[f32]; 5] = [&[], &[0.0; 33], &[1e-35; 40], &[5.0; 3], &[-2.0, 1e-3, 0.0]];
        for row in rows {
            let grid = Grid::of(row, &vec![1.0; row.len()]);
            assert_eq!(grid.runs.len(), row.len().div_ceil(RUN));
            assert!(grid.runs.iter().all(|m| m.is_sound()), "{row:?}");
            assert!(grid.scale.is_finite() && grid.scale > 0.0);
            let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            assert!(error_of(&grid, row) <= 0.01 * largest * largest + 1e-60, "{row:?} {grid:?}");
        }
    }

    #[test]
    fn what_has_no_energy_does_not_count() {
        let mut row = values(32);
        let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        row[3] = 2.0 * largest;
        let others = |grid: &Grid| {
            let mut error = 0.0;
            for (at, v) in row.iter().enumerate().filter(|(at, _)| *at != 3) {
                let back = grid.run(at).value(grid.code(at, *v)) as f32 * grid.scale;
                error += (v - back) * (v - back);
            }
            error
        };
        let mut energy = vec![1.0; 32];
        let counts = others(&Grid::of(&row, &energy));
        energy[3] = 0.0;
        let does_not = others(&Grid::of(&row, &energy));
        assert!(does_not < 0.9 * counts, "{does_not} {counts}");
    }
}
