//! AVX2 and AVX-VNNI: eight tokens a vector; `vpmaddwd` or `vpdpbusd` for the dot product.

use core::arch::x86_64::*;

use crate::kernels::Column;
use crate::kernels::generic::{Acc, Dot, Inputs, Isa, Operation, Simd, Sink, Steps, Weights};

use super::unpack::unpack_run;

/// Proof that the processor has AVX2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// Proof that the processor has AVX2 and AVX-VNNI.
#[derive(Debug, Clone, Copy)]
pub(super) struct AvxVnni(());

impl Avx2 {
    /// Handed out by [`super::avx2`] alone, after detection.
    pub(super) const TOKEN: Self = Self(());
}

impl AvxVnni {
    /// Handed out by [`super::avx_vnni`] alone, after detection.
    pub(super) const TOKEN: Self = Self(());
}

/// Intrinsics that work on registers.
macro_rules! op {
    ($call:expr) => {
        // SAFETY: the token proves that the processor has the instructions; they touch
        // registers only.
        unsafe { $call }
    };
}

/// The vectors, the same for both.
macro_rules! vectors {
    ($token:ident) => {
        impl Simd for $token {
            const LANES: usize = 8;
            /// Of sixteen registers, the inputs and a product need some.
            const FLOAT_SUMS: usize = 8;
            type F = __m256;
            type I = __m256i;

            #[inline(always)]
            fn splat(self, v: f32) -> __m256 {
                op!(_mm256_set1_ps(v))
            }
            #[inline(always)]
            fn load(self, column: &Column, part: usize) -> __m256 {
                // SAFETY: eight floats from 0 or 8 of sixteen; the load needs no alignment.
                unsafe { _mm256_loadu_ps(column.as_ptr().add(part % 2 * 8)) }
            }
            #[inline(always)]
            fn store(self, column: &mut Column, part: usize, v: __m256) {
                // SAFETY: as in `load`, and the column is borrowed mutably.
                unsafe { _mm256_storeu_ps(column.as_mut_ptr().add(part % 2 * 8), v) }
            }
            #[inline(always)]
            fn add(self, a: __m256, b: __m256) -> __m256 {
                op!(_mm256_add_ps(a, b))
            }
            #[inline(always)]
            fn sub(self, a: __m256, b: __m256) -> __m256 {
                op!(_mm256_sub_ps(a, b))
            }
            #[inline(always)]
            fn mul(self, a: __m256, b: __m256) -> __m256 {
                op!(_mm256_mul_ps(a, b))
            }
            #[inline(always)]
            fn div(self, a: __m256, b: __m256) -> __m256 {
                op!(_mm256_div_ps(a, b))
            }
            #[inline(always)]
            fn sqrt(self, a: __m256) -> __m256 {
                op!(_mm256_sqrt_ps(a))
            }
            // `vmaxps` and `vminps` give the second operand unless the first is greater (less):
            // just the definition, NaN and zeros included.
            #[inline(always)]
            fn max(self, a: __m256, b: __m256) -> __m256 {
                op!(_mm256_max_ps(a, b))
            }
            #[inline(always)]
            fn min(self, a: __m256, b: __m256) -> __m256 {
                op!(_mm256_min_ps(a, b))
            }
            #[inline(always)]
            fn abs(self, a: __m256) -> __m256 {
                op!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
            }
            #[inline(always)]
            fn positive(self, a: __m256) -> __m256 {
                op!(_mm256_max_ps(_mm256_setzero_ps(), a))
            }
            #[inline(always)]
            fn exp2(self, n: __m256) -> __m256 {
                let biased = op!(_mm256_add_epi32(self.to_int(n), self.splat_int(127)));
                op!(_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)))
            }
            #[inline(always)]
            fn to_int(self, v: __m256) -> __m256i {
                op!(_mm256_cvtps_epi32(v))
            }
            #[inline(always)]
            fn to_float(self, v: __m256i) -> __m256 {
                op!(_mm256_cvtepi32_ps(v))
            }
            #[inline(always)]
            fn splat_int(self, v: i32) -> __m256i {
                op!(_mm256_set1_epi32(v))
            }
            #[inline(always)]
            fn load_int(self, column: &[i32; 16], part: usize) -> __m256i {
                // SAFETY: eight integers from 0 or 8 of sixteen; the load needs no alignment.
                unsafe { _mm256_loadu_si256(column.as_ptr().add(part % 2 * 8).cast()) }
            }
            #[inline(always)]
            fn interleave(self, [a, b, c, d]: [__m256i; 4]) -> __m256i {
                let byte = self.splat_int(0xff);
                let a = op!(_mm256_and_si256(a, byte));
                let b = op!(_mm256_slli_epi32(_mm256_and_si256(b, byte), 8));
                let c = op!(_mm256_slli_epi32(_mm256_and_si256(c, byte), 16));
                let d = op!(_mm256_slli_epi32(d, 24));
                op!(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)))
            }
            #[inline(always)]
            fn store_bytes(self, bytes: &mut [i8; 16], part: usize, v: __m256i) {
                let mut wide = [0_i32; 8];
                // SAFETY: eight integers of its own; the store needs no alignment.
                unsafe { _mm256_storeu_si256(wide.as_mut_ptr().cast(), v) }
                bytes.as_chunks_mut::<8>().0[part % 2] = wide.map(|v| v as i8);
            }
            #[inline(always)]
            fn store_int(self, column: &mut [i32; 16], part: usize, v: __m256i) {
                // SAFETY: eight integers from 0 or 8 of sixteen, borrowed mutably; the store needs
                // no alignment.
                unsafe { _mm256_storeu_si256(column.as_mut_ptr().add(part % 2 * 8).cast(), v) }
            }
            #[inline(always)]
            fn add_int(self, a: __m256i, b: __m256i) -> __m256i {
                op!(_mm256_add_epi32(a, b))
            }
            #[inline(always)]
            fn sub_int(self, a: __m256i, b: __m256i) -> __m256i {
                op!(_mm256_sub_epi32(a, b))
            }
            #[inline(always)]
            fn mul_int(self, a: __m256i, b: __m256i) -> __m256i {
                op!(_mm256_mullo_epi32(a, b))
            }
            unpack_run!();
        }
    };
}

vectors!(Avx2);
vectors!(AvxVnni);

impl Dot for Avx2 {
    /// For each half of the tokens, pairs of i16: inputs 0 and 2, then 1 and 3.
    const STEP: usize = 128;
    const OFFSET: i32 = 0;
    const SHAPES: [(usize, usize); 2] = [(4, 1); 2];

    #[inline(always)]
    fn pack(self, inputs: &Inputs<'_>, part: usize, tile: &mut [u8]) {
        let low = self.splat_int(0xffff);
        let pair = |x, y| op!(_mm256_or_si256(_mm256_and_si256(x, low), _mm256_slli_epi32(y, 16)));
        let places = tile.as_chunks_mut::<64>().0.iter_mut().skip(part).step_by(2);
        for (step, place) in places.take(inputs.steps).enumerate() {
            let [a, b, c, d] = inputs.quantized(self, step, part);
            store_pairs(pair(a, c), pair(b, d), place);
        }
    }

    #[inline(always)]
    fn pack_words(self, words: [__m256i; 4], part: usize, tile: &mut [u8]) {
        let places = tile.as_chunks_mut::<64>().0.iter_mut().skip(part).step_by(2);
        for (word, place) in words.into_iter().zip(places) {
            // Sign-extends bytes 0 and 2, and 1 and 3.
            let even = op!(_mm256_srai_epi16(_mm256_slli_epi16(word, 8), 8));
            store_pairs(even, op!(_mm256_srai_epi16(word, 8)), place);
        }
    }

    #[inline(always)]
    fn accumulate(
        self,
        weights: &Weights<'_>,
        panels: &Steps<'_>,
        _live: usize,
        sink: &mut impl Sink<__m256i>,
    ) {
        if panels.tiles != 1 || weights.rows != 4 || !weights.fits(panels, Self::STEP) {
            return;
        }
        four_rows(self, weights, panels.bytes, sink);
    }
}

impl Products for Avx2 {
    #[inline(always)]
    fn add_products(self, sum: __m256i, x: *const u8, part: usize, w: __m256i) -> __m256i {
        // SAFETY: by the caller's promise; 64 bytes of a step are one part's.
        let even = unsafe { _mm256_loadu_si256(x.add(part * 64).cast()) };
        // SAFETY: likewise.
        let odd = unsafe { _mm256_loadu_si256(x.add(part * 64 + 32).cast()) };
        // Sign-extends bytes 0 and 2, and 1 and 3, of the four weights.
        let w_even = op!(_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
        let w_odd = op!(_mm256_srai_epi16(w, 8));
        let products =
            op!(_mm256_add_epi32(_mm256_madd_epi16(even, w_even), _mm256_madd_epi16(odd, w_odd)));
        op!(_mm256_add_epi32(sum, products))
    }
}

impl Dot for AvxVnni {
    /// Sixteen tokens by four unsigned bytes: q + 128.
    const STEP: usize = 64;
    const OFFSET: i32 = 128;
    const SHAPES: [(usize, usize); 2] = [(4, 1); 2];

    #[inline(always)]
    fn pack(self, inputs: &Inputs<'_>, part: usize, tile: &mut [u8]) {
        let places = tile.as_chunks_mut::<32>().0.iter_mut().skip(part).step_by(2);
        for (step, place) in places.take(inputs.steps).enumerate() {
            self.store_step(self.interleave(inputs.quantized(self, step, part)), place);
        }
    }

    #[inline(always)]
    fn pack_words(self, words: [__m256i; 4], part: usize, tile: &mut [u8]) {
        let places = tile.as_chunks_mut::<32>().0.iter_mut().skip(part).step_by(2);
        for (word, place) in words.into_iter().zip(places) {
            self.store_step(word, place);
        }
    }

    #[inline(always)]
    fn accumulate(
        self,
        weights: &Weights<'_>,
        panels: &Steps<'_>,
        _live: usize,
        sink: &mut impl Sink<__m256i>,
    ) {
        if panels.tiles != 1 || weights.rows != 4 || !weights.fits(panels, Self::STEP) {
            return;
        }
        four_rows(self, weights, panels.bytes, sink);
    }
}

impl Products for AvxVnni {
    #[inline(always)]
    fn add_products(self, sum: __m256i, x: *const u8, part: usize, w: __m256i) -> __m256i {
        // SAFETY: by the caller's promise; 32 bytes of a step are one part's.
        let x = unsafe { _mm256_loadu_si256(x.add(part * 32).cast()) };
        op!(_mm256_dpbusd_avx_epi32(sum, x, w))
    }
}

impl AvxVnni {
    /// Writes half a step of signed bytes as unsigned ones.
    #[inline(always)]
    fn store_step(self, bytes: __m256i, place: &mut [u8; 32]) {
        // Adding 128 to a byte flips its highest bit.
        let bytes = op!(_mm256_xor_si256(bytes, self.splat_int(0x8080_8080_u32 as i32)));
        // SAFETY: 32 bytes, borrowed mutably; the store needs no alignment.
        unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast(), bytes) }
    }
}

/// Writes half a step as pairs of i16.
#[inline(always)]
fn store_pairs(even: __m256i, odd: __m256i, place: &mut [u8; 64]) {
    let at = place.as_mut_ptr();
    // SAFETY: twice 32 of 64 bytes, borrowed mutably; the stores need no alignment.
    unsafe {
        _mm256_storeu_si256(at.cast(), even);
        _mm256_storeu_si256(at.add(32).cast(), odd);
    }
}

/// The dot product of one step and part.
trait Products: Dot {
    /// Adds the products of the step at `x`, of [`Dot::STEP`] readable bytes, with four weights.
    fn add_products(self, sum: __m256i, x: *const u8, part: usize, w: __m256i) -> __m256i;
}

/// Sums of four rows with one tile. The caller has checked [`Weights::fits`].
#[inline(always)]
fn four_rows<P: Products>(
    isa: P,
    weights: &Weights<'_>,
    panel: &[u8],
    sink: &mut impl Sink<__m256i>,
) {
    let mut sums = [[op!(_mm256_setzero_si256()); 2]; 4];
    for index in 0..weights.steps() {
        // SAFETY: `fits` says that the panel has this step.
        let x = unsafe { panel.as_ptr().add(index * P::STEP) };
        for (r, sums) in sums.iter_mut().enumerate() {
            let at = index / 4 * 64 + r * 16 + index % 4 * 4;
            // SAFETY: `fits` says that the block has four rows of this depth.
            let word = unsafe { weights.block.as_ptr().add(at).cast::<i32>().read_unaligned() };
            let w = op!(_mm256_set1_epi32(word));
            for (part, sum) in sums.iter_mut().enumerate() {
                *sum = isa.add_products(*sum, x, part, w);
            }
        }
    }
    for part in 0..2 {
        let sums = [[sums[0][part]], [sums[1][part]], [sums[2][part]], [sums[3][part]]];
        sink.put(Acc { row: 0, tile: 0, part, sums });
    }
}

/// Runs operations compiled for the features.
macro_rules! isa {
    ($token:ident, $features:literal) => {
        impl Isa for $token {
            #[inline(always)]
            fn run<O: Operation>(self, operation: O) -> O::Output {
                #[target_feature(enable = $features)]
                fn inner<O: Operation>(simd: $token, operation: O) -> O::Output {
                    operation.run(simd)
                }
                // SAFETY: the token proves that the processor has these features.
                unsafe { inner(self, operation) }
            }
        }
    };
}

isa!(Avx2, "avx2");
isa!(AvxVnni, "avx2,avxvnni");
