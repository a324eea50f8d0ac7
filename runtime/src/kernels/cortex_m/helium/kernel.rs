//! Groups of four rows by all tokens, from packed inputs to float outputs.
//!
//! A whole function in assembly: the sums of four rows by two tokens take all eight registers
//! that `vmladava` adds to. 128 products take 14 instructions: two loads of inputs, four of
//! weights, and eight of `vmladava`, loads and products in turn.

use core::arch::{asm, naked_asm};

use crate::kernels::{Column, TILE_TOKENS, TileScales};

/// What [`multiply`] reads, and counts on; its layout is known to the assembly.
#[repr(C)]
pub(super) struct Job {
    /// Weights of the next four rows.
    pub weights: *const i8,
    /// Where they end.
    pub end: *const i8,
    /// The first tile's panel.
    pub panel: *const u8,
    /// The first tile's scales.
    pub scales: *const TileScales,
    /// Tokens in all, at least one.
    pub tokens: usize,
    /// Bytes between a pair's inputs and the next pair's.
    pub skip: usize,
    /// Weight scales of the next four rows.
    pub scale: *const f32,
    /// Their biases.
    pub bias: *const f32,
    /// Their sums.
    pub sum: *const i32,
    /// Times four rows, at least one.
    pub quads: usize,
    /// The next four outputs; null if they follow one another.
    pub list: *const u16,
    /// The next output's column, or with a list, output 0's.
    pub column: *mut Column,
    /// Bytes from a column's end to the next tile's same column.
    pub stride: usize,
    /// Not 0: write the sums of products as integers.
    pub integers: usize,
}

// What the assembly relies on.
const _: () = {
    assert!(size_of::<Job>() == 56);
    assert!(core::mem::offset_of!(TileScales, scale) == 0);
    assert!(core::mem::offset_of!(TileScales, zero) == 12 * TILE_TOKENS);
    assert!(size_of::<TileScales>() == 16 * TILE_TOKENS);
};

/// Whether the core has Helium's floats, too; not said by the build's flags, which leave them out
/// to keep the compiler from using them.
pub(super) fn has_floats() -> bool {
    let control: u32;
    // SAFETY: reads a register that every program may read.
    unsafe { asm!("mrs {}, control", out(reg) control, options(nomem, nostack)) };
    // Unprivileged programs may not ask; integers will do.
    let privileged = control & 1 == 0;
    // SAFETY: MVFR1 is there on every core with Helium, and reading it has no effect.
    privileged && unsafe { (0xe000_ef44 as *const u32).read_volatile() } >> 8 & 0xf >= 2
}

/// Sixteen inputs of two tokens by four rows.
macro_rules! block {
    () => {
        concat!(
            "vldrb.u8 q0, [r3], #16\n",
            "vldrb.u8 q2, [r1], #16\n",
            "vmladava.s8 r0, q0, q2\n",
            "vldrb.u8 q1, [r3], #16\n",
            "vmladava.s8 r2, q1, q2\n",
            "vldrb.u8 q3, [r1], #16\n",
            "vmladava.s8 r4, q0, q3\n",
            "vldrb.u8 q2, [r1], #16\n",
            "vmladava.s8 r6, q1, q3\n",
            "vldrb.u8 q3, [r1], #16\n",
            "vmladava.s8 r8, q0, q2\n",
            "vmladava.s8 r10, q1, q2\n",
            "vmladava.s8 r12, q0, q3\n",
            "vmladava.s8 lr, q1, q3\n",
        )
    };
}

/// Two rows of four tokens: their sums are in q2 and q3, the tokens' zeros in q0 and scales in q1,
/// the rows' scales, biases and -sums in r0 to r3, r11 and r12.
macro_rules! rescale {
    () => {
        concat!(
            "vmla.s32 q2, q0, r11\n",
            "vmul.f32 q4, q1, r0\n",
            "vmla.s32 q3, q0, r12\n",
            "vmul.f32 q5, q1, r1\n",
            "vcvt.f32.s32 q2, q2\n",
            "vcvt.f32.s32 q3, q3\n",
            "vmul.f32 q2, q2, q4\n",
            "vmul.f32 q3, q3, q5\n",
            "vadd.f32 q2, q2, r2\n",
            "vadd.f32 q3, q3, r3\n",
        )
    };
}

/// Multiplies the rows of `job` with all tokens, and rescales unless integers are asked for. Lanes
/// of the last tile's columns that have no token are written, too, up to a multiple of four. Of
/// each four rows, the first is written last. `job` ends up past the rows.
///
/// # Safety
/// `job` is as its fields say: weights of `quads` × four rows in blocks of 64 bytes, as many
/// scales, biases and sums; for all tiles panels of 16 × (`end` − `weights` + 2 × `skip`) / 4
/// bytes, scales, and the columns of all outputs. Integers must be asked for on a core without
/// Helium's floats.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn multiply(job: *mut Job) {
    naked_asm!(
        // Link-time optimization reads this once more, without the build's flags.
        ".cpu cortex-m55",
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d11}}",
        // 0: zeros for the sums, with the weights among them; 36: where the loop begins; 40: job;
        // 44: tokens left; 48: inputs; 52: scales; 56: columns; 72: scales, biases and -sums of
        // rows 2 and 3, then of rows 0 and 1; 120: sums [4 rows][16 tokens].
        "sub sp, sp, #376",
        "str r0, [sp, #40]",
        "movs r1, #0",
        "strd r1, r1, [sp]",
        "strd r1, r1, [sp, #8]",
        "strd r1, r1, [sp, #16]",
        "strd r1, r1, [sp, #24]",
        "str r1, [sp, #32]",
        // The loop has four blocks of 14 instructions of 4 bytes. It begins in the middle when
        // the number of blocks is no multiple of four.
        "ldrd r2, r3, [r0]",
        "sub r3, r3, r2",
        "ubfx r3, r3, #6, #2",
        "rsb r3, r3, #4",
        "and r3, r3, #3",
        "movs r4, #56",
        "adr.w r5, 14f",
        "mla r5, r3, r4, r5",
        "orr r5, r5, #1",
        "str r5, [sp, #36]",
        // Four rows.
        "11:",
        "ldr lr, [sp, #40]",
        "ldr r12, [lr, #24]",
        "ldm r12!, {{r0-r3}}",
        "str r12, [lr, #24]",
        "ldr r12, [lr, #28]",
        "ldm r12!, {{r4-r7}}",
        "str r12, [lr, #28]",
        "ldr r12, [lr, #32]",
        "ldm r12!, {{r8-r11}}",
        "str r12, [lr, #32]",
        "rsb r8, r8, #0",
        "rsb r9, r9, #0",
        "rsb r10, r10, #0",
        "rsb r11, r11, #0",
        "add r12, sp, #72",
        "stm r12!, {{r2, r3, r6, r7, r10, r11}}",
        "stm r12, {{r0, r1, r4, r5, r8, r9}}",
        "ldrd r0, r1, [lr, #40]",
        "cbz r0, 21f",
        "ldrh r4, [r0], #2",
        "ldrh r5, [r0], #2",
        "ldrh r6, [r0], #2",
        "ldrh r7, [r0], #2",
        "str r0, [lr, #40]",
        "add r4, r1, r4, lsl #6",
        "add r5, r1, r5, lsl #6",
        "add r6, r1, r6, lsl #6",
        "add r7, r1, r7, lsl #6",
        "b 22f",
        "21:",
        "mov r4, r1",
        "add r5, r1, #64",
        "add r6, r1, #128",
        "add r7, r1, #192",
        "add r1, r1, #256",
        "str r1, [lr, #44]",
        "22:",
        "strd r4, r5, [sp, #56]",
        "strd r6, r7, [sp, #64]",
        "ldr r0, [lr]",
        "str r0, [sp, #4]",
        "ldrd r3, r1, [lr, #8]",
        "str r1, [sp, #52]",
        "ldr r2, [lr, #16]",
        // A tile: its tokens by two.
        "12:",
        "str r2, [sp, #44]",
        "cmp r2, #16",
        "it hi",
        "movhi r2, #16",
        "adds r2, #1",
        "lsrs r2, r2, #1",
        "add r7, sp, #120",
        "add r11, r7, r2, lsl #3",
        "ldr r5, [lr, #4]",
        "ldr r9, [lr, #20]",
        "13:",
        "ldm sp, {{r0, r1, r2, r4, r6, r8, r10, r12, lr}}",
        "ldr pc, [sp, #36]",
        ".balign 4",
        "14:",
        block!(),
        block!(),
        block!(),
        block!(),
        "cmp r1, r5",
        "bne 14b",
        "add r3, r3, r9",
        "strd r0, r2, [r7], #64",
        "strd r4, r6, [r7], #64",
        "strd r8, r10, [r7], #64",
        "strd r12, lr, [r7], #-184",
        "cmp r7, r11",
        "bne 13b",
        // The tile's sums are there: four tokens a turn.
        "str r3, [sp, #48]",
        "ldrd r4, r5, [sp, #56]",
        "ldrd r6, r7, [sp, #64]",
        "add r10, sp, #120",
        "sub r11, r11, r10",
        "adds r11, #8",
        "lsrs r11, r11, #4",
        "ldr r0, [sp, #40]",
        "ldr r0, [r0, #52]",
        "dls lr, r11",
        "cmp r0, #0",
        "bne 23f",
        "ldr r9, [sp, #52]",
        "add r8, sp, #96",
        "15:",
        "vldrw.u32 q0, [r9, #192]",
        "vldrw.u32 q1, [r9], #16",
        "ldmdb r8, {{r0-r3, r11, r12}}",
        "vldrw.u32 q2, [r10, #128]",
        "vldrw.u32 q3, [r10, #192]",
        rescale!(),
        "vstrw.32 q3, [r7], #16",
        "vstrw.32 q2, [r6], #16",
        "ldm r8, {{r0-r3, r11, r12}}",
        "vldrw.u32 q3, [r10, #64]",
        "vldrw.u32 q2, [r10], #16",
        rescale!(),
        "vstrw.32 q3, [r5], #16",
        "vstrw.32 q2, [r4], #16",
        "le lr, 15b",
        "add r9, r9, #192",
        "str r9, [sp, #52]",
        // The next tile, the next four rows.
        "16:",
        "ldr lr, [sp, #40]",
        "ldr r2, [sp, #44]",
        "subs r2, #16",
        "ble 17f",
        "ldr r0, [lr, #48]",
        "add r4, r4, r0",
        "add r5, r5, r0",
        "add r6, r6, r0",
        "add r7, r7, r0",
        "strd r4, r5, [sp, #56]",
        "strd r6, r7, [sp, #64]",
        "ldr r3, [sp, #48]",
        "b 12b",
        "17:",
        "ldrd r0, r1, [lr]",
        "sub r2, r1, r0",
        "add r2, r2, r1",
        "strd r1, r2, [lr]",
        "ldr r0, [lr, #36]",
        "subs r0, #1",
        "str r0, [lr, #36]",
        "bne 11b",
        "add sp, sp, #376",
        "vpop {{d8-d11}}",
        "pop {{r0, r4-r11, pc}}",
        // Integers.
        "23:",
        "vldrw.u32 q3, [r10, #192]",
        "vldrw.u32 q2, [r10, #128]",
        "vldrw.u32 q1, [r10, #64]",
        "vldrw.u32 q0, [r10], #16",
        "vstrw.32 q3, [r7], #16",
        "vstrw.32 q2, [r6], #16",
        "vstrw.32 q1, [r5], #16",
        "vstrw.32 q0, [r4], #16",
        "le lr, 23b",
        "b 16b",
    )
}
