//! This core's limits in arithmetic, 10⁹ operations a second; a multiply-accumulate is two.
//!
//! Operands stay in registers: nothing is loaded or stored. Also compiled into `benches/peers`.

/// Independent accumulators: more than latency × units of any core so far.
#[cfg(target_arch = "x86_64")]
const CHAINS: usize = 12;

/// Steps per measurement: some ten milliseconds.
#[cfg(target_arch = "x86_64")]
const STEPS: usize = 4_000_000;

/// `CHAINS` independent chains of one multiply-accumulate instruction; returns operations a
/// nanosecond.
#[cfg(target_arch = "x86_64")]
macro_rules! measure {
    ($name:ident, $features:literal, $zero:expr, $one:expr, $step:path, $macs:expr) => {
        #[target_feature(enable = $features)]
        fn $name() -> f64 {
            let (mut sums, one) = ([$zero; CHAINS], std::hint::black_box($one));
            let start = std::time::Instant::now();
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = $step(*sum, one);
                }
            }
            let nanoseconds = start.elapsed().as_nanos() as f64;
            std::hint::black_box(sums);
            (2 * $macs * CHAINS * STEPS) as f64 / nanoseconds
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use super::{CHAINS, STEPS};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn fma_512(sum: __m512, x: __m512) -> __m512 {
        _mm512_fmadd_ps(x, x, sum)
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma_256(sum: __m256, x: __m256) -> __m256 {
        _mm256_fmadd_ps(x, x, sum)
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dot_512(sum: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sum, x, x)
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn dot_256(sum: __m256i, x: __m256i) -> __m256i {
        _mm256_dpbusd_avx_epi32(sum, x, x)
    }

    measure!(f32_512, "avx512f", _mm512_setzero_ps(), _mm512_set1_ps(1e-3), fma_512, 16);
    measure!(f32_256, "avx2,fma", _mm256_setzero_ps(), _mm256_set1_ps(1e-3), fma_256, 8);
    measure!(
        int8_512,
        "avx512f,avx512vnni",
        _mm512_setzero_si512(),
        _mm512_set1_epi8(1),
        dot_512,
        64
    );
    measure!(int8_256, "avx2,avxvnni", _mm256_setzero_si256(), _mm256_set1_epi8(1), dot_256, 32);

    /// f32 multiply-adds.
    pub fn f32() -> Option<f64> {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the instruction set was detected just now.
            Some(unsafe { f32_512() })
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: both instruction sets were detected just now.
            Some(unsafe { f32_256() })
        } else {
            None
        }
    }

    /// VPDPBUSD: four u8 × i8 products added to an i32.
    pub fn int8() -> Option<f64> {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: both instruction sets were detected just now.
            Some(unsafe { int8_512() })
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
            // SAFETY: both instruction sets were detected just now.
            Some(unsafe { int8_256() })
        } else {
            None
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    /// Not measured here.
    pub fn f32() -> Option<f64> {
        None
    }

    /// Not measured here.
    pub fn int8() -> Option<f64> {
        None
    }
}

pub use x86::{f32, int8};
