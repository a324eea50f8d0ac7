//! NEON with SMMLA: two rows times two tokens, eight products each.

use core::arch::aarch64::*;
use core::arch::asm;

use crate::kernels::Column;
use crate::kernels::generic::{Acc, Dot, Inputs, Isa, Operation, Simd, Sink, Steps, Weights};

use super::vectors::{op, quantized, token};

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
        let [a, b, c, d] = quantized(inputs, part).map(|bytes| op!(vreinterpretq_s32_s8(bytes)));
        if let ([low, high], _) = tile.as_chunks_mut::<128>()
            && let (Some(low), Some(high)) = (
                low.as_chunks_mut::<32>().0.get_mut(part),
                high.as_chunks_mut::<32>().0.get_mut(part),
            )
        {
            // SAFETY: twice 32 bytes, borrowed mutably.
            unsafe {
                vst2q_s32(low.as_mut_ptr().cast(), int32x4x2_t(a, b));
                vst2q_s32(high.as_mut_ptr().cast(), int32x4x2_t(c, d));
            }
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

/// Sums of two rows with the two pairs of tokens of a vector: `[row][token]` in each.
type Pairs = [int32x4_t; 2];

/// Sums of four rows with the first `P` vectors of tokens. The caller has checked
/// [`Weights::fits`] for one tile and four rows.
#[inline(always)]
fn dot<const P: usize>(weights: &Weights<'_>, panel: &[u8], sink: &mut impl Sink<int32x4_t>) {
    // Rows 0 and 2, rows 1 and 3.
    let mut even = [[op!(vdupq_n_s32(0)); 2]; P];
    let mut odd = even;
    let tiles = weights.quad_bytes() / 64;
    for tile in 0..tiles {
        // The four rows' first and second eight bytes alternate: element i of register j is
        // number 4 i + j, so that registers 0 and 1 hold rows 0 and 2, and 2 and 3 rows 1 and 3.
        // SAFETY: `fits` says that the block has `tiles` times 64 bytes.
        let w = unsafe { vld4q_s64(weights.block.as_ptr().add(tile * 64).cast()) };
        let w = [w.0, w.1, w.2, w.3].map(|w| op!(vreinterpretq_s8_s64(w)));
        // SAFETY: `fits` says that the panel has `tiles` times 256 bytes.
        let x = unsafe { panel.as_ptr().add(tile * 256).cast::<i8>() };
        eight(&mut even, &mut odd, x, w[0], w[2]);
        // SAFETY: the second half of the 256.
        eight(&mut even, &mut odd, unsafe { x.add(128) }, w[1], w[3]);
    }
    for row in 0..4 {
        for part in 0..P {
            let [a, b] = if row % 2 == 0 { even[part] } else { odd[part] };
            let (a, b) = (op!(vreinterpretq_s64_s32(a)), op!(vreinterpretq_s64_s32(b)));
            let sums = if row < 2 { op!(vzip1q_s64(a, b)) } else { op!(vzip2q_s64(a, b)) };
            sink.put(Acc { row, tile: 0, part, sums: op!(vreinterpretq_s32_s64(sums)) });
        }
    }
}

/// Adds the products of the eight inputs at `x`, `[16 tokens][8]`, which must be readable.
#[inline(always)]
fn eight<const P: usize>(
    even: &mut [Pairs; P],
    odd: &mut [Pairs; P],
    x: *const i8,
    w_even: int8x16_t,
    w_odd: int8x16_t,
) {
    // SAFETY: by the caller's promise, 128 bytes.
    let (low, high) = unsafe { (vld1q_s8_x4(x), vld1q_s8_x4(x.add(64))) };
    let x = [[low.0, low.1], [low.2, low.3], [high.0, high.1], [high.2, high.3]];
    for ((even, odd), x) in even.iter_mut().zip(odd).zip(x) {
        for i in 0..2 {
            // SAFETY: only the token gets here.
            unsafe {
                even[i] = smmla(even[i], w_even, x[i]);
                odd[i] = smmla(odd[i], w_odd, x[i]);
            }
        }
    }
}

/// Adds the product of two rows of `w` with two rows of `x`, eight bytes each: `[w row][x row]`.
///
/// Assembly, since `vmmlaq_s32` (SMMLA) is not stable: it can go when
/// <https://github.com/rust-lang/rust/issues/117223> is closed.
///
/// # Safety
/// The processor must have the int8 matrix instructions.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn smmla(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: registers only.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
