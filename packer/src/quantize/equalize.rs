//! Equalized input channels (SmoothQuant): large inputs are made smaller and their weights larger.

use crate::model::Matrix;
use crate::pack::discover::Pattern;

/// Factors that multiply the inputs, `[cols]`: `max|W|^(1−α) / max|x|^α` per channel, scaled to a
/// geometric mean of one. Inputs that no group reads get 0, so that they do not widen the range.
pub fn factors(weight: &Matrix, pattern: &Pattern, max_abs: &[f32], alpha: f32) -> Vec<f32> {
    let mut used = vec![false; weight.cols];
    for group in &pattern.groups {
        for i in pattern.inputs(group) {
            used[i] = true;
        }
    }
    let mut largest = vec![0.0_f32; weight.cols];
    for r in 0..weight.rows {
        for (m, w) in largest.iter_mut().zip(weight.row(r)) {
            *m = m.max(w.abs());
        }
    }
    let mut factors = vec![0.0_f32; weight.cols];
    let mut logs = 0.0_f64;
    let mut count = 0;
    for i in 0..weight.cols {
        if used[i] {
            let x = max_abs[i].max(1e-5);
            let w = largest[i].max(1e-5);
            factors[i] = if alpha == 0.0 { 1.0 } else { w.powf(1.0 - alpha) / x.powf(alpha) };
            logs += f64::from(factors[i]).ln();
            count += 1;
        }
    }
    let mean = (logs / f64::from(count.max(1))).exp() as f32;
    factors.iter_mut().for_each(|f| *f /= mean);
    factors
}
