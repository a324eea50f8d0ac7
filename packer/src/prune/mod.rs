//! Pruning: chooses the weight groups of every linear layer and refits what they keep.
//!
//! A matrix keeps some inputs for all of its outputs (the shared ones) and, for each group of
//! outputs, inputs of the group's own. [`groups`] finds the pattern from importances, [`polish`]
//! improves it on the true error, [`refit`] moves what is lost into what is kept. Query, key and
//! value read the same input and lie stacked in the packed file, so they are pruned as one matrix.

pub mod assign;
pub mod groups;
mod matrix;
mod polish;
mod refit;
mod report;
mod solve;

use grouse_runtime::format::MatrixKind;
use rayon::prelude::*;

use crate::calibrate::LayerStats;
use crate::model::{DenseModel, Layer, Linear};
use crate::progress::Progress;
use crate::{Error, Result};

pub use report::{MatrixReport, Report};

/// What to prune to.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Weights to keep / all weights of each linear layer, above 0 and up to 1.
    pub density: f64,
    /// Groups per matrix; chosen by the density when `None`.
    pub groups: Option<usize>,
    /// Fraction of the inputs that all outputs of a matrix keep; when `None`, as many as the
    /// density allows when every input is used.
    pub shared: Option<f64>,
    /// Seed of the searches' random starts.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { density: 0.5, groups: None, shared: None, seed: 0 }
    }
}

impl Options {
    /// The number of groups in force for a model of this width.
    ///
    /// Fewer kept weights ask for more groups: each row then keeps more of its own choice. Groups
    /// smaller than a kernel tile would be padded, so the width limits the default.
    pub fn group_count(&self, hidden: usize) -> usize {
        let wished = if self.density >= 0.2 { 16 } else { 32 };
        self.groups.unwrap_or(wished.min(hidden / groups::ROW_UNIT).max(1))
    }

    /// Refuses what cannot be done with a model of this width.
    fn check(&self, model: &DenseModel) -> Result<()> {
        if !(self.density > 0.0 && self.density <= 1.0) {
            return Err(Error::input(
                format!("the density {} is not above 0 and up to 1", self.density),
                "0.5 keeps half of the weights",
            ));
        }
        let most = model.config.hidden_size;
        let groups = self.group_count(most);
        if groups == 0 || groups > most {
            return Err(Error::input(
                format!("{groups} groups for {most} outputs"),
                format!("give 1 to {most} groups; 8 is a good start"),
            ));
        }
        if let Some(shared) = self.shared
            && !(0.0..=self.density).contains(&shared)
        {
            return Err(Error::input(
                format!("the shared fraction {shared} is not between 0 and the density"),
                format!("all outputs can share at most {} of the inputs", self.density),
            ));
        }
        Ok(())
    }
}

/// Prunes the six linear layers of every encoder layer of `model` in place.
///
/// `stats` is what [`crate::calibrate::collect`] saw in the same, dense model. Zeros of the result
/// are the pruned weights; a kept weight is never exactly zero. Weights that are zero already stay
/// so. Biases absorb the mean of what is lost. The result does not depend on the thread count.
///
/// # Errors
///
/// [`Error::Input`] for options that cannot be met and for statistics that belong to another
/// model or are not finite.
pub fn prune(model: &mut DenseModel, stats: &[LayerStats], options: &Options) -> Result<Report> {
    options.check(model)?;
    let groups = options.group_count(model.config.hidden_size);
    if stats.len() != model.layers.len() {
        return Err(Error::input(
            format!("statistics of {} layers, a model of {}", stats.len(), model.layers.len()),
            "calibrate the model that is pruned",
        ));
    }
    let (nonzero, all) = model.encoder_weights();
    let progress = Progress::start("prune", 4 * stats.len() as u64, "matrices");
    let mut jobs: Vec<(usize, MatrixKind, Vec<Named<'_>>)> = Vec::new();
    for (index, layer) in model.layers.iter_mut().enumerate() {
        for (kind, linears) in by_matrix(layer) {
            jobs.push((index, kind, linears));
        }
    }
    // The largest first, so that no thread is left with one at the end; results are re-ordered.
    jobs.sort_by_key(|(index, kind, linears)| {
        let cols = linears.first().map_or(0, |(_, linear)| linear.weight.cols);
        (std::cmp::Reverse(cols), *index, *kind as usize)
    });
    let mut reports = jobs
        .into_par_iter()
        .map(|(index, kind, mut linears)| {
            let input = &stats[index].inputs[kind as usize];
            let seed = options.seed.wrapping_mul(1 << 20) + (index * 4 + kind as usize) as u64;
            let report = matrix::prune(index, kind, &mut linears, input, (options, groups), seed)?;
            progress.advance(1);
            Ok(report)
        })
        .collect::<Result<Vec<MatrixReport>>>()?;
    progress.finish();
    reports.sort_by_key(|report| (report.layer, report.order));
    Ok(Report::new(options, groups, reports, nonzero as f64 / all as f64))
}

/// A linear layer and its Hugging Face name.
type Named<'a> = (&'static str, &'a mut Linear);

/// The linear layers of each packed matrix.
fn by_matrix(layer: &mut Layer) -> [(MatrixKind, Vec<Named<'_>>); 4] {
    let [query, key, value, output, ffn_in, ffn_out] = layer.linears_mut();
    [
        (MatrixKind::Qkv, vec![query, key, value]),
        (MatrixKind::AttentionOutput, vec![output]),
        (MatrixKind::FeedForwardIn, vec![ffn_in]),
        (MatrixKind::FeedForwardOut, vec![ffn_out]),
    ]
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::calibrate;
    use crate::model::{Activation, Config, Embeddings, LayerNorm, Matrix, Pooling};

    fn model(hidden: usize, wide: usize, seed: u64) -> DenseModel {
        let mut random = StdRng::seed_from_u64(seed);
        let mut matrix = |rows: usize, cols: usize| Matrix {
            rows,
            cols,
            data: (0..rows * cols).map(|_| random.random::<f32>() - 0.5).collect(),
        };
        let norm = || LayerNorm { gamma: vec![1.0; hidden], beta: vec![0.1; hidden] };
        let embeddings = Embeddings {
            word: matrix(50, hidden),
            position: matrix(16, hidden),
            token_type: matrix(2, hidden),
            norm: norm(),
        };
        let mut linear = |rows, cols| Linear { weight: matrix(rows, cols), bias: vec![0.1; rows] };
        let layer = Layer {
            query: linear(hidden, hidden),
            key: linear(hidden, hidden),
            value: linear(hidden, hidden),
            attention_output: linear(hidden, hidden),
            attention_norm: norm(),
            ffn_in: linear(wide, hidden),
            ffn_out: linear(hidden, wide),
            ffn_norm: norm(),
        };
        DenseModel {
            name: "random".into(),
            config: Config {
                hidden_size: hidden,
                layers: 1,
                heads: 2,
                intermediate_size: wide,
                vocab_size: 50,
                max_positions: 16,
                token_types: 2,
                layer_norm_eps: 1e-12,
                activation: Activation::Gelu,
            },
            embeddings,
            layers: vec![layer],
            pooling: Pooling::Mean,
            normalize: true,
            max_tokens: 16,
            tokenizer: Vec::new(),
        }
    }

    fn stats(model: &DenseModel) -> Vec<LayerStats> {
        let mut random = StdRng::seed_from_u64(9);
        let sentences: Vec<Vec<u32>> = (0..60)
            .map(|n| (0..3 + n % 12).map(|_| random.random_range(0..50)).collect())
            .collect();
        calibrate::collect(model, &sentences).unwrap()
    }

    fn options(density: f64, groups: usize) -> Options {
        Options { density, groups: Some(groups), ..Options::default() }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_weights() {
        let dense = model(32, 64, 1);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut model = dense.clone();
                prune(&mut model, &stats(&dense), &options(0.5, 4)).unwrap();
                model.layers
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn the_density_is_met_and_full_density_changes_nothing() {
        let dense = model(32, 64, 2);
        let stats = stats(&dense);
        for (density, groups) in [(0.5, 4), (0.25, 2), (0.1, 8), (1.0, 1), (1.0, 4)] {
            let mut model = dense.clone();
            let report = prune(&mut model, &stats, &options(density, groups)).unwrap();
            assert!((report.density - density).abs() < 0.02, "{density}: {}", report.density);
            let (kept, all) = model.encoder_weights();
            assert_eq!(report.density, kept as f64 / all as f64);
            if density == 1.0 {
                for (new, old) in model.layers[0].linears().iter().zip(dense.layers[0].linears()) {
                    for (a, b) in new.1.weight.data.iter().zip(&old.1.weight.data) {
                        assert!((a - b).abs() < 1e-4);
                    }
                }
            }
        }
    }

    #[test]
    fn tiny_matrices_can_be_pruned() {
        let dense = model(2, 3, 3);
        let stats = stats(&dense);
        for groups in [1, 2] {
            for density in [0.01, 0.5, 1.0] {
                prune(&mut dense.clone(), &stats, &options(density, groups)).unwrap();
            }
        }
    }

    #[test]
    fn impossible_options_are_refused() {
        let dense = model(4, 8, 4);
        let stats = stats(&dense);
        let shared = Options { shared: Some(0.9), ..options(0.5, 2) };
        for bad in [
            options(0.0, 2),
            options(1.5, 2),
            options(f64::NAN, 2),
            options(0.5, 0),
            options(0.5, 5),
            shared,
        ] {
            assert!(prune(&mut dense.clone(), &stats, &bad).is_err(), "{bad:?}");
        }
        assert!(prune(&mut dense.clone(), &[], &options(0.5, 2)).is_err());
    }
}
