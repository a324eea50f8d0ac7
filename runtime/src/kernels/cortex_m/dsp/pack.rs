//! Quantizing some tokens of a tile into pairs of i16.

use crate::kernels::cortex_m::quantize::{STEP, quantized, steps};
use crate::kernels::{Pack, TILE_TOKENS};

use super::TOKEN_BYTES;

/// Quantizes `tokens` tokens from `first` on; the part begins at the first input's place.
pub(super) fn pack(job: &Pack<'_>, first: usize, tokens: usize, part: &mut [u8]) {
    let mut places = part.chunks_exact_mut((STEP * TOKEN_BYTES * tokens).max(1));
    steps(job, |_, columns, factors| {
        let Some(step) = places.next() else { return };
        let (places, _) = step.as_chunks_mut::<{ STEP * TOKEN_BYTES }>();
        for (t, place) in (first..TILE_TOKENS).zip(places) {
            let [a, b, c, d] = quantized(job, t, columns, factors);
            let pair = |low: i32, high: i32| ((low & 0xffff) | (high << 16)) as u32;
            let pairs = u64::from(pair(a, c)) | u64::from(pair(b, d)) << 32;
            *place = pairs.to_le_bytes();
        }
    });
}
