//! Refits the kept weights of a matrix by least squares.

use std::collections::BTreeMap;

use faer::Mat;
use rayon::prelude::*;

use super::groups::Groups;
use super::polish::Problem;
use super::solve::{Factor, pick, product};
use crate::Result;

/// Weights `[rows][cols]` that are zero outside the groups and fit the target best, drawn towards
/// `weights` with the problem's ridge. Zeros of `weights` stay zeros.
///
/// The error never exceeds that of `weights` with the rest set to zero.
pub fn refit(problem: &Problem<'_>, weights: &Mat<f64>, groups: &Groups) -> Result<Mat<f64>> {
    let mut sets: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    for g in 0..groups.count {
        sets.extend(supports(weights, &groups.outputs(g), &groups.inputs(g)));
    }
    let parts = sets
        .into_par_iter()
        .map(|(kept, rows)| {
            let factor = Factor::new(problem.moment, &kept, problem.lambda)?;
            let start = pick(weights.as_ref(), &rows, &kept);
            let moment = pick(problem.moment, &kept, &kept);
            // W + (T − W C)(C + λI)⁻¹: what the ridge holds back stays as it was, not at zero.
            let explained = product(start.as_ref(), moment.as_ref());
            let missing = pick(problem.target, &rows, &kept) - explained;
            Ok((rows, kept, start + factor.solve_rows(missing)))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut out = Mat::zeros(weights.nrows(), weights.ncols());
    for (rows, kept, values) in parts {
        for (c, j) in kept.iter().enumerate() {
            for (r, i) in rows.iter().enumerate() {
                out[(*i, *j)] = values[(r, c)];
            }
        }
    }
    Ok(out)
}

/// `(inputs kept, rows)` for every set of `inputs` that some of `rows` keep: of a group one set,
/// unless the weights were sparse before.
pub fn supports(
    weights: &Mat<f64>,
    rows: &[usize],
    inputs: &[usize],
) -> Vec<(Vec<usize>, Vec<usize>)> {
    let mut sets: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    for i in rows {
        let kept = inputs.iter().copied().filter(|j| weights[(*i, *j)] != 0.0).collect();
        sets.entry(kept).or_default().push(*i);
    }
    sets.into_iter().filter(|(kept, _)| !kept.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::groups::{Sizes, search};
    use super::super::polish::polish;
    use super::*;

    /// `[n][n]` second moment of random, correlated inputs.
    fn moment(n: usize, random: &mut StdRng) -> Mat<f64> {
        let mut value = || random.random::<f64>() - 0.5;
        let common: Vec<f64> = (0..40).map(|_| value()).collect();
        let x = Mat::from_fn(n, 40, |_, t| value() + common[t]);
        product(x.as_ref(), x.transpose())
    }

    fn error(new: &Mat<f64>, old: &Mat<f64>, moment: &Mat<f64>) -> f64 {
        let lost = new - old;
        let seen = product(lost.as_ref(), moment.as_ref());
        (0..lost.ncols())
            .map(|j| (0..lost.nrows()).map(|i| seen[(i, j)] * lost[(i, j)]).sum::<f64>())
            .sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn refit_and_polish_never_raise_the_error(
            rows in 1usize..24,
            cols in 1usize..24,
            count in 1usize..5,
            density in 0.1f64..1.0,
            seed in 0u64..1_000,
        ) {
            let mut random = StdRng::seed_from_u64(seed);
            let moment = moment(cols, &mut random);
            let weights = Mat::from_fn(rows, cols, |_, _| random.random::<f64>() - 0.5);
            let target = product(weights.as_ref(), moment.as_ref());
            let problem =
                Problem { moment: moment.as_ref(), target: target.as_ref(), lambda: 1e-3 };
            let sizes = Sizes::new(rows, cols, density, count, None);
            let importance =
                Mat::from_fn(rows, cols, |i, j| weights[(i, j)].powi(2) * moment[(j, j)]);
            let (mut groups, _) = search(importance.as_ref(), &sizes, 1, &mut random);
            let mut explained = Vec::new();
            for rounds in [0, 6] {
                explained.push(polish(&problem, &sizes, &mut groups, rounds).unwrap());
                let new = refit(&problem, &weights, &groups).unwrap();
                let masked = Mat::from_fn(rows, cols, |i, j| {
                    let kept = groups.cols[j] == groups.rows[i] || groups.cols[j] == groups.count;
                    if kept { weights[(i, j)] } else { 0.0 }
                });
                for i in 0..rows {
                    for j in 0..cols {
                        prop_assert!(masked[(i, j)] != 0.0 || new[(i, j)] == 0.0);
                    }
                }
                let (before, after) =
                    (error(&masked, &weights, &moment), error(&new, &weights, &moment));
                prop_assert!(after <= before + 1e-9, "{} > {}", after, before);
            }
            prop_assert!(explained[1] >= explained[0]);
        }
    }

    #[test]
    fn zeros_of_a_sparse_checkpoint_stay() {
        let mut random = StdRng::seed_from_u64(3);
        let moment = moment(12, &mut random);
        let weights =
            Mat::from_fn(8, 12, |i, j| if (i + j) % 3 == 0 { 0.0 } else { (i + 2 * j) as f64 });
        let target = product(weights.as_ref(), moment.as_ref());
        let problem = Problem { moment: moment.as_ref(), target: target.as_ref(), lambda: 1e-3 };
        let groups = Groups { count: 1, rows: vec![0; 8], cols: vec![1; 12] };
        let new = refit(&problem, &weights, &groups).unwrap();
        for i in 0..8 {
            for j in 0..12 {
                assert!((new[(i, j)] - weights[(i, j)]).abs() < 1e-6);
                assert_eq!(new[(i, j)] == 0.0, weights[(i, j)] == 0.0);
            }
        }
    }
}
