//! One row of weights by one to six tokens, from packed inputs to float outputs.
//!
//! Whole functions in assembly: the sums of six tokens, four words of inputs, two of weights and
//! two pointers take every register there is. Four inputs of six tokens (24 products) take 18
//! instructions: a load of four weights and two that widen them, three loads of two tokens each,
//! and 12 × `smlad`.

use core::arch::naked_asm;

use crate::kernels::{TILE_TOKENS, TileScales};

/// A row of weights; its layout is known to the assembly.
#[repr(C)]
pub(super) struct Row {
    /// Where `weights` is after the last whole block.
    pub end: *const i8,
    /// −sum of the weights.
    pub minus_sum: i32,
    /// The row's first 16 weights; the next follow 64 bytes after.
    pub weights: *const i8,
    /// Weight scale.
    pub scale: f32,
    /// Bias.
    pub bias: f32,
    /// Steps of four inputs after the last whole block: 0 to 3.
    pub tail: usize,
}

/// Multiplies a row with some tokens: `(row, panel's part, scales, outputs)`. The scales point at
/// the first token's in a [`TileScales`].
///
/// # Safety
/// For n tokens: from `weights` to `end` there is at least one block, of 64 bytes, and each has 16
/// readable bytes first, and so has one more if there is a tail; the part has 32 × n bytes for every
/// block and is aligned to four; n scales, n zeros and n outputs are there.
type Kernel = unsafe extern "C" fn(*const Row, *const u8, *const f32, *mut f32);

/// The kernels for one to six tokens.
pub(super) static KERNELS: [Kernel; 6] = [one, two, three, four, five, six];

// What the assembly relies on.
const _: () = {
    assert!(core::mem::offset_of!(Row, end) == 0);
    assert!(core::mem::offset_of!(Row, minus_sum) == 4);
    assert!(core::mem::offset_of!(Row, weights) == 8);
    assert!(core::mem::offset_of!(Row, scale) == 12);
    assert!(core::mem::offset_of!(Row, bias) == 16);
    assert!(core::mem::offset_of!(Row, tail) == 20);
    assert!(core::mem::offset_of!(TileScales, scale) == 0);
    assert!(core::mem::offset_of!(TileScales, zero) == 12 * TILE_TOKENS);
};

/// Four inputs of two tokens, or of one.
macro_rules! products {
    ($a:literal $b:literal) => {
        concat!(
            "ldm lr!, {{r8-r11}}\n",
            concat!("smlad ", $a, ", r6, r8, ", $a, "\n"),
            concat!("smlad ", $b, ", r6, r10, ", $b, "\n"),
            concat!("smlad ", $a, ", r7, r9, ", $a, "\n"),
            concat!("smlad ", $b, ", r7, r11, ", $b, "\n"),
        )
    };
    ($a:literal) => {
        concat!(
            "ldrd r8, r9, [lr], #8\n",
            concat!("smlad ", $a, ", r6, r8, ", $a, "\n"),
            concat!("smlad ", $a, ", r7, r9, ", $a, "\n"),
        )
    };
}

/// Sixteen inputs: the weights as pairs (0, 2) in r6 and (1, 3) in r7, the inputs in r8 to r11.
macro_rules! block {
    ($([$($sum:literal)+])+) => {
        concat!(
            block!(@ "4" $([$($sum)+])+),
            block!(@ "4" $([$($sum)+])+),
            block!(@ "4" $([$($sum)+])+),
            // Past the other three rows' weights.
            block!(@ "52" $([$($sum)+])+),
        )
    };
    (@ $next:literal $([$($sum:literal)+])+) => {
        concat!(
            "ldr r6, [r12], #", $next, "\n",
            "sxtb16 r7, r6, ror #8\n",
            "sxtb16 r6, r6\n",
            $(products!($($sum)+),)+
        )
    };
}

/// A kernel: its name, bytes of a step of [`block`], how it loads its zeros and moves its sums to float registers, its tokens in
/// pairs, and for each token its sum as integer and float and its scale.
macro_rules! kernel {
    (
        $name:ident, $step:literal, $zeros:literal, $moves:literal, $floats:literal, $scales:literal,
        $([$($sum:literal)+])+,
        $(($int:literal $float:literal $scale:literal))+
    ) => {
        /// See [`Kernel`].
        ///
        /// # Safety
        /// As there.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(_: *const Row, _: *const u8, _: *const f32, _: *mut f32) {
            naked_asm!(
                // Link-time optimization reads this once more, without the build's flags.
                ".cpu cortex-m33",
                // Row, part (then the end of the weights), scales, outputs; what must be kept.
                "push {{r0-r11, lr}}",
                "mov lr, r1",
                "ldm r0, {{r6, r7, r12}}",
                "str r6, [sp, #4]",
                // The sums begin at -zero * sum of the weights.
                "add r2, r2, #192",
                $zeros,
                $(concat!("mul ", $int, ", ", $int, ", r7"),)+
                // Two blocks a turn; an odd one out comes first.
                "eor r7, r6, r12",
                "tst r7, #64",
                "bne 3f",
                ".balign 4",
                "2:",
                block!($([$($sum)+])+),
                "3:",
                block!($([$($sum)+])+),
                "ldr r6, [sp, #4]",
                "cmp r12, r6",
                "bne 2b",
                // The last steps of one more block.
                "ldr r6, [sp]",
                "ldr r6, [r6, #20]",
                "cmp r6, #0",
                "beq.w 5f",
                "adr.w r7, 5f",
                concat!("mov r8, #", $step),
                "mls r7, r6, r8, r7",
                "orr r7, r7, #1",
                "bx r7",
                ".balign 4",
                block!($([$($sum)+])+),
                ".balign 4",
                "5:",
                // f32(sum) * (token's scale * row's scale) + bias
                "ldm sp, {{r8-r11}}",
                $moves,
                concat!("vldm r10, {{", $scales, "}}"),
                "vldr s6, [r8, #12]",
                "vldr s7, [r8, #16]",
                $(concat!("vcvt.f32.s32 ", $float, ", ", $float),)+
                $(concat!("vmul.f32 ", $scale, ", ", $scale, ", s6"),)+
                $(concat!("vmul.f32 ", $float, ", ", $float, ", ", $scale),)+
                $(concat!("vadd.f32 ", $float, ", ", $float, ", s7"),)+
                concat!("vstm r11, {{", $floats, "}}"),
                "add sp, sp, #16",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

kernel!(
    one, "24", "ldr r0, [r2]", "vmov s0, r0", "s0", "s8", ["r0"], ("r0" "s0" "s8")
);
kernel!(
    two, "32", "ldm r2, {{r0-r1}}", "vmov s0, s1, r0, r1", "s0-s1", "s8-s9", ["r0" "r1"],
    ("r0" "s0" "s8") ("r1" "s1" "s9")
);
kernel!(
    three, "44", "ldm r2, {{r0-r2}}", "vmov s0, s1, r0, r1\n vmov s2, r2", "s0-s2", "s8-s10",
    ["r0" "r1"] ["r2"],
    ("r0" "s0" "s8") ("r1" "s1" "s9") ("r2" "s2" "s10")
);
kernel!(
    four, "52", "ldm r2, {{r0-r3}}", "vmov s0, s1, r0, r1\n vmov s2, s3, r2, r3", "s0-s3", "s8-s11",
    ["r0" "r1"] ["r2" "r3"],
    ("r0" "s0" "s8") ("r1" "s1" "s9") ("r2" "s2" "s10") ("r3" "s3" "s11")
);
kernel!(
    five, "64", "ldm r2, {{r0-r4}}",
    "vmov s0, s1, r0, r1\n vmov s2, s3, r2, r3\n vmov s4, r4", "s0-s4", "s8-s12",
    ["r0" "r1"] ["r2" "r3"] ["r4"],
    ("r0" "s0" "s8") ("r1" "s1" "s9") ("r2" "s2" "s10") ("r3" "s3" "s11") ("r4" "s4" "s12")
);
kernel!(
    six, "72", "ldm r2, {{r0-r5}}",
    "vmov s0, s1, r0, r1\n vmov s2, s3, r2, r3\n vmov s4, s5, r4, r5", "s0-s5", "s8-s13",
    ["r0" "r1"] ["r2" "r3"] ["r4" "r5"],
    ("r0" "s0" "s8") ("r1" "s1" "s9") ("r2" "s2" "s10") ("r3" "s3" "s11") ("r4" "s4" "s12")
    ("r5" "s5" "s13")
);
