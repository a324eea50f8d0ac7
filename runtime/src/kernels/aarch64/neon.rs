//! NEON alone: products of two inputs fit 16 bits, pairs of them are added to 32.

use core::arch::aarch64::*;
use core::arch::asm;

use crate::kernels::generic::{Acc, Dot, Inputs, Isa, Operation, Simd, Sink, Steps, Weights};
use crate::kernels::{Column, Pack};

use super::vectors::{op, pack_list, quantized, token};

token! {
    /// Proof that the processor has NEON.
    Neon, "neon"
}

impl Dot for Neon {
    /// Four steps are `[16 tokens][16 inputs]`.
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
    fn pack_words(self, [a, b, c, d]: [int32x4_t; 4], part: usize, tile: &mut [u8]) {
        if let Some(place) = tile.as_chunks_mut::<64>().0.get_mut(part) {
            // SAFETY: 64 bytes, borrowed mutably.
            unsafe { vst4q_s32(place.as_mut_ptr().cast(), int32x4x4_t(a, b, c, d)) }
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
        if panels.tiles != 1 || weights.rows != 4 || !weights.fits(panels, Self::STEP) {
            return;
        }
        for part in 0..live.div_ceil(4).min(4) {
            dot(weights, panels.bytes, part, sink);
        }
    }
}

/// Sums of four rows with vector `part` of the tokens. The caller has checked [`Weights::fits`]
/// for one tile and four rows, and `part` is below 4.
#[inline(always)]
fn dot(weights: &Weights<'_>, panel: &[u8], part: usize, sink: &mut impl Sink<int32x4_t>) {
    let tiles = weights.quad_bytes() / 64;
    if tiles == 0 {
        return;
    }
    // SAFETY: `fits` says that the block has `tiles` times 64 bytes, and the panel `tiles` times
    // four steps of 64 bytes, which are four parts of 64.
    let [a, b, c, d] = unsafe {
        let x = panel.as_ptr().add(part * 64).cast();
        four_tokens(tiles, weights.block.as_ptr(), x)
    };
    let sums = [[fold(a)], [fold(b)], [fold(c)], [fold(d)]];
    sink.put(Acc { row: 0, tile: 0, part, sums });
}

/// Adds up each token's partial sums.
#[inline(always)]
fn fold([a, b, c, d]: [int32x4_t; 4]) -> int32x4_t {
    op!(vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)))
}

/// Two rows' weights, in registers `$w` and `$v`, times four tokens in v4 to v7.
///
/// A weight is at least −127: two products are at most 2 × 127 × 128 < 2¹⁵ and fit 16 bits.
macro_rules! rows {
    ($r:literal $w:literal, $q:literal $v:literal) => {
        concat!(
            rows!("smull", ".8b", $w, "v16", "v17", "v18", "v19"),
            rows!("smull", ".8b", $v, "v20", "v21", "v22", "v23"),
            rows!("smlal2", ".16b", $w, "v16", "v17", "v18", "v19"),
            rows!("smlal2", ".16b", $v, "v20", "v21", "v22", "v23"),
            rows!($r, "v16", "v17", "v18", "v19"),
            rows!($q, "v20", "v21", "v22", "v23"),
        )
    };
    ($op:literal, $size:literal, $w:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            $op, " ", $a, ".8h, ", $w, $size, ", v4", $size, "\n", $op, " ", $b, ".8h, ", $w,
            $size, ", v5", $size, "\n", $op, " ", $c, ".8h, ", $w, $size, ", v6", $size, "\n", $op,
            " ", $d, ".8h, ", $w, $size, ", v7", $size, "\n",
        )
    };
    ($r:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "sadalp {s",
            $r,
            "0:v}.4s, ",
            $a,
            ".8h\n",
            "sadalp {s",
            $r,
            "1:v}.4s, ",
            $b,
            ".8h\n",
            "sadalp {s",
            $r,
            "2:v}.4s, ",
            $c,
            ".8h\n",
            "sadalp {s",
            $r,
            "3:v}.4s, ",
            $d,
            ".8h\n",
        )
    };
}

/// Clears the sums with a token.
macro_rules! zero {
    ($($token:literal)*) => {
        concat!($(
            "movi {s0", $token, ":v}.2d, #0\n", "movi {s1", $token, ":v}.2d, #0\n",
            "movi {s2", $token, ":v}.2d, #0\n", "movi {s3", $token, ":v}.2d, #0\n",
        )*)
    };
}

/// The sums of products of `tiles` times four rows' sixteen weights at `w` with sixteen inputs of four
/// tokens at `x`, 256 bytes apart, `[row][token]`; each is four partial sums.
///
/// Assembly, since the compiler splits LD1 of four registers and spills sums (a fifth more
/// instructions); all of it has stable intrinsics.
///
/// # Safety
/// `w` must have `tiles` times 64 readable bytes, `x` 256 (the last of them 64); `tiles` must not
/// be 0.
#[inline]
unsafe fn four_tokens(tiles: usize, w: *const i8, x: *const i8) -> [[int32x4_t; 4]; 4] {
    let (s00, s01, s02, s03, s10, s11, s12, s13);
    let (s20, s21, s22, s23, s30, s31, s32, s33);
    // SAFETY: reads what the caller promises, changes registers only.
    unsafe {
        asm!(
            zero!("0" "1" "2" "3"),
            "2:",
            "ld1 {{v0.16b-v3.16b}}, [{w}], #64",
            "ld1 {{v4.16b-v7.16b}}, [{x}], {next}",
            rows!("0" "v0", "1" "v1"),
            rows!("2" "v2", "3" "v3"),
            "subs {n}, {n}, #1",
            "b.ne 2b",
            n = inout(reg) tiles => _,
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            next = in(reg) 256_u64,
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
            out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            options(pure, readonly, nostack),
        );
    }
    [[s00, s01, s02, s03], [s10, s11, s12, s13], [s20, s21, s22, s23], [s30, s31, s32, s33]]
}
