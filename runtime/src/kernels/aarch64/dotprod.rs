//! NEON with SDOT: four products a lane, the weights by element.

use core::arch::aarch64::*;
use core::arch::asm;

use crate::kernels::Column;
use crate::kernels::generic::{Acc, Dot, Inputs, Isa, Operation, Simd, Sink, Steps, Weights};

use super::vectors::{op, quantized, token};

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
        let places = tile.as_chunks_mut::<16>().0.iter_mut().skip(part).step_by(4);
        for (bytes, place) in quantized(inputs, part).into_iter().zip(places) {
            // SAFETY: sixteen bytes, borrowed mutably.
            unsafe { vst1q_s8(place.as_mut_ptr().cast(), bytes) }
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
        match live {
            0..=4 => dot::<1>(weights, panels.bytes, sink),
            5..=8 => dot::<2>(weights, panels.bytes, sink),
            9..=12 => dot::<3>(weights, panels.bytes, sink),
            _ => dot::<4>(weights, panels.bytes, sink),
        }
    }
}

/// Sums of four rows with the first `P` vectors of tokens. The caller has checked
/// [`Weights::fits`] for one tile and four rows.
#[inline(always)]
fn dot<const P: usize>(weights: &Weights<'_>, panel: &[u8], sink: &mut impl Sink<int32x4_t>) {
    let mut sums = [[op!(vdupq_n_s32(0)); P]; 4];
    let tiles = weights.quad_bytes() / 64;
    for tile in 0..tiles {
        // SAFETY: `fits` says that the block has `tiles` times 64 bytes.
        let w = unsafe { vld1q_s8_x4(weights.block.as_ptr().add(tile * 64)) };
        // SAFETY: `fits` says that the panel has `tiles` times four steps of 64 bytes.
        let x = unsafe { panel.as_ptr().add(tile * 256).cast() };
        let w = [w.0, w.1, w.2, w.3];
        step::<0, P>(&mut sums, x, w);
        step::<1, P>(&mut sums, x, w);
        step::<2, P>(&mut sums, x, w);
        step::<3, P>(&mut sums, x, w);
    }
    for (row, sums) in sums.iter().enumerate() {
        for (part, sums) in sums.iter().enumerate() {
            sink.put(Acc { row, tile: 0, part, sums: *sums });
        }
    }
}

/// Adds the products of step `S` of the four at `x`, which must be readable.
#[inline(always)]
fn step<const S: usize, const P: usize>(
    sums: &mut [[int32x4_t; P]; 4],
    x: *const i8,
    w: [int8x16_t; 4],
) {
    // SAFETY: by the caller's promise, four times 64 bytes.
    let x = unsafe { vld1q_s8_x4(x.add(S * 64)) };
    let x = [x.0, x.1, x.2, x.3];
    for (sums, w) in sums.iter_mut().zip(w) {
        for (sum, x) in sums.iter_mut().zip(x) {
            // SAFETY: only the token gets here.
            *sum = unsafe { sdot::<S>(*sum, x, w) };
        }
    }
}

/// Adds to each lane the four products of its bytes of `x` with bytes `4 × LANE`.. of `w`.
///
/// Assembly, since `vdotq_laneq_s32` (SDOT by element) is not stable before Rust 1.98: it can go
/// when <https://github.com/rust-lang/rust/issues/117224> is in the oldest Rust that we support.
///
/// # Safety
/// The processor must have the dot product instructions.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot<const LANE: usize>(sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {x:v}.16b, {w:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            x = in(vreg) x,
            w = in(vreg) w,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
