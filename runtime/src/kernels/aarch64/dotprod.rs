//! NEON with SDOT: four products a lane, the weights by element.

use core::arch::aarch64::*;
use core::arch::asm;

use crate::kernels::generic::{Dot, Inputs, Isa, Operation, Simd, Sink, Steps, Weights};
use crate::kernels::{Column, Pack};

use super::vectors::{Products, accumulate, op, pack_list, quantized, token};

token! {
    /// Proof that the processor has NEON and the dot product instructions.
    NeonDot, "neon,dotprod"
}

impl Dot for NeonDot {
    /// `[16 tokens][4 inputs]`.
    const STEP: usize = 64;
    const OFFSET: i32 = 0;
    const SHAPES: [(usize, usize); 2] = [(4, 1); 2];

    #[inline(always)]
    fn pack(self, inputs: &Inputs<'_>, part: usize, tile: &mut [u8]) {
        self.pack_words(quantized(inputs, part), part, tile);
    }

    #[inline(always)]
    fn pack_list(self, job: &Pack<'_>, list: &[u16], panel: &mut [u8]) {
        pack_list(self, job, list, panel);
    }

    #[inline(always)]
    fn pack_words(self, words: [int32x4_t; 4], part: usize, tile: &mut [u8]) {
        let places = tile.as_chunks_mut::<16>().0.iter_mut().skip(part).step_by(4);
        for (word, place) in words.into_iter().zip(places) {
            // SAFETY: sixteen bytes, borrowed mutably.
            unsafe { vst1q_s32(place.as_mut_ptr().cast(), word) }
        }
    }

    #[inline(always)]
    fn accumulate(
        self,
        weights: &Weights<'_>,
        panels: &Steps<'_>,
        live: usize,
        sink: &mut impl Sink<int32x4_t>,
    ) {
        accumulate(self, weights, panels, live, sink);
    }
}

impl Products for NeonDot {
    #[inline(always)]
    unsafe fn eight(self, tiles: usize, w: *const i8, x: *const i8) -> [[int32x4_t; 2]; 4] {
        // SAFETY: as the caller promises; the token proves the instructions.
        unsafe { eight_tokens(tiles, w, x) }
    }

    #[inline(always)]
    unsafe fn sixteen(self, tiles: usize, w: *const i8, x: *const i8) -> [[int32x4_t; 4]; 4] {
        // SAFETY: likewise.
        unsafe { sixteen_tokens(tiles, w, x) }
    }
}

/// Four SDOT: part `$part` of the tokens, in register `$x`, times weights `4 × $lane`.. of the rows
/// in v0 to v3.
macro_rules! rows {
    ($part:literal $x:literal $lane:literal) => {
        concat!(
            "sdot {s0",
            $part,
            ":v}.4s, ",
            $x,
            ".16b, v0.4b[",
            $lane,
            "]\n",
            "sdot {s1",
            $part,
            ":v}.4s, ",
            $x,
            ".16b, v1.4b[",
            $lane,
            "]\n",
            "sdot {s2",
            $part,
            ":v}.4s, ",
            $x,
            ".16b, v2.4b[",
            $lane,
            "]\n",
            "sdot {s3",
            $part,
            ":v}.4s, ",
            $x,
            ".16b, v3.4b[",
            $lane,
            "]\n",
        )
    };
}

/// Clears the sums of a part.
macro_rules! zero {
    ($($part:literal)*) => {
        concat!($(
            "movi {s0", $part, ":v}.2d, #0\n", "movi {s1", $part, ":v}.2d, #0\n",
            "movi {s2", $part, ":v}.2d, #0\n", "movi {s3", $part, ":v}.2d, #0\n",
        )*)
    };
}

/// The sums of products of `tiles` times four rows' sixteen weights at `w` with sixteen inputs of
/// sixteen tokens at `x`, `[row][part]`.
///
/// Assembly, since `vdotq_laneq_s32` (SDOT by element) is not stable before Rust 1.98: it can go
/// when <https://github.com/rust-lang/rust/issues/117224> is in the oldest Rust that we support,
/// and the compiler no longer splits LD1 of four registers.
///
/// # Safety
/// `w` must have `tiles` times 64 readable bytes, `x` 256; `tiles` must not be 0.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn sixteen_tokens(tiles: usize, w: *const i8, x: *const i8) -> [[int32x4_t; 4]; 4] {
    let (s00, s01, s02, s03, s10, s11, s12, s13);
    let (s20, s21, s22, s23, s30, s31, s32, s33);
    // SAFETY: reads what the caller promises, changes registers only.
    unsafe {
        asm!(
            zero!("0" "1" "2" "3"),
            "2:",
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64",
            "ld1 {{v4.16b-v7.16b}}, [{x}], #64",
            "ld1 {{v16.16b-v19.16b}}, [{x}], #64",
            rows!("0" "v4" "0"), rows!("1" "v5" "0"), rows!("2" "v6" "0"), rows!("3" "v7" "0"),
            "ld1 {{v4.16b-v7.16b}}, [{x}], #64",
            rows!("0" "v16" "1"), rows!("1" "v17" "1"), rows!("2" "v18" "1"), rows!("3" "v19" "1"),
            "ld1 {{v16.16b-v19.16b}}, [{x}], #64",
            rows!("0" "v4" "2"), rows!("1" "v5" "2"), rows!("2" "v6" "2"), rows!("3" "v7" "2"),
            rows!("0" "v16" "3"), rows!("1" "v17" "3"), rows!("2" "v18" "3"), rows!("3" "v19" "3"),
            "subs {n}, {n}, #1",
            "b.ne 2b",
            n = inout(reg) tiles => _,
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            s00 = out(vreg) s00, s01 = out(vreg) s01, s02 = out(vreg) s02,
            s03 = out(vreg) s03,
            s10 = out(vreg) s10, s11 = out(vreg) s11, s12 = out(vreg) s12,
            s13 = out(vreg) s13,
            s20 = out(vreg) s20, s21 = out(vreg) s21, s22 = out(vreg) s22,
            s23 = out(vreg) s23,
            s30 = out(vreg) s30, s31 = out(vreg) s31, s32 = out(vreg) s32,
            s33 = out(vreg) s33,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _,
            out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _,
            options(pure, readonly, nostack),
        );
    }
    [[s00, s01, s02, s03], [s10, s11, s12, s13], [s20, s21, s22, s23], [s30, s31, s32, s33]]
}

/// As [`sixteen_tokens`], for the first eight of them.
///
/// # Safety
/// As there.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn eight_tokens(tiles: usize, w: *const i8, x: *const i8) -> [[int32x4_t; 2]; 4] {
    let (s00, s01, s10, s11, s20, s21, s30, s31);
    // SAFETY: reads what the caller promises, changes registers only.
    unsafe {
        asm!(
            zero!("0" "1"),
            "2:",
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64",
            "ldp q4, q5, [{x}]",
            "ldp q6, q7, [{x}, #64]",
            rows!("0" "v4" "0"), rows!("1" "v5" "0"),
            "ldp q4, q5, [{x}, #128]",
            rows!("0" "v6" "1"), rows!("1" "v7" "1"),
            "ldp q6, q7, [{x}, #192]",
            rows!("0" "v4" "2"), rows!("1" "v5" "2"),
            rows!("0" "v6" "3"), rows!("1" "v7" "3"),
            "add {x}, {x}, #256",
            "subs {n}, {n}, #1",
            "b.ne 2b",
            n = inout(reg) tiles => _,
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            s00 = out(vreg) s00, s01 = out(vreg) s01,
            s10 = out(vreg) s10, s11 = out(vreg) s11,
            s20 = out(vreg) s20, s21 = out(vreg) s21,
            s30 = out(vreg) s30, s31 = out(vreg) s31,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _,
            out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            options(pure, readonly, nostack),
        );
    }
    [[s00, s01], [s10, s11], [s20, s21], [s30, s31]]
}
