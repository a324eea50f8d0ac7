//! ARMv7-A NEON: int8 products eight at a time; floats stay with VFP.
//!
//! NEON's floats take subnormal numbers for zeros on this architecture, and would change bits.
//! Stable Rust has neither its intrinsics nor a way to compile a function for it: the build's flags
//! (`-Ctarget-feature=+neon`) decide, which `build.rs` finds out.
#![allow(unsafe_code)]

use core::arch::asm;

use crate::format::TILE_DEPTH;

use super::Backend;
use super::generic::{
    Acc, Dot, Inputs, Isa, Operation, Simd, Sink, Steps, TILE, Vectorized, Weights,
};
use super::pairs::Pairs;

static NEON: Vectorized<Pairs> = Vectorized::new("neon", Pairs);

/// The backend; the build says that the processor has NEON.
pub(super) fn neon() -> Option<&'static dyn Backend> {
    Some(&NEON)
}

/// Bytes of a tile of a panel: sixteen inputs of sixteen tokens.
const PANEL_TILE: usize = 16 * TILE_DEPTH;

/// Writes a step of four inputs of two tokens.
#[inline(always)]
fn place(words: [i32; 2], step: usize, part: usize, tile: &mut [u8]) {
    let tokens = tile.as_chunks_mut::<TILE_DEPTH>().0.iter_mut().skip(2 * part);
    for (token, word) in tokens.zip(words) {
        if let Some(bytes) = token.as_chunks_mut::<4>().0.get_mut(step) {
            *bytes = word.to_le_bytes();
        }
    }
}

impl Dot for Pairs {
    /// Four steps are `[16 tokens][16 inputs]`.
    const STEP: usize = PANEL_TILE / 4;
    const OFFSET: i32 = 0;
    const SHAPES: [(usize, usize); 2] = [(4, 1); 2];

    #[inline(always)]
    fn pack(self, inputs: &Inputs<'_>, part: usize, tile: &mut [u8]) {
        for step in 0..inputs.steps {
            place(self.interleave(inputs.quantized(self, step, part)), step, part, tile);
        }
    }

    #[inline(always)]
    fn pack_words(self, words: [[i32; 2]; 4], part: usize, tile: &mut [u8]) {
        for (step, words) in words.into_iter().enumerate() {
            place(words, step, part, tile);
        }
    }

    #[inline(always)]
    fn accumulate(
        self,
        weights: &Weights<'_>,
        panels: &Steps<'_>,
        live: usize,
        sink: &mut impl Sink<[i32; 2]>,
    ) {
        let tiles = weights.quad_bytes() / TILE;
        if panels.tiles != 1 || weights.rows != 4 || tiles == 0 || !weights.fits(panels, Self::STEP)
        {
            return;
        }
        for part in 0..live.div_ceil(2).min(8) {
            // SAFETY: `fits` says that the block has `tiles` times 64 bytes, and the panel `tiles`
            // times 256, of which two tokens have 32 each time, from at most 224 on.
            let [a, b, c, d] = unsafe {
                let x = panels.bytes.as_ptr().add(part * 2 * TILE_DEPTH).cast();
                two_tokens(tiles, weights.block.as_ptr(), x)
            };
            sink.put(Acc { row: 0, tile: 0, part, sums: [[a], [b], [c], [d]] });
        }
    }
}

impl Isa for Pairs {
    #[inline(always)]
    fn run<O: Operation>(self, operation: O) -> O::Output {
        operation.run(self)
    }
}

/// A row's sixteen weights times two tokens' inputs in q0 and q1, onto the sums `$a` and `$b`.
///
/// A weight is at least −127: two products are at most 2 × 127 × 128 < 2¹⁵ and fit 16 bits.
macro_rules! row {
    ($a:literal $b:literal) => {
        concat!(
            "vld1.8 {{d4-d5}}, [{w}]!\n",
            "vmull.s8 q3, d4, d0\n",
            "vmull.s8 q4, d4, d2\n",
            "vmlal.s8 q3, d5, d1\n",
            "vmlal.s8 q4, d5, d3\n",
            "vpadal.s16 ",
            $a,
            ", q3\n",
            "vpadal.s16 ",
            $b,
            ", q4\n",
        )
    };
}

/// The sums of products of `tiles` times four rows' sixteen weights at `w` with sixteen inputs of
/// two tokens at `x`, `[row][token]`.
///
/// # Safety
/// `w` must have `tiles` times 64 readable bytes, `x` 32 in each of `tiles` times [`PANEL_TILE`];
/// `tiles` must not be 0. The processor must have NEON.
#[inline]
unsafe fn two_tokens(tiles: usize, w: *const i8, x: *const i8) -> [[i32; 2]; 4] {
    let mut sums = [[0; 2]; 4];
    // SAFETY: reads what the caller promises, writes `sums`.
    unsafe {
        asm!(
            "vmov.i32 q8, #0",
            "vmov.i32 q9, #0",
            "vmov.i32 q10, #0",
            "vmov.i32 q11, #0",
            "vmov.i32 q12, #0",
            "vmov.i32 q13, #0",
            "vmov.i32 q14, #0",
            "vmov.i32 q15, #0",
            "2:",
            "vld1.8 {{d0-d3}}, [{x}], {stride}",
            row!("q8" "q9"),
            row!("q10" "q11"),
            row!("q12" "q13"),
            row!("q14" "q15"),
            "subs {n}, {n}, #1",
            "bne 2b",
            // Four partial sums of each to two, and those of a row's two tokens to one each.
            "vpadd.i32 d0, d16, d17",
            "vpadd.i32 d1, d18, d19",
            "vpadd.i32 d2, d20, d21",
            "vpadd.i32 d3, d22, d23",
            "vpadd.i32 d4, d24, d25",
            "vpadd.i32 d5, d26, d27",
            "vpadd.i32 d6, d28, d29",
            "vpadd.i32 d7, d30, d31",
            "vpadd.i32 d0, d0, d1",
            "vpadd.i32 d1, d2, d3",
            "vpadd.i32 d2, d4, d5",
            "vpadd.i32 d3, d6, d7",
            "vst1.32 {{d0-d3}}, [{sums}]",
            n = inout(reg) tiles => _,
            w = inout(reg) w => _,
            x = inout(reg) x => _,
            stride = in(reg) PANEL_TILE,
            sums = in(reg) sums.as_mut_ptr(),
            out("q0") _, out("q1") _, out("q2") _, out("q3") _, out("q4") _,
            out("q8") _, out("q9") _, out("q10") _, out("q11") _,
            out("q12") _, out("q13") _, out("q14") _, out("q15") _,
            options(nostack),
        );
    }
    sums
}
