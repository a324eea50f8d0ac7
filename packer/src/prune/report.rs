//! What pruning did, as a table for people and as JSON.

use std::fmt;

use grouse_runtime::format::MatrixKind;
use serde::Serialize;

use super::auto::SearchReport;
use super::groups::Groups;
use super::version::Version;
use super::{Method, Options};
use crate::model::Linear;

/// One matrix after pruning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixReport {
    /// Encoder layer.
    pub layer: usize,
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
    /// Outputs and own inputs of each group; empty where single weights were removed.
    pub blocks: Vec<(usize, usize)>,
    /// Inputs that all outputs keep.
    pub shared: usize,
    /// Inputs that no output keeps.
    pub dropped: usize,
    /// Outputs that are not there any more: of heads or neurons that were left out.
    pub gone: usize,
    /// Energy of the output's change / energy of the output around its mean, on the calibration
    /// text.
    pub error: f64,
}

impl MatrixReport {
    /// What the stacked `linears` are like now; `version` is what they were made of, if groups
    /// were.
    pub fn new(
        layer: usize,
        kind: MatrixKind,
        version: Option<&Version>,
        linears: &[&Linear],
    ) -> Self {
        let rows: usize = linears.iter().map(|l| l.weight.rows).sum();
        let cols = linears.first().map_or(0, |l| l.weight.cols);
        let kept: usize = linears.iter().map(|l| l.weight.nonzeros()).sum();
        let inputs_at = |place: fn(&Groups) -> usize| {
            version.map_or(0, |v| v.groups.inputs_at(place(&v.groups)).len())
        };
        Self {
            layer,
            matrix: kind.name(),
            rows,
            cols,
            kept,
            density: kept as f64 / (rows * cols).max(1) as f64,
            groups: version.map_or(1, |v| v.groups.count),
            blocks: version.map_or_else(Vec::new, |v| {
                let block = |g| (v.groups.outputs(g).len(), v.groups.inputs_at(g).len());
                (0..v.groups.count).map(block).collect()
            }),
            shared: inputs_at(Groups::shared),
            dropped: inputs_at(Groups::dropped),
            gone: version.map_or(0, |v| v.groups.outputs(v.groups.dropped()).len()),
            error: version.map_or(0.0, |v| v.error),
        }
    }
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
    /// How weights were chosen.
    pub method: Method,
    /// Seed of everything random.
    pub seed: u64,
    /// Mean of the matrices' errors.
    pub error: f64,
    /// The matrices, from the bottom up.
    pub matrices: Vec<MatrixReport>,
    /// What the search tried.
    pub search: Option<SearchReport>,
}

impl Report {
    /// Sums up the matrices.
    pub fn new(
        options: &Options,
        matrices: Vec<MatrixReport>,
        density_before: f64,
        search: Option<SearchReport>,
    ) -> Self {
        let kept: usize = matrices.iter().map(|m| m.kept).sum();
        let all: usize = matrices.iter().map(|m| m.rows * m.cols).sum();
        let error = matrices.iter().map(|m| m.error).sum::<f64>() / matrices.len().max(1) as f64;
        Self {
            requested_density: options.density,
            density: kept as f64 / all.max(1) as f64,
            density_before,
            method: options.method,
            seed: options.seed,
            error,
            matrices,
            search,
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
            "{:>5}  {:<16}  {:>11}  {:>11}  {:>6}  {:>6}  {:>7}  {:>6}",
            "layer", "matrix", "shape", "left", "groups", "shared", "density", "error"
        )?;
        for m in &self.matrices {
            writeln!(
                f,
                "{:>5}  {:<16}  {:>11}  {:>11}  {:>6}  {:>6}  {:>7.4}  {:>6.4}",
                m.layer,
                m.matrix,
                format!("{}x{}", m.rows, m.cols),
                format!("{}x{}", m.rows - m.gone, m.cols - m.dropped),
                m.groups,
                m.shared,
                m.density,
                m.error
            )?;
        }
        if let Some(search) = &self.search {
            writeln!(
                f,
                "search: {} candidates, agreement {:.4}, of the seed {:.4}",
                search.candidates.len(),
                search.best_score,
                search.seed_score
            )?;
        }
        write!(f, "all: density {:.4}, mean error {:.4}", self.density, self.error)
    }
}
