//! Attention's products, four queries at a time with Helium's floats.
//!
//! These take subnormal numbers for zeros, so they are used where there are none. Numbers that are
//! 0 or at least 2⁻ᵃ have products with numbers that are 0 or at least 2⁻ᵇ of 0 or at least
//! 2⁻ᵃ⁻ᵇ, which are multiples of 2⁻ᵃ⁻ᵇ⁻²³, and so are their sums, rounded or not. With a + b up to
//! 100 neither is subnormal. Softmax is left to plain floats.

use core::arch::naked_asm;

use crate::kernels::cortex_m::pairs::Pairs;
use crate::kernels::generic::attention::{mix, score, softmax, tile};
use crate::kernels::{Attend, Column, TILE_TOKENS};

/// Tokens in a vector.
const LANES: usize = 4;

/// Queries, keys and values are used from 2⁻⁴⁰ on, weights from 2⁻⁶⁰ on.
const INPUTS: u32 = (127 - 40) << 23;
const WEIGHTS: u32 = (127 - 60) << 23;

/// See [`crate::kernels::Backend::attend`]. Needs Helium's floats.
pub(super) fn attend(job: &Attend<'_>, scores: &mut [Column], context: &mut [Column]) {
    let Some(scores) = scores.get_mut(..job.count) else { return };
    let size = job.query.len().min(context.len());
    let even = job.query.len() == context.len() && size.is_multiple_of(LANES) && size > 0;
    let keys = even && large(job.query) && of_text(job, job.key, size, large);
    let values = even && of_text(job, job.value, size, large);
    let (start, end) = (job.lanes.0, job.lanes.1.min(TILE_TOKENS));
    for vector in start / LANES..end.div_ceil(LANES) {
        let first = vector * LANES;
        // The vector's pairs that have a query.
        let pairs = first.max(start) / 2..(first + LANES).min(end).div_ceil(2);
        if keys {
            score_vector(job, scores, first);
        } else {
            pairs.clone().for_each(|pair| score(Pairs, job, scores, pair));
        }
        pairs.clone().for_each(|pair| softmax(Pairs, scores, pair, job.factor));
        let weights = scores.iter().flat_map(|p| p.iter().skip(first).take(LANES));
        if values && least(weights) >= WEIGHTS - 1 {
            mix_vector(job, scores, context, first);
        } else {
            pairs.for_each(|pair| mix(Pairs, job, scores, context, pair));
        }
    }
}

/// The smallest size of a value but 0, as bits, less one.
#[inline(always)]
fn least<'a>(values: impl Iterator<Item = &'a f32>) -> u32 {
    values.map(|x| (x.to_bits() & 0x7fff_ffff).wrapping_sub(1)).fold(u32::MAX, u32::min)
}

/// Whether all values are 0 or large enough.
fn large(columns: &[Column]) -> bool {
    least(columns.as_flattened().iter()) >= INPUTS - 1
}

/// Whether all tiles of the text have `size` columns from `first` on, for which `f` holds.
fn of_text(job: &Attend<'_>, first: usize, size: usize, f: impl Fn(&[Column]) -> bool) -> bool {
    let tiles = job.first / TILE_TOKENS..(job.first + job.count).div_ceil(TILE_TOKENS);
    tiles.map(|t| tile(job, t * TILE_TOKENS, first, size)).all(|c| c.len() == size && f(c))
}

/// As [`score`], for the four queries from lane `first` on.
fn score_vector(job: &Attend<'_>, scores: &mut [Column], first: usize) {
    let size = job.query.len();
    let mut token = job.first;
    let mut rest = scores;
    while !rest.is_empty() {
        let lane = token % TILE_TOKENS;
        let keys = tile(job, token, job.key, size);
        let (Some(query), true) = (job.query.first(), keys.len() == size) else { return };
        let Some(key) = keys.first() else { return };
        // Four keys, some of which may be another text's.
        let mut sums = [[0.0; LANES]; LANES];
        let skip = lane % LANES;
        // SAFETY: `size`, not 0, columns of queries and of keys are there; the four lanes from
        // `first`, below 16, and from `lane - skip` on lie within a column. Only called on cores
        // with Helium's floats.
        unsafe {
            let query = (&raw const *query).cast::<f32>().wrapping_add(first);
            let key = (&raw const *key).cast::<f32>().wrapping_add(lane - skip);
            products(query, key, size, &mut sums);
        }
        let count = (LANES - skip).min(rest.len());
        let (now, later) = core::mem::take(&mut rest).split_at_mut(count);
        for (score, sums) in now.iter_mut().zip(sums.iter().skip(skip)) {
            let (vectors, _) = score.as_chunks_mut::<LANES>();
            if let Some(score) = vectors.get_mut(first / LANES) {
                *score = *sums;
            }
        }
        rest = later;
        token += count;
    }
}

/// As [`mix`], for the four queries from lane `first` on; `context` has a multiple of four columns.
fn mix_vector(job: &Attend<'_>, scores: &[Column], context: &mut [Column], first: usize) {
    let size = context.len();
    for (chunk, out) in context.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        out.iter_mut().for_each(|c| c.iter_mut().skip(first).take(LANES).for_each(|c| *c = 0.0));
        let mut token = job.first;
        let mut rest = scores;
        while let Some(score) = rest.first() {
            let lane = token % TILE_TOKENS;
            let count = (TILE_TOKENS - lane).min(rest.len());
            let values = tile(job, token, job.value, size);
            let Some(value) = values.as_chunks::<LANES>().0.get(chunk) else { return };
            // SAFETY: `count`, not 0, columns of weights are there, as many lanes from `lane` on
            // in each of four columns of values, and four columns of sums; the four lanes from
            // `first`, below 16, lie within a column. Only called on cores with Helium's floats.
            unsafe {
                let score = (&raw const *score).cast::<f32>().wrapping_add(first);
                let value = (&raw const *value).cast::<f32>().wrapping_add(lane);
                mixture(score, value, count, (&raw mut *out).cast::<f32>().wrapping_add(first));
            }
            rest = rest.get(count..).unwrap_or_default();
            token += count;
        }
    }
}

/// `sums[j] = Σ query[d] × key[d][j]` for four keys j and `size` columns d.
///
/// # Safety
/// `size`, at least one, columns with four floats from `query` and from `key` on. Needs Helium's
/// floats.
#[unsafe(naked)]
unsafe extern "C" fn products(
    query: *const f32,
    key: *const f32,
    size: usize,
    sums: *mut [[f32; LANES]; LANES],
) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r7, lr}}",
        "vpush {{d8-d13}}",
        "vmov.i32 q0, #0",
        "vmov.i32 q1, #0",
        "vmov.i32 q2, #0",
        "vmov.i32 q3, #0",
        "dls lr, r2",
        "2:",
        "vldrw.u32 q4, [r0], #64",
        "ldm r1, {{r4-r7}}",
        "adds r1, #64",
        "vmul.f32 q5, q4, r4",
        "vmul.f32 q6, q4, r5",
        "vadd.f32 q0, q0, q5",
        "vmul.f32 q5, q4, r6",
        "vadd.f32 q1, q1, q6",
        "vmul.f32 q6, q4, r7",
        "vadd.f32 q2, q2, q5",
        "vadd.f32 q3, q3, q6",
        "le lr, 2b",
        "vstrw.32 q0, [r3]",
        "vstrw.32 q1, [r3, #16]",
        "vstrw.32 q2, [r3, #32]",
        "vstrw.32 q3, [r3, #48]",
        "vpop {{d8-d13}}",
        "pop {{r4-r7, pc}}",
    )
}

/// `sums[d] += Σ score[j] × value[d][j]` for four columns d and `count` tokens j.
///
/// # Safety
/// `count`, at least one, columns with four floats from `score` on; four columns with `count`
/// floats from `value` and four floats from `sums` on. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn mixture(score: *const f32, value: *const f32, count: usize, sums: *mut f32) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r7, lr}}",
        "vpush {{d8-d13}}",
        "vldrw.u32 q0, [r3]",
        "vldrw.u32 q1, [r3, #64]",
        "vldrw.u32 q2, [r3, #128]",
        "vldrw.u32 q3, [r3, #192]",
        "dls lr, r2",
        "2:",
        "vldrw.u32 q4, [r0], #64",
        "ldr r5, [r1, #64]",
        "ldr r6, [r1, #128]",
        "ldr r7, [r1, #192]",
        "ldr r4, [r1], #4",
        "vmul.f32 q5, q4, r5",
        "vmul.f32 q6, q4, r6",
        "vadd.f32 q1, q1, q5",
        "vmul.f32 q5, q4, r7",
        "vadd.f32 q2, q2, q6",
        "vmul.f32 q6, q4, r4",
        "vadd.f32 q3, q3, q5",
        "vadd.f32 q0, q0, q6",
        "le lr, 2b",
        "vstrw.32 q0, [r3]",
        "vstrw.32 q1, [r3, #64]",
        "vstrw.32 q2, [r3, #128]",
        "vstrw.32 q3, [r3, #192]",
        "vpop {{d8-d13}}",
        "pop {{r4-r7, pc}}",
    )
}
