//! Least squares, layer after layer, on the inputs that the pruned model really has.
//!
//! Pruning fits each matrix to the dense model's inputs. Behind other pruned matrices the inputs are
//! others, and what one layer does wrong is handed on by the residual stream. Here every matrix is
//! fitted again, from the first layer to the last: query, key and value and the first feed-forward
//! matrix to the dense model's outputs; the two that end in a residual sum to what brings that *sum*
//! to the dense model's, which also makes up for what is wrong before them. It goes only a part of
//! the way, since least squares shrinks what it can predict badly.
//!
//! Nothing is random and no gradient is taken.

use faer::Mat;
use rayon::prelude::*;

use super::refit::supports;
use super::solve::{centred_moment, pick, robust_factor};
use crate::calibrate::moments;
use crate::forward::{self, Batch};
use crate::model::{DenseModel, Linear, Matrix};
use crate::progress::Progress;
use crate::{Error, Result};

/// Tokens that matrices are fitted on at most: twice as many changed nothing that was measured, and
/// all states of a layer are held at once.
const MOST_TOKENS: usize = 24_000;

/// Fits `pruned` to `teacher` on `sentences`, of many an even part, `part` of the way (above 0 and up to 1). Zeros stay
/// zeros.
///
/// # Errors
///
/// [`Error::Input`] when a sentence does not fit the model or statistics are not finite.
pub fn refit(
    teacher: &DenseModel,
    pruned: &mut DenseModel,
    sentences: &[Vec<u32>],
    part: f64,
) -> Result<()> {
    let config = &teacher.config;
    let tokens: usize = sentences.iter().map(Vec::len).sum();
    let step = tokens.div_ceil(MOST_TOKENS).max(1);
    let some: Vec<&Vec<u32>> = sentences.iter().step_by(step).collect();
    let batch = Batch::new(config, &some)?;
    let progress = Progress::start("fit layer after layer", config.layers as u64, "layers");
    let mut wanted = forward::embeddings(teacher, &batch);
    let mut hidden = forward::embeddings(pruned, &batch);
    for (dense, layer) in teacher.layers.iter().zip(&mut pruned.layers) {
        let fit = |linears: &mut [&mut Linear], input: &Matrix, target: Matrix| {
            fit(linears, input, target, part)
        };
        let [q, k, v] =
            [&dense.query, &dense.key, &dense.value].map(|linear| forward::linear(&wanted, linear));
        let mixed_wanted = forward::attend(&q, &k, &v, &batch.starts, config.heads);
        let stacked = beside(&[q, k, v]);
        fit(&mut [&mut layer.query, &mut layer.key, &mut layer.value], &hidden, stacked)?;
        let mixed = forward::attention(config, layer, &batch, &hidden);

        let target = forward::linear(&mixed_wanted, &dense.attention_output);
        fit(&mut [&mut layer.attention_output], &mixed, residue(target, &wanted, &hidden))?;
        wanted = forward::attention_end(config, dense, &wanted, &mixed_wanted);
        hidden = forward::attention_end(config, layer, &hidden, &mixed);

        fit(&mut [&mut layer.ffn_in], &hidden, forward::linear(&wanted, &dense.ffn_in))?;
        let wide_wanted = forward::feed_forward_start(config, dense, &wanted);
        let wide = forward::feed_forward_start(config, layer, &hidden);

        let target = forward::linear(&wide_wanted, &dense.ffn_out);
        fit(&mut [&mut layer.ffn_out], &wide, residue(target, &wanted, &hidden))?;
        wanted = forward::feed_forward_end(config, dense, &wanted, &wide_wanted);
        hidden = forward::feed_forward_end(config, layer, &hidden, &wide);
        progress.advance(1);
    }
    progress.finish();
    Ok(())
}

/// What a matrix has to give for the residual sum to be the dense model's.
fn residue(mut target: Matrix, wanted: &Matrix, hidden: &Matrix) -> Matrix {
    let streams = wanted.data.iter().zip(&hidden.data);
    target.data.iter_mut().zip(streams).for_each(|(target, (a, b))| *target += a - b);
    target
}

/// Matrices with as many rows, beside one another.
fn beside(parts: &[Matrix]) -> Matrix {
    let rows = parts.first().map_or(0, |part| part.rows);
    let mut out = Matrix::zeros(rows, parts.iter().map(|part| part.cols).sum());
    for row in 0..rows {
        let mut rest = out.row_mut(row);
        for part in parts {
            let (here, after) = rest.split_at_mut(part.cols);
            here.copy_from_slice(part.row(row));
            rest = after;
        }
    }
    out
}

/// Moves the kept weights of `linears`, which all read `input` `[tokens][cols]`, towards those
/// whose stacked outputs are nearest to `target` `[tokens][rows]`, and sets the biases so that
/// outputs are right on average.
fn fit(linears: &mut [&mut Linear], input: &Matrix, target: Matrix, part: f64) -> Result<()> {
    let mut wrong = target;
    let mut first = 0;
    for linear in linears.iter() {
        let now = forward::linear(input, linear);
        for (wrong, now) in
            wrong.data.chunks_exact_mut(wrong.cols).zip(now.data.chunks_exact(now.cols))
        {
            wrong[first..][..now.len()].iter_mut().zip(now).for_each(|(w, now)| *w -= now);
        }
        first += linear.weight.rows;
    }
    let (rows, cols, tokens) = (wrong.cols, input.cols, input.rows as f64);
    let (mean_in, mean_wrong) = (means(input), means(&wrong));
    if mean_wrong.iter().chain(&mean_in).any(|mean| !mean.is_finite()) {
        return Err(Error::input(
            "the model's states are not finite",
            "check the checkpoint: a weight in it is not a number",
        ));
    }
    let mut moment = vec![0.0; cols * cols];
    moments::add_products(&mut moment, input, input, true);
    moments::mirror(&mut moment, cols);
    let (moment, floor) = centred_moment(&mean_in, |i, j| moment[i * cols + j] / tokens);
    let mut cross = vec![0.0; cols * rows];
    moments::add_products(&mut cross, input, &wrong, false);
    let cross =
        Mat::from_fn(rows, cols, |r, c| cross[c * rows + r] / tokens - mean_wrong[r] * mean_in[c]);

    let weights: Vec<&[f32]> =
        linears.iter().flat_map(|l| l.weight.data.chunks_exact(cols)).collect();
    let weights = Mat::from_fn(rows, cols, |r, c| f64::from(weights[r][c]));
    let all = |n: usize| (0..n).collect::<Vec<_>>();
    let changes = supports(&weights, &all(rows), &all(cols))
        .into_par_iter()
        .map(|(kept, rows)| {
            let factor = robust_factor(moment.as_ref(), &kept, floor)?;
            let change = factor.solve_rows(pick(cross.as_ref(), &rows, &kept));
            Ok((rows, kept, change))
        })
        .collect::<Result<Vec<_>>>()?;

    let mut places: Vec<(&mut [f32], &mut f32)> = linears
        .iter_mut()
        .flat_map(|l| l.weight.data.chunks_exact_mut(cols).zip(&mut l.bias))
        .collect();
    for ((_, bias), mean) in places.iter_mut().zip(&mean_wrong) {
        **bias += *mean as f32;
    }
    for (rows, kept, change) in changes {
        for (r, row) in rows.iter().enumerate() {
            let (weights, bias) = &mut places[*row];
            let mut moved = 0.0;
            for (c, col) in kept.iter().enumerate() {
                let change = part * change[(r, c)];
                let value = (f64::from(weights[*col]) + change) as f32;
                // Zeros are what is pruned.
                weights[*col] = if value == 0.0 { f32::MIN_POSITIVE } else { value };
                moved += change * mean_in[*col];
            }
            **bias -= moved as f32;
        }
    }
    Ok(())
}

/// Mean of every column.
fn means(values: &Matrix) -> Vec<f64> {
    let mut sums = vec![0.0f64; values.cols];
    for row in values.data.chunks_exact(values.cols) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums.iter().map(|sum| sum / values.rows.max(1) as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs, and a target that two of the three kept inputs make, with noise in none.
    #[test]
    fn finds_the_weights_that_made_the_target() {
        let (tokens, cols) = (400, 4);
        let mut input = Matrix::zeros(tokens, cols);
        let mut target = Matrix::zeros(tokens, 2);
        for t in 0..tokens {
            for c in 0..cols {
                input.row_mut(t)[c] = ((t * (c + 3)) as f32).sin() + c as f32;
            }
            let x = input.row(t).to_vec();
            target.row_mut(t).copy_from_slice(&[2.0 * x[0] - x[1] + 5.0, 3.0 * x[2] - 1.0]);
        }
        let mut linear = Linear {
            weight: Matrix { rows: 2, cols, data: vec![1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0] },
            bias: vec![0.0; 2],
        };
        let before = linear.clone();
        fit(&mut [&mut linear], &input, target.clone(), 0.5).unwrap();
        // Half of the way, and what the noise that inputs are taken to have holds back.
        for (now, (old, best)) in linear
            .weight
            .data
            .iter()
            .zip(before.weight.data.iter().zip([2.0f32, -1.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0]))
        {
            assert!((now - 0.5 * (old + best)).abs() < 0.11, "{now} {old} {best}");
            assert_eq!(*old == 0.0, *now == 0.0);
        }
        let now = forward::linear(&input, &linear);
        for (a, b) in means(&now).iter().zip(means(&target)) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        let off = |l: &Linear| -> f32 {
            let y = forward::linear(&input, l);
            y.data.iter().zip(&target.data).map(|(a, b)| (a - b) * (a - b)).sum()
        };
        assert!(off(&linear) < 0.3 * off(&before));
    }
}
