//! Quantizer ranges, LayerNorm and the elementary functions, each token in its own lane.

use crate::kernels::{Activation, Column, Norm, TILE_TOKENS, TileScales};
use crate::math::{self, LANES, erf_constants, exp_constants};

use super::{Simd, parts};

/// See [`crate::kernels::Backend::scales`].
#[inline(always)]
pub(in crate::kernels) fn scales<S: Simd>(
    s: S,
    x: &[Column],
    equalize: &[f32],
    live: usize,
) -> TileScales {
    let mut scales = TileScales::EMPTY;
    let mut lowest = [0.0; TILE_TOKENS];
    let mut highest = [0.0; TILE_TOKENS];
    for part in 0..parts::<S>(live) {
        // Two of each, since a minimum waits for the one before; order does not matter here.
        let mut low = [s.splat(0.0); 2];
        let mut high = low;
        let (pairs, x_rest) = x.as_chunks::<2>();
        let (factors, e_rest) = equalize.as_chunks::<2>();
        for (x, e) in pairs.iter().zip(factors) {
            for i in 0..2 {
                let v = s.mul(s.load(&x[i], part), s.splat(e[i]));
                low[i] = s.min(v, low[i]);
                high[i] = s.max(v, high[i]);
            }
        }
        for (x, e) in x_rest.iter().zip(e_rest) {
            let v = s.mul(s.load(x, part), s.splat(*e));
            low[0] = s.min(v, low[0]);
            high[0] = s.max(v, high[0]);
        }
        s.store(&mut lowest, part, s.min(low[0], low[1]));
        s.store(&mut highest, part, s.max(high[0], high[1]));
    }
    for (t, (low, high)) in lowest.into_iter().zip(highest).enumerate().take(live) {
        scales.set(t, low, high);
    }
    scales
}

/// See [`crate::kernels::Backend::norm`].
#[inline(always)]
pub(in crate::kernels) fn norm<S: Simd>(
    s: S,
    x: &mut [Column],
    add: &[Column],
    norm: &Norm<'_>,
    live: usize,
) {
    let count = s.splat(x.len() as f32);
    for part in 0..parts::<S>(live) {
        for (x, a) in x.iter_mut().zip(add) {
            let v = s.add(s.load(x, part), s.load(a, part));
            s.store(x, part, v);
        }
        let mean = s.div(sum(s, x, part, |v| v), count);
        let square = |v| {
            let d = s.sub(v, mean);
            s.mul(d, d)
        };
        let variance = s.div(sum(s, x, part, square), count);
        let deviation = s.sqrt(s.add(variance, s.splat(norm.epsilon)));
        let inverse = s.div(s.splat(1.0), deviation);
        for ((x, g), b) in x.iter_mut().zip(norm.gamma).zip(norm.beta) {
            let v = s.mul(s.sub(s.load(x, part), mean), inverse);
            s.store(x, part, s.add(s.mul(v, s.splat(*g)), s.splat(*b)));
        }
    }
}

/// Sum of `f(x)` over the columns in 16 lanes, folded.
#[inline(always)]
pub(super) fn sum<S: Simd>(s: S, x: &[Column], part: usize, f: impl Fn(S::F) -> S::F) -> S::F {
    let mut total = [s.splat(0.0); LANES];
    let (runs, rest) = x.as_chunks::<LANES>();
    for run in runs {
        for (t, v) in total.iter_mut().zip(run) {
            *t = s.add(*t, f(s.load(v, part)));
        }
    }
    for (t, v) in total.iter_mut().zip(rest) {
        *t = s.add(*t, f(s.load(v, part)));
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            total[i] = s.add(total[i], total[i + half]);
        }
    }
    total[0]
}

/// [`math::exp`].
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    use exp_constants::*;
    let x = s.max(x, s.splat(LOWEST));
    let x = s.min(x, s.splat(HIGHEST));
    let n = round_even(s, s.mul(x, s.splat(LOG2E)));
    let r = s.sub(s.sub(x, s.mul(n, s.splat(LN2_HIGH))), s.mul(n, s.splat(LN2_LOW)));
    let p = horner(s, r, &POLY);
    let y = s.add(s.add(s.mul(p, s.mul(r, r)), r), s.splat(1.0));
    s.mul(y, s.exp2(n))
}

/// [`math::round_even`].
#[inline(always)]
pub(super) fn round_even<S: Simd>(s: S, x: S::F) -> S::F {
    s.sub(s.add(x, s.splat(math::ROUND)), s.splat(math::ROUND))
}

#[inline(always)]
fn horner<S: Simd, const N: usize>(s: S, x: S::F, coefficients: &[f32; N]) -> S::F {
    let mut p = s.splat(coefficients[0]);
    for c in &coefficients[1..] {
        p = s.add(s.mul(p, x), s.splat(*c));
    }
    p
}

/// `f(x)` by the definitions of [`math`].
#[inline(always)]
pub(in crate::kernels) fn activate<S: Simd>(s: S, x: S::F, activation: Option<Activation>) -> S::F {
    match activation {
        None => x,
        Some(Activation::Gelu) => gelu(s, x),
        Some(Activation::GeluTanh) => gelu_tanh(s, x),
        Some(Activation::Relu) => s.max(x, s.splat(0.0)),
    }
}

#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    use erf_constants::*;
    let u = s.mul(x, s.splat(core::f32::consts::FRAC_1_SQRT_2));
    let u = s.max(u, s.splat(-LIMIT));
    let u = s.min(u, s.splat(LIMIT));
    let u2 = s.mul(u, u);
    let erf = s.div(s.mul(u, horner(s, u2, &P)), horner(s, u2, &Q));
    s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), erf))
}

#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let cube = s.mul(s.mul(x, x), x);
    let inner = s.add(x, s.mul(s.splat(math::GELU_TANH_CUBIC), cube));
    let u = s.mul(s.splat(math::GELU_TANH_SCALE), inner);
    let e = s.add(exp(s, s.add(u, u)), s.splat(1.0));
    let tanh = s.sub(s.splat(1.0), s.div(s.splat(2.0), e));
    s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), tanh))
}
