//! GELU before int8 ([`crate::math::gelu_near`]), four tokens at a time with Helium's floats.
//!
//! These take subnormal numbers for zeros. For an x of 0, or of at least 2⁻¹²⁰ either way, that is
//! no difference to the definition: u² and the terms of the polynomial that may be subnormal are
//! added to constants above 1e-6; u × P is normal, since P is between 0.1 and 0.4; its sum with ½
//! is 0 or at least 2⁻²⁵, which for an x near 0 is ½; and so x times that is 0 or normal.

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
    low: [f32; LANES],
    high: [f32; LANES],
    poly: [f32; 7],
    half: f32,
}

static CONSTANTS: Constants =
    Constants { low: [-LIMIT; LANES], high: [LIMIT; LANES], poly: POLY, half: 0.5 };

/// Replaces the first `live` tokens by their GELU, and perhaps some after them; false, with the
/// column as it was, if one is too small for this. Needs Helium's floats.
#[inline(always)]
pub(super) fn gelu_near(column: &mut Column, live: usize) -> bool {
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
        "push {{r4-r8, lr}}",
        "vpush {{d8-d15}}",
        "mov lr, r2",
        "vldrw.u32 q5, [r1]",
        "vldrw.u32 q6, [r1, #16]",
        "adds r1, #32",
        "ldm r1, {{r1-r8}}",
        "dls lr, lr",
        "2:",
        "vldrw.u32 q0, [r0]",
        "vmaxnm.f32 q1, q0, q5",
        "vminnm.f32 q1, q1, q6",
        "vmul.f32 q2, q1, q1",
        "vmul.f32 q3, q2, r1",
        "vadd.f32 q3, q3, r2",
        "vmul.f32 q3, q3, q2",
        "vadd.f32 q3, q3, r3",
        "vmul.f32 q3, q3, q2",
        "vadd.f32 q3, q3, r4",
        "vmul.f32 q3, q3, q2",
        "vadd.f32 q3, q3, r5",
        "vmul.f32 q3, q3, q2",
        "vadd.f32 q3, q3, r6",
        "vmul.f32 q3, q3, q2",
        "vadd.f32 q3, q3, r7",
        "vmul.f32 q3, q1, q3",
        "vadd.f32 q3, q3, r8",
        "vmul.f32 q0, q0, q3",
        "vstrw.32 q0, [r0], #16",
        "le lr, 2b",
        "vpop {{d8-d15}}",
        "pop {{r4-r8, pc}}",
    )
}
