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

/// Tokens in a vector.
const LANES: usize = 4;

/// Ranges up to this are zero: 2⁻¹⁰⁰.
const EXACT_ZERO: f32 = f32::from_bits((127 - 100) << 23);

/// Ranges from here on are exact: 2⁻⁸⁰.
const EXACT_RANGE: f32 = f32::from_bits((127 - 80) << 23);

/// Whether all factors are 0, or at least the smallest normal number and at most 2¹⁷.
#[inline(always)]
pub(super) fn ordinary(factors: &[f32]) -> bool {
    const LEAST: u32 = f32::MIN_POSITIVE.to_bits();
    const MOST: u32 = 131_072_f32.to_bits();
    // Zero wraps around to itself.
    let distance = |e: &f32| {
        let bits = e.to_bits();
        if bits == 0 { 0 } else { bits.wrapping_sub(LEAST) }
    };
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

/// What [`pack_step`] reads, known to its assembly.
#[repr(C)]
pub(super) struct Step {
    columns: [*const Column; STEP],
    factors: [f32; STEP],
    vectors: usize,
    /// Where the first four tokens' words lie, in bytes.
    offsets: [usize; LANES],
    round: [f32; LANES],
}

impl Step {
    /// For a panel with room for `capacity` inputs.
    pub(super) fn new(live: usize, capacity: usize) -> Self {
        let pair = 2 * capacity;
        Self {
            columns: [core::ptr::null(); STEP],
            factors: [0.0; STEP],
            vectors: live.min(TILE_TOKENS).div_ceil(LANES),
            offsets: [0, TILE_DEPTH, pair, pair + TILE_DEPTH],
            round: [ROUND; LANES],
        }
    }

    /// Quantizes four inputs of the job's tokens to `at` of a panel of 16 × `capacity` bytes, four
    /// tokens at a time; the job's tokens and `capacity` are those of [`Step::new`]. False if the
    /// factors are not ordinary, or a word does not fit.
    #[inline(always)]
    pub(super) fn pack(
        &mut self,
        job: &Pack<'_>,
        capacity: usize,
        (columns, factors): ([&Column; STEP], [f32; STEP]),
        panel: &mut [u8],
        at: usize,
    ) -> bool {
        let fits = at + STEP + TILE_DEPTH <= 2 * capacity && panel.len() >= TILE_TOKENS * capacity;
        if !fits || self.vectors == 0 || !ordinary(&factors) {
            return false;
        }
        self.columns = columns.map(|c| &raw const *c);
        self.factors = factors;
        let place = panel.as_mut_ptr().wrapping_add(at);
        // SAFETY: the four columns have 16 tokens, as the scales have; the words of up to 16
        // tokens, in 8 pairs of 2 × `capacity` bytes, lie within the panel. Only called on cores
        // with Helium's floats.
        unsafe { pack_step(self, job.scales, place, 4 * capacity) };
        true
    }
}

/// Four inputs of `vectors` × four tokens: `rint(v × inverse) + zero` is worked out as
/// `(zero + bits(R)) − bits(R − v × inverse)`, which is far below −128 if v is no number.
///
/// # Safety
/// All that `step` says is there, with 16 tokens in a column and at least one vector; each vector's
/// words lie at `place` and `next` bytes after the one before, and are aligned to four. Needs
/// Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn pack_step(
    step: *const Step,
    scales: *const TileScales,
    place: *mut u8,
    next: usize,
) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "ldm r0!, {{r4-r11}}",
        "ldr lr, [r0], #4",
        "vldrw.u32 q7, [r0]",
        "vldrw.u32 q6, [r0, #16]",
        "ldr r12, [r0, #16]",
        "dls lr, lr",
        "2:",
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
        "le lr, 2b",
        "vpop {{d8-d15}}",
        "pop {{r4-r11, pc}}",
    )
}
