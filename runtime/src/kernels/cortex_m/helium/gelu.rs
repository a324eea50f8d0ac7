//! GELU by the error function, four tokens at a time with Helium's floats.
//!
//! These take subnormal numbers for zeros. For an x of 0, or of at least 2⁻¹²⁰ either way, that is
//! no difference to the definition: u² and the terms of the polynomials that may be subnormal are
//! added to constants above 1e-8; so is erf, to 1, when u × P is; and the result is x / 2 times 0
//! or at least 2⁻²⁴, which for an x near 0 is 1. The division is a plain float's.

use core::arch::naked_asm;

use crate::kernels::{Column, TILE_TOKENS};
use crate::math::erf_constants::{LIMIT, P, Q};

/// Tokens in a vector.
const LANES: usize = 4;

/// 2⁻¹²⁰.
const SMALL: u32 = (127 - 120) << 23;

/// What the assembly reads, in this order.
#[repr(C)]
struct Constants {
    root_half: [f32; LANES],
    low: [f32; LANES],
    high: [f32; LANES],
    p: [f32; 7],
    q: [f32; 5],
}

static CONSTANTS: Constants = Constants {
    root_half: [core::f32::consts::FRAC_1_SQRT_2; LANES],
    low: [-LIMIT; LANES],
    high: [LIMIT; LANES],
    p: P,
    q: Q,
};

/// Replaces the first `live` tokens by their GELU, and perhaps some after them; false, with the
/// column as it was, if one is too small for this. Needs Helium's floats.
#[inline(always)]
pub(super) fn gelu(column: &mut Column, live: usize) -> bool {
    let vectors = live.min(TILE_TOKENS).div_ceil(LANES);
    // 0 becomes the highest.
    let size = |x: &f32| (x.to_bits() & 0x7fff_ffff).wrapping_sub(1);
    if vectors == 0 || column.iter().map(size).fold(u32::MAX, u32::min) < SMALL - 1 {
        return false;
    }
    // SAFETY: the column has 16 tokens, four vectors; the caller has Helium's floats.
    unsafe { gelu_vectors(column.as_mut_ptr(), &CONSTANTS, vectors) };
    true
}

/// # Safety
/// `vectors` × four floats are at `x`, at least four. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn gelu_vectors(x: *mut f32, constants: *const Constants, vectors: usize) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "mov lr, r2",
        "vldrw.u32 q7, [r1]",
        "vldrw.u32 q5, [r1, #16]",
        "vldrw.u32 q6, [r1, #32]",
        "adds r1, #48",
        // P in r1 to r7, Q in r8 to r12.
        "ldm r1, {{r1-r12}}",
        "dls lr, lr",
        "2:",
        "vldrw.u32 q0, [r0]",
        "vmul.f32 q1, q0, q7",
        "vmaxnm.f32 q1, q1, q5",
        "vminnm.f32 q1, q1, q6",
        "vmul.f32 q2, q1, q1",
        "vmul.f32 q3, q2, r1",
        "vmul.f32 q4, q2, r8",
        "vadd.f32 q3, q3, r2",
        "vadd.f32 q4, q4, r9",
        "vmul.f32 q3, q3, q2",
        "vmul.f32 q4, q4, q2",
        "vadd.f32 q3, q3, r3",
        "vadd.f32 q4, q4, r10",
        "vmul.f32 q3, q3, q2",
        "vmul.f32 q4, q4, q2",
        "vadd.f32 q3, q3, r4",
        "vadd.f32 q4, q4, r11",
        "vmul.f32 q3, q3, q2",
        "vmul.f32 q4, q4, q2",
        "vadd.f32 q3, q3, r5",
        "vadd.f32 q4, q4, r12",
        "vmul.f32 q3, q3, q2",
        "vadd.f32 q3, q3, r6",
        "vmul.f32 q3, q3, q2",
        "vadd.f32 q3, q3, r7",
        "vmul.f32 q3, q1, q3",
        // There is no division of vectors: q3 / q4.
        "vdiv.f32 s12, s12, s16",
        "vdiv.f32 s13, s13, s17",
        "vdiv.f32 s14, s14, s18",
        "vdiv.f32 s15, s15, s19",
        "vmov.f32 q1, #1.0",
        "vmov.f32 q2, #0.5",
        "vadd.f32 q3, q1, q3",
        "vmul.f32 q0, q2, q0",
        "vmul.f32 q0, q0, q3",
        "vstrw.32 q0, [r0], #16",
        "le lr, 2b",
        "vpop {{d8-d15}}",
        "pop {{r4-r11, pc}}",
    )
}
