//! Quantizing four tokens at a time with Helium's floats.
//!
//! These take subnormal numbers for zeros, which is no difference where [`ordinary`] factors meet
//! the quantizer. x × e is off by less than δ = 2⁻¹²⁶ × 2¹⁷ = 2⁻¹⁰⁹ then: x or the product may
//! have been taken for zero, e not. Hence
//!
//! - a range of at least 2⁻⁸⁰ is exact: if an end of it is off, that end is less than half a step
//!   of the other; and the zero point has the same rounded sum, its end × inverse being below 2⁻²⁰.
//!   A range below 2⁻¹⁰⁰ is below 1e-30 with and without δ. Ranges in between are left to scalar
//!   code.
//! - the quantized value is exact: the inverse is at most 255 / 1e-30 < 2¹⁰⁸, so what was taken for
//!   zero is below ½ and is rounded to zero anyway.

use core::arch::naked_asm;

use crate::format::TILE_DEPTH;
use crate::kernels::cortex_m::quantize::STEP;
use crate::kernels::{Column, Pack, TILE_TOKENS, TileScales};
use crate::math::ROUND;
use crate::view::Indices;

/// Tokens in a vector.
const LANES: usize = 4;

/// Ranges up to this are zero: 2⁻¹⁰⁰.
const EXACT_ZERO: f32 = f32::from_bits((127 - 100) << 23);

/// Ranges from here on are exact: 2⁻⁸⁰.
const EXACT_RANGE: f32 = f32::from_bits((127 - 80) << 23);

/// Factors may be 0, or from the smallest normal number to 2¹⁷.
const LEAST: u32 = f32::MIN_POSITIVE.to_bits();
const MOST: u32 = 131_072_f32.to_bits();

/// How far a factor is above the least, in bits; 0 is as good as that.
#[inline(always)]
fn distance(factor: &f32) -> u32 {
    let bits = factor.to_bits();
    if bits == 0 { 0 } else { bits.wrapping_sub(LEAST) }
}

/// Whether all factors are ordinary.
#[inline(always)]
fn ordinary(factors: &[f32]) -> bool {
    factors.iter().map(distance).fold(0, u32::max) <= MOST - LEAST
}

/// The scales of a tile; `None` if they are left to scalar code.
pub(super) fn scales(x: &[Column], equalize: &[f32], live: usize) -> Option<TileScales> {
    let count = x.len().min(equalize.len());
    let live = live.min(TILE_TOKENS);
    if count == 0 || !ordinary(equalize) {
        return None;
    }
    let mut ends = [[0.0; TILE_TOKENS]; 2];
    // SAFETY: `count` columns and factors are there; only called on cores with Helium's floats.
    unsafe { ranges(x.as_ptr(), equalize.as_ptr(), count, &mut ends) };
    let [lowest, highest] = ends;
    let mut scales = TileScales::EMPTY;
    for (t, (low, high)) in lowest.into_iter().zip(highest).enumerate().take(live) {
        let range = high - low;
        if range > EXACT_ZERO && range < EXACT_RANGE {
            return None;
        }
        scales.set(t, low, high);
    }
    Some(scales)
}

/// The smallest and largest of 0 and all x × e of each of 16 tokens.
///
/// # Safety
/// `count` columns and factors are there, at least one. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn ranges(
    x: *const Column,
    e: *const f32,
    count: usize,
    ends: *mut [[f32; TILE_TOKENS]; 2],
) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r7, lr}}",
        "vpush {{d8-d11}}",
        // Eight tokens, then the others.
        "movs r4, #2",
        "2:",
        "mov r5, r0",
        "mov r6, r1",
        "vmov.i32 q0, #0",
        "vmov.i32 q1, #0",
        "vmov.i32 q2, #0",
        "vmov.i32 q3, #0",
        "dls lr, r2",
        "3:",
        "ldr r7, [r6], #4",
        "vldrw.u32 q5, [r5, #16]",
        "vldrw.u32 q4, [r5], #64",
        "vmul.f32 q5, q5, r7",
        "vmul.f32 q4, q4, r7",
        "vminnm.f32 q1, q1, q5",
        "vmaxnm.f32 q3, q3, q5",
        "vminnm.f32 q0, q0, q4",
        "vmaxnm.f32 q2, q2, q4",
        "le lr, 3b",
        "vstrw.32 q1, [r3, #16]",
        "vstrw.32 q2, [r3, #64]",
        "vstrw.32 q3, [r3, #80]",
        "vstrw.32 q0, [r3], #32",
        "add r0, r0, #32",
        "subs r4, #1",
        "bne 2b",
        "vpop {{d8-d11}}",
        "pop {{r4-r7, pc}}",
    )
}

/// What [`pack_steps`] reads, known to its assembly.
#[repr(C)]
struct Steps {
    x: *const Column,
    factors: *const f32,
    /// Four inputs for every step.
    list: *const u16,
    scales: *const TileScales,
    /// Where the first step's words of the first four tokens lie, and bytes from four tokens' words
    /// to the next four's.
    place: *mut u8,
    next: usize,
    /// Position of the first input.
    position: usize,
    steps: usize,
    vectors: usize,
    /// Where four tokens' words lie, in bytes.
    offsets: [usize; LANES],
    round: [f32; LANES],
}

/// Most steps of a turn.
const TURN: usize = 16;

/// See [`crate::kernels::Backend::pack`]; the panel is [`super::Helium`]'s. False if it is left to
/// scalar code. Needs Helium's floats.
pub(super) fn pack(job: &Pack<'_>, capacity: usize, panel: &mut [u8]) -> bool {
    let vectors = job.live.min(TILE_TOKENS).div_ceil(LANES);
    let count = job.inputs.len();
    let padded = (job.at + count).next_multiple_of(STEP);
    if vectors == 0
        || !job.at.is_multiple_of(STEP)
        || padded > capacity
        || panel.len() < TILE_TOKENS * capacity
    {
        return false;
    }
    let mut done = 0;
    while done < count {
        // The inputs of some steps; the weights of what pads the last are zero.
        let mut list = [0_u16; TURN * STEP];
        let now = (count - done).min(list.len());
        let places = list.iter_mut();
        match job.inputs {
            Indices::Range { first, .. } => {
                places.take(now).zip(first + done..).for_each(|(to, from)| *to = from as u16);
            }
            Indices::List(inputs) => {
                let inputs = inputs.get(done..).unwrap_or_default();
                places.zip(inputs).for_each(|(to, from)| *to = *from);
            }
        }
        let steps = now.div_ceil(STEP);
        let used = list.get(..steps * STEP).unwrap_or_default();
        if !used.iter().all(|i| {
            let i = usize::from(*i);
            i < job.x.len() && job.equalize.get(i).is_some_and(|e| distance(e) <= MOST - LEAST)
        }) {
            return false;
        }
        let position = job.at + done;
        let at = position / TILE_DEPTH * 2 * TILE_DEPTH + position % TILE_DEPTH;
        let pair = 2 * capacity;
        let turn = Steps {
            x: job.x.as_ptr(),
            factors: job.equalize.as_ptr(),
            list: list.as_ptr(),
            scales: job.scales,
            place: panel.as_mut_ptr().wrapping_add(at),
            next: 2 * pair,
            position,
            steps,
            vectors,
            offsets: [0, TILE_DEPTH, pair, pair + TILE_DEPTH],
            round: [ROUND; LANES],
        };
        // SAFETY: all columns and factors of the list are there; the words of up to 16 tokens, in 8
        // pairs of 2 × `capacity` bytes, lie within the panel for all positions below `capacity`,
        // and these are. Only called on cores with Helium's floats.
        unsafe { pack_steps(&turn) };
        done += now;
    }
    true
}

/// Some steps of four inputs of `vectors` × four tokens: `rint(v × inverse) + zero` is worked out as
/// `(zero + bits(R)) − bits(R − v × inverse)`, which is far below −128 if v is no number.
///
/// # Safety
/// All that `job` says is there, with 16 tokens in a column, at least one vector and one step; each
/// vector's words lie at `place` and `next` bytes after the one before, and are aligned to four.
/// Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn pack_steps(job: *const Steps) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "vldrw.u32 q7, [r0, #36]",
        "vldrw.u32 q6, [r0, #52]",
        "ldrd r2, r3, [r0, #24]",
        // 0: position, steps left, list.
        "ldr r1, [r0, #8]",
        "sub sp, sp, #16",
        "strd r2, r3, [sp]",
        "str r1, [sp, #8]",
        "ldr r2, [r0, #16]",
        "2:",
        // Four inputs' columns and factors.
        "ldr r3, [sp, #8]",
        "ldr r12, [r0, #4]",
        "ldr r1, [r0]",
        "ldrh r4, [r3], #2",
        "ldrh r5, [r3], #2",
        "ldrh r6, [r3], #2",
        "ldrh r7, [r3], #2",
        "str r3, [sp, #8]",
        "ldr r8, [r12, r4, lsl #2]",
        "ldr r9, [r12, r5, lsl #2]",
        "ldr r10, [r12, r6, lsl #2]",
        "ldr r11, [r12, r7, lsl #2]",
        "add r4, r1, r4, lsl #6",
        "add r5, r1, r5, lsl #6",
        "add r6, r1, r6, lsl #6",
        "add r7, r1, r7, lsl #6",
        "ldr r1, [r0, #12]",
        "ldr r3, [r0, #20]",
        "ldr lr, [r0, #32]",
        "ldr r12, [r0, #52]",
        "str r2, [sp, #12]",
        "dls lr, lr",
        "3:",
        "vldrw.u32 q5, [r1, #192]",
        "vldrw.u32 q4, [r1, #64]",
        "adds r1, #16",
        "vldrw.u32 q0, [r4], #16",
        "vmul.f32 q0, q0, r8",
        "vldrw.u32 q1, [r5], #16",
        "vmul.f32 q1, q1, r9",
        "vldrw.u32 q2, [r6], #16",
        "vmul.f32 q2, q2, r10",
        "vldrw.u32 q3, [r7], #16",
        "vmul.f32 q3, q3, r11",
        "vadd.i32 q5, q5, r12",
        "vmul.f32 q0, q0, q4",
        "vmul.f32 q1, q1, q4",
        "vmul.f32 q2, q2, q4",
        "vmul.f32 q3, q3, q4",
        "vsub.f32 q0, q6, q0",
        "vsub.f32 q1, q6, q1",
        "vsub.f32 q2, q6, q2",
        "vsub.f32 q3, q6, q3",
        "vsub.i32 q0, q5, q0",
        "vsub.i32 q1, q5, q1",
        "vsub.i32 q2, q5, q2",
        "vsub.i32 q3, q5, q3",
        // To 16 bits, inputs 0 and 2, 1 and 3 in turn; then to bytes in order.
        "vqmovnb.s32 q0, q0",
        "vqmovnb.s32 q1, q1",
        "vqmovnt.s32 q0, q2",
        "vqmovnt.s32 q1, q3",
        "vqmovnb.s16 q0, q0",
        "vqmovnt.s16 q0, q1",
        "vstrw.32 q0, [r2, q7]",
        "add r2, r2, r3",
        "le lr, 3b",
        // The next step; after sixteen inputs past the other token of a pair.
        "ldr r2, [sp, #12]",
        "ldrd r3, r1, [sp]",
        "adds r2, #4",
        "adds r3, #4",
        "tst r3, #15",
        "it eq",
        "addeq r2, #16",
        "subs r1, #1",
        "strd r3, r1, [sp]",
        "bne 2b",
        "add sp, sp, #16",
        "vpop {{d8-d15}}",
        "pop {{r0, r4-r11, pc}}",
    )
}
