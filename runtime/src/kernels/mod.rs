//! The hot primitives of the encoder, behind one trait, and the choice of a backend.
//!
//! [`scalar`] is the specification; every other backend gives the same bits. Nothing outside this
//! module knows an instruction set.

pub mod scalar;
#[cfg(test)]
mod tests;
pub mod wide;

use half::f16;

use crate::format::TILE_ROWS;
use crate::math::LANES;

/// Most tokens that one call of a matrix primitive handles.
pub const TOKENS_PER_CALL: usize = 4;

/// How a row was quantized: `x ≈ scale × (q − zero)`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowScale {
    /// Size of one step.
    pub scale: f32,
    /// The q of x = 0, in −128..=127.
    pub zero: i32,
}

/// Sums of products of one tile of 16 outputs with up to four tokens.
pub type TileSums<T> = [[T; TILE_ROWS]; TOKENS_PER_CALL];

/// Activation between the feed-forward matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the error function.
    Gelu,
    /// GELU by tanh.
    GeluTanh,
    /// ReLU.
    Relu,
}

/// One instruction set's form of the hot primitives; see `docs/numerics.md` for the definitions.
///
/// Slices that belong together have equal lengths; a backend must not panic when they do not, and
/// works on the shorter.
pub trait Backend: Sync {
    /// The name used by `--backend` and `GROUSE_BACKEND`.
    fn name(&self) -> &'static str;

    /// Quantizes `x × equalize` to int8 with one scale and zero point. All three have one length.
    fn quantize_row(&self, x: &[f32], equalize: &[f32], q: &mut [i8]) -> RowScale;

    /// Adds to `sums` the exact int32 dot products of a tile `[depth / 4][16][4]` with the rows of
    /// `panel`: one row per token, at most [`TOKENS_PER_CALL`], `stride` apart.
    fn tile_i8(&self, tile: &[i8], panel: &[i8], stride: usize, sums: &mut TileSums<i32>);

    /// Adds to `sums` the dot products of a tile `[depth][16]` with the rows of `panel`, in the
    /// order of the inputs.
    fn tile_f32(&self, tile: &[f32], panel: &[f32], stride: usize, sums: &mut TileSums<f32>);

    /// As [`Backend::tile_f32`] with weights widened from f16.
    fn tile_f16(&self, tile: &[f16], panel: &[f32], stride: usize, sums: &mut TileSums<f32>);

    /// `out[j] = Σ_i a[i] × m[i × stride + j]`, added up in the order of i.
    fn vector_matrix(&self, a: &[f32], m: &[f32], stride: usize, out: &mut [f32]);

    /// LayerNorm of a row in place.
    fn layer_norm(&self, x: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32);

    /// Softmax of `x × factor` in place.
    fn softmax(&self, x: &mut [f32], factor: f32);

    /// Activation in place.
    fn activate(&self, x: &mut [f32], activation: Activation);

    /// `Σ x²` in lanes.
    fn sum_of_squares(&self, x: &[f32]) -> f32;
}

/// All backends of this build, fastest last.
pub const BACKENDS: [&'static dyn Backend; 2] = [&scalar::Scalar, &wide::Wide];

/// The backend called `name`.
pub fn by_name(name: &str) -> Option<&'static dyn Backend> {
    BACKENDS.into_iter().find(|b| b.name() == name)
}

/// The backend used when none is named.
pub fn default() -> &'static dyn Backend {
    &wide::Wide
}

/// What follows the range of a row: the quantizer's scale, its inverse and zero point.
///
/// Shared by all backends so that the few scalar steps per row are written once.
#[inline(always)]
fn row_scale(lowest: f32, highest: f32) -> (RowScale, f32, f32) {
    let range = highest - lowest;
    // Below this the inverse would overflow; such a row is zero for every purpose. An overflow
    // above is passed on as NaN, so that the encoder can tell.
    if !(range > 1e-30 && range < f32::INFINITY) {
        let scale = if range < 1.0 { 0.0 } else { f32::NAN };
        return (RowScale { scale, zero: 0 }, 0.0, 0.0);
    }
    let inverse = 255.0 / range;
    let zero = crate::math::round_even(-128.0 - lowest * inverse);
    (RowScale { scale: range / 255.0, zero: zero as i32 }, inverse, zero)
}

/// Splits a row into whole runs of [`LANES`] and the rest.
#[inline(always)]
fn lanes(x: &[f32]) -> (&[[f32; LANES]], &[f32]) {
    x.as_chunks::<LANES>()
}
