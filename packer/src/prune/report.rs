//! What pruning did, as a table for people and as JSON.

use std::fmt;

use serde::Serialize;

use super::Options;

/// One matrix after pruning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixReport {
    /// Encoder layer.
    pub layer: usize,
    /// Place among the layer's four matrices.
    #[serde(skip)]
    pub order: usize,
    /// Name of the packed matrix: "qkv", "attention.output", "ffn.in", "ffn.out".
    pub matrix: &'static str,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Weights kept.
    pub kept: usize,
    /// Weights kept / all weights.
    pub density: f64,
    /// Groups of outputs.
    pub groups: usize,
    /// Inputs that all outputs keep.
    pub shared: usize,
    /// Inputs that no output keeps.
    pub dropped: usize,
    /// Energy of the output's change / energy of the output around its mean, on the calibration
    /// text.
    pub error: f64,
}

/// All matrices after pruning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The density that was asked for.
    pub requested_density: f64,
    /// Weights kept / all weights of the encoder's linear layers.
    pub density: f64,
    /// The same before pruning: below 1 when the checkpoint was sparse already.
    pub density_before: f64,
    /// Groups per matrix.
    pub groups: usize,
    /// Seed of the random starts.
    pub seed: u64,
    /// Mean of the matrices' errors.
    pub error: f64,
    /// The matrices, from the bottom up.
    pub matrices: Vec<MatrixReport>,
}

impl Report {
    /// Sums up the matrices.
    pub fn new(
        options: &Options,
        groups: usize,
        matrices: Vec<MatrixReport>,
        density_before: f64,
    ) -> Self {
        let kept: usize = matrices.iter().map(|m| m.kept).sum();
        let all: usize = matrices.iter().map(|m| m.rows * m.cols).sum();
        let error = matrices.iter().map(|m| m.error).sum::<f64>() / matrices.len().max(1) as f64;
        Self {
            requested_density: options.density,
            density: kept as f64 / all.max(1) as f64,
            density_before,
            groups,
            seed: options.seed,
            error,
            matrices,
        }
    }

    /// Whether the checkpoint had zeros worth mentioning before pruning.
    pub fn was_sparse(&self) -> bool {
        self.density_before < 0.99
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>5}  {:<16}  {:>11}  {:>6}  {:>6}  {:>7}  {:>6}",
            "layer", "matrix", "shape", "groups", "shared", "density", "error"
        )?;
        for m in &self.matrices {
            writeln!(
                f,
                "{:>5}  {:<16}  {:>11}  {:>6}  {:>6}  {:>7.4}  {:>6.4}",
                m.layer,
                m.matrix,
                format!("{}x{}", m.rows, m.cols),
                m.groups,
                m.shared,
                m.density,
                m.error
            )?;
        }
        write!(f, "all: density {:.4}, mean error {:.4}", self.density, self.error)
    }
}
