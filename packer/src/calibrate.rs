//! Calibration: what every linear layer sees when the dense model reads sample sentences.

use crate::model::Matrix;

/// Statistics of one linear layer's input over all tokens of the calibration sentences.
#[derive(Debug, Clone)]
pub struct InputStats {
    /// Tokens seen.
    pub tokens: usize,
    /// Mean of each input, `[cols]`.
    pub mean: Vec<f32>,
    /// Largest magnitude of each input, `[cols]`.
    pub max_abs: Vec<f32>,
    /// Second moment `E[x xᵀ]`, `[cols][cols]`.
    pub second_moment: Matrix,
    /// A few rows of real inputs, evenly spread over the text, `[samples][cols]`.
    pub samples: Matrix,
}

/// Statistics of a layer's four inputs, in the order of `grouse_runtime::format::MatrixKind`.
#[derive(Debug, Clone)]
pub struct LayerStats {
    /// Input of query, key and value; of attention output; of feed-forward up; of feed-forward down.
    pub inputs: [InputStats; 4],
}
