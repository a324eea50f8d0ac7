//! LayerNorm, four tokens at a time with Helium's floats.
//!
//! These take subnormal numbers for zeros, which is no difference to the definition where
//!
//! - every x + a, worked out so, is at least 2⁻³⁰ either way: then it is right, since neither of
//!   both can count if it is subnormal. Such numbers are multiples of 2⁻⁵³, and so is their sum,
//!   in any order, with every rounding.
//! - the mean is at least 2⁻³⁰, too: then each x − mean is 0 or at least 2⁻⁵³, its square 0 or at
//!   least 2⁻¹⁰⁶.
//! - the inverse deviation is at least 2⁻¹⁶, and every weight 0 or at least 2⁻³⁰: then
//!   ((x − mean) × inverse) × weight is 0 or at least 2⁻⁹⁹.
//! - every bias is 0 or at least 2⁻¹⁰⁰: then the sum with it is 0 or at least 2⁻¹²³.
//!
//! Everything else is left to scalar code.

use core::arch::naked_asm;

use crate::kernels::scalar::norm_token;
use crate::kernels::{Column, Norm, TILE_TOKENS};
use crate::math::{self, LANES};

/// Tokens in a vector.
const TOKENS: usize = 4;

/// 2 to the `n`.
const fn power(n: i32) -> f32 {
    f32::from_bits(((127 + n) as u32) << 23)
}

/// The least x + a, mean and weight.
const LEAST: f32 = power(-30);

/// The least bias.
const LEAST_BIAS: f32 = power(-100);

/// The least inverse deviation.
const LEAST_INVERSE: f32 = power(-16);

/// Sums in lanes, for each token.
type Totals = [[f32; TOKENS]; LANES];

/// What [`rescale`] reads, known to its assembly.
#[repr(C)]
struct Numbers {
    mean: [f32; TOKENS],
    inverse: [f32; TOKENS],
    pairs: usize,
}

/// `x = LayerNorm(x + add)` for `live` tokens; false, with `x` as it was, if this is left to scalar
/// code. Needs Helium's floats.
pub(super) fn norm(x: &mut [Column], add: &[Column], norm: &Norm<'_>, live: usize) -> bool {
    let count = x.len();
    let vectors = live.min(TILE_TOKENS).div_ceil(TOKENS);
    let (Some(gamma), Some(beta)) = (norm.gamma.get(..count), norm.beta.get(..count)) else {
        return false;
    };
    if count == 0 || !count.is_multiple_of(LANES) || add.len() != count {
        return false;
    }
    if !at_least(gamma, LEAST) || !at_least(beta, LEAST_BIAS) {
        return false;
    }
    let (columns, adds) = (x.as_mut_ptr().cast::<f32>(), add.as_ptr().cast::<f32>());
    for part in 0..vectors {
        let at = part * TOKENS;
        // SAFETY: `count` columns of sixteen tokens, of which four are from `at` on; the caller has
        // Helium's floats.
        let least =
            unsafe { least_sum(columns.wrapping_add(at), adds.wrapping_add(at), count / 2) };
        if least < LEAST.to_bits() {
            return false;
        }
    }
    let runs = count / LANES;
    for part in 0..vectors {
        let at = part * TOKENS;
        let columns = columns.wrapping_add(at);
        let mut totals = [[0.0; TOKENS]; LANES];
        // SAFETY: as above, and `runs` times sixteen columns are all.
        unsafe { add_sums(columns, adds.wrapping_add(at), runs, &mut totals) };
        let mean = folded(&totals).map(|sum| sum / count as f32);
        let mut done = false;
        if mean.iter().all(|m| m.abs() >= LEAST && *m < f32::INFINITY) {
            // SAFETY: likewise.
            unsafe { square_sums(columns, &mean, runs, &mut totals) };
            let inverse = folded(&totals).map(|sum| {
                let variance = sum / count as f32;
                1.0 / math::sqrt(variance + norm.epsilon)
            });
            if inverse.iter().all(|i| *i >= LEAST_INVERSE && *i < f32::INFINITY) {
                let numbers = Numbers { mean, inverse, pairs: count / 2 };
                // SAFETY: likewise, and as many weights and biases.
                unsafe { rescale(columns, &numbers, gamma.as_ptr(), beta.as_ptr()) };
                done = true;
            }
        }
        if !done {
            (at..live.min(at + TOKENS)).for_each(|t| norm_token(x, t, norm));
        }
    }
    true
}

/// Whether all numbers are 0 or at least `least` either way.
fn at_least(numbers: &[f32], least: f32) -> bool {
    // 0 becomes the highest.
    let (fours, rest) = numbers.as_chunks::<TOKENS>();
    let size = |v: &f32| (2 * (v.to_bits() & 0x7fff_ffff)).wrapping_sub(1);
    let mut lowest = rest.iter().map(size).fold(u32::MAX, u32::min);
    if !fours.is_empty() {
        // SAFETY: so many times four numbers are there.
        lowest = lowest.min(unsafe { least_size(fours.as_ptr().cast(), fours.len()) });
    }
    lowest >= 2 * least.to_bits() - 1
}

/// Each token's lanes, folded.
fn folded(totals: &Totals) -> [f32; TOKENS] {
    let mut sums = [0.0; TOKENS];
    for (t, sum) in sums.iter_mut().enumerate() {
        let mut lanes = [0.0; LANES];
        for (lane, total) in lanes.iter_mut().zip(totals) {
            *lane = total.get(t).copied().unwrap_or_default();
        }
        *sum = math::fold(lanes);
    }
    sums
}

/// The least of the doubled magnitudes less 1, where 0's is the highest, of `vectors` × four
/// numbers.
///
/// # Safety
/// They are there, at least one vector.
#[unsafe(naked)]
unsafe extern "C" fn least_size(numbers: *const f32, vectors: usize) -> u32 {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4, lr}}",
        "mvn r2, #0",
        "movs r3, #1",
        "dls lr, r1",
        "2:",
        "vldrw.u32 q0, [r0], #16",
        "vshl.i32 q0, q0, #1",
        "vsub.i32 q0, q0, r3",
        "vminv.u32 r2, q0",
        "le lr, 2b",
        "mov r0, r2",
        "pop {{r4, pc}}",
    )
}

/// The least |x + add| of four tokens in `pairs` times two columns, as bits; what is not a number
/// does not count.
///
/// # Safety
/// They are there, at least one pair. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn least_sum(x: *const f32, add: *const f32, pairs: usize) -> u32 {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4, lr}}",
        "mov r3, #0x7f800000",
        "dls lr, r2",
        "2:",
        "vldrw.u32 q0, [r0]",
        "vldrw.u32 q1, [r1]",
        "vldrw.u32 q2, [r0, #64]",
        "vldrw.u32 q3, [r1, #64]",
        "adds r0, #128",
        "adds r1, #128",
        "vadd.f32 q0, q0, q1",
        "vadd.f32 q2, q2, q3",
        "vminnmav.f32 r3, q0",
        "vminnmav.f32 r3, q2",
        "le lr, 2b",
        "mov r0, r3",
        "pop {{r4, pc}}",
    )
}

/// `x += add` for four tokens of `runs` times sixteen columns, and the sums of that in lanes.
///
/// # Safety
/// They are there, at least one run. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn add_sums(x: *mut f32, add: *const f32, runs: usize, totals: &mut Totals) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r6, lr}}",
        "vpush {{d8-d15}}",
        // Four lanes at a time.
        "movs r4, #4",
        "2:",
        "mov r5, r0",
        "mov r6, r1",
        "vmov.i32 q4, #0",
        "vmov.i32 q5, #0",
        "vmov.i32 q6, #0",
        "vmov.i32 q7, #0",
        "dls lr, r2",
        "3:",
        "vldrw.u32 q0, [r5]",
        "vldrw.u32 q1, [r6]",
        "vldrw.u32 q2, [r5, #64]",
        "vldrw.u32 q3, [r6, #64]",
        "vadd.f32 q0, q0, q1",
        "vadd.f32 q2, q2, q3",
        "vstrw.32 q0, [r5]",
        "vstrw.32 q2, [r5, #64]",
        "vadd.f32 q4, q4, q0",
        "vadd.f32 q5, q5, q2",
        "vldrw.u32 q0, [r5, #128]",
        "vldrw.u32 q1, [r6, #128]",
        "vldrw.u32 q2, [r5, #192]",
        "vldrw.u32 q3, [r6, #192]",
        "vadd.f32 q0, q0, q1",
        "vadd.f32 q2, q2, q3",
        "vstrw.32 q0, [r5, #128]",
        "vstrw.32 q2, [r5, #192]",
        "vadd.f32 q6, q6, q0",
        "vadd.f32 q7, q7, q2",
        "add r5, r5, #1024",
        "add r6, r6, #1024",
        "le lr, 3b",
        "vstrw.32 q4, [r3], #16",
        "vstrw.32 q5, [r3], #16",
        "vstrw.32 q6, [r3], #16",
        "vstrw.32 q7, [r3], #16",
        "add r0, r0, #256",
        "add r1, r1, #256",
        "subs r4, #1",
        "bne 2b",
        "vpop {{d8-d15}}",
        "pop {{r4-r6, pc}}",
    )
}

/// The sums of (x − mean)² in lanes, for four tokens of `runs` times sixteen columns.
///
/// # Safety
/// As for [`add_sums`].
#[unsafe(naked)]
unsafe extern "C" fn square_sums(
    x: *const f32,
    mean: &[f32; TOKENS],
    runs: usize,
    totals: &mut Totals,
) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r6, lr}}",
        "vpush {{d8-d15}}",
        "vldrw.u32 q3, [r1]",
        "movs r4, #4",
        "2:",
        "mov r5, r0",
        "vmov.i32 q4, #0",
        "vmov.i32 q5, #0",
        "vmov.i32 q6, #0",
        "vmov.i32 q7, #0",
        "dls lr, r2",
        "3:",
        "vldrw.u32 q0, [r5]",
        "vldrw.u32 q1, [r5, #64]",
        "vsub.f32 q0, q0, q3",
        "vsub.f32 q1, q1, q3",
        "vmul.f32 q0, q0, q0",
        "vmul.f32 q1, q1, q1",
        "vadd.f32 q4, q4, q0",
        "vadd.f32 q5, q5, q1",
        "vldrw.u32 q0, [r5, #128]",
        "vldrw.u32 q1, [r5, #192]",
        "vsub.f32 q0, q0, q3",
        "vsub.f32 q1, q1, q3",
        "vmul.f32 q0, q0, q0",
        "vmul.f32 q1, q1, q1",
        "vadd.f32 q6, q6, q0",
        "vadd.f32 q7, q7, q1",
        "add r5, r5, #1024",
        "le lr, 3b",
        "vstrw.32 q4, [r3], #16",
        "vstrw.32 q5, [r3], #16",
        "vstrw.32 q6, [r3], #16",
        "vstrw.32 q7, [r3], #16",
        "add r0, r0, #256",
        "subs r4, #1",
        "bne 2b",
        "vpop {{d8-d15}}",
        "pop {{r4-r6, pc}}",
    )
}

/// `((x − mean) × inverse) × weight + bias` for four tokens of `pairs` times two columns.
///
/// # Safety
/// They are there, at least one pair, and as many weights and biases. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn rescale(x: *mut f32, numbers: &Numbers, gamma: *const f32, beta: *const f32) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r7, r8, lr}}",
        "vldrw.u32 q1, [r1]",
        "vldrw.u32 q2, [r1, #16]",
        "ldr r12, [r1, #32]",
        "dls lr, r12",
        "2:",
        "vldrw.u32 q0, [r0]",
        "ldrd r4, r5, [r2], #8",
        "vldrw.u32 q3, [r0, #64]",
        "ldrd r6, r7, [r3], #8",
        "vsub.f32 q0, q0, q1",
        "vsub.f32 q3, q3, q1",
        "vmul.f32 q0, q0, q2",
        "vmul.f32 q3, q3, q2",
        "vmul.f32 q0, q0, r4",
        "vmul.f32 q3, q3, r5",
        "vadd.f32 q0, q0, r6",
        "vadd.f32 q3, q3, r7",
        "vstrw.32 q3, [r0, #64]",
        "vstrw.32 q0, [r0], #128",
        "le lr, 2b",
        "pop {{r4-r7, r8, pc}}",
    )
}
