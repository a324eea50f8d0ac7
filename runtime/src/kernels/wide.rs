//! Portable SIMD by the `wide` crate: the default backend.

use half::f16;
use wide::{f32x8, i8x16, i16x16, i32x8};

use crate::format::{TILE_DEPTH, TILE_ROWS};
use crate::math::{self, LANES, erf_constants, exp_constants};

use super::{Activation, Backend, RowScale, TileSums, lanes, row_scale, scalar::Scalar};

/// Portable SIMD.
#[derive(Debug, Clone, Copy)]
pub struct Wide;

/// Floats per vector: two vectors are the sixteen lanes of a reduction.
const W: usize = 8;

impl Backend for Wide {
    fn name(&self) -> &'static str {
        "wide"
    }

    fn quantize_row(&self, x: &[f32], equalize: &[f32], q: &mut [i8]) -> RowScale {
        let (xs, x_rest) = x.as_chunks::<W>();
        let (es, e_rest) = equalize.as_chunks::<W>();
        let mut low = f32x8::ZERO;
        let mut high = f32x8::ZERO;
        for (x, e) in xs.iter().zip(es) {
            let v = f32x8::from(*x) * f32x8::from(*e);
            low = v.simd_lt(low).select(v, low);
            high = v.simd_gt(high).select(v, high);
        }
        let mut lowest = 0.0_f32;
        let mut highest = 0.0_f32;
        let rest = x_rest.iter().zip(e_rest).map(|(x, e)| x * e);
        for v in low.to_array().into_iter().chain(high.to_array()).chain(rest) {
            lowest = if v < lowest { v } else { lowest };
            highest = if v > highest { v } else { highest };
        }
        let (row, inverse, zero) = row_scale(lowest, highest);
        let (qs, q_rest) = q.as_chunks_mut::<W>();
        for ((x, e), q) in xs.iter().zip(es).zip(qs) {
            let v = (f32x8::from(*x) * f32x8::from(*e)) * f32x8::splat(inverse);
            let r = round_even(v) + f32x8::splat(zero);
            let r = clamp(r, -128.0, 127.0);
            // The value is a whole number: adding 1.5 × 2²³ leaves it in the low byte.
            let bits = (r + f32x8::splat(math::ROUND)).to_array();
            for (q, b) in q.iter_mut().zip(bits) {
                *q = b.to_bits() as i8;
            }
        }
        for ((x, e), q) in x_rest.iter().zip(e_rest).zip(q_rest) {
            let r = math::round_even((x * e) * inverse) + zero;
            let r = if r > -128.0 { r } else { -128.0 };
            let r = if r < 127.0 { r } else { 127.0 };
            *q = r as i8;
        }
        row
    }

    fn tile_i8(&self, tile: &[i8], panel: &[i8], stride: usize, sums: &mut TileSums<i32>) {
        let (steps, _) = tile.as_chunks::<{ TILE_ROWS * TILE_DEPTH }>();
        let mut rows = panel.chunks(stride.max(1));
        match (rows.next(), rows.next(), rows.next(), rows.next()) {
            (Some(a), Some(b), Some(c), Some(d)) => tile_i8_tokens(steps, [a, b, c, d], sums),
            (Some(a), Some(b), Some(c), None) => tile_i8_tokens(steps, [a, b, c], sums),
            (Some(a), Some(b), None, None) => tile_i8_tokens(steps, [a, b], sums),
            (Some(a), None, None, None) => tile_i8_tokens(steps, [a], sums),
            _ => {}
        }
    }

    fn tile_f32(&self, tile: &[f32], panel: &[f32], stride: usize, sums: &mut TileSums<f32>) {
        let (steps, _) = tile.as_chunks::<TILE_ROWS>();
        float_tile(steps, |w| *w, panel, stride, sums);
    }

    fn tile_f16(&self, tile: &[f16], panel: &[f32], stride: usize, sums: &mut TileSums<f32>) {
        let (steps, _) = tile.as_chunks::<TILE_ROWS>();
        float_tile(steps, |w| w.map(f16::to_f32), panel, stride, sums);
    }

    fn vector_matrix(&self, a: &[f32], m: &[f32], stride: usize, out: &mut [f32]) {
        // Sixteen outputs at a time stay in registers over all inputs.
        let stride = stride.max(1);
        let whole = out.len() - out.len() % LANES;
        let (blocks, rest) = out.split_at_mut(whole);
        for (b, out) in blocks.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut low = f32x8::ZERO;
            let mut high = f32x8::ZERO;
            for (a, row) in a.iter().zip(m.chunks(stride)) {
                let Some(v) = row.get(b * LANES..).and_then(<[f32]>::first_chunk::<LANES>) else {
                    continue;
                };
                let (l, h) = split(v);
                low += f32x8::splat(*a) * l;
                high += f32x8::splat(*a) * h;
            }
            *out = join(low, high);
        }
        if !rest.is_empty() {
            Scalar.vector_matrix(a, m.get(whole..).unwrap_or_default(), stride, rest);
        }
    }

    fn layer_norm(&self, x: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32) {
        let count = x.len() as f32;
        let mean = sum(x, |v| v) / count;
        let center = f32x8::splat(mean);
        let variance = sum(x, |v| (v - center) * (v - center)) / count;
        let inverse = 1.0 / math::sqrt(variance + eps);
        let (xs, x_rest) = x.as_chunks_mut::<W>();
        let (gs, g_rest) = gamma.as_chunks::<W>();
        let (bs, b_rest) = beta.as_chunks::<W>();
        for ((x, g), b) in xs.iter_mut().zip(gs).zip(bs) {
            let v = (f32x8::from(*x) - center) * f32x8::splat(inverse);
            *x = (v * f32x8::from(*g) + f32x8::from(*b)).to_array();
        }
        for ((x, g), b) in x_rest.iter_mut().zip(g_rest).zip(b_rest) {
            *x = ((*x - mean) * inverse) * g + b;
        }
    }

    fn softmax(&self, x: &mut [f32], factor: f32) {
        let mut highest = f32::MIN;
        for v in x.iter_mut() {
            *v *= factor;
            highest = if *v > highest { *v } else { highest };
        }
        map(x, |v| exp(v - f32x8::splat(highest)), |v| math::exp(v - highest));
        let inverse = 1.0 / sum(x, |v| v);
        map(x, |v| v * f32x8::splat(inverse), |v| v * inverse);
    }

    fn activate(&self, x: &mut [f32], activation: Activation) {
        match activation {
            Activation::Gelu => map(x, gelu, math::gelu),
            Activation::GeluTanh => map(x, gelu_tanh, math::gelu_tanh),
            Activation::Relu => {
                map(x, |v| v.simd_gt(f32x8::ZERO).select(v, f32x8::ZERO), math::relu);
            }
        }
    }

    fn sum_of_squares(&self, x: &[f32]) -> f32 {
        sum(x, |v| v * v)
    }
}

/// Dot products of one tile with `N` tokens.
///
/// A step holds 16 rows × 4 inputs. Widened to i16, sixteen of them (4 rows) are multiplied with
/// the token's four inputs, repeated, and adjacent products added: two i32 per row, which are
/// joined after the last step. All of it is exact.
#[inline(always)]
fn tile_i8_tokens<const N: usize>(
    steps: &[[i8; TILE_ROWS * TILE_DEPTH]],
    rows: [&[i8]; N],
    sums: &mut TileSums<i32>,
) {
    let mut totals = [[i32x8::ZERO; 4]; N];
    let inputs = rows.map(|row| row.as_chunks::<TILE_DEPTH>().0);
    for (s, step) in steps.iter().enumerate() {
        let (quarters, _) = step.as_chunks::<16>();
        let mut weights = [i16x16::ZERO; 4];
        for (w, q) in weights.iter_mut().zip(quarters) {
            *w = i16x16::from_i8x16(i8x16::from(*q));
        }
        for (total, inputs) in totals.iter_mut().zip(inputs) {
            let Some(&[a, b, c, d]) = inputs.get(s) else { continue };
            let x = [a, b, c, d].map(i16::from);
            let [a, b, c, d] = x;
            let x = i16x16::from([a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d]);
            for (t, w) in total.iter_mut().zip(weights) {
                *t += w.dot(x);
            }
        }
    }
    for (sums, total) in sums.iter_mut().zip(totals) {
        let (quads, _) = sums.as_chunks_mut::<4>();
        for (quad, t) in quads.iter_mut().zip(total) {
            let pairs = t.to_array();
            let (pairs, _) = pairs.as_chunks::<2>();
            for (sum, [a, b]) in quad.iter_mut().zip(pairs) {
                *sum += a + b;
            }
        }
    }
}

#[inline(always)]
fn float_tile<T>(
    steps: &[[T; TILE_ROWS]],
    widen: impl Fn(&[T; TILE_ROWS]) -> [f32; TILE_ROWS],
    panel: &[f32],
    stride: usize,
    sums: &mut TileSums<f32>,
) {
    let mut totals = sums.map(|s| split(&s));
    let rows = panel.chunks(stride.max(1));
    let mut tokens: [&[f32]; super::TOKENS_PER_CALL] = [&[]; super::TOKENS_PER_CALL];
    for (t, row) in tokens.iter_mut().zip(rows) {
        *t = row;
    }
    for (s, step) in steps.iter().enumerate() {
        let weights = widen(step);
        let (low, high) = split(&weights);
        for (total, row) in totals.iter_mut().zip(tokens) {
            let Some(x) = row.get(s) else { continue };
            total.0 += low * f32x8::splat(*x);
            total.1 += high * f32x8::splat(*x);
        }
    }
    *sums = totals.map(|(low, high)| join(low, high));
}

#[inline(always)]
fn split(x: &[f32; LANES]) -> (f32x8, f32x8) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *x;
    (f32x8::from([a, b, c, d, e, f, g, h]), f32x8::from(rest))
}

#[inline(always)]
fn join(low: f32x8, high: f32x8) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for (o, v) in out.iter_mut().zip(low.to_array().into_iter().chain(high.to_array())) {
        *o = v;
    }
    out
}

#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32x8) -> f32x8) -> f32 {
    let mut low = f32x8::ZERO;
    let mut high = f32x8::ZERO;
    let (whole, rest) = lanes(x);
    for run in whole {
        let (l, h) = split(run);
        low += f(l);
        high += f(h);
    }
    let mut total = join(low, high);
    // The rest goes through the same function in a padded vector; only its own lanes are added.
    let mut padded = [0.0; LANES];
    for (p, v) in padded.iter_mut().zip(rest) {
        *p = *v;
    }
    let (l, h) = split(&padded);
    for (t, v) in total.iter_mut().zip(join(f(l), f(h))).take(rest.len()) {
        *t += v;
    }
    math::fold(total)
}

#[inline(always)]
fn map(x: &mut [f32], vector: impl Fn(f32x8) -> f32x8, scalar: impl Fn(f32) -> f32) {
    let (whole, rest) = x.as_chunks_mut::<W>();
    for v in whole {
        *v = vector(f32x8::from(*v)).to_array();
    }
    for v in rest {
        *v = scalar(*v);
    }
}

#[inline(always)]
fn round_even(x: f32x8) -> f32x8 {
    (x + f32x8::splat(math::ROUND)) - f32x8::splat(math::ROUND)
}

#[inline(always)]
fn clamp(x: f32x8, low: f32, high: f32) -> f32x8 {
    let (low, high) = (f32x8::splat(low), f32x8::splat(high));
    let x = x.simd_gt(low).select(x, low);
    x.simd_lt(high).select(x, high)
}

#[inline(always)]
fn poly(coefficients: &[f32], x: f32x8) -> f32x8 {
    let mut p = f32x8::ZERO;
    for (i, c) in coefficients.iter().enumerate() {
        p = if i == 0 { f32x8::splat(*c) } else { p * x + f32x8::splat(*c) };
    }
    p
}

#[inline(always)]
fn exp(x: f32x8) -> f32x8 {
    use exp_constants::*;
    let x = clamp(x, LOWEST, HIGHEST);
    let n = round_even(x * f32x8::splat(LOG2E));
    let r = (x - n * f32x8::splat(LN2_HIGH)) - n * f32x8::splat(LN2_LOW);
    let p = poly(&POLY, r);
    let y = (p * (r * r) + r) + f32x8::splat(1.0);
    let power = n.to_array().map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23));
    y * f32x8::from(power)
}

#[inline(always)]
fn erf(x: f32x8) -> f32x8 {
    use erf_constants::*;
    let x = clamp(x, -LIMIT, LIMIT);
    let x2 = x * x;
    (x * poly(&P, x2)) / poly(&Q, x2)
}

#[inline(always)]
fn gelu(x: f32x8) -> f32x8 {
    let inner = erf(x * f32x8::splat(core::f32::consts::FRAC_1_SQRT_2));
    (f32x8::splat(0.5) * x) * (f32x8::splat(1.0) + inner)
}

#[inline(always)]
fn gelu_tanh(x: f32x8) -> f32x8 {
    let one = f32x8::splat(1.0);
    let cubic = f32x8::splat(math::GELU_TANH_CUBIC) * ((x * x) * x);
    let u = f32x8::splat(math::GELU_TANH_SCALE) * (x + cubic);
    let tanh = one - f32x8::splat(2.0) / (exp(u + u) + one);
    (f32x8::splat(0.5) * x) * (one + tanh)
}
