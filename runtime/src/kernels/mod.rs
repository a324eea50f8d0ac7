//! The hot primitives of the encoder, behind one trait, and the choice of a backend.
//!
//! Four layers: [`scalar`] is the specification; [`generic`] has each algorithm once, over vectors
//! of tokens; a thin file per instruction set says what a vector is; `registry` lists them and
//! picks one. Every backend gives the same bits. Nothing outside this module knows an instruction
//! set.
//!
//! Activations are kept in **tiles of 16 tokens**, `[tile][feature][16 tokens]`: a feature's
//! values of a tile are one [`Column`]. A vector holds tokens, never features, so that gathering
//! inputs and scattering outputs is a choice of columns and costs nothing, and every reduction
//! over features adds whole vectors.

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
pub mod aarch64;
#[cfg(armv7_neon)]
pub mod armv7;
#[cfg(any(cortex_m_dsp, cortex_m_mve))]
pub mod cortex_m;
pub mod generic;
pub mod int4;
#[cfg(any(armv7_neon, cortex_m_dsp, cortex_m_mve))]
mod pairs;
mod registry;
pub mod scalar;
#[cfg(test)]
mod tests;
pub mod wide;
#[cfg(target_arch = "x86_64")]
pub mod x86;

use half::f16;

use crate::view::Indices;

pub use registry::{Entry, available, by_name, default, entries};

/// Tokens of a tile.
pub const TILE_TOKENS: usize = 16;

/// One feature of the 16 tokens of a tile. Lanes of tokens that are not there hold anything.
pub type Column = [f32; TILE_TOKENS];

/// Most bytes that a panel takes per input and tile, of all backends; see [`Backend::pack`].
pub const PANEL_BYTES: usize = 2 * TILE_TOKENS;

/// How one row was quantized: `x ≈ scale × (q − zero)`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowScale {
    /// Size of one step.
    pub scale: f32,
    /// The q of x = 0, in −128..=127.
    pub zero: i32,
}

/// How the tokens of a tile were quantized, token by token.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub struct TileScales {
    /// Size of one step.
    pub scale: Column,
    /// 1 / scale, or 0.
    pub inverse: Column,
    /// The q of x = 0, a whole number.
    pub shift: Column,
    /// The same as an integer, in −128..=127.
    pub zero: [i32; TILE_TOKENS],
}

impl TileScales {
    /// Nothing quantized yet.
    pub const EMPTY: Self = Self {
        scale: [0.0; TILE_TOKENS],
        inverse: [0.0; TILE_TOKENS],
        shift: [0.0; TILE_TOKENS],
        zero: [0; TILE_TOKENS],
    };

    /// Sets what follows from the range of one token's values.
    #[inline(always)]
    pub(crate) fn set(&mut self, token: usize, lowest: f32, highest: f32) {
        let (row, inverse, shift) = row_scale(lowest, highest);
        let lanes = self.scale.iter_mut().zip(&mut self.inverse);
        let lanes = lanes.zip(&mut self.shift).zip(&mut self.zero);
        if let Some((((s, i), f), z)) = lanes.into_iter().nth(token) {
            (*s, *i, *f, *z) = (row.scale, inverse, shift, row.zero);
        }
    }
}

/// Activation between the feed-forward matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by the error function.
    Gelu,
    /// The same within 2e-4, for outputs that are quantized to int8 next.
    GeluNear,
    /// GELU by tanh.
    GeluTanh,
    /// ReLU.
    Relu,
}

/// Some columns of a tile on their way into a panel.
#[derive(Debug, Clone, Copy)]
pub struct Pack<'a> {
    /// The tile, `[features]`.
    pub x: &'a [Column],
    /// Factors of the features, `[features]`.
    pub equalize: &'a [f32],
    /// The tile's scales.
    pub scales: &'a TileScales,
    /// Which features.
    pub inputs: Indices<'a>,
    /// Position of the first of them among the group's inputs, a multiple of 16.
    pub at: usize,
    /// Tokens that are there, 1 to 16.
    pub live: usize,
}

/// An int8 group with what its outputs need.
#[derive(Debug, Clone, Copy)]
pub struct GroupI8<'a> {
    /// Weights in layout `r4k16`, `[outputs / 4][depth / 16][4][16]`.
    pub block: &'a [i8],
    /// Inputs, shared and own, without padding.
    pub depth: usize,
    /// Where the outputs go.
    pub outputs: Indices<'a>,
    /// Bias per output, padded to a multiple of 4.
    pub bias: &'a [f32],
    /// Weight scale per output, padded likewise.
    pub scale: &'a [f32],
    /// Sum of the weights per output, padded likewise.
    pub sum: &'a [i32],
    /// What follows.
    pub activation: Option<Activation>,
}

/// A block of float weights in layout `r4k16`, `[outputs / 4][depth][4]`.
#[derive(Debug, Clone, Copy)]
pub enum FloatBlock<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision, widened exactly.
    F16(&'a [f16]),
}

/// A group of float weights with what its outputs need.
#[derive(Debug, Clone, Copy)]
pub struct GroupFloat<'a> {
    /// Weights.
    pub block: FloatBlock<'a>,
    /// Inputs, shared and own.
    pub depth: usize,
    /// Where the outputs go.
    pub outputs: Indices<'a>,
    /// Bias per output, padded to a multiple of 4.
    pub bias: &'a [f32],
    /// What follows.
    pub activation: Option<Activation>,
}

/// The quantized inputs of some tiles: one panel after the other.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    /// `[tiles]` panels of [`Backend::panel_bytes`] of the capacity.
    pub bytes: &'a [u8],
    /// Inputs that a panel has room for, a multiple of 16.
    pub capacity: usize,
}

/// Where a matmul writes: `[tiles][features]` columns.
#[derive(Debug)]
pub struct Output<'a> {
    /// The columns.
    pub columns: &'a mut [Column],
    /// Columns per tile.
    pub features: usize,
    /// Tokens in all; the last tile may have fewer than 16.
    pub tokens: usize,
}

/// LayerNorm's weight `[features]`, bias `[features]` and epsilon.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Weight.
    pub gamma: &'a [f32],
    /// Bias.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
}

/// One head of one tile of queries against the keys and values of one text.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// The tile's query, `[head size]`.
    pub query: &'a [Column],
    /// Q, K and V of all tokens, `[tiles][stride]`.
    pub qkv: &'a [Column],
    /// Columns per tile of `qkv`.
    pub stride: usize,
    /// First feature of the head's key.
    pub key: usize,
    /// First feature of the head's value.
    pub value: usize,
    /// The text's first token.
    pub first: usize,
    /// The text's tokens.
    pub count: usize,
    /// Scores are multiplied with it: 1/√(head size).
    pub factor: f32,
    /// The tile's queries that belong to the text.
    pub lanes: (usize, usize),
}

/// One head's keys or values of a text, on the tiles that hold them.
///
/// Position 0 is the first token of the first of these tiles, whichever text it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Columns of all tokens, `[tiles][stride]`.
    pub qkv: &'a [Column],
    /// Columns per tile.
    pub stride: usize,
    /// First feature of the head's key or value.
    pub feature: usize,
    /// Head size.
    pub size: usize,
    /// The text's first token.
    pub first: usize,
    /// The text's tokens.
    pub count: usize,
}

impl<'a> Span<'a> {
    /// Tokens of other texts before the text's, on its first tile.
    #[inline(always)]
    pub fn lead(&self) -> usize {
        self.first % TILE_TOKENS
    }

    /// Positions, a multiple of 16.
    #[inline(always)]
    pub fn positions(&self) -> usize {
        (self.lead() + self.count).next_multiple_of(TILE_TOKENS)
    }

    /// The head's columns of tile `tile` of the span.
    #[inline(always)]
    fn tile(&self, tile: usize) -> &'a [Column] {
        let at = (self.first / TILE_TOKENS + tile) * self.stride + self.feature;
        self.qkv.get(at..).and_then(|rest| rest.get(..self.size)).unwrap_or_default()
    }

    /// The text's lanes of tile `tile` of the span.
    #[inline(always)]
    fn lanes(&self, tile: usize) -> (usize, usize) {
        let start = tile * TILE_TOKENS;
        let (first, end) = (self.lead(), self.lead() + self.count);
        (first.max(start) - start, end.min(start + TILE_TOKENS).saturating_sub(start))
    }
}

/// A matrix made at run time for [`Backend::matmul_i8`], in layout `r4k16`.
#[derive(Debug)]
pub struct Quantized<'a> {
    /// `[rows / 4][depth / 16][4][16]`.
    pub block: &'a mut [i8],
    /// Scale per row, padded to a multiple of 4.
    pub scale: &'a mut [f32],
    /// Sum per row, padded likewise.
    pub sum: &'a mut [i32],
}

/// Some tokens' scores on their way into a panel.
#[derive(Debug, Clone, Copy)]
pub struct Scores<'a> {
    /// A column for every position, as many as a multiple of 16.
    pub columns: &'a [Column],
    /// The text's first position; the others count for nothing.
    pub first: usize,
    /// The text's tokens.
    pub count: usize,
    /// Scores are multiplied with it: log₂ e / √(head size).
    pub factor: f32,
    /// Tokens of the tile that are there.
    pub live: usize,
}

/// One instruction set's form of the hot primitives; see `docs/numerics.md` for the definitions.
///
/// Slices that belong together have fitting lengths; a backend must not panic when they have not,
/// and may leave out what does not fit.
pub trait Backend: Sync {
    /// The name used by `--backend` and `GROUSE_BACKEND`.
    fn name(&self) -> &'static str;

    /// Finds the scales for a tile of `live` tokens, `[features]`, with factors `[features]`.
    fn scales(&self, x: &[Column], equalize: &[f32], live: usize) -> TileScales;

    /// Bytes of one tile's panel with room for `capacity` inputs, a multiple of 16: at most
    /// [`PANEL_BYTES`] for each.
    fn panel_bytes(&self, capacity: usize) -> usize;

    /// Quantizes some columns of a tile into its panel with room for `capacity` inputs, in the
    /// order that this backend's [`Backend::matmul_i8`] reads.
    fn pack(&self, job: &Pack<'_>, capacity: usize, panel: &mut [u8]);

    /// A group's outputs for all tiles of `panels`; the group has at least one input.
    fn matmul_i8(
        &self,
        group: &GroupI8<'_>,
        panels: &Panels<'_>,
        scales: &[TileScales],
        out: &mut Output<'_>,
    );

    /// What [`Backend::matmul_i8`] does after the products, for `products` that were worked out
    /// elsewhere: i32 `[tokens][outputs rounded up to 4]`. The group's block is not read.
    fn rescale(
        &self,
        group: &GroupI8<'_>,
        products: &[i32],
        scales: &[TileScales],
        out: &mut Output<'_>,
    ) {
        scalar::rescale(group, products, scales, out);
    }

    /// Unpacks rows of an int4 block with `depth` columns, four by four, into layout `r4k16` of
    /// int8. The multipliers are sound.
    fn unpack_i4(&self, packed: &[u8], depth: usize, out: &mut [i8]);

    /// A group's outputs for `panels`, `[tiles][depth]`.
    fn matmul_float(&self, group: &GroupFloat<'_>, panels: &[Column], out: &mut Output<'_>);

    /// `x = LayerNorm(x + add)` for a tile of `live` tokens; an empty `add` adds nothing.
    fn norm(&self, x: &mut [Column], add: &[Column], norm: &Norm<'_>, live: usize);

    /// Quantizes a head's keys: a row for every position, `[positions][size]`.
    fn keys(&self, span: &Span<'_>, out: &mut Quantized<'_>);

    /// Quantizes a head's values with one scale, transposed: `[size][positions]`, 0 where another
    /// text stands. Sums need only be there if [`Backend::matmul_i8`] reads them when the zero
    /// point is −128, that of [`Backend::softmax`].
    fn values(&self, span: &Span<'_>, out: &mut Quantized<'_>);

    /// The numerators of a softmax as unsigned bytes in a panel with room for `capacity` inputs,
    /// and their scales: 1 / denominator.
    fn softmax(&self, scores: &Scores<'_>, capacity: usize, panel: &mut [u8]) -> TileScales;

    /// Softmax(q Kᵀ × factor) V for the lanes of a tile; other lanes of `context` hold anything.
    /// `scores` has a column for every token of all texts, `context` is `[head size]`.
    fn attend(&self, job: &Attend<'_>, scores: &mut [Column], context: &mut [Column]);
}

/// Whether a scale and its inverse can be made of it.
#[inline(always)]
fn usable_range(range: f32) -> bool {
    range > 1e-30 && range < f32::INFINITY
}

/// How values with the largest magnitude `most` become −127 to 127: scale and its inverse.
#[inline(always)]
fn symmetric_scale(most: f32) -> (f32, f32) {
    // As in `row_scale`; what is not finite is passed on.
    if !usable_range(most) {
        return (if most < 1.0 { 0.0 } else { f32::NAN }, 0.0);
    }
    (most / 127.0, 127.0 / most)
}

/// What follows the range of a row: the quantizer's scale, its inverse and zero point.
///
/// Shared by all backends so that the few scalar steps per row are written once.
#[inline(always)]
fn row_scale(lowest: f32, highest: f32) -> (RowScale, f32, f32) {
    let range = highest - lowest;
    // Below this the inverse would overflow; such a row is zero for every purpose. An overflow
    // above is passed on as NaN, so that the encoder can tell.
    if !usable_range(range) {
        let scale = if range < 1.0 { 0.0 } else { f32::NAN };
        return (RowScale { scale, zero: 0 }, 0.0, 0.0);
    }
    let inverse = 255.0 / range;
    let zero = crate::math::round_even(-128.0 - lowest * inverse);
    (RowScale { scale: range / 255.0, zero: zero as i32 }, inverse, zero)
}
