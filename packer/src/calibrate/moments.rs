//! Sums of products over tokens: `Σ a bᵀ`, f32 in pieces, f64 across them.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::model::Matrix;

/// Tokens whose products are summed in f32.
const PIECE: usize = 1_024;
/// Rows of the sum that one task computes.
const BLOCK: usize = 128;

/// `sum += Σ a bᵀ` over the rows of `a` and `b` (as many in both); `sum` is row-major
/// `[a.cols][b.cols]`.
///
/// When `symmetric` (`a` is `b`), only the part left of and on the diagonal is complete
/// afterwards: [`mirror`] copies it over. The result does not depend on the number of threads.
pub fn add_products(sum: &mut [f64], a: &Matrix, b: &Matrix, symmetric: bool) {
    let cols = b.cols;
    let view_a = MatRef::from_row_major_slice(&a.data, a.rows, a.cols);
    let view_b = MatRef::from_row_major_slice(&b.data, b.rows, cols);
    sum.par_chunks_mut(BLOCK * cols).enumerate().for_each(|(block, sum)| {
        let rows = sum.len() / cols;
        let wide = if symmetric { (block * BLOCK + rows).min(cols) } else { cols };
        let mut piece = vec![0.0f32; rows * wide];
        let mut from = 0;
        while from < a.rows {
            let count = PIECE.min(a.rows - from);
            let left = view_a.submatrix(from, block * BLOCK, count, rows).transpose();
            let right = view_b.submatrix(from, 0, count, wide);
            let out = MatMut::from_row_major_slice_mut(&mut piece, rows, wide);
            matmul(out, Accum::Replace, left, right, 1.0, Par::Seq);
            for (sum, piece) in sum.chunks_exact_mut(cols).zip(piece.chunks_exact(wide)) {
                sum.iter_mut().zip(piece).for_each(|(sum, v)| *sum += f64::from(*v));
            }
            from += count;
        }
    });
}

/// Copies the lower triangle of the square matrix `sum` (`[n][n]`) to the upper one.
pub fn mirror(sum: &mut [f64], n: usize) {
    for row in 0..n {
        for col in row + 1..n {
            sum[row * n + col] = sum[col * n + row];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_match_the_definition_and_any_thread_count() {
        let value = |i: usize| ((i * 7919 % 1009) as f32 - 500.0) / 250.0;
        let matrix = |rows: usize, cols: usize, seed: usize| Matrix {
            rows,
            cols,
            data: (0..rows * cols).map(|i| value(i + seed)).collect(),
        };
        let (a, b) = (matrix(1_500, 130, 3), matrix(1_500, 37, 11));
        let mut plain = vec![0.0; 130 * 37];
        add_products(&mut plain, &a, &b, false);
        for (i, j) in [(0, 0), (129, 36), (64, 5)] {
            let exact: f64 =
                (0..1_500).map(|t| f64::from(a.row(t)[i]) * f64::from(b.row(t)[j])).sum();
            assert!((plain[i * 37 + j] - exact).abs() < 1e-2, "{i} {j}");
        }
        let square = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.map(|pool| {
                let mut sum = vec![0.0; 130 * 130];
                pool.install(|| add_products(&mut sum, &a, &a, true));
                mirror(&mut sum, 130);
                sum
            })
        };
        let (one, three) = (square(1).unwrap(), square(3).unwrap());
        assert_eq!(one, three);
        assert_eq!(one[5 * 130 + 90], one[90 * 130 + 5]);
    }
}
