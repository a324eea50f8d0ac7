//! The kept weights of one matrix as dense blocks: what is trained, and what the mask is.
//!
//! Outputs are put in block order, group after group. The shared inputs' weights of all groups
//! make one matrix, each group's own inputs another small one. Only these numbers are trained, so
//! a pruned weight cannot come back, and the arithmetic is that of the kept weights.

use grouse_runtime::format::DataType;

use crate::model::Matrix;
use crate::pack::discover::{Pattern, discover};

/// Where the kept weights of a matrix stand, and in what order they are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks {
    /// Outputs of the matrix.
    pub rows: usize,
    /// Inputs of the matrix.
    pub cols: usize,
    /// Output of each row in block order; rows that read the shared inputs come first.
    pub order: Vec<usize>,
    /// Inputs that are gathered: the shared ones, then every group's own.
    pub gathered: Vec<usize>,
    /// Row, in block order, of each output: the inverse of `order`.
    pub row_of: Vec<usize>,
    /// First place of each input in `gathered`; `usize::MAX` for one that is not there.
    pub first_of: Vec<usize>,
    /// Inputs that are gathered again, with the place: read by several groups, but not shared.
    pub again: Vec<(usize, usize)>,
    /// How many of `gathered` are shared.
    pub shared: usize,
    /// How many of `order` read the shared inputs.
    pub shared_rows: usize,
    /// The groups' own blocks.
    pub groups: Vec<Block>,
    /// Number of stored weights.
    pub weights: usize,
    /// Which stored weights are kept, 1 or 0; `None` when all are.
    pub mask: Option<Vec<f32>>,
}

/// One group's own weights, `[rows][inputs]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// First row, in block order.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
    /// First input, among the gathered.
    pub first_input: usize,
    /// Number of inputs.
    pub inputs: usize,
    /// Where the weights start.
    pub at: usize,
}

impl Blocks {
    /// Blocks that hold every weight of `weight` that is not zero.
    pub fn of(weight: &Matrix) -> Self {
        Self::from_pattern(&discover(weight, DataType::I8), weight)
    }

    fn from_pattern(pattern: &Pattern, weight: &Matrix) -> Self {
        let mut groups: Vec<_> = pattern.groups.iter().collect();
        groups.sort_by_key(|group| !group.uses_shared);
        let outputs = |uses_shared| {
            groups
                .iter()
                .filter(move |g| g.uses_shared == uses_shared)
                .flat_map(|g| g.outputs.iter().map(|o| usize::from(*o)))
        };
        let shared_rows = outputs(true).count();
        let mut blocks = Self {
            rows: weight.rows,
            cols: weight.cols,
            order: outputs(true).chain(outputs(false)).collect(),
            row_of: vec![0; weight.rows],
            first_of: vec![usize::MAX; weight.cols],
            again: Vec::new(),
            gathered: pattern.shared.iter().map(|i| usize::from(*i)).collect(),
            shared: pattern.shared.len(),
            shared_rows,
            groups: Vec::new(),
            weights: shared_rows * pattern.shared.len(),
            mask: None,
        };
        let mut first_row = 0;
        for group in groups {
            let block = Block {
                first_row,
                rows: group.outputs.len(),
                first_input: blocks.gathered.len(),
                inputs: group.inputs.len(),
                at: blocks.weights,
            };
            first_row += block.rows;
            blocks.weights += block.rows * block.inputs;
            blocks.gathered.extend(group.inputs.iter().map(|i| usize::from(*i)));
            blocks.groups.push(block);
        }
        for (row, output) in blocks.order.iter().enumerate() {
            blocks.row_of[*output] = row;
        }
        for (place, input) in blocks.gathered.iter().enumerate() {
            match &mut blocks.first_of[*input] {
                first if *first == usize::MAX => *first = place,
                _ => blocks.again.push((*input, place)),
            }
        }
        let stored = blocks.gather(weight);
        if stored.contains(&0.0) {
            blocks.mask = Some(stored.iter().map(|w| if *w == 0.0 { 0.0 } else { 1.0 }).collect());
        }
        blocks
    }

    /// Calls `see` with every stored weight's place: `(place, output, input)`.
    fn places(&self, mut see: impl FnMut(usize, usize, usize)) {
        let mut block = |at: usize, rows: &[usize], inputs: &[usize]| {
            for (r, output) in rows.iter().enumerate() {
                for (i, input) in inputs.iter().enumerate() {
                    see(at + r * inputs.len() + i, *output, *input);
                }
            }
        };
        block(0, &self.order[..self.shared_rows], &self.gathered[..self.shared]);
        for g in &self.groups {
            let rows = &self.order[g.first_row..][..g.rows];
            block(g.at, rows, &self.gathered[g.first_input..][..g.inputs]);
        }
    }

    /// The stored weights of `weight`.
    pub fn gather(&self, weight: &Matrix) -> Vec<f32> {
        let mut stored = vec![0.0; self.weights];
        self.places(|place, output, input| stored[place] = weight.row(output)[input]);
        stored
    }

    /// The matrix of the stored weights. A kept weight is never exactly zero: zeros are what is
    /// pruned.
    pub fn scatter(&self, stored: &[f32]) -> Matrix {
        let mut weight = Matrix::zeros(self.rows, self.cols);
        self.places(|place, output, input| {
            let kept = self.mask.as_ref().is_none_or(|mask| mask[place] != 0.0);
            let value = stored[place];
            weight.row_mut(output)[input] =
                if kept && value == 0.0 { f32::MIN_POSITIVE } else { value };
        });
        weight
    }

    /// Largest magnitude of each row, in block order, over its shared and own weights.
    pub fn row_peaks(&self, stored: &[f32]) -> Vec<f32> {
        let peak = |row: &[f32]| row.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        let mut peaks = vec![0.0f32; self.rows];
        for (r, most) in peaks[..self.shared_rows].iter_mut().enumerate() {
            *most = peak(&stored[r * self.shared..][..self.shared]);
        }
        for g in &self.groups {
            for r in 0..g.rows {
                let most = &mut peaks[g.first_row + r];
                *most = most.max(peak(&stored[g.at + r * g.inputs..][..g.inputs]));
            }
        }
        peaks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the zeros, they and the weights come back as they were.
        #[test]
        fn gathered_and_scattered_is_the_same(
            rows in 1usize..70, cols in 1usize..70, groups in 1usize..5, noise in 0u8..3, seed: u32
        ) {
            let mut weight = Matrix::zeros(rows, cols);
            for r in 0..rows {
                for c in 0..cols {
                    let own = c % 7 == 0 || c % groups == r % groups;
                    let odd = noise > 0 && (r * 31 + c * 17 + seed as usize).is_multiple_of(11);
                    if own != odd {
                        weight.row_mut(r)[c] = 1.0 + (r * cols + c) as f32;
                    }
                }
            }
            let blocks = Blocks::of(&weight);
            let stored = blocks.gather(&weight);
            prop_assert_eq!(&blocks.scatter(&stored), &weight);
            let peaks = blocks.row_peaks(&stored);
            for (peak, output) in peaks.iter().zip(&blocks.order) {
                let most = weight.row(*output).iter().fold(0.0f32, |m, w| m.max(w.abs()));
                prop_assert_eq!(*peak, most);
            }
        }
    }
}
