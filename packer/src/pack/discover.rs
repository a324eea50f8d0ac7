//! Finds the groups of a matrix from its zeros, whoever pruned it.
//!
//! Outputs with the same inputs form a group. Groups that differ little are merged while that
//! makes the file smaller, so an unstructured or a dense matrix ends as one dense group.

use std::collections::BTreeMap;

use grouse_runtime::format::{DataType, SHARED_UNIT, TILE_ROWS, block_bytes, round_up};

use crate::model::Matrix;

/// A matrix's pattern: which outputs read which inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Inputs that all groups with `uses_shared` read first, ascending.
    pub shared: Vec<u16>,
    /// The groups; every output stands in exactly one.
    pub groups: Vec<GroupPattern>,
}

/// One group's outputs and inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPattern {
    /// Ascending.
    pub outputs: Vec<u16>,
    /// Whether the pattern's shared inputs come before `inputs`.
    pub uses_shared: bool,
    /// Own inputs, ascending.
    pub inputs: Vec<u16>,
}

impl Pattern {
    /// The pattern of one dense group.
    pub fn dense(rows: usize, cols: usize) -> Self {
        let all = |n: usize| (0..n).map(|i| i as u16).collect();
        let group = GroupPattern { outputs: all(rows), uses_shared: false, inputs: all(cols) };
        Self { shared: Vec::new(), groups: vec![group] }
    }

    /// All inputs of `group`, in block order.
    pub fn inputs<'a>(&'a self, group: &'a GroupPattern) -> impl Iterator<Item = usize> + 'a {
        let shared = if group.uses_shared { self.shared.as_slice() } else { &[] };
        shared.iter().chain(&group.inputs).map(|i| usize::from(*i))
    }
}

/// Finds the pattern of `weight` `[rows][cols]` whose blocks take the fewest bytes in
/// the number type `weights`.
pub fn discover(weight: &Matrix, weights: DataType) -> Pattern {
    let mut classes = row_classes(weight);
    merge(&mut classes, weights);
    let sparse: usize = classes.iter().map(|c| c.cost(weights)).sum();
    let dense = cost(weight.rows, weight.cols, weights);
    if sparse >= dense {
        return Pattern::dense(weight.rows, weight.cols);
    }
    split_shared(classes)
}

/// Outputs with one set of inputs.
#[derive(Debug, Clone)]
struct Class {
    outputs: Vec<u16>,
    support: Support,
}

/// A set of inputs, one bit each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Support(Vec<u64>);

impl Support {
    fn of(row: &[f32]) -> Self {
        let mut words = vec![0; row.len().div_ceil(64)];
        for (i, w) in row.iter().enumerate() {
            words[i / 64] |= u64::from(*w != 0.0) << (i % 64);
        }
        Self(words)
    }

    fn len(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    fn union_len(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).map(|(a, b)| (a | b).count_ones() as usize).sum()
    }

    fn combine(&mut self, other: &Self, f: impl Fn(u64, u64) -> u64) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a = f(*a, *b));
    }

    fn remove(&mut self, input: usize) {
        self.0[input / 64] &= !(1 << (input % 64));
    }

    fn indices(&self) -> Vec<u16> {
        let bits = |(w, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |b| word >> b & 1 == 1).map(move |b| (w * 64 + b) as u16)
        };
        self.0.iter().enumerate().flat_map(bits).collect()
    }
}

/// Bytes of a group in the file: its padded block, index lists, per-output values and descriptor.
fn cost(outputs: usize, inputs: usize, weights: DataType) -> usize {
    let rows = round_up(outputs, TILE_ROWS);
    block_bytes(weights, outputs, inputs) + 2 * (outputs + inputs) + rows * 12 + 32
}

impl Class {
    fn cost(&self, weights: DataType) -> usize {
        cost(self.outputs.len(), self.support.len(), weights)
    }

    /// Bytes saved by merging with `other`; negative when it costs.
    fn gain(&self, other: &Self, weights: DataType) -> i64 {
        let outputs = self.outputs.len() + other.outputs.len();
        let together = cost(outputs, self.support.union_len(&other.support), weights);
        (self.cost(weights) + other.cost(weights)) as i64 - together as i64
    }
}

fn row_classes(weight: &Matrix) -> Vec<Class> {
    let mut by_support: BTreeMap<Support, Vec<u16>> = BTreeMap::new();
    for r in 0..weight.rows {
        by_support.entry(Support::of(weight.row(r))).or_default().push(r as u16);
    }
    let mut classes: Vec<Class> =
        by_support.into_iter().map(|(support, outputs)| Class { outputs, support }).collect();
    // In the order of their first outputs, so that the file does not depend on the sets' order.
    classes.sort_by_key(|c| c.outputs[0]);
    classes
}

/// Merges the pair of classes that saves most, until none does.
fn merge(classes: &mut Vec<Class>, weights: DataType) {
    let best_of = |classes: &[Class], i: usize| -> (i64, usize) {
        let mut best = (0, usize::MAX);
        for (j, other) in classes.iter().enumerate() {
            if j != i {
                let gain = classes[i].gain(other, weights);
                if gain > best.0 {
                    best = (gain, j);
                }
            }
        }
        best
    };
    let mut best: Vec<(i64, usize)> = (0..classes.len()).map(|i| best_of(classes, i)).collect();
    while let Some(i) = (0..best.len()).max_by_key(|i| (best[*i].0, std::cmp::Reverse(*i))) {
        let (gain, j) = best[i];
        if gain <= 0 {
            return;
        }
        let (keep, drop) = (i.min(j), i.max(j));
        let dropped = classes.remove(drop);
        best.remove(drop);
        let kept = &mut classes[keep];
        kept.outputs.extend(dropped.outputs);
        kept.outputs.sort_unstable();
        kept.support.combine(&dropped.support, |a, b| a | b);
        for k in 0..classes.len() {
            let partner = best[k].1;
            if k == keep || partner == keep || partner == drop {
                best[k] = best_of(classes, k);
                continue;
            }
            if partner != usize::MAX && partner > drop {
                best[k].1 -= 1;
            }
            let gain = classes[k].gain(&classes[keep], weights);
            if gain > best[k].0 {
                best[k] = (gain, keep);
            }
        }
    }
}

/// Takes the inputs that all groups (with inputs) have in common out of their lists.
fn split_shared(classes: Vec<Class>) -> Pattern {
    let mut with_inputs = classes.iter().filter(|c| c.support.len() > 0);
    let mut shared = Support(Vec::new());
    if let Some(first) = with_inputs.next() {
        let mut common = first.support.clone();
        let mut several = false;
        for class in with_inputs {
            several = true;
            common.combine(&class.support, |a, b| a & b);
        }
        if several {
            // What is left over stays in every group's own list.
            let excess = common.indices().split_off(common.len() / SHARED_UNIT * SHARED_UNIT);
            excess.into_iter().for_each(|i| common.remove(usize::from(i)));
            shared = common;
        }
    }
    let is_shared = shared.len() > 0;
    let groups = classes
        .into_iter()
        .map(|mut class| {
            let uses_shared = is_shared && class.support.len() > 0;
            if uses_shared {
                class.support.combine(&shared, |a, b| a & !b);
            }
            let inputs = class.support.indices();
            GroupPattern { outputs: class.outputs, uses_shared, inputs }
        })
        .collect();
    Pattern { shared: shared.indices(), groups }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every kept weight is covered by its output's group, every output is in one group.
    fn check(weight: &Matrix, pattern: &Pattern) {
        let mut seen = vec![false; weight.rows];
        for group in &pattern.groups {
            assert!(!group.outputs.is_empty());
            assert!(group.outputs.is_sorted() && group.inputs.is_sorted());
            let inputs: std::collections::BTreeSet<usize> = pattern.inputs(group).collect();
            for output in &group.outputs {
                let row = weight.row(usize::from(*output));
                assert!(!std::mem::replace(&mut seen[usize::from(*output)], true));
                for (i, w) in row.iter().enumerate() {
                    assert!(*w == 0.0 || inputs.contains(&i), "weight {output},{i} is lost");
                }
            }
        }
        assert!(seen.into_iter().all(|s| s), "an output is in no group");
    }

    fn matrix(rows: usize, cols: usize, keep: impl Fn(usize, usize) -> bool) -> Matrix {
        let mut m = Matrix::zeros(rows, cols);
        for r in 0..rows {
            for c in 0..cols {
                m.row_mut(r)[c] = f32::from(keep(r, c));
            }
        }
        m
    }

    #[test]
    fn finds_disjoint_groups_behind_a_permutation() {
        // Row r belongs to group r mod 4, column c to group (c / 3) mod 4.
        let weight = matrix(128, 96, |r, c| r % 4 == (c / 3) % 4);
        let pattern = discover(&weight, DataType::I8);
        check(&weight, &pattern);
        assert_eq!(pattern.groups.len(), 4);
        assert!(pattern.shared.is_empty());
        assert!(pattern.groups.iter().all(|g| g.outputs.len() == 32 && g.inputs.len() == 24));
    }

    #[test]
    fn finds_the_shared_columns() {
        let weight = matrix(128, 160, |r, c| c % 8 == 0 || r % 4 == (c / 8) % 4);
        let pattern = discover(&weight, DataType::I8);
        check(&weight, &pattern);
        // Twenty are, and the format takes whole sixteens.
        assert_eq!(pattern.shared.len(), 16);
        assert_eq!(pattern.groups.len(), 4);
    }

    #[test]
    fn one_stray_zero_does_not_split_a_group() {
        let weight = matrix(128, 96, |r, c| r % 2 == c % 2 && (r, c) != (4, 8));
        let pattern = discover(&weight, DataType::I8);
        check(&weight, &pattern);
        assert_eq!(pattern.groups.len(), 2);
    }

    #[test]
    fn a_dense_matrix_is_one_group() {
        assert_eq!(discover(&matrix(40, 30, |_, _| true), DataType::I8), Pattern::dense(40, 30));
    }

    #[test]
    fn an_empty_matrix_is_one_group_without_inputs() {
        let pattern = discover(&matrix(40, 30, |_, _| false), DataType::I8);
        assert_eq!(pattern.groups.len(), 1);
        assert!(pattern.groups[0].inputs.is_empty() && !pattern.groups[0].uses_shared);
    }

    #[test]
    fn dropped_rows_and_columns_leave_a_smaller_block() {
        let weight = matrix(64, 64, |r, c| r < 32 && c % 2 == 0);
        let pattern = discover(&weight, DataType::I8);
        check(&weight, &pattern);
        assert_eq!(pattern.groups.len(), 2);
        assert_eq!(pattern.groups[0].inputs.len() + pattern.shared.len(), 32);
    }

    proptest! {
        #[test]
        fn any_zeros_give_a_sound_pattern(
            (rows, cols, bits) in (1_usize..70, 1_usize..70).prop_flat_map(|(rows, cols)| {
                (Just(rows), Just(cols), prop::collection::vec(0_u8..4, rows * cols))
            }),
            threshold in 0_u8..5,
        ) {
            let weight = matrix(rows, cols, |r, c| bits[r * cols + c] < threshold);
            check(&weight, &discover(&weight, DataType::I8));
        }
    }
}
