//! One head's attention for a tile of queries: each query in its own lane, keys one by one.

use crate::kernels::{Attend, Column, TILE_TOKENS};

use super::float::{Identity, exp, sum};
use super::{Simd, parts, settle};

/// Keys that are scored together, and features that are mixed together: as many sums as keep the
/// adders busy.
const TOGETHER: usize = 8;

/// See [`crate::kernels::Backend::attend`].
#[inline(always)]
pub(in crate::kernels) fn attend<S: Simd>(
    s: S,
    job: &Attend<'_>,
    scores: &mut [Column],
    context: &mut [Column],
) {
    let Some(scores) = scores.get_mut(..job.count) else { return };
    let (mut part, end) = (job.lanes.0 / S::LANES, parts::<S>(job.lanes.1));
    while part < end {
        // Two vectors of queries where the registers suffice: a key is loaded once for both.
        part += if S::LANES == 4 && end - part > 1 {
            queries::<S, 2>(s, job, scores, context, part)
        } else {
            queries::<S, 1>(s, job, scores, context, part)
        };
    }
}

/// The queries of vectors `part..part + Q`; gives `Q`.
#[inline(always)]
fn queries<S: Simd, const Q: usize>(
    s: S,
    job: &Attend<'_>,
    scores: &mut [Column],
    context: &mut [Column],
    part: usize,
) -> usize {
    score::<S, Q>(s, job, scores, part);
    for part in part..part + Q {
        softmax(s, scores, part, job.factor);
    }
    mix::<S, Q>(s, job, scores, context, part);
    Q
}

/// The columns of the tile that holds `token`, from feature `first`.
#[inline(always)]
fn tile<'a>(job: &Attend<'a>, token: usize, first: usize, count: usize) -> &'a [Column] {
    let at = token / TILE_TOKENS * job.stride + first;
    job.qkv.get(at..).and_then(|rest| rest.get(..count)).unwrap_or_default()
}

/// `scores[j] = Σ q[d] × k[d][j]`, d ascending.
#[inline(always)]
fn score<S: Simd, const Q: usize>(s: S, job: &Attend<'_>, scores: &mut [Column], part: usize) {
    let mut token = job.first;
    let mut rest = scores;
    while !rest.is_empty() {
        let lane = token % TILE_TOKENS;
        let keys = tile(job, token, job.key, job.query.len());
        // As many keys as lie before the next boundary of a tile's half.
        let count = (TOGETHER - lane % TOGETHER).min(rest.len());
        let mut sums = [[[s.splat(0.0); 4]; TOGETHER / 4]; Q];
        let half = lane / TOGETHER % 2;
        for (q, k) in job.query.iter().zip(keys) {
            let k = k.as_chunks::<TOGETHER>().0[half].as_chunks::<4>().0;
            for (i, sums) in sums.iter_mut().enumerate() {
                let q = s.load(q, part + i);
                for (sums, k) in sums.iter_mut().zip(k) {
                    for (sum, product) in sums.iter_mut().zip(s.mul_each([q; 4], k)) {
                        *sum = s.add(*sum, product);
                    }
                }
            }
        }
        let (now, later) = core::mem::take(&mut rest).split_at_mut(count);
        for (i, sums) in sums.iter().enumerate() {
            let sums = settle(sums);
            for (score, sum) in now.iter_mut().zip(sums.as_flattened().iter().skip(lane % TOGETHER))
            {
                s.store(score, part + i, *sum);
            }
        }
        rest = later;
        token += count;
    }
}

/// Softmax over the columns, after multiplying with `factor`.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [Column], part: usize, factor: f32) {
    let mut highest = s.splat(f32::MIN);
    let factor = s.splat(factor);
    for x in scores.iter_mut() {
        let v = s.mul(s.load(x, part), factor);
        highest = s.max(v, highest);
        s.store(x, part, v);
    }
    let (runs, rest) = scores.as_chunks_mut::<4>();
    for run in runs {
        exp_of::<S, 4>(s, run, part, highest);
    }
    for x in rest {
        exp_of::<S, 1>(s, core::array::from_mut(x), part, highest);
    }
    let inverse = s.div(s.splat(1.0), sum(s, scores, part, Identity));
    for x in scores.iter_mut() {
        s.store(x, part, s.mul(s.load(x, part), inverse));
    }
}

/// exp(x − highest) of some columns.
#[inline(always)]
fn exp_of<S: Simd, const N: usize>(s: S, run: &mut [Column; N], part: usize, highest: S::F) {
    let mut x = [highest; N];
    for (x, column) in x.iter_mut().zip(run.iter()) {
        *x = s.sub(s.load(column, part), highest);
    }
    for (column, y) in run.iter_mut().zip(exp(s, x)) {
        s.store(column, part, y);
    }
}

/// `context[d] = Σ scores[j] × v[d][j]`, j ascending.
#[inline(always)]
fn mix<S: Simd, const Q: usize>(
    s: S,
    job: &Attend<'_>,
    scores: &[Column],
    context: &mut [Column],
    part: usize,
) {
    let size = context.len();
    for (chunk, out) in context.chunks_mut(TOGETHER).enumerate() {
        let first = job.value + chunk * TOGETHER;
        // A short last chunk computes some features twice rather than branch inside.
        let count = out.len();
        let start =
            if count == TOGETHER || size < TOGETHER { first } else { first - TOGETHER + count };
        let skip = first - start;
        let mut sums = [[s.splat(0.0); TOGETHER]; Q];
        let mut token = job.first;
        let mut rest = scores;
        while !rest.is_empty() {
            let lane = token % TILE_TOKENS;
            let (now, later) = rest.split_at((TILE_TOKENS - lane).min(rest.len()));
            let values = tile(job, token, start, TOGETHER.min(size));
            match values.first_chunk::<TOGETHER>() {
                Some(values) => mix_tile(s, &mut sums, now, lane, part, values),
                None => mix_tile(s, &mut sums, now, lane, part, values),
            }
            rest = later;
            token += now.len();
        }
        for (i, sums) in sums.iter().enumerate() {
            for (c, sum) in out.iter_mut().zip(settle(sums).iter().skip(skip)) {
                s.store(c, part + i, *sum);
            }
        }
    }
}

/// Adds the products of one tile's values with the scores of its tokens from `lane`, in their
/// order.
#[inline(always)]
fn mix_tile<S: Simd, const Q: usize>(
    s: S,
    sums: &mut [[S::F; TOGETHER]; Q],
    mut scores: &[Column],
    mut lane: usize,
    part: usize,
    values: &[Column],
) {
    // Four tokens at a time where their values start at a multiple of four.
    while let Some((column, later)) = scores.split_first() {
        match scores.split_first_chunk::<4>() {
            Some((four, later)) if lane.is_multiple_of(4) => {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let p = [
                        s.load(&four[0], part + i),
                        s.load(&four[1], part + i),
                        s.load(&four[2], part + i),
                        s.load(&four[3], part + i),
                    ];
                    for (sum, v) in sums.iter_mut().zip(values) {
                        let v = &v.as_chunks::<4>().0[lane / 4 % 4];
                        for product in s.mul_each(p, v) {
                            *sum = s.add(*sum, product);
                        }
                    }
                }
                scores = later;
                lane += 4;
            }
            _ => {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let p = s.load(column, part + i);
                    for (sum, v) in sums.iter_mut().zip(values) {
                        *sum = s.add(*sum, s.mul(p, s.splat(v[lane % TILE_TOKENS])));
                    }
                }
                scores = later;
                lane += 1;
            }
        }
    }
}
