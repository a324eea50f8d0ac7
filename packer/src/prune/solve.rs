//! Least squares on kept inputs: one Cholesky factor per set of inputs.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{
    LltParams, cholesky_in_place, cholesky_in_place_scratch,
};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Accum, Mat, MatRef, Par, Spec};

use crate::{Error, Result};

/// Noise that every input is taken to have, as a part of its own variance: directions in which the
/// inputs hardly move must not take the whole step.
pub const NOISE: f64 = 0.1;
/// The same as a part of the inputs' mean variance.
const FLOOR: f64 = 0.001;
/// How many times the floor may be raised tenfold.
const WIDER: i32 = 6;

/// `L` with `L Lᵀ = C[K,K] + λI`.
pub struct Factor {
    lower: Mat<f64>,
}

impl Factor {
    /// Factors the sub-matrix of `moment` at `kept`, with `lambda` added to its diagonal.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] when the matrix is not positive definite: the inputs are not finite.
    pub fn new(moment: MatRef<'_, f64>, kept: &[usize], lambda: f64) -> Result<Self> {
        let n = kept.len();
        let mut lower = Mat::from_fn(n, n, |i, j| moment[(kept[i], kept[j])]);
        let mut buffer =
            MemBuffer::new(cholesky_in_place_scratch::<f64>(n, Par::Seq, Spec::default()));
        // A direction that the text never used has no energy; twice the ridge settles it.
        for i in 0..n {
            lower[(i, i)] += lambda.max(f64::MIN_POSITIVE);
        }
        cholesky_in_place(
            lower.as_mut(),
            Default::default(),
            Par::Seq,
            MemStack::new(&mut buffer),
            Spec::<LltParams, f64>::default(),
        )
        .map_err(|_| {
            Error::input(
                format!("the calibration statistics of {n} inputs are not positive definite"),
                "use more, or more varied, calibration text",
            )
        })?;
        Ok(Self { lower })
    }

    /// `X` with `X (C[K,K] + λI) = rhs`, rows on their own: `[rows][kept]`.
    pub fn solve_rows(&self, rhs: Mat<f64>) -> Mat<f64> {
        self.unwhiten(self.whiten(rhs.transpose().to_owned())).transpose().to_owned()
    }

    /// `L⁻¹ rhs`, `[kept][columns]`: the squared length of a column is what the kept inputs
    /// explain of it.
    pub fn whiten(&self, mut rhs: Mat<f64>) -> Mat<f64> {
        solve_lower_triangular_in_place(self.lower.as_ref(), rhs.as_mut(), Par::Seq);
        rhs
    }

    /// `L⁻ᵀ rhs`, `[kept][columns]`: of what [`Factor::whiten`] gave, `(C[K,K] + λI)⁻¹` times it.
    pub fn unwhiten(&self, mut rhs: Mat<f64>) -> Mat<f64> {
        solve_upper_triangular_in_place(self.lower.as_ref().transpose(), rhs.as_mut(), Par::Seq);
        rhs
    }

    /// `L⁻¹`.
    pub fn inverse(&self) -> Mat<f64> {
        let n = self.lower.nrows();
        let mut inverse = Mat::zeros(n, n);
        invert_lower_triangular(inverse.as_mut(), self.lower.as_ref(), Par::Seq);
        inverse
    }

    /// Diagonal of `(C[K,K] + λI)⁻¹`.
    pub fn inverse_diagonal(&self) -> Vec<f64> {
        let inverse = self.inverse();
        (0..inverse.ncols()).map(|j| column_energy(&inverse, j)).collect()
    }
}

/// Second moment of inputs about their means, with the noise that every input is taken to have, and
/// what is to be added to a variance at least.
pub fn centred_moment(mean: &[f64], second: impl Fn(usize, usize) -> f64) -> (Mat<f64>, f64) {
    let cols = mean.len();
    let moment = Mat::from_fn(cols, cols, |i, j| {
        let value = second(i, j) - mean[i] * mean[j];
        if i == j { value.max(0.0) * (1.0 + NOISE) } else { value }
    });
    let floor = FLOOR * (0..cols).map(|j| moment[(j, j)]).sum::<f64>() / cols.max(1) as f64;
    (moment, floor.max(1e-12))
}

/// The factor of the moment of the inputs `kept`, with `floor` added to each variance; with ten times
/// as much, and so on, where rounding has left a moment that is none: inputs that hardly vary about
/// a large mean do that, and pruning makes such inputs.
pub fn robust_factor(moment: MatRef<'_, f64>, kept: &[usize], floor: f64) -> Result<Factor> {
    let mut found = Factor::new(moment, kept, floor);
    for power in 1..=WIDER {
        if found.is_ok() {
            break;
        }
        found = Factor::new(moment, kept, floor * 10f64.powi(power));
    }
    found
}

/// Squared length of column `j`.
pub fn column_energy(matrix: &Mat<f64>, j: usize) -> f64 {
    matrix.col_as_slice(j).iter().map(|v| v * v).sum()
}

/// `a b` on this thread.
pub fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

/// `aᵀ a` on this thread: one half is worked out, the other is its mirror image.
pub fn gram(a: MatRef<'_, f64>) -> Mat<f64> {
    let n = a.ncols();
    let mut out = Mat::zeros(n, n);
    triangular::matmul(
        out.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Replace,
        a.transpose(),
        BlockStructure::Rectangular,
        a,
        BlockStructure::Rectangular,
        1.0,
        Par::Seq,
    );
    for j in 0..n {
        for i in 0..j {
            out[(i, j)] = out[(j, i)];
        }
    }
    out
}

/// The sub-matrix of the given rows and columns.
pub fn pick(from: MatRef<'_, f64>, rows: &[usize], cols: &[usize]) -> Mat<f64> {
    Mat::from_fn(rows.len(), cols.len(), |i, j| from[(rows[i], cols[j])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_that_rounding_spoilt_has_a_factor() {
        let moment = |off: f64| Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { off });
        assert!(robust_factor(moment(0.5).as_ref(), &[0, 1], 0.001).is_ok());
        assert!(robust_factor(moment(1.2).as_ref(), &[0, 1], 0.001).is_ok());
        assert!(robust_factor(moment(f64::NAN).as_ref(), &[0, 1], 0.001).is_err());
    }
}
