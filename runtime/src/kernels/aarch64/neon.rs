//! NEON alone: products of two inputs fit 16 bits, pairs of them are added to 32.

use core::arch::aarch64::*;

use crate::kernels::Column;
use crate::kernels::generic::{Acc, Dot, Inputs, Isa, Operation, Simd, Sink, Steps, Weights};

use super::vectors::{op, quantized, token};

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
        let [a, b, c, d] = quantized(inputs, part).map(|bytes| op!(vreinterpretq_s32_s8(bytes)));
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
/// for one tile and four rows.
#[inline(always)]
fn dot(weights: &Weights<'_>, panel: &[u8], part: usize, sink: &mut impl Sink<int32x4_t>) {
    // Four partial sums for each row and token.
    let mut sums = [[op!(vdupq_n_s32(0)); 4]; 4];
    let tiles = weights.quad_bytes() / 64;
    for tile in 0..tiles {
        // SAFETY: `fits` says that the block has `tiles` times 64 bytes, and the panel `tiles`
        // times four steps of 64 bytes: four parts of 64.
        let (w, x) = unsafe {
            let x = panel.as_ptr().add(tile * 256 + part * 64);
            (vld1q_s8_x4(weights.block.as_ptr().add(tile * 64)), vld1q_s8_x4(x.cast()))
        };
        let x = [x.0, x.1, x.2, x.3];
        for (sums, w) in sums.iter_mut().zip([w.0, w.1, w.2, w.3]) {
            for (sum, x) in sums.iter_mut().zip(x) {
                // A weight is at least −127: the two products are at most 2 × 127 × 128 < 2¹⁵.
                let low = op!(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
                let both = op!(vmlal_high_s8(low, w, x));
                *sum = op!(vpadalq_s16(*sum, both));
            }
        }
    }
    for (row, [a, b, c, d]) in sums.into_iter().enumerate() {
        let sums = op!(vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
        sink.put(Acc { row, tile: 0, part, sums });
    }
}
