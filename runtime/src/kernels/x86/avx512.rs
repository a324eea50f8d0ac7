//! AVX-512 with VNNI: sixteen tokens a vector, `vpdpbusd` for the dot product.

use core::arch::x86_64::*;

use crate::format::TILE_ROWS;
use crate::kernels::generic::{Acc, Dot, Inputs, Isa, Operation, ROWS, Simd, Sink, Steps, Weights};
use crate::kernels::{Column, Pack, TileScales};

use super::unpack::unpack_run;

/// Proof that the processor has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// Handed out by [`super::avx512_vnni`] alone, after detection.
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

impl Simd for Avx512 {
    const LANES: usize = 16;
    type F = __m512;
    type I = __m512i;

    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        op!(_mm512_set1_ps(v))
    }
    #[inline(always)]
    fn load(self, column: &Column, _part: usize) -> __m512 {
        // SAFETY: a column is sixteen floats; the load needs no alignment.
        unsafe { _mm512_loadu_ps(column.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, column: &mut Column, _part: usize, v: __m512) {
        // SAFETY: as in `load`, and the column is borrowed mutably.
        unsafe { _mm512_storeu_ps(column.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        op!(_mm512_sqrt_ps(a))
    }
    // `vmaxps` and `vminps` give the second operand unless the first is greater (less): just the
    // definition, NaN and zeros included.
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn positive(self, a: __m512) -> __m512 {
        op!(_mm512_max_ps(_mm512_setzero_ps(), a))
    }
    #[inline(always)]
    fn exp2(self, n: __m512) -> __m512 {
        let biased = op!(_mm512_add_epi32(self.to_int(n), self.splat_int(127)));
        op!(_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23)))
    }
    #[inline(always)]
    fn times_exp2(self, v: __m512, n: __m512) -> __m512 {
        op!(_mm512_scalef_ps(v, n))
    }
    #[inline(always)]
    fn round_even(self, v: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v))
    }
    #[inline(always)]
    fn to_int(self, v: __m512) -> __m512i {
        op!(_mm512_cvtps_epi32(v))
    }
    #[inline(always)]
    fn to_float(self, v: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(v))
    }
    #[inline(always)]
    fn splat_int(self, v: i32) -> __m512i {
        op!(_mm512_set1_epi32(v))
    }
    #[inline(always)]
    fn load_int(self, column: &[i32; 16], _part: usize) -> __m512i {
        // SAFETY: sixteen integers; the load needs no alignment.
        unsafe { _mm512_loadu_si512(column.as_ptr().cast()) }
    }
    #[inline(always)]
    fn interleave(self, four: [__m512i; 4]) -> __m512i {
        let [ab, cd] = narrowed(four, self.splat_int(0));
        as_words(op!(_mm512_packs_epi16(ab, cd)))
    }
    #[inline(always)]
    fn store_bytes(self, bytes: &mut [i8; 16], _part: usize, v: __m512i) {
        // SAFETY: sixteen bytes, borrowed mutably; the store needs no alignment.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    fn store_int(self, column: &mut [i32; 16], _part: usize, v: __m512i) {
        // SAFETY: sixteen integers, borrowed mutably; the store needs no alignment.
        unsafe { _mm512_storeu_si512(column.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn add_int(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn sub_int(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn mul_int(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_mullo_epi32(a, b))
    }
    unpack_run!();

    #[inline(always)]
    fn quantize_row(self, column: &Column, inverse: f32, row: &mut [i8; 16]) {
        // Rounds to even; what is no number becomes the least integer.
        let q = self.to_int(self.mul(self.load(column, 0), self.splat(inverse)));
        let q = op!(_mm512_max_epi32(q, self.splat_int(-127)));
        self.store_bytes(row, 0, q);
    }

    #[inline(always)]
    fn quantize_tokens(
        self,
        columns: &[Column; 16],
        inverse: &Column,
        sums: &mut [i32; 16],
        rows: &mut [[i8; 64]; 4],
    ) {
        let inverse = self.load(inverse, 0);
        let zero = self.splat_int(0);
        let ones = op!(_mm512_set1_epi8(1));
        let mut sum = self.load_int(sums, 0);
        let mut words = [zero; 4];
        for (word, columns) in words.iter_mut().zip(columns.as_chunks::<4>().0) {
            let mut q = [zero; 4];
            for (q, column) in q.iter_mut().zip(columns) {
                *q = self.to_int(self.mul(self.load(column, 0), inverse));
            }
            let [ab, cd] = narrowed(q, zero);
            let bytes = op!(_mm512_max_epi8(_mm512_packs_epi16(ab, cd), _mm512_set1_epi8(-127)));
            *word = as_words(bytes);
            sum = op!(_mm512_dpbusd_epi32(sum, ones, *word));
        }
        self.store_int(sums, 0, sum);
        let [a, b, c, d] = words;
        // Quarter i of vector j becomes the four words of token 4 i + j.
        let (ab, cd) = op!((_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)));
        let (first, second) = op!((_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd)));
        let (ab, cd) = op!((_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)));
        let (third, fourth) = op!((_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd)));
        for (j, tokens) in [first, second, third, fourth].into_iter().enumerate() {
            let quarters = op!([
                _mm512_extracti32x4_epi32::<0>(tokens),
                _mm512_extracti32x4_epi32::<1>(tokens),
                _mm512_extracti32x4_epi32::<2>(tokens),
                _mm512_extracti32x4_epi32::<3>(tokens),
            ]);
            for (quarter, rows) in quarters.into_iter().zip(&mut *rows) {
                let row = &mut rows.as_chunks_mut::<16>().0[j];
                // SAFETY: sixteen bytes, borrowed mutably; the store needs no alignment.
                unsafe { _mm_storeu_si128(row.as_mut_ptr().cast(), quarter) }
            }
        }
    }
}

/// Integers of four columns in sixteen bits, the sums with `zero` of the first two and of the last
/// two: in each quarter those of four tokens, column after column. Narrowing and sum saturate.
#[inline(always)]
fn narrowed([a, b, c, d]: [__m512i; 4], zero: __m512i) -> [__m512i; 2] {
    let (ab, cd) = op!((_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)));
    op!([_mm512_adds_epi16(ab, zero), _mm512_adds_epi16(cd, zero)])
}

/// From bytes of four tokens in each quarter, column after column, to a word for each token.
#[inline(always)]
fn as_words(bytes: __m512i) -> __m512i {
    let order = op!(_mm512_set4_epi32(0x0f0b_0703, 0x0e0a_0602, 0x0d09_0501, 0x0c08_0400));
    op!(_mm512_shuffle_epi8(bytes, order))
}

impl Dot for Avx512 {
    /// Sixteen tokens by four unsigned bytes: q + 128.
    const STEP: usize = 64;
    const OFFSET: i32 = 128;
    /// All of a run of rows, which [`quads_at_once`] divides.
    const SHAPES: [(usize, usize); 2] = [(ROWS, 1), (ROWS, 2)];

    #[inline(always)]
    fn pack(self, inputs: &Inputs<'_>, _part: usize, tile: &mut [u8]) {
        let quantizer = Quantizer::new(self, inputs.scales);
        let columns = inputs.columns.as_chunks::<4>().0.iter();
        let factors = inputs.factors.as_chunks::<4>().0;
        let places = tile.as_chunks_mut::<64>().0.iter_mut();
        for ((columns, factors), place) in columns.zip(factors).zip(places).take(inputs.steps) {
            quantizer.step(*columns, factors.each_ref(), place);
        }
    }

    // Step by step, so that no list of columns is made.
    #[inline(always)]
    fn pack_list(self, job: &Pack<'_>, list: &[u16], panel: &mut [u8]) {
        let quantizer = Quantizer::new(self, job.scales);
        let (fours, rest) = list.as_chunks::<4>();
        let mut places = panel.as_chunks_mut::<64>().0.iter_mut();
        for (four, place) in fours.iter().zip(&mut places) {
            quantizer.gather(job, *four, place);
        }
        // The weights of the padding are zero: any value will do.
        if let (Some(first), Some(place)) = (rest.first(), places.next()) {
            let mut four = [*first; 4];
            four.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            quantizer.gather(job, four, place);
        }
    }

    #[inline(always)]
    fn pack_words(self, words: [__m512i; 4], _part: usize, tile: &mut [u8]) {
        for (word, place) in words.into_iter().zip(tile.as_chunks_mut::<64>().0) {
            self.store_step(word, place);
        }
    }

    #[inline(always)]
    fn accumulate(
        self,
        weights: &Weights<'_>,
        panels: &Steps<'_>,
        _live: usize,
        sink: &mut impl Sink<__m512i>,
    ) {
        if !weights.fits(panels, Self::STEP) {
            return;
        }
        let quads = weights.rows / TILE_ROWS;
        let mut quad = 0;
        while quad < quads {
            let first = First { quad, weights };
            let most = if panels.tiles > 1 { 3 } else { 4 };
            let now = quads_at_once(quads - quad, most);
            match (now, panels.tiles) {
                (4, 1) => dot::<4, 1>(&first, panels, sink),
                (3, 1) => dot::<3, 1>(&first, panels, sink),
                (2, 1) => dot::<2, 1>(&first, panels, sink),
                (1, 1) => dot::<1, 1>(&first, panels, sink),
                (3, 2) => dot::<3, 2>(&first, panels, sink),
                (2, 2) => dot::<2, 2>(&first, panels, sink),
                (1, 2) => dot::<1, 2>(&first, panels, sink),
                _ => return,
            }
            quad += now;
        }
    }
}

/// How many of `left` times four rows are multiplied together, when `most` can be. Sixteen sums
/// hide the latency of two dot products a cycle; of two tiles it is 24, since a weight is then
/// loaded once for both. What is left for the last turns is shared out among them: eight sums hide
/// little.
#[inline(always)]
fn quads_at_once(left: usize, most: usize) -> usize {
    if left > most && left < 2 * most { left.div_ceil(2) } else { left.min(most) }
}

/// Rows from four times `quad` on.
struct First<'a> {
    quad: usize,
    weights: &'a Weights<'a>,
}

/// A tile's scales in registers.
struct Quantizer {
    simd: Avx512,
    inverse: __m512,
    /// The zero points + 128 in sixteen bits, as [`narrowed`] wants them.
    zero: __m512i,
}

impl Quantizer {
    #[inline(always)]
    fn new(simd: Avx512, scales: &TileScales) -> Self {
        let zero = simd.add_int(simd.load_int(&scales.zero, 0), simd.splat_int(128));
        let zero = op!(_mm512_packs_epi32(zero, zero));
        Self { simd, inverse: simd.load(&scales.inverse, 0), zero }
    }

    /// Quantizes the inputs of these numbers.
    #[inline(always)]
    fn gather(&self, job: &Pack<'_>, four: [u16; 4], place: &mut [u8; 64]) {
        let Some(factors) = job.equalize.get(..job.x.len()) else { return };
        let [a, b, c, d] = four.map(usize::from);
        let x = (job.x.get(a), job.x.get(b), job.x.get(c), job.x.get(d));
        let e = (factors.get(a), factors.get(b), factors.get(c), factors.get(d));
        if let ((Some(a), Some(b), Some(c), Some(d)), (Some(e), Some(f), Some(g), Some(h))) = (x, e)
        {
            self.step([a, b, c, d], [e, f, g, h], place);
        }
    }

    /// Quantizes four inputs.
    #[inline(always)]
    fn step(&self, columns: [&Column; 4], factors: [&f32; 4], place: &mut [u8; 64]) {
        let simd = self.simd;
        let mut q = [simd.splat_int(0); 4];
        for (q, (column, factor)) in q.iter_mut().zip(columns.into_iter().zip(factors)) {
            let v = simd.mul(simd.load(column, 0), simd.splat(*factor));
            // Rounds to even.
            *q = simd.to_int(simd.mul(v, self.inverse));
        }
        // The last narrowing clamps, too.
        let [ab, cd] = narrowed(q, self.zero);
        let bytes = as_words(op!(_mm512_packus_epi16(ab, cd)));
        // SAFETY: 64 bytes, borrowed mutably; the store needs no alignment.
        unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), bytes) }
    }
}

impl Avx512 {
    /// Writes a step of signed bytes as unsigned ones.
    #[inline(always)]
    fn store_step(self, bytes: __m512i, place: &mut [u8; 64]) {
        // Adding 128 to a byte flips its highest bit.
        let bytes = op!(_mm512_xor_si512(bytes, self.splat_int(0x8080_8080_u32 as i32)));
        // SAFETY: 64 bytes, borrowed mutably; the store needs no alignment.
        unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), bytes) }
    }
}

/// Sums of `Q` times four rows with `T` tiles. The caller has checked [`Weights::fits`], and that
/// there are so many rows.
#[inline(always)]
fn dot<const Q: usize, const T: usize>(
    first: &First<'_>,
    panels: &Steps<'_>,
    sink: &mut impl Sink<__m512i>,
) {
    let steps = first.weights.steps();
    let mut sums = [[[op!(_mm512_setzero_si512()); T]; 4]; Q];
    for tile in 0..steps / 4 {
        // The next turn's weights follow these.
        for q in 0..Q {
            let quad = first.quad + Q + q;
            let at = quad * first.weights.quad_bytes() + tile * 64;
            let next = first.weights.block.as_ptr().wrapping_add(at);
            // SAFETY: a prefetch may be of any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(next) };
        }
        for s in 0..4 {
            step::<Q, T>(first, panels, tile * 4 + s, &mut sums);
        }
    }
    for index in steps / 4 * 4..steps {
        step::<Q, T>(first, panels, index, &mut sums);
    }
    // Written out: an array that is read in a loop would live in memory.
    put::<Q, T, 0>(first, &sums, sink);
    put::<Q, T, 1>(first, &sums, sink);
    put::<Q, T, 2>(first, &sums, sink);
    put::<Q, T, 3>(first, &sums, sink);
}

/// Hands on the sums of four rows, if there are so many.
#[inline(always)]
fn put<const Q: usize, const T: usize, const QUAD: usize>(
    first: &First<'_>,
    sums: &[[[__m512i; T]; 4]; Q],
    sink: &mut impl Sink<__m512i>,
) {
    if QUAD < Q {
        let [a, b, c, d] = sums[QUAD];
        let row = (first.quad + QUAD) * TILE_ROWS;
        sink.put(Acc { row, tile: 0, part: 0, sums: [a, b, c, d] });
    }
}

/// Adds the products of step `index`.
#[inline(always)]
fn step<const Q: usize, const T: usize>(
    first: &First<'_>,
    panels: &Steps<'_>,
    index: usize,
    sums: &mut [[[__m512i; T]; 4]; Q],
) {
    let mut x = [op!(_mm512_setzero_si512()); T];
    for (t, x) in x.iter_mut().enumerate() {
        let at = t * panels.stride + index * Avx512::STEP;
        // SAFETY: `fits` says that each of the T panels has all the steps, of 64 bytes.
        *x = unsafe { _mm512_loadu_si512(panels.bytes.as_ptr().add(at).cast()) };
    }
    for (q, sums) in sums.iter_mut().enumerate() {
        for (r, sums) in sums.iter_mut().enumerate() {
            let quad = (first.quad + q) * first.weights.quad_bytes();
            let at = quad + index / 4 * 64 + r * 16 + index % 4 * 4;
            // SAFETY: `fits` says that the block has these quads of `quad_bytes`, which hold this
            // step: four bytes of a row's sixteen.
            let word =
                unsafe { first.weights.block.as_ptr().add(at).cast::<i32>().read_unaligned() };
            let w = op!(_mm512_set1_epi32(word));
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = op!(_mm512_dpbusd_epi32(*sum, x, w));
            }
        }
    }
}

impl Isa for Avx512 {
    #[inline(always)]
    fn run<O: Operation>(self, operation: O) -> O::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn inner<O: Operation>(simd: Avx512, operation: O) -> O::Output {
            operation.run(simd)
        }
        // SAFETY: the token proves that the processor has these features.
        unsafe { inner(self, operation) }
    }
}
