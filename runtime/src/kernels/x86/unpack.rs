//! Int4 codes to int8 weights with AVX2, two rows a vector; all the sets here include it.

use core::arch::x86_64::*;

use crate::format::{TILE_I4, TILE_ROWS};
use crate::kernels::generic::TILE;

/// Unpacks the tiles of a run; see [`crate::kernels::generic::Simd::unpack_run`].
///
/// There is no multiplication of bytes. A product of a code and a step is below 256: two of them
/// in a lane of 16 bits do not meet.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
pub(super) unsafe fn run<const T: usize>(
    multipliers: &[u8; TILE_ROWS],
    codes: &[[u8; TILE_I4]; T],
    out: &mut [[i8; TILE]; T],
) {
    // SAFETY: the processor has AVX2. A tile is 32 bytes of codes and twice 32 weights; loads and
    // stores need no alignment.
    unsafe {
        let all = _mm256_set1_epi32(i32::from_le_bytes(*multipliers));
        let nibble = _mm256_set1_epi16(15);
        // Row 0's byte sixteen times, then row 1's; rows 2 and 3 likewise.
        let rows = _mm256_set_epi64x(0x0101_0101_0101_0101, 0x0101_0101_0101_0101, 0, 0);
        let factors = |rows: __m256i| {
            let both = _mm256_shuffle_epi8(all, rows);
            let step = _mm256_and_si256(both, nibble);
            let zero = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
            let zero = _mm256_mullo_epi16(zero, step);
            (step, _mm256_or_si256(zero, _mm256_slli_epi16(zero, 8)))
        };
        let low = factors(rows);
        let high = factors(_mm256_add_epi8(rows, _mm256_set1_epi8(2)));
        let codes_of = _mm256_set1_epi8(15);
        for (codes, out) in codes.iter().zip(out) {
            let bytes = _mm256_loadu_si256(codes.as_ptr().cast());
            let upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), codes_of);
            let bytes = _mm256_and_si256(bytes, codes_of);
            let at = out.as_mut_ptr();
            for (codes, (step, zero), at) in [(bytes, low, at), (upper, high, at.add(TILE / 2))] {
                let weights = _mm256_sub_epi8(_mm256_mullo_epi16(codes, step), zero);
                _mm256_storeu_si256(at.cast(), weights);
            }
        }
    }
}

/// Makes [`run`] the set's [`crate::kernels::generic::Simd::unpack_run`].
macro_rules! unpack_run {
    () => {
        #[inline(always)]
        fn unpack_run<const T: usize>(
            self,
            multipliers: &[u8; $crate::format::TILE_ROWS],
            codes: &[[u8; $crate::format::TILE_I4]; T],
            out: &mut [[i8; $crate::kernels::generic::TILE]; T],
        ) {
            // SAFETY: the token proves that the processor has AVX2.
            unsafe { $crate::kernels::x86::unpack::run(multipliers, codes, out) }
        }
    };
}
pub(super) use unpack_run;
