//! Quantizer ranges, LayerNorm and the elementary functions, each token in its own lane.

use crate::kernels::{Activation, Column, Norm, TILE_TOKENS, TileScales, usable_range};
use crate::math::{self, LANES, erf_constants, exp_constants, gelu_near_constants};

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
    // Lanes without a token have a usable range too.
    let mut lowest = [0.0; TILE_TOKENS];
    let mut highest = [1.0; TILE_TOKENS];
    let factors = equalize.get(..x.len()).unwrap_or(equalize);
    let found = Range { x, factors, lowest: &mut lowest, highest: &mut highest };
    match (S::LANES, parts::<S>(live)) {
        (4, 4) => found.find::<S, 4, 1>(s, 0),
        (8, 2) => found.find::<S, 2, 2>(s, 0),
        (_, count) => {
            let mut found = found;
            for part in 0..count {
                found.reborrow().find::<S, 1, 4>(s, part);
            }
        }
    }
    let ranges = lowest.iter().zip(&highest);
    if ranges.clone().map(|(low, high)| usable_range(high - low)).fold(true, |a, b| a & b) {
        for part in 0..parts::<S>(live) {
            let low = s.load(&lowest, part);
            let range = s.sub(s.load(&highest, part), low);
            let inverse = s.div(s.splat(255.0), range);
            let shift = s.round_even(s.sub(s.splat(-128.0), s.mul(low, inverse)));
            // A zero without a sign.
            let shift = s.add(shift, s.splat(0.0));
            s.store(&mut scales.scale, part, s.div(range, s.splat(255.0)));
            s.store(&mut scales.inverse, part, inverse);
            s.store(&mut scales.shift, part, shift);
            s.store_int(&mut scales.zero, part, s.to_int(shift));
        }
    } else {
        ranges.enumerate().take(live).for_each(|(t, (low, high))| scales.set(t, *low, *high));
    }
    scales
}

/// The ranges of a tile's tokens.
struct Range<'a> {
    x: &'a [Column],
    factors: &'a [f32],
    lowest: &'a mut Column,
    highest: &'a mut Column,
}

impl Range<'_> {
    fn reborrow(&mut self) -> Range<'_> {
        let Self { x, factors, lowest, highest } = self;
        Range { x, factors, lowest, highest }
    }

    /// Finds those of vectors `part..part + P`, with `A` minimums of each, since one waits for the
    /// one before; their order does not matter.
    #[inline(always)]
    fn find<S: Simd, const P: usize, const A: usize>(self, s: S, part: usize) {
        let (runs, rest) = self.x.as_chunks::<4>();
        let (factors, factors_rest) = self.factors.as_chunks::<4>();
        let mut low = [[s.splat(0.0); P]; A];
        let mut high = low;
        for (x, e) in runs.iter().zip(factors) {
            for p in 0..P {
                let at = part + p;
                let x =
                    [s.load(&x[0], at), s.load(&x[1], at), s.load(&x[2], at), s.load(&x[3], at)];
                for (i, v) in s.mul_each(x, e).into_iter().enumerate() {
                    low[i % A][p] = s.min(v, low[i % A][p]);
                    high[i % A][p] = s.max(v, high[i % A][p]);
                }
            }
        }
        for (x, e) in rest.iter().zip(factors_rest) {
            for p in 0..P {
                let v = s.mul(s.load(x, part + p), s.splat(*e));
                low[0][p] = s.min(v, low[0][p]);
                high[0][p] = s.max(v, high[0][p]);
            }
        }
        for p in 0..P {
            let (mut least, mut most) = (low[0][p], high[0][p]);
            for a in 1..A {
                least = s.min(low[a][p], least);
                most = s.max(high[a][p], most);
            }
            s.store(self.lowest, part + p, least);
            s.store(self.highest, part + p, most);
        }
    }
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
    let gamma = norm.gamma.get(..x.len()).unwrap_or(norm.gamma);
    let beta = norm.beta.get(..x.len()).unwrap_or(norm.beta);
    for part in 0..parts::<S>(live) {
        let mean = s.div(add_and_sum(s, x, add, part), count);
        let variance = s.div(sum(s, x, part, SquaredFrom(mean)), count);
        let deviation = s.sqrt(s.add(variance, s.splat(norm.epsilon)));
        let inverse = s.div(s.splat(1.0), deviation);
        let (runs, rest) = x.as_chunks_mut::<4>();
        let (gammas, gamma_rest) = gamma.as_chunks::<4>();
        let (betas, beta_rest) = beta.as_chunks::<4>();
        for ((x, g), b) in runs.iter_mut().zip(gammas).zip(betas) {
            let mut v = [mean; 4];
            for (v, x) in v.iter_mut().zip(x.iter()) {
                *v = s.mul(s.sub(s.load(x, part), mean), inverse);
            }
            for ((x, v), b) in x.iter_mut().zip(s.mul_each(v, g)).zip(b) {
                s.store(x, part, s.add(v, s.splat(*b)));
            }
        }
        for ((x, g), b) in rest.iter_mut().zip(gamma_rest).zip(beta_rest) {
            let v = s.mul(s.sub(s.load(x, part), mean), inverse);
            s.store(x, part, s.add(s.mul(v, s.splat(*g)), s.splat(*b)));
        }
    }
}

/// `x += add`, and the sum of that as in [`sum`].
#[inline(always)]
fn add_and_sum<S: Simd>(s: S, x: &mut [Column], add: &[Column], part: usize) -> S::F {
    if add.len() != x.len() {
        return sum(s, x, part, Identity);
    }
    let mut total = [s.splat(0.0); LANES];
    let (runs, rest) = x.as_chunks_mut::<LANES>();
    let (adds, add_rest) = add.as_chunks::<LANES>();
    for (run, adds) in runs.iter_mut().zip(adds) {
        for ((t, x), a) in total.iter_mut().zip(run).zip(adds) {
            let v = s.add(s.load(x, part), s.load(a, part));
            s.store(x, part, v);
            *t = s.add(*t, v);
        }
    }
    for ((t, x), a) in total.iter_mut().zip(rest).zip(add_rest) {
        let v = s.add(s.load(x, part), s.load(a, part));
        s.store(x, part, v);
        *t = s.add(*t, v);
    }
    folded(s, total)
}

/// A function under a sum; a trait for the reason of [`super::Sink`].
pub(super) trait Map<S: Simd> {
    /// f(x); always inlined.
    fn of(&self, s: S, x: S::F) -> S::F;
}

/// x.
pub(super) struct Identity;

impl<S: Simd> Map<S> for Identity {
    #[inline(always)]
    fn of(&self, _s: S, x: S::F) -> S::F {
        x
    }
}

/// (x − center)².
struct SquaredFrom<F>(F);

impl<S: Simd> Map<S> for SquaredFrom<S::F> {
    #[inline(always)]
    fn of(&self, s: S, x: S::F) -> S::F {
        let d = s.sub(x, self.0);
        s.mul(d, d)
    }
}

/// Sum of `f(x)` over the columns in 16 lanes, folded.
#[inline(always)]
pub(super) fn sum<S: Simd>(s: S, x: &[Column], part: usize, f: impl Map<S>) -> S::F {
    let mut total = [s.splat(0.0); LANES];
    let (runs, rest) = x.as_chunks::<LANES>();
    for run in runs {
        for (t, v) in total.iter_mut().zip(run) {
            *t = s.add(*t, f.of(s, s.load(v, part)));
        }
    }
    for (t, v) in total.iter_mut().zip(rest) {
        *t = s.add(*t, f.of(s, s.load(v, part)));
    }
    folded(s, total)
}

/// The sum of sixteen lanes.
#[inline(always)]
fn folded<S: Simd>(s: S, mut total: [S::F; LANES]) -> S::F {
    for half in [8, 4, 2, 1] {
        if let Some((low, high)) = total.split_at_mut_checked(half) {
            low.iter_mut().zip(high).for_each(|(low, high)| *low = s.add(*low, *high));
        }
    }
    total[0]
}

/// [`math::exp`] of some vectors: together, so that they share the constants.
#[inline(always)]
pub(super) fn exp<S: Simd, const N: usize>(s: S, mut x: [S::F; N]) -> [S::F; N] {
    use exp_constants::*;
    let mut n = x;
    for (x, n) in x.iter_mut().zip(&mut n) {
        let clamped = s.min(s.max(*x, s.splat(LOWEST)), s.splat(HIGHEST));
        *n = s.round_even(s.mul(clamped, s.splat(LOG2E)));
        let high = s.sub(clamped, s.mul(*n, s.splat(LN2_HIGH)));
        *x = s.sub(high, s.mul(*n, s.splat(LN2_LOW)));
    }
    let mut p = horner(s, x, &POLY);
    for ((p, r), n) in p.iter_mut().zip(x).zip(n) {
        let y = s.add(s.add(s.mul(*p, s.mul(r, r)), r), s.splat(1.0));
        *p = s.times_exp2(y, n);
    }
    p
}

/// A polynomial of some vectors, highest power first.
#[inline(always)]
pub(super) fn horner<S: Simd, const N: usize, const C: usize>(
    s: S,
    x: [S::F; N],
    coefficients: &[f32; C],
) -> [S::F; N] {
    let mut p = [s.splat(coefficients[0]); N];
    for c in &coefficients[1..] {
        let c = s.splat(*c);
        for (p, x) in p.iter_mut().zip(x) {
            *p = s.add(s.mul(*p, x), c);
        }
    }
    p
}

/// `f(x)` by the definitions of [`math`], for some vectors: together, so that they share the
/// constants.
#[inline(always)]
pub(super) fn activate<S: Simd, const N: usize>(
    s: S,
    x: [S::F; N],
    activation: Activation,
) -> [S::F; N] {
    match activation {
        Activation::Gelu => gelu(s, x),
        Activation::GeluNear => gelu_near(s, x),
        Activation::GeluTanh => gelu_tanh(s, x),
        Activation::Relu => relu(s, x),
    }
}

/// [`activate`] for the first `live` tokens of a column.
#[inline(always)]
pub(super) fn activate_column<S: Simd>(
    s: S,
    column: &mut Column,
    live: usize,
    activation: Activation,
) {
    let count = parts::<S>(live);
    match (S::LANES, count) {
        (8, 2) => activate_parts::<S, 2>(s, column, 0, activation),
        // More than two vectors and the constants do not fit 32 registers.
        (4, 4) => {
            activate_parts::<S, 2>(s, column, 0, activation);
            activate_parts::<S, 2>(s, column, 2, activation);
        }
        _ => {
            for part in 0..count {
                activate_parts::<S, 1>(s, column, part, activation);
            }
        }
    }
}

/// [`activate`] for vectors `part..part + N` of a column.
#[inline(always)]
fn activate_parts<S: Simd, const N: usize>(
    s: S,
    column: &mut Column,
    part: usize,
    activation: Activation,
) {
    let mut x = [s.splat(0.0); N];
    for (i, x) in x.iter_mut().enumerate() {
        *x = s.load(column, part + i);
    }
    for (i, y) in activate(s, x, activation).into_iter().enumerate() {
        s.store(column, part + i, y);
    }
}

#[inline(always)]
fn relu<S: Simd, const N: usize>(s: S, mut x: [S::F; N]) -> [S::F; N] {
    for x in &mut x {
        *x = s.max(*x, s.splat(0.0));
    }
    x
}

#[inline(always)]
fn gelu<S: Simd, const N: usize>(s: S, mut x: [S::F; N]) -> [S::F; N] {
    use erf_constants::*;
    let mut u = x;
    let mut u2 = x;
    for (u, u2) in u.iter_mut().zip(&mut u2) {
        let v = s.mul(*u, s.splat(core::f32::consts::FRAC_1_SQRT_2));
        *u = s.min(s.max(v, s.splat(-LIMIT)), s.splat(LIMIT));
        *u2 = s.mul(*u, *u);
    }
    let p = horner(s, u2, &P);
    let q = horner(s, u2, &Q);
    for (((x, u), p), q) in x.iter_mut().zip(u).zip(p).zip(q) {
        let erf = s.div(s.mul(u, p), q);
        *x = s.mul(s.mul(s.splat(0.5), *x), s.add(s.splat(1.0), erf));
    }
    x
}

#[inline(always)]
fn gelu_near<S: Simd, const N: usize>(s: S, mut x: [S::F; N]) -> [S::F; N] {
    use gelu_near_constants::*;
    let mut u = x;
    for u in &mut u {
        *u = s.min(s.abs(*u), s.splat(LIMIT));
    }
    let p = horner(s, u, &POLY);
    for ((x, u), p) in x.iter_mut().zip(u).zip(p) {
        let p = s.mul(p, p);
        let p = s.mul(p, p);
        let p = s.mul(p, p);
        *x = s.sub(s.positive(*x), s.mul(u, p));
    }
    x
}

#[inline(always)]
fn gelu_tanh<S: Simd, const N: usize>(s: S, mut x: [S::F; N]) -> [S::F; N] {
    let mut doubled = x;
    for u in &mut doubled {
        let x = *u;
        let cube = s.mul(s.mul(x, x), x);
        let inner = s.add(x, s.mul(s.splat(math::GELU_TANH_CUBIC), cube));
        let v = s.mul(s.splat(math::GELU_TANH_SCALE), inner);
        *u = s.add(v, v);
    }
    for (x, e) in x.iter_mut().zip(exp(s, doubled)) {
        let tanh = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
        *x = s.mul(s.mul(s.splat(0.5), *x), s.add(s.splat(1.0), tanh));
    }
    x
}
