//! Improves groups on the error that is left after the kept weights are refitted.
//!
//! For a group with inputs K the refitted weights and the gain or loss of every single input are
//! known in closed form (the Schur complement of the second moment), so outputs can be reassigned
//! exactly and inputs exchanged by their true worth.

use faer::{Mat, MatRef};
use rayon::prelude::*;

use super::assign::{Gains, apply, balanced, exchanges};
use super::groups::{Groups, Sizes};
use super::solve::{Factor, column_energy, pick, product};
use crate::Result;

/// The least-squares problem of one matrix: `min E‖y − Ŵx‖²`.
pub struct Problem<'a> {
    /// `E[x xᵀ]` of the inputs, centred, `[cols][cols]`.
    pub moment: MatRef<'a, f64>,
    /// `E[y xᵀ]`, `[rows][cols]`.
    pub target: MatRef<'a, f64>,
    /// Added to the diagonal of the moment.
    pub lambda: f64,
}

/// What of each output the inputs of every group explain, `[rows][groups]`.
fn explained(problem: &Problem<'_>, groups: &Groups) -> Result<Gains> {
    let rows = problem.target.nrows();
    let all: Vec<usize> = (0..rows).collect();
    let columns = (0..groups.count)
        .into_par_iter()
        .map(|g| {
            let kept = groups.inputs(g);
            let factor = Factor::new(problem.moment, &kept, problem.lambda)?;
            let white = factor.whiten(pick(problem.target, &all, &kept).transpose().to_owned());
            Ok((0..rows).map(|i| column_energy(&white, i)).collect::<Vec<f64>>())
        })
        .collect::<Result<Vec<_>>>()?;
    let mut gains = Gains::zeros(rows, groups.count);
    for (g, column) in columns.iter().enumerate() {
        for (i, value) in column.iter().enumerate() {
            gains.row_mut(i)[g] = *value;
        }
    }
    Ok(gains)
}

/// Worth of every input to one group: what its loss costs, or what its arrival brings.
fn worths(problem: &Problem<'_>, rows: &[usize], kept: &[usize]) -> Result<Vec<f64>> {
    let cols = problem.moment.ncols();
    let factor = Factor::new(problem.moment, kept, problem.lambda)?;
    let weights = factor.solve_rows(pick(problem.target, rows, kept));
    let mut worth = vec![0.0; cols];
    for ((k, j), inverse) in kept.iter().enumerate().zip(factor.inverse_diagonal()) {
        worth[*j] = column_energy(&weights, k) / inverse;
    }
    let mut is_kept = vec![false; cols];
    kept.iter().for_each(|j| is_kept[*j] = true);
    let others: Vec<usize> = (0..cols).filter(|j| !is_kept[*j]).collect();
    let between = pick(problem.moment, kept, &others);
    let mut rest = product(weights.as_ref(), between.as_ref());
    for (o, j) in others.iter().enumerate() {
        for (r, i) in rows.iter().enumerate() {
            rest[(r, o)] = problem.target[(*i, *j)] - rest[(r, o)];
        }
    }
    let white: Mat<f64> = factor.whiten(between);
    for (o, j) in others.iter().enumerate() {
        let free = problem.moment[(*j, *j)] + problem.lambda - column_energy(&white, o);
        worth[*j] = column_energy(&rest, o) / free.max(problem.lambda);
    }
    Ok(worth)
}

/// Worth of every input in every place: groups, shared, dropped.
fn input_gains(problem: &Problem<'_>, groups: &Groups) -> Result<Gains> {
    let cols = problem.moment.ncols();
    let columns = (0..groups.count)
        .into_par_iter()
        .map(|g| worths(problem, &groups.outputs(g), &groups.inputs(g)))
        .collect::<Result<Vec<_>>>()?;
    let mut gains = Gains::zeros(cols, groups.count + 2);
    for j in 0..cols {
        let row = gains.row_mut(j);
        for (g, column) in columns.iter().enumerate() {
            row[g] = column[j];
        }
        row[groups.count] = row[..groups.count].iter().sum();
    }
    Ok(gains)
}

/// Reassigns outputs and exchanges inputs for up to `rounds` rounds while the refitted error
/// falls. Returns what the groups explain of the target's energy, never less than at the start.
pub fn polish(
    problem: &Problem<'_>,
    sizes: &Sizes,
    groups: &mut Groups,
    rounds: usize,
) -> Result<f64> {
    let mut gains = explained(problem, groups)?;
    let mut best = gains.total(&groups.rows);
    let mut step = (groups.cols.len() / 16).max(1);
    for _ in 0..rounds {
        // Outputs: exact, given the inputs.
        let rows = balanced(&gains, &sizes.rows);
        if gains.total(&rows) > best {
            best = gains.total(&rows);
            groups.rows = rows;
        }
        // Inputs: each exchange is exact alone; many at once are tried, fewer when that fails.
        let list = exchanges(&input_gains(problem, groups)?, &groups.cols);
        if list.is_empty() {
            break;
        }
        let mut raised = false;
        while step > 0 {
            let mut tried = groups.clone();
            apply(&mut tried.cols, &list, step);
            let tried_gains = explained(problem, &tried)?;
            let total = tried_gains.total(&tried.rows);
            if total > best {
                let small = total < best * (1.0 + 1e-5);
                (*groups, gains, best, raised) = (tried, tried_gains, total, !small);
                break;
            }
            step /= 2;
        }
        if !raised {
            break;
        }
    }
    Ok(best)
}
