//! Int4 codes to int8 weights, sixteen at a time.

use core::arch::naked_asm;

use crate::format::{RUN, RUN_I4, TILE_DEPTH, TILE_ROWS, quad_bytes_i4, round_up};

/// See [`crate::kernels::Backend::unpack_i4`].
pub(super) fn unpack(packed: &[u8], depth: usize, out: &mut [i8]) {
    let depth = round_up(depth, TILE_DEPTH);
    let quads = packed.chunks_exact(quad_bytes_i4(depth).max(1));
    for (quad, place) in quads.zip(out.chunks_exact_mut((TILE_ROWS * depth).max(1))) {
        let half = !depth.is_multiple_of(RUN);
        // SAFETY: four rows of `depth` weights are in as many runs of codes, the last of which is
        // a half if that is what is left of the depth.
        unsafe { four_rows(quad.as_ptr(), place.as_mut_ptr(), quad.len() / RUN_I4, half) };
    }
}

/// Splits the four multipliers of a run: steps to r4 to r7, steps times zeros to r8 to r11.
macro_rules! multipliers {
    () => {
        concat!(
            "ldr r12, [r0], #4\n",
            "and r4, r12, #15\n",
            "ubfx r8, r12, #4, #4\n",
            "ubfx r5, r12, #8, #4\n",
            "ubfx r9, r12, #12, #4\n",
            "ubfx r6, r12, #16, #4\n",
            "ubfx r10, r12, #20, #4\n",
            "ubfx r7, r12, #24, #4\n",
            "lsr r11, r12, #28\n",
            "mul r8, r8, r4\n",
            "mul r9, r9, r5\n",
            "mul r10, r10, r6\n",
            "mul r11, r11, r7\n",
        )
    };
}

/// One tile: codes × step − zero × step, which fits eight bits.
macro_rules! tile {
    () => {
        concat!(
            "vldrb.u8 q0, [r0], #16\n",
            "vldrb.u8 q1, [r0], #16\n",
            "vshr.u8 q2, q0, #4\n",
            "vmul.i8 q2, q2, r6\n",
            "vsub.i8 q2, q2, r10\n",
            "vstrb.8 q2, [r1, #32]\n",
            "vshr.u8 q2, q1, #4\n",
            "vmul.i8 q2, q2, r7\n",
            "vsub.i8 q2, q2, r11\n",
            "vstrb.8 q2, [r1, #48]\n",
            "vand q1, q1, q3\n",
            "vmul.i8 q1, q1, r5\n",
            "vsub.i8 q1, q1, r9\n",
            "vstrb.8 q1, [r1, #16]\n",
            "vand q0, q0, q3\n",
            "vmul.i8 q0, q0, r4\n",
            "vsub.i8 q0, q0, r8\n",
            "vstrb.8 q0, [r1], #64\n",
        )
    };
}

/// Four rows' `runs` whole runs, and a half one after them if so.
///
/// # Safety
/// 68 bytes of codes and room for 128 weights for each run, 36 and 64 for a half one.
#[unsafe(naked)]
unsafe extern "C" fn four_rows(packed: *const u8, out: *mut i8, runs: usize, half: bool) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r11, lr}}",
        "vmov.i8 q3, #15",
        "wls lr, r2, 3f",
        "2:",
        multipliers!(),
        tile!(),
        tile!(),
        "le lr, 2b",
        "3:",
        "cbz r3, 4f",
        multipliers!(),
        tile!(),
        "4:",
        "pop {{r4-r11, pc}}",
    )
}
