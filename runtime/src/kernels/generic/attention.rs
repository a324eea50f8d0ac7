//! One head's attention for a tile of queries: each query in its own lane, keys one by one.

use crate::kernels::{Attend, Column, TILE_TOKENS};

use super::float::{exp, sum};
use super::{Simd, parts};

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
    for part in job.lanes.0 / S::LANES..parts::<S>(job.lanes.1) {
        score(s, job, scores, part);
        softmax(s, scores, part, job.factor);
        mix(s, job, scores, context, part);
    }
}

/// The columns of the tile that holds `token`, from feature `first`.
#[inline(always)]
pub(in crate::kernels) fn tile<'a>(
    job: &Attend<'a>,
    token: usize,
    first: usize,
    count: usize,
) -> &'a [Column] {
    let at = token / TILE_TOKENS * job.stride + first;
    job.qkv.get(at..).and_then(|rest| rest.get(..count)).unwrap_or_default()
}

/// `scores[j] = Σ q[d] × k[d][j]`, d ascending.
#[inline(always)]
pub(in crate::kernels) fn score<S: Simd>(
    s: S,
    job: &Attend<'_>,
    scores: &mut [Column],
    part: usize,
) {
    let mut token = job.first;
    let mut rest = scores;
    while !rest.is_empty() {
        let lane = token % TILE_TOKENS;
        let keys = tile(job, token, job.key, job.query.len());
        // As many keys as lie before the next boundary of a tile's half.
        let count = (TOGETHER - lane % TOGETHER).min(rest.len());
        let mut sums = [s.splat(0.0); TOGETHER];
        let half = lane / TOGETHER % 2;
        for (q, k) in job.query.iter().zip(keys) {
            let q = s.load(q, part);
            let k = &k.as_chunks::<TOGETHER>().0[half];
            for (sum, k) in sums.iter_mut().zip(k) {
                *sum = s.add(*sum, s.mul(q, s.splat(*k)));
            }
        }
        let (now, later) = core::mem::take(&mut rest).split_at_mut(count);
        for (score, sum) in now.iter_mut().zip(sums.iter().skip(lane % TOGETHER)) {
            s.store(score, part, *sum);
        }
        rest = later;
        token += count;
    }
}

/// Softmax over the columns, after multiplying with `factor`.
#[inline(always)]
pub(in crate::kernels) fn softmax<S: Simd>(s: S, scores: &mut [Column], part: usize, factor: f32) {
    let mut highest = s.splat(f32::MIN);
    let factor = s.splat(factor);
    for x in scores.iter_mut() {
        let v = s.mul(s.load(x, part), factor);
        highest = s.max(v, highest);
        s.store(x, part, v);
    }
    for x in scores.iter_mut() {
        let v = exp(s, s.sub(s.load(x, part), highest));
        s.store(x, part, v);
    }
    let inverse = s.div(s.splat(1.0), sum(s, scores, part, |v| v));
    for x in scores.iter_mut() {
        s.store(x, part, s.mul(s.load(x, part), inverse));
    }
}

/// `context[d] = Σ scores[j] × v[d][j]`, j ascending.
#[inline(always)]
pub(in crate::kernels) fn mix<S: Simd>(
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
        let mut sums = [s.splat(0.0); TOGETHER];
        let mut token = job.first;
        let mut rest = scores;
        while !rest.is_empty() {
            let lane = token % TILE_TOKENS;
            let (now, later) = rest.split_at((TILE_TOKENS - lane).min(rest.len()));
            let values = tile(job, token, start, TOGETHER.min(size));
            match values.first_chunk::<TOGETHER>() {
                Some(values) => {
                    for (i, p) in now.iter().enumerate() {
                        let p = s.load(p, part);
                        for (sum, v) in sums.iter_mut().zip(values) {
                            *sum = s.add(*sum, s.mul(p, s.splat(v[(lane + i) % TILE_TOKENS])));
                        }
                    }
                }
                None => {
                    for (i, p) in now.iter().enumerate() {
                        let p = s.load(p, part);
                        for (sum, v) in sums.iter_mut().zip(values) {
                            *sum = s.add(*sum, s.mul(p, s.splat(v[(lane + i) % TILE_TOKENS])));
                        }
                    }
                }
            }
            rest = later;
            token += now.len();
        }
        for (c, sum) in out.iter_mut().zip(sums.iter().skip(skip)) {
            s.store(c, part, *sum);
        }
    }
}
