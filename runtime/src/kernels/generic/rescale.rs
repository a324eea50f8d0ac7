//! From sums of products to outputs: zero point, scales, bias, activation, and where they go.

use crate::format::TILE_ROWS;
use crate::kernels::scalar::live;
use crate::kernels::{Activation, Column, Output, TILE_TOKENS, TileScales};
use crate::view::Indices;

use super::float::activate_column;
use super::{Acc, Dot, ROWS, Simd, Sink};

/// Beyond all columns, for any tile.
pub(super) const PADDING: u32 = u32::MAX / 2;

/// Where up to [`ROWS`] rows go; those after the last have [`PADDING`] already. Looked up before the
/// products, since a branch among the sums costs registers.
#[inline(always)]
pub(super) fn places(outputs: Indices<'_>, places: &mut [u32; ROWS]) {
    match outputs {
        Indices::Range { first, count } => {
            for (i, place) in places.iter_mut().enumerate().take(count) {
                *place = (first + i) as u32;
            }
        }
        Indices::List(list) => {
            for (place, output) in places.iter_mut().zip(list) {
                *place = u32::from(*output);
            }
        }
    }
}

/// Takes the zero point out of the sums of some rows, rescales them and writes their columns.
pub(super) struct Finish<'a, S> {
    pub(super) s: S,
    /// Where the rows go.
    pub(super) places: &'a [u32],
    pub(super) bias: &'a [f32],
    pub(super) scale: &'a [f32],
    pub(super) sum: &'a [i32],
    pub(super) scales: &'a [TileScales],
    pub(super) columns: &'a mut [Column],
    pub(super) features: usize,
}

/// Zero points (above the panel's) and scales of some vectors of tokens.
type Numbers<S, const N: usize> = ([<S as Simd>::I; N], [<S as Simd>::F; N]);

impl<S: Dot> Finish<'_, S> {
    /// Those of the vectors from `part` of tile `tile` on.
    #[inline(always)]
    fn numbers<const N: usize>(&self, tile: usize, part: usize) -> Option<Numbers<S, N>> {
        let s = self.s;
        let mut zeros = [s.splat_int(0); N];
        let mut steps = [s.splat(0.0); N];
        for (i, (zero, step)) in zeros.iter_mut().zip(&mut steps).enumerate() {
            let scales = self.scales.get(tile + (part + i) / (TILE_TOKENS / S::LANES))?;
            *zero = s.sub_int(s.load_int(&scales.zero, part + i), s.splat_int(-S::OFFSET));
            *step = s.load(&scales.scale, part + i);
        }
        Some((zeros, steps))
    }
}

impl<S: Dot> Sink<S::I> for Finish<'_, S> {
    #[inline(always)]
    fn put<const N: usize>(&mut self, acc: Acc<S::I, N>) {
        let s = self.s;
        let Acc { row, tile, part, sums } = acc;
        let (Some(bias), Some(scale), Some(sum), Some(places)) = (
            self.bias.get(row..).and_then(<[_]>::first_chunk::<TILE_ROWS>),
            self.scale.get(row..).and_then(<[_]>::first_chunk::<TILE_ROWS>),
            self.sum.get(row..).and_then(<[_]>::first_chunk::<TILE_ROWS>),
            self.places.get(row..).and_then(<[_]>::first_chunk::<TILE_ROWS>),
        ) else {
            return;
        };
        let Some((zeros, steps)) = self.numbers::<N>(tile, part) else { return };
        // A copy, which no column can be mistaken for.
        let places = *places;
        for (r, sums) in sums.into_iter().enumerate() {
            let (bias, scale, sum) = (s.splat(bias[r]), s.splat(scale[r]), s.splat_int(sum[r]));
            for (i, ((sums, zero), step)) in sums.into_iter().zip(zeros).zip(steps).enumerate() {
                let exact = s.to_float(s.sub_int(sums, s.mul_int(zero, sum)));
                let y = s.add(s.mul(exact, s.mul(step, scale)), bias);
                let first = (tile + (part + i) / (TILE_TOKENS / S::LANES)) * self.features;
                let Some(column) = self.columns.get_mut(first + places[r] as usize) else { return };
                s.store(column, part + i, y);
            }
        }
    }
}

/// Applies the activation to some outputs of all tiles.
#[inline(always)]
pub(super) fn activate<S: Simd>(
    s: S,
    outputs: Indices<'_>,
    activation: Activation,
    out: &mut Output<'_>,
) {
    // Each by itself, so that only its own constants ask for registers.
    match activation {
        Activation::Gelu => activate_rows(s, outputs, Activation::Gelu, out),
        Activation::GeluNear => activate_rows(s, outputs, Activation::GeluNear, out),
        Activation::GeluTanh => activate_rows(s, outputs, Activation::GeluTanh, out),
        Activation::Relu => activate_rows(s, outputs, Activation::Relu, out),
    }
}

#[inline(always)]
fn activate_rows<S: Simd>(
    s: S,
    outputs: Indices<'_>,
    activation: Activation,
    out: &mut Output<'_>,
) {
    let (features, tokens) = (out.features.max(1), out.tokens);
    for (tile, columns) in out.columns.chunks_exact_mut(features).enumerate() {
        let live = live(tokens, tile);
        match outputs {
            // One copy of the loop, for the flash of boards.
            _ if cfg!(target_arch = "arm") => {
                for output in outputs.iter() {
                    let Some(column) = columns.get_mut(output) else { return };
                    activate_column(s, column, live, activation);
                }
            }
            Indices::Range { first, count } => {
                for column in columns.iter_mut().skip(first).take(count) {
                    activate_column(s, column, live, activation);
                }
            }
            Indices::List(list) => {
                for output in list {
                    let Some(column) = columns.get_mut(usize::from(*output)) else { return };
                    activate_column(s, column, live, activation);
                }
            }
        }
    }
}
