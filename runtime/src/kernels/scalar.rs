//! The specification: every primitive in its defined order, in plain Rust.

use half::f16;

use crate::format::{TILE_DEPTH, TILE_ROWS};
use crate::math::{self, LANES};

use super::{Activation, Backend, RowScale, TileSums, lanes, row_scale};

/// Plain Rust; what every other backend is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

impl Backend for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn quantize_row(&self, x: &[f32], equalize: &[f32], q: &mut [i8]) -> RowScale {
        let mut lowest = 0.0_f32;
        let mut highest = 0.0_f32;
        for (v, e) in x.iter().zip(equalize) {
            let v = v * e;
            lowest = if v < lowest { v } else { lowest };
            highest = if v > highest { v } else { highest };
        }
        let (row, inverse, zero) = row_scale(lowest, highest);
        for ((v, e), q) in x.iter().zip(equalize).zip(q) {
            let r = math::round_even((v * e) * inverse) + zero;
            let r = if r > -128.0 { r } else { -128.0 };
            let r = if r < 127.0 { r } else { 127.0 };
            *q = r as i8;
        }
        row
    }

    fn tile_i8(&self, tile: &[i8], panel: &[i8], stride: usize, sums: &mut TileSums<i32>) {
        for (row, sums) in panel.chunks(stride.max(1)).zip(sums) {
            let (steps, _) = tile.as_chunks::<{ TILE_ROWS * TILE_DEPTH }>();
            let (inputs, _) = row.as_chunks::<TILE_DEPTH>();
            for (weights, x) in steps.iter().zip(inputs) {
                let (weights, _) = weights.as_chunks::<TILE_DEPTH>();
                for (sum, w) in sums.iter_mut().zip(weights) {
                    for (w, x) in w.iter().zip(x) {
                        *sum += i32::from(*w) * i32::from(*x);
                    }
                }
            }
        }
    }

    fn tile_f32(&self, tile: &[f32], panel: &[f32], stride: usize, sums: &mut TileSums<f32>) {
        for (row, sums) in panel.chunks(stride.max(1)).zip(sums) {
            let (steps, _) = tile.as_chunks::<TILE_ROWS>();
            for (weights, x) in steps.iter().zip(row) {
                for (sum, w) in sums.iter_mut().zip(weights) {
                    *sum += w * x;
                }
            }
        }
    }

    fn tile_f16(&self, tile: &[f16], panel: &[f32], stride: usize, sums: &mut TileSums<f32>) {
        for (row, sums) in panel.chunks(stride.max(1)).zip(sums) {
            let (steps, _) = tile.as_chunks::<TILE_ROWS>();
            for (weights, x) in steps.iter().zip(row) {
                for (sum, w) in sums.iter_mut().zip(weights) {
                    *sum += w.to_f32() * x;
                }
            }
        }
    }

    fn vector_matrix(&self, a: &[f32], m: &[f32], stride: usize, out: &mut [f32]) {
        out.fill(0.0);
        for (a, row) in a.iter().zip(m.chunks(stride.max(1))) {
            for (o, v) in out.iter_mut().zip(row) {
                *o += a * v;
            }
        }
    }

    fn layer_norm(&self, x: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
        let count = x.len() as f32;
        let mean = sum(x, |v| v) / count;
        let variance = sum(x, |v| (v - mean) * (v - mean)) / count;
        let inverse = 1.0 / math::sqrt(variance + eps);
        for ((v, g), b) in x.iter_mut().zip(gamma).zip(beta) {
            *v = ((*v - mean) * inverse) * g + b;
        }
    }

    fn softmax(&self, x: &mut [f32], factor: f32) {
        let mut highest = f32::MIN;
        for v in x.iter_mut() {
            *v *= factor;
            highest = if *v > highest { *v } else { highest };
        }
        for v in x.iter_mut() {
            *v = math::exp(*v - highest);
        }
        let inverse = 1.0 / sum(x, |v| v);
        for v in x.iter_mut() {
            *v *= inverse;
        }
    }

    fn activate(&self, x: &mut [f32], activation: Activation) {
        match activation {
            Activation::Gelu => x.iter_mut().for_each(|v| *v = math::gelu(*v)),
            Activation::GeluTanh => x.iter_mut().for_each(|v| *v = math::gelu_tanh(*v)),
            Activation::Relu => x.iter_mut().for_each(|v| *v = math::relu(*v)),
        }
    }

    fn sum_of_squares(&self, x: &[f32]) -> f32 {
        sum(x, |v| v * v)
    }
}

/// Sum of `f(x)` in lanes.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut total = [0.0; LANES];
    let (whole, rest) = lanes(x);
    for run in whole {
        for (t, v) in total.iter_mut().zip(run) {
            *t += f(*v);
        }
    }
    for (t, v) in total.iter_mut().zip(rest) {
        *t += f(*v);
    }
    math::fold(total)
}
