//! NEON with SMMLA: two rows times two tokens, eight products each.

use core::arch::aarch64::*;
use core::arch::asm;

use crate::kernels::generic::{Dot, Inputs, Isa, Operation, Simd, Sink, Steps, Weights};
use crate::kernels::{Column, Pack};

use super::vectors::{Products, accumulate, op, pack_list, quantized, token};

token! {
    /// Proof that the processor has NEON and the int8 matrix instructions.
    NeonI8mm, "neon,i8mm"
}

impl Dot for NeonI8mm {
    /// Four steps are `[2][16 tokens][8 inputs]`.
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
        let places = tile.as_chunks_mut::<32>().0;
        for (place, (x, y)) in places.iter_mut().skip(part).step_by(4).zip([(a, b), (c, d)]) {
            // SAFETY: 32 bytes, borrowed mutably.
            unsafe { vst2q_s32(place.as_mut_ptr().cast(), int32x4x2_t(x, y)) }
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

impl Products for NeonI8mm {
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

/// Four SMMLA: pairs of tokens `$a` and `$b`, in registers `$x` and `$y`, times the even rows in
/// `$even` and the odd rows in `$odd`.
macro_rules! pairs {
    ($a:literal $x:literal, $b:literal $y:literal, $even:literal $odd:literal) => {
        concat!(
            "smmla {e", $a, ":v}.4s, ", $even, ".16b, ", $x, ".16b\n", "smmla {o", $a, ":v}.4s, ",
            $odd, ".16b, ", $x, ".16b\n", "smmla {e", $b, ":v}.4s, ", $even, ".16b, ", $y,
            ".16b\n", "smmla {o", $b, ":v}.4s, ", $odd, ".16b, ", $y, ".16b\n",
        )
    };
}

/// Clears sums.
macro_rules! zero {
    ($($pair:literal)*) => {
        concat!($("movi {e", $pair, ":v}.2d, #0\n", "movi {o", $pair, ":v}.2d, #0\n"),*)
    };
}

/// From `[pair of tokens][row][token]`, pairs `$a` and `$b`, to rows: the first two in `$row0` and
/// `$row1`, the others in the place of pair `$b`.
macro_rules! untangle {
    ($a:literal $b:literal $row0:literal $row1:literal) => {
        concat!(
            "zip1 ",
            $row0,
            ".2d, {e",
            $a,
            ":v}.2d, {e",
            $b,
            ":v}.2d\n",
            "zip1 ",
            $row1,
            ".2d, {o",
            $a,
            ":v}.2d, {o",
            $b,
            ":v}.2d\n",
            "zip2 {e",
            $b,
            ":v}.2d, {e",
            $a,
            ":v}.2d, {e",
            $b,
            ":v}.2d\n",
            "zip2 {o",
            $b,
            ":v}.2d, {o",
            $a,
            ":v}.2d, {o",
            $b,
            ":v}.2d\n",
        )
    };
}

/// Sixteen inputs of sixteen tokens.
macro_rules! tile {
    () => {
        concat!(
            "ld4 {{v0.2d-v3.2d}}, [{w}], #64\n",
            "ld1 {{v4.16b-v7.16b}}, [{x}], #64\n",
            "ld1 {{v16.16b-v19.16b}}, [{x}], #64\n",
            pairs!("0" "v4", "1" "v5", "v0" "v2"),
            pairs!("2" "v6", "3" "v7", "v0" "v2"),
            "ld1 {{v4.16b-v7.16b}}, [{x}], #64\n",
            pairs!("4" "v16", "5" "v17", "v0" "v2"),
            pairs!("6" "v18", "7" "v19", "v0" "v2"),
            "ld1 {{v16.16b-v19.16b}}, [{x}], #64\n",
            pairs!("0" "v4", "1" "v5", "v1" "v3"),
            pairs!("2" "v6", "3" "v7", "v1" "v3"),
            pairs!("4" "v16", "5" "v17", "v1" "v3"),
            pairs!("6" "v18", "7" "v19", "v1" "v3"),
        )
    };
}

/// The sums of products of `tiles` times four rows' sixteen weights at `w` with sixteen inputs of
/// sixteen tokens at `x`, `[row][part]`.
///
/// LD4 of 64-bit elements puts number 4 i + j of the eight into half i of register j. The rows'
/// first and second eight bytes alternate, so v0 has the first of rows 0 and 2, v1 the second, and
/// v2 and v3 those of rows 1 and 3. Sums `e` are of rows 0 and 2, sums `o` of rows 1 and 3.
///
/// Assembly, since `vmmlaq_s32` (SMMLA) is not stable: it can go when
/// <https://github.com/rust-lang/rust/issues/117223> is closed and the compiler no longer splits
/// LD1 of four registers and copies sums around the loop (a quarter more instructions).
///
/// # Safety
/// `w` must have `tiles` times 64 readable bytes, `x` 256; `tiles` must not be 0.
#[target_feature(enable = "neon,i8mm")]
#[inline]
unsafe fn sixteen_tokens(tiles: usize, w: *const i8, x: *const i8) -> [[int32x4_t; 4]; 4] {
    let (row00, row01, row02, row03, row10, row11, row12, row13);
    let (e1, e3, e5, e7, o1, o3, o5, o7);
    // SAFETY: reads what the caller promises, changes registers only.
    unsafe {
        asm!(
            zero!("0" "1" "2" "3"),
            zero!("4" "5" "6" "7"),
            // Two tiles a turn, after a single one if their number is odd.
            "lsr {pairs}, {n}, #1",
            "tbz {n}, #0, 2f",
            tile!(),
            "cbz {pairs}, 3f",
            "2:",
            tile!(),
            tile!(),
            "subs {pairs}, {pairs}, #1",
            "b.ne 2b",
            "3:",
            untangle!("0" "1" "v0" "v4"),
            untangle!("2" "3" "v1" "v5"),
            untangle!("4" "5" "v2" "v6"),
            untangle!("6" "7" "v3" "v7"),
            n = in(reg) tiles,
            pairs = out(reg) _,
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            e0 = out(vreg) _, e1 = out(vreg) e1, e2 = out(vreg) _, e3 = out(vreg) e3,
            e4 = out(vreg) _, e5 = out(vreg) e5, e6 = out(vreg) _, e7 = out(vreg) e7,
            o0 = out(vreg) _, o1 = out(vreg) o1, o2 = out(vreg) _, o3 = out(vreg) o3,
            o4 = out(vreg) _, o5 = out(vreg) o5, o6 = out(vreg) _, o7 = out(vreg) o7,
            out("v0") row00, out("v1") row01, out("v2") row02, out("v3") row03,
            out("v4") row10, out("v5") row11, out("v6") row12, out("v7") row13,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _,
            options(pure, readonly, nostack),
        );
    }
    [[row00, row01, row02, row03], [row10, row11, row12, row13], [e1, e3, e5, e7], [o1, o3, o5, o7]]
}

/// As [`sixteen_tokens`], for the first eight tokens.
///
/// # Safety
/// As there.
#[target_feature(enable = "neon,i8mm")]
#[inline]
unsafe fn eight_tokens(tiles: usize, w: *const i8, x: *const i8) -> [[int32x4_t; 2]; 4] {
    let (row00, row01, row10, row11, e1, e3, o1, o3);
    // SAFETY: reads what the caller promises, changes registers only.
    unsafe {
        asm!(
            zero!("0" "1" "2" "3"),
            "2:",
            "ld4 {{v0.2d-v3.2d}}, [{w}], #64",
            "ld1 {{v4.16b-v7.16b}}, [{x}], {half}",
            "ld1 {{v16.16b-v19.16b}}, [{x}], {half}",
            pairs!("0" "v4", "1" "v5", "v0" "v2"),
            pairs!("2" "v6", "3" "v7", "v0" "v2"),
            pairs!("0" "v16", "1" "v17", "v1" "v3"),
            pairs!("2" "v18", "3" "v19", "v1" "v3"),
            "subs {n}, {n}, #1",
            "b.ne 2b",
            untangle!("0" "1" "v0" "v2"),
            untangle!("2" "3" "v1" "v3"),
            n = inout(reg) tiles => _,
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            half = in(reg) 128_u64,
            e0 = out(vreg) _, e1 = out(vreg) e1, e2 = out(vreg) _, e3 = out(vreg) e3,
            o0 = out(vreg) _, o1 = out(vreg) o1, o2 = out(vreg) _, o3 = out(vreg) o3,
            out("v0") row00, out("v1") row01, out("v2") row10, out("v3") row11,
            out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _,
            options(pure, readonly, nostack),
        );
    }
    [[row00, row01], [row10, row11], [e1, e3], [o1, o3]]
}
