//! A pruned form of one matrix: its groups, what they keep, and the error that this costs.

use faer::Mat;

use super::groups::Groups;
use crate::model::Linear;

/// One matrix at one level, compact: only kept weights are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Where every output and input belongs.
    pub groups: Groups,
    /// Kept weights: group after group, `[outputs][inputs]` each, ascending indices.
    values: Vec<f32>,
    /// `[rows]`, with the mean of what is lost.
    bias: Vec<f32>,
    /// Energy of the output's change / energy of the output around its mean.
    pub error: f64,
    /// Weights kept that are not zero.
    pub kept: usize,
}

/// The dense form that a version is made of.
pub struct Dense<'a> {
    /// `[rows][cols]`.
    pub weights: &'a Mat<f64>,
    /// `[rows]`.
    pub bias: &'a [f64],
    /// Mean of each input.
    pub mean: &'a [f64],
}

impl Version {
    /// Stores the part of `new` that `groups` keep. Zero means pruned, so a kept weight that
    /// rounds to zero becomes the smallest positive number; zeros of the dense form stay. `error`
    /// is as in the field.
    pub fn new(groups: Groups, new: &Mat<f64>, dense: &Dense<'_>, error: f64) -> Self {
        let mut values = Vec::new();
        let mut bias: Vec<f32> = vec![0.0; dense.bias.len()];
        let mut kept = 0;
        let lost_mean = |i: usize, row: &dyn Fn(usize) -> f64| -> f64 {
            (0..dense.mean.len()).map(|j| (dense.weights[(i, j)] - row(j)) * dense.mean[j]).sum()
        };
        for g in 0..groups.count {
            let inputs = groups.inputs(g);
            for i in groups.outputs(g) {
                let mut row = vec![0.0; dense.mean.len()];
                for j in &inputs {
                    let mut value = new[(i, *j)] as f32;
                    if value == 0.0 && dense.weights[(i, *j)] != 0.0 {
                        value = f32::MIN_POSITIVE;
                    }
                    kept += usize::from(value != 0.0);
                    values.push(value);
                    row[*j] = f64::from(value);
                }
                bias[i] = (dense.bias[i] + lost_mean(i, &|j| row[j])) as f32;
            }
        }
        Self { groups, values, bias, error, kept }
    }

    /// Overwrites the stacked `linears` with this version.
    pub fn write(&self, linears: &mut [&mut Linear]) {
        for linear in linears.iter_mut() {
            linear.weight.data.fill(0.0);
        }
        let starts: Vec<usize> = linears
            .iter()
            .scan(0, |next, linear| {
                let start = *next;
                *next += linear.weight.rows;
                Some(start)
            })
            .collect();
        let mut values = self.values.iter();
        for g in 0..self.groups.count {
            let inputs = self.groups.inputs(g);
            for i in self.groups.outputs(g) {
                let part = starts.partition_point(|start| *start <= i) - 1;
                let row = linears[part].weight.row_mut(i - starts[part]);
                for (j, value) in inputs.iter().zip(&mut values) {
                    row[*j] = *value;
                }
            }
        }
        let mut bias = self.bias.as_slice();
        for linear in linears.iter_mut() {
            let (own, rest) = bias.split_at(linear.bias.len());
            linear.bias.copy_from_slice(own);
            bias = rest;
        }
    }
}
