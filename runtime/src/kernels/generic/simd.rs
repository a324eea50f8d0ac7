//! What an instruction set supplies: vectors of tokens, and its form of the int8 dot product.

use half::f16;

use crate::format::{TILE_I4, TILE_ROWS};
use crate::kernels::{Column, Pack};
use crate::math;

use super::attention8;
use super::matmul::{self, Inputs};
use super::unpack::{self, TILE};

/// Vectors of tokens: f32 and i32, [`Simd::LANES`] of each.
///
/// A value of the type is the proof that the instructions exist; all methods are small and always
/// inlined into [`Isa::run`].
pub trait Simd: Copy + Sync {
    /// Tokens in a vector; divides 16.
    const LANES: usize;
    /// Vectors of sums that a float matmul holds at once: 4, 8 or 16.
    const FLOAT_SUMS: usize = 16;
    /// Vector of f32.
    type F: Copy;
    /// Vector of i32.
    type I: Copy;

    /// All lanes `v`.
    fn splat(self, v: f32) -> Self::F;
    /// Vector `part` of a column; `part` counts modulo 16 / LANES.
    fn load(self, column: &Column, part: usize) -> Self::F;
    /// Writes vector `part` of a column.
    fn store(self, column: &mut Column, part: usize, v: Self::F);
    /// a + b.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a − b.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a × b.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// √a, correctly rounded.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// a if a > b, else b; but where both are zeros, +0 is right too. Callers see to it that
    /// neither is a signaling NaN and b is no NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// a if a < b, else b; but where both are zeros, −0 is right too. As for `max`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// |a|.
    fn abs(self, a: Self::F) -> Self::F;
    /// 0 if 0 > a, else a, which may be NaN; of a zero the sign may be lost.
    fn positive(self, a: Self::F) -> Self::F;
    /// 2ⁿ for a whole n in −126..=127.
    fn exp2(self, n: Self::F) -> Self::F;
    /// v × 2ⁿ for a whole n in −126..=127, when v and the product are normal or 0.
    #[inline(always)]
    fn times_exp2(self, v: Self::F, n: Self::F) -> Self::F {
        self.mul(v, self.exp2(n))
    }
    /// The nearest whole number of one below 2²² either way, ties to even; a zero may have either
    /// sign.
    #[inline(always)]
    fn round_even(self, v: Self::F) -> Self::F {
        self.sub(self.add(v, self.splat(math::ROUND)), self.splat(math::ROUND))
    }
    /// Whole numbers as integers.
    fn to_int(self, v: Self::F) -> Self::I;
    /// Integers as floats, rounded to nearest even.
    fn to_float(self, v: Self::I) -> Self::F;
    /// All lanes `v`.
    fn splat_int(self, v: i32) -> Self::I;
    /// Vector `part` of sixteen integers.
    fn load_int(self, column: &[i32; 16], part: usize) -> Self::I;
    /// Four numbers in −128..=127 as the bytes of a word, the first lowest.
    fn interleave(self, bytes: [Self::I; 4]) -> Self::I;
    /// Writes vector `part` of sixteen bytes: the low byte of each lane.
    fn store_bytes(self, bytes: &mut [i8; 16], part: usize, v: Self::I);
    /// Writes vector `part` of sixteen integers.
    fn store_int(self, column: &mut [i32; 16], part: usize, v: Self::I);
    /// a + b, wrapping.
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// a − b, wrapping.
    fn sub_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each vector times its number.
    #[inline(always)]
    fn mul_each(self, a: [Self::F; 4], by: &[f32; 4]) -> [Self::F; 4] {
        let [w, x, y, z] = a;
        [
            self.mul(w, self.splat(by[0])),
            self.mul(x, self.splat(by[1])),
            self.mul(y, self.splat(by[2])),
            self.mul(z, self.splat(by[3])),
        ]
    }
    /// a × b, wrapping.
    fn mul_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// Quantizes a column by one inverse scale to −127..=127, a number that is none to −127.
    /// Finite values are no larger than 127 / `inverse`.
    #[inline(always)]
    fn quantize_row(self, column: &Column, inverse: f32, row: &mut [i8; 16]) {
        attention8::quantize_row(self, column, inverse, row);
    }
    /// Quantizes sixteen features of sixteen tokens, each token by its inverse scale as in
    /// [`Simd::quantize_row`], to a row of sixteen bytes for every token, and adds up each row.
    #[inline(always)]
    fn quantize_tokens(
        self,
        columns: &[Column; 16],
        inverse: &Column,
        sums: &mut [i32; 16],
        rows: &mut [[i8; TILE]; 4],
    ) {
        attention8::quantize_tokens(self, columns, inverse, sums, rows);
    }
    /// Unpacks `T` int4 tiles of four rows with sound multipliers; see
    /// [`crate::kernels::int4::unpack_tile`].
    #[inline(always)]
    fn unpack_run<const T: usize>(
        self,
        multipliers: &[u8; TILE_ROWS],
        codes: &[[u8; TILE_I4]; T],
        out: &mut [[i8; TILE]; T],
    ) {
        unpack::run(multipliers, codes, out);
    }
}

/// The int8 dot product of an instruction set.
///
/// A **panel** holds a tile's quantized inputs as steps of four, [`Dot::STEP`] bytes each, in the
/// order that [`Dot::accumulate`] likes.
pub trait Dot: Simd {
    /// Bytes of four inputs of sixteen tokens.
    const STEP: usize;
    /// What the panel's values are above q: 128 where the instruction wants unsigned bytes.
    const OFFSET: i32;
    /// Most rows (a multiple of 4) and tiles that [`Dot::accumulate`] takes when there is one tile
    /// left, and when there are more.
    const SHAPES: [(usize, usize); 2];

    /// Quantizes vector `part` of some inputs into their four steps of a panel.
    fn pack(self, inputs: &Inputs<'_>, part: usize, tile: &mut [u8]);

    /// Quantizes the inputs of `list` for the vectors that hold tokens, from the start of `panel`
    /// on; `job.inputs` and `job.at` are not looked at.
    #[inline(always)]
    fn pack_list(self, job: &Pack<'_>, list: &[u16], panel: &mut [u8]) {
        matmul::pack_list(self, job, list, panel);
    }

    /// Writes vector `part` of four steps of a panel, the four inputs of each interleaved.
    fn pack_words(self, words: [Self::I; 4], part: usize, tile: &mut [u8]);

    /// Gives `sink` the sums of products of `weights` with the panels: for each row below
    /// `weights.rows`, each tile and part. `live` tokens are there in the last tile.
    fn accumulate(
        self,
        weights: &Weights<'_>,
        panels: &Steps<'_>,
        live: usize,
        sink: &mut impl Sink<Self::I>,
    );
}

/// What becomes of sums.
///
/// A trait and not a closure: only a function that is always inlined is sure to be compiled with
/// the instructions of [`Isa::run`].
pub trait Sink<I> {
    /// Takes some sums; always inlined.
    fn put<const N: usize>(&mut self, acc: Acc<I, N>);
}

/// Sums of four rows with the tokens of `N` vectors.
#[derive(Debug, Clone, Copy)]
pub struct Acc<I, const N: usize> {
    /// First row, below [`Weights::rows`].
    pub row: usize,
    /// Tile.
    pub tile: usize,
    /// First vector of the tile.
    pub part: usize,
    /// The sums; after the tile's last vector comes the next tile's first.
    pub sums: [[I; N]; TILE_ROWS],
}

/// The panels of some tiles.
#[derive(Debug, Clone, Copy)]
pub struct Steps<'a> {
    /// Each panel's steps, one after the other.
    pub bytes: &'a [u8],
    /// Bytes from one panel to the next.
    pub stride: usize,
    /// Panels.
    pub tiles: usize,
}

/// Some rows of a block in layout `r4k16`.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// `[rows / 4][padded depth / 16][4][16]`.
    pub block: &'a [i8],
    /// A multiple of 4.
    pub rows: usize,
    /// Inputs, without padding.
    pub depth: usize,
}

impl Weights<'_> {
    /// Bytes of four rows.
    #[inline(always)]
    pub fn quad_bytes(&self) -> usize {
        crate::format::round_up(self.depth, 16) * 4
    }

    /// Steps of four inputs.
    #[inline(always)]
    pub fn steps(&self) -> usize {
        self.depth.div_ceil(4)
    }

    /// Whether the block has all the rows, and each panel all the steps (up to a multiple of four)
    /// of `step` bytes: what the unsafe reads of the kernels rest on.
    #[inline(always)]
    pub fn fits(&self, panels: &Steps<'_>, step: usize) -> bool {
        let panel = self.quad_bytes() / 16 * step;
        self.block.len() >= self.rows / 4 * self.quad_bytes()
            && panels.stride >= panel
            && panels.bytes.len() >= panels.tiles.saturating_sub(1) * panels.stride + panel
    }
}

/// A job that runs with an instruction set's vectors.
pub trait Operation {
    /// What it gives.
    type Output;
    /// Runs it; always inlined into [`Isa::run`].
    fn run<S: Dot>(self, simd: S) -> Self::Output;
}

/// Sums as an array in memory.
///
/// An array that is read at an index unknown to the compiler lives in memory from the start, and
/// every addition with it; this copy takes its place, so that the original stays in registers.
#[inline(always)]
pub fn settle<T: Copy, const N: usize>(sums: &[T; N]) -> [T; N] {
    let mut settled = [sums[0]; N];
    for (settled, sum) in settled.iter_mut().zip(sums) {
        *settled = *sum;
    }
    settled
}

/// An instruction set.
pub trait Isa: Dot + 'static {
    /// Runs a job compiled with the set's instructions.
    fn run<O: Operation>(self, operation: O) -> O::Output;
}

/// A float weight of a file.
pub trait FloatWeight: Copy {
    /// As f32, exactly.
    fn widen(self) -> f32;
}

impl FloatWeight for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl FloatWeight for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        math::widen(self)
    }
}
