//! x86-64: AVX2, AVX-VNNI and AVX-512 VNNI.
//!
//! The only place of the x86 intrinsics. Each instruction set is a token with a private field; the
//! functions here hand one out only after the processor said that it has the instructions.
#![allow(unsafe_code)]

mod avx512;
mod unpack;
mod ymm;

use super::Backend;
use super::generic::Vectorized;

static AVX2: Vectorized<ymm::Avx2> = Vectorized::new("avx2", ymm::Avx2::TOKEN);
static AVX_VNNI: Vectorized<ymm::AvxVnni> = Vectorized::new("avx-vnni", ymm::AvxVnni::TOKEN);
static AVX512: Vectorized<avx512::Avx512> = Vectorized::new("avx512-vnni", avx512::Avx512::TOKEN);

/// Whether all the named features are there: asked of the processor under `std`, known from the
/// build otherwise.
macro_rules! has {
    ($($feature:tt),*) => {{
        #[cfg(feature = "std")]
        let all = true $(&& std::arch::is_x86_feature_detected!($feature))*;
        #[cfg(not(feature = "std"))]
        let all = true $(&& cfg!(target_feature = $feature))*;
        all
    }};
}

/// The AVX2 backend.
pub(super) fn avx2() -> Option<&'static dyn Backend> {
    has!("avx2").then_some(&AVX2)
}

/// The AVX-VNNI backend.
pub(super) fn avx_vnni() -> Option<&'static dyn Backend> {
    has!("avx2", "avxvnni").then_some(&AVX_VNNI)
}

/// The AVX-512 VNNI backend.
pub(super) fn avx512_vnni() -> Option<&'static dyn Backend> {
    has!("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni").then_some(&AVX512)
}
