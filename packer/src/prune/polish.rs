//! Improves groups on the error that is left after the kept weights are refitted.
//!
//! For a group with inputs K the refitted weights and the gain or loss of every single input are
//! known in closed form (the Schur complement of the second moment), so outputs can be reassigned
//! exactly and inputs exchanged by their true worth. The shared inputs are in every group's K:
//! they are eliminated once for all groups, and each group then solves for its own inputs only.

use faer::{Mat, MatRef};
use rayon::prelude::*;

use super::assign::{Gains, apply, balanced, exchanges};
use super::groups::{Groups, Sizes};
use super::solve::{Factor, column_energy, gram, pick, product};
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

/// The problem that is left when the shared inputs have explained what they can.
struct Rest {
    /// Shared inputs S, ascending.
    shared: Vec<usize>,
    /// All other inputs R, ascending.
    others: Vec<usize>,
    /// Place of each input in `others`.
    place: Vec<usize>,
    /// `C_SS + λI`.
    factor: Factor,
    /// `L⁻¹ C_SR`.
    white: Mat<f64>,
    /// `L⁻¹ T_Sᵀ`, `[shared][rows]`.
    white_target: Mat<f64>,
    /// `C_RR − C_RS (C_SS + λI)⁻¹ C_SR`.
    moment: Mat<f64>,
    /// `T_R − T_S (C_SS + λI)⁻¹ C_SR`, `[rows][others]`.
    target: Mat<f64>,
    /// What the shared inputs explain of each output.
    explained: Vec<f64>,
    lambda: f64,
}

/// What the worths of shared inputs need beside [`Rest`].
struct Shared {
    /// `(C_SS + λI)⁻¹ C_SR`.
    towards: Mat<f64>,
    /// `T_S (C_SS + λI)⁻¹` transposed: the weights without any own input, `[shared][rows]`.
    weights: Mat<f64>,
    /// Diagonal of `(C_SS + λI)⁻¹`.
    inverse: Vec<f64>,
}

impl Rest {
    fn new(problem: &Problem<'_>, groups: &Groups) -> Result<Self> {
        let (rows, cols) = (problem.target.nrows(), problem.moment.ncols());
        let shared = groups.inputs_at(groups.shared());
        let mut place = vec![usize::MAX; cols];
        let others: Vec<usize> = (0..cols).filter(|j| groups.cols[*j] != groups.shared()).collect();
        others.iter().enumerate().for_each(|(at, j)| place[*j] = at);
        let all: Vec<usize> = (0..rows).collect();
        let factor = Factor::new(problem.moment, &shared, problem.lambda)?;
        let white = factor.whiten(pick(problem.moment, &shared, &others));
        let white_target =
            factor.whiten(pick(problem.target, &all, &shared).transpose().to_owned());
        let mut moment = pick(problem.moment, &others, &others);
        moment -= gram(white.as_ref());
        let target =
            pick(problem.target, &all, &others) - product(white_target.transpose(), white.as_ref());
        let explained = (0..rows).map(|i| column_energy(&white_target, i)).collect();
        let lambda = problem.lambda;
        Ok(Self {
            shared,
            others,
            place,
            factor,
            white,
            white_target,
            moment,
            target,
            explained,
            lambda,
        })
    }

    /// Places in `others` of group `g`'s own inputs.
    fn own(&self, groups: &Groups, g: usize) -> Vec<usize> {
        groups.inputs_at(g).into_iter().map(|j| self.place[j]).collect()
    }

    /// What of each output the inputs of every group explain, `[rows][groups]`.
    fn gains(&self, groups: &Groups) -> Result<Gains> {
        let rows = self.target.nrows();
        let all: Vec<usize> = (0..rows).collect();
        let columns = (0..groups.count)
            .into_par_iter()
            .map(|g| {
                let own = self.own(groups, g);
                let factor = Factor::new(self.moment.as_ref(), &own, self.lambda)?;
                let target = pick(self.target.as_ref(), &all, &own).transpose().to_owned();
                let white = factor.whiten(target);
                let one = |i: usize| self.explained[i] + column_energy(&white, i);
                Ok((0..rows).map(one).collect::<Vec<f64>>())
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

    fn shared(&self) -> Shared {
        let towards = self.factor.unwhiten(self.white.clone());
        let weights = self.factor.unwhiten(self.white_target.clone());
        Shared { towards, weights, inverse: self.factor.inverse_diagonal() }
    }

    /// Worth of every input to one group: what its loss costs, or what its arrival brings.
    fn worths(&self, shared: &Shared, rows: &[usize], own: &[usize]) -> Result<Vec<f64>> {
        let mut worth = vec![0.0; self.place.len()];
        let factor = Factor::new(self.moment.as_ref(), own, self.lambda)?;
        let weights = factor.solve_rows(pick(self.target.as_ref(), rows, own));
        for ((k, o), inverse) in own.iter().enumerate().zip(factor.inverse_diagonal()) {
            worth[self.others[*o]] = column_energy(&weights, k) / inverse;
        }
        // Inputs that would come.
        let every: Vec<usize> = (0..self.others.len()).collect();
        let between = pick(self.moment.as_ref(), own, &every);
        let seen = product(weights.as_ref(), between.as_ref());
        let white = factor.whiten(between);
        let mut is_own = vec![false; every.len()];
        own.iter().for_each(|o| is_own[*o] = true);
        for o in every.into_iter().filter(|o| !is_own[*o]) {
            let target = self.target.col_as_slice(o);
            let pairs = rows.iter().zip(seen.col_as_slice(o));
            let energy: f64 = pairs.map(|(i, seen)| (target[*i] - seen).powi(2)).sum();
            let free = self.moment[(o, o)] + self.lambda - column_energy(&white, o);
            worth[self.others[o]] = energy / free.max(self.lambda);
        }
        // Shared inputs that would go: own inputs change their weights and their inverse.
        let towards =
            Mat::from_fn(own.len(), self.shared.len(), |k, s| shared.towards[(s, own[k])]);
        let moved = product(weights.as_ref(), towards.as_ref());
        let white = factor.whiten(towards);
        for (s, j) in self.shared.iter().enumerate() {
            let pairs = rows.iter().zip(moved.col_as_slice(s));
            let energy: f64 =
                pairs.map(|(i, moved)| (shared.weights[(s, *i)] - moved).powi(2)).sum();
            worth[*j] = energy / (shared.inverse[s] + column_energy(&white, s));
        }
        Ok(worth)
    }

    /// Worth of every input in every place: groups, shared, dropped.
    fn input_gains(&self, groups: &Groups) -> Result<Gains> {
        let shared = self.shared();
        let columns = (0..groups.count)
            .into_par_iter()
            .map(|g| self.worths(&shared, &groups.outputs(g), &self.own(groups, g)))
            .collect::<Result<Vec<_>>>()?;
        let mut gains = Gains::zeros(self.place.len(), groups.count + 2);
        for j in 0..self.place.len() {
            let row = gains.row_mut(j);
            for (g, column) in columns.iter().enumerate() {
                row[g] = column[j];
            }
            row[groups.count] = row[..groups.count].iter().sum();
        }
        Ok(gains)
    }
}

/// Reassigns outputs and exchanges inputs for up to `rounds` rounds while the refitted error
/// falls. Returns what the groups explain of the target's energy, never less than at the start.
pub fn polish(
    problem: &Problem<'_>,
    sizes: &Sizes,
    groups: &mut Groups,
    rounds: usize,
) -> Result<f64> {
    let mut rest = Rest::new(problem, groups)?;
    let mut gains = rest.gains(groups)?;
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
        let list = exchanges(&rest.input_gains(groups)?, &groups.cols);
        if list.is_empty() {
            break;
        }
        let mut raised = false;
        while step > 0 {
            let mut tried = groups.clone();
            apply(&mut tried.cols, &list, step);
            let tried_rest = Rest::new(problem, &tried)?;
            let tried_gains = tried_rest.gains(&tried)?;
            let total = tried_gains.total(&tried.rows);
            if total > best {
                let small = total < best * (1.0 + 1e-5);
                (*groups, rest, gains, best) = (tried, tried_rest, tried_gains, total);
                raised = !small;
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

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::refit::refit;
    use super::*;

    /// The energy that the groups' refitted weights explain, by a solve for every group alone.
    fn explained(
        problem: &Problem<'_>,
        groups: &Groups,
        g: usize,
        extra: &[usize],
        without: Option<usize>,
    ) -> f64 {
        let mut kept: Vec<usize> =
            groups.inputs(g).into_iter().chain(extra.iter().copied()).collect();
        kept.retain(|j| Some(*j) != without);
        let factor = Factor::new(problem.moment, &kept, problem.lambda).unwrap();
        let white =
            factor.whiten(pick(problem.target, &groups.outputs(g), &kept).transpose().to_owned());
        (0..white.ncols()).map(|i| column_energy(&white, i)).sum()
    }

    /// Gains and worths are what adding or removing an input really changes.
    #[test]
    fn worths_are_true_changes_of_the_error() {
        let (rows, cols, count) = (12, 18, 3);
        let mut random = StdRng::seed_from_u64(5);
        let x = Mat::from_fn(cols, 60, |_, _| random.random::<f64>() - 0.5);
        let moment = product(x.as_ref(), x.transpose());
        let weights = Mat::from_fn(rows, cols, |_, _| random.random::<f64>() - 0.5);
        let target = product(weights.as_ref(), moment.as_ref());
        let problem = Problem { moment: moment.as_ref(), target: target.as_ref(), lambda: 1e-3 };
        // Groups of four inputs, four shared, two dropped.
        let places = (0..cols).map(|j| if j < 16 { j % 4 } else { 4 }).collect();
        let groups = Groups { count, rows: (0..rows).map(|i| i % count).collect(), cols: places };
        let rest = Rest::new(&problem, &groups).unwrap();
        let gains = rest.gains(&groups).unwrap();
        let inputs = rest.input_gains(&groups).unwrap();
        for g in 0..count {
            let now = explained(&problem, &groups, g, &[], None);
            let told: f64 = groups.outputs(g).iter().map(|i| gains.at(*i, g)).sum();
            assert!((now - told).abs() < 1e-9 * now);
            for j in 0..cols {
                let change = if groups.inputs(g).contains(&j) {
                    now - explained(&problem, &groups, g, &[], Some(j))
                } else {
                    explained(&problem, &groups, g, &[j], None) - now
                };
                let worth = inputs.at(j, g);
                assert!((worth - change).abs() < 1e-8 * now, "{g} {j}: {worth} for {change}");
            }
        }
        assert!(refit(&problem, &weights, &groups).is_ok());
    }
}
