//! Coordinates in which a matrix's weights are trained.
//!
//! The inputs of a BERT layer are strongly correlated and differ in size by orders of magnitude;
//! gradient steps on the weights themselves are then fast along a few directions and slow along
//! the rest. In `V = W L / s`, with `L Lᵀ` the second moment of the inputs and `s` the size of the
//! outputs, all directions count alike: the step is the gradient's on whitened inputs, as in K-FAC
//! (Martens & Grosse 2015), of which this is the input's half. The shared inputs of a matrix are
//! whitened together, and so are each group's own.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::blocks::Blocks;
use crate::Result;
use crate::calibrate::InputStats;
use crate::prune::solve::{centred_moment, robust_factor};

/// One block of stored weights, `[rows][inputs]`.
struct Block {
    at: usize,
    rows: usize,
    inputs: usize,
    /// `s L⁻¹`, `[inputs][inputs]`.
    inverse: Vec<f32>,
}

/// The coordinates of one matrix's stored weights.
pub struct Coordinates {
    blocks: Vec<Block>,
    /// Which stored weights are kept, as in [`Blocks`].
    mask: Option<Vec<f32>>,
}

impl Coordinates {
    /// For weights `stored` in `blocks`, whose inputs are like `input`.
    ///
    /// # Errors
    /// [`crate::Error::Input`] when the statistics are not finite.
    pub fn new(blocks: &Blocks, stored: &[f32], input: &InputStats) -> Result<Self> {
        let mean: Vec<f64> = input.mean.iter().map(|m| f64::from(*m)).collect();
        let second = &input.second_moment;
        let (moment, floor) = centred_moment(&mean, |i, j| f64::from(second.row(i)[j]));
        let own = blocks.groups.iter().map(|g| (g.at, g.rows, g.first_input, g.inputs));
        let all: Vec<_> = std::iter::once((0, blocks.shared_rows, 0, blocks.shared))
            .chain(own)
            .filter(|(_, rows, _, inputs)| rows * inputs > 0)
            .collect();
        let size = output_size(blocks, stored, input);
        let blocks_of = all
            .into_par_iter()
            .map(|(at, rows, first, inputs)| {
                let kept = &blocks.gathered[first..first + inputs];
                let inverse = robust_factor(moment.as_ref(), kept, floor)?.inverse();
                let inverse = (0..inputs * inputs)
                    .map(|i| (size * inverse[(i / inputs, i % inputs)]) as f32)
                    .collect();
                Ok(Block { at, rows, inputs, inverse })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { blocks: blocks_of, mask: blocks.mask.clone() })
    }

    /// A gradient by the weights becomes one by the coordinates.
    pub fn gradient(&self, grad: &mut [f32]) {
        self.multiply(grad, true);
    }

    /// A change of the coordinates becomes one of the weights.
    pub fn change(&self, change: &mut [f32]) {
        self.multiply(change, false);
        if let Some(mask) = &self.mask {
            change.iter_mut().zip(mask).for_each(|(change, mask)| *change *= mask);
        }
    }

    fn multiply(&self, values: &mut [f32], transposed: bool) {
        let mut parts = Vec::with_capacity(self.blocks.len());
        let mut rest = values;
        let mut start = 0;
        // Blocks lie one after the other.
        for block in &self.blocks {
            let (_, tail) = rest.split_at_mut(block.at - start);
            let (part, tail) = tail.split_at_mut(block.rows * block.inputs);
            start = block.at + block.rows * block.inputs;
            parts.push((block, part));
            rest = tail;
        }
        parts.into_par_iter().for_each(|(block, part)| {
            let n = block.inputs;
            let before = part.to_vec();
            let inverse = MatRef::from_row_major_slice(&block.inverse, n, n);
            let inverse = if transposed { inverse.transpose() } else { inverse };
            let before = MatRef::from_row_major_slice(&before, block.rows, n);
            let out = MatMut::from_row_major_slice_mut(part, block.rows, n);
            matmul(out, Accum::Replace, before, inverse, 1.0, Par::Seq);
        });
    }
}

/// Root of the mean square of the outputs around their means, taking inputs for uncorrelated.
fn output_size(blocks: &Blocks, stored: &[f32], input: &InputStats) -> f64 {
    let cols = input.mean.len();
    let weight = blocks.scatter(stored);
    let variance = |j: usize| {
        let mean = f64::from(input.mean[j]);
        (f64::from(input.second_moment.data[j * cols + j]) - mean * mean).max(0.0)
    };
    let variances: Vec<f64> = (0..cols).map(variance).collect();
    let energy: f64 = weight
        .data
        .chunks_exact(cols.max(1))
        .map(|row| row.iter().zip(&variances).map(|(w, v)| f64::from(*w).powi(2) * v).sum::<f64>())
        .sum();
    (energy / blocks.rows.max(1) as f64).sqrt().max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Matrix;
    use crate::prune::solve::NOISE;

    /// Correlated inputs of very different sizes; with `holes`, what two groups keep.
    fn case(holes: bool) -> (Blocks, Vec<f32>, InputStats) {
        let (rows, cols) = (32, 24);
        let mut weight = Matrix::zeros(rows, cols);
        for r in 0..rows {
            for c in 0..cols {
                if !holes || c < 8 || c % 2 == r / 16 {
                    weight.row_mut(r)[c] = ((r * cols + c) as f32).sin() + 1.5;
                }
            }
        }
        let blocks = Blocks::of(&weight);
        let mut second_moment = Matrix::zeros(cols, cols);
        for i in 0..cols {
            for j in 0..cols {
                let size = |c: usize| 1.0 + c as f32;
                let same = if i == j { 1.0 } else { 0.6 };
                second_moment.row_mut(i)[j] = same * size(i) * size(j);
            }
        }
        let stored = blocks.gather(&weight);
        let stats = InputStats {
            tokens: 1,
            mean: vec![0.0; cols],
            max_abs: vec![0.0; cols],
            second_moment,
            samples: Matrix::zeros(0, cols),
        };
        (blocks, stored, stats)
    }

    /// `<gradient by W, change of W> = <gradient by V, change of V>`, whatever they are.
    #[test]
    fn gradient_and_change_belong_together() {
        let (blocks, stored, stats) = case(true);
        let coordinates = Coordinates::new(&blocks, &stored, &stats).unwrap();
        let by_weights: Vec<f32> = (0..stored.len()).map(|i| (i as f32 * 0.7).sin()).collect();
        let in_coordinates: Vec<f32> = (0..stored.len()).map(|i| (i as f32 * 1.3).cos()).collect();
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let mut grad = by_weights.clone();
        coordinates.gradient(&mut grad);
        let mut change = in_coordinates.clone();
        coordinates.change(&mut change);
        let (a, b) = (dot(&by_weights, &change), dot(&grad, &in_coordinates));
        assert!((a - b).abs() < 1e-4 * a.abs(), "{a} {b}");
    }

    /// A change of one coordinate moves the output by about the same amount, whichever it is; the
    /// inputs' own energies differ by a factor of 576.
    #[test]
    fn all_directions_count_alike() {
        let (blocks, stored, stats) = case(false);
        let coordinates = Coordinates::new(&blocks, &stored, &stats).unwrap();
        let cols = blocks.cols;
        let mut moved = Vec::new();
        let row = &coordinates.blocks[0];
        for place in row.at..row.at + row.inputs {
            let mut change = vec![0.0; stored.len()];
            change[place] = 1.0;
            coordinates.change(&mut change);
            let weight = blocks.scatter(&change);
            let row = weight.row(blocks.order[0]);
            let seen = |i: usize| -> f64 {
                (0..cols)
                    .map(|j| {
                        let noise = if i == j { 1.0 + NOISE } else { 1.0 };
                        f64::from(row[j] * stats.second_moment.row(i)[j]) * noise
                    })
                    .sum()
            };
            moved.push((0..cols).map(|i| f64::from(row[i]) * seen(i)).sum::<f64>());
        }
        let (least, most) =
            moved.iter().fold((f64::MAX, 0.0f64), |m, v| (m.0.min(*v), m.1.max(*v)));
        assert!(moved.len() == cols && most < 1.5 * least, "{moved:?}");
    }
}
