//! GELU before int8 ([`crate::math::gelu_near`]), four tokens at a time with Helium's floats.
//!
//! These take subnormal numbers for zeros. For an x of 0, or of at least 2⁻¹²⁰ either way, that is
//! no difference to the definition: a term of the polynomial that may be subnormal is added to a
//! constant of at least 4e-2; the polynomial is between 0.2 and 0.92, and its eighth power above
//! 2⁻¹⁹; so u times that is normal or 0. Where it is subtracted from x, less than half of x is.

use core::arch::naked_asm;

use crate::kernels::{Column, TILE_TOKENS};
use crate::math::gelu_near_constants::{LIMIT, POLY};

/// Tokens in a vector.
const LANES: usize = 4;

/// 2⁻¹²⁰.
const SMALL: u32 = (127 - 120) << 23;

/// What the assembly reads, in this order.
#[repr(C)]
struct Constants {
    limit: [f32; LANES],
    poly: [f32; 4],
    /// The least magnitude but 0, doubled, less 1.
    least: u32,
    /// The largest magnitude that is a number, doubled.
    most: u32,
}

static CONSTANTS: Constants = Constants {
    limit: [LIMIT; LANES],
    poly: POLY,
    least: 2 * SMALL - 1,
    most: 2 * f32::INFINITY.to_bits(),
};

/// Replaces the first `live` tokens by their GELU, and perhaps some after them; false, with the
/// column as it was, if one is too small for this or not a number. Needs Helium's floats.
#[inline(always)]
pub(super) fn gelu_near(column: &mut Column, live: usize) -> bool {
    let vectors = live.min(TILE_TOKENS).div_ceil(LANES);
    // SAFETY: the column has 16 tokens, four vectors; the caller has Helium's floats.
    vectors > 0 && unsafe { gelu_vectors(column.as_mut_ptr(), &CONSTANTS, vectors) } != 0
}

/// 1, or 0 if nothing was done.
///
/// # Safety
/// `vectors` × four floats are at `x`, at least four. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn gelu_vectors(x: *mut f32, constants: *const Constants, vectors: usize) -> u32 {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r10, lr}}",
        "vpush {{d8-d9}}",
        "vldrw.u32 q3, [r1], #16",
        "ldm r1, {{r3-r8}}",
        // The largest of the doubled magnitudes, and the least of those less 1, where 0's is the
        // highest.
        "mov r1, r0",
        "mov r9, #0",
        "mov r10, #1",
        "mvn r12, #0",
        "dls lr, r2",
        "2:",
        "vldrw.u32 q0, [r1], #16",
        "vshl.i32 q0, q0, #1",
        "vmaxv.u32 r9, q0",
        "vsub.i32 q0, q0, r10",
        "vminv.u32 r12, q0",
        "le lr, 2b",
        "cmp r12, r7",
        "it hs",
        "cmphs r8, r9",
        "blo 4f",
        "vmov.i32 q4, #0",
        "dls lr, r2",
        "3:",
        "vldrw.u32 q0, [r0]",
        "vabs.f32 q1, q0",
        "vminnm.f32 q1, q1, q3",
        "vmul.f32 q2, q1, r3",
        "vadd.f32 q2, q2, r4",
        "vmul.f32 q2, q2, q1",
        "vadd.f32 q2, q2, r5",
        "vmul.f32 q2, q2, q1",
        "vadd.f32 q2, q2, r6",
        "vmul.f32 q2, q2, q2",
        "vmul.f32 q2, q2, q2",
        "vmul.f32 q2, q2, q2",
        "vmaxnm.f32 q0, q0, q4",
        "vmul.f32 q1, q1, q2",
        "vsub.f32 q0, q0, q1",
        "vstrw.32 q0, [r0], #16",
        "le lr, 3b",
        "movs r0, #1",
        "b 5f",
        "4:",
        "movs r0, #0",
        "5:",
        "vpop {{d8-d9}}",
        "pop {{r4-r10, pc}}",
    )
}
