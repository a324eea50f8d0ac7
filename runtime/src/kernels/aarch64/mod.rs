//! aarch64: NEON, NEON with SDOT, NEON with SMMLA.
//!
//! The only place of the Arm intrinsics and of assembly for them. NEON is part of the target
//! where this module is built. Each instruction set is a token with a private field; the functions
//! here hand one out only after the processor said that it has the instructions.
#![allow(unsafe_code)]

mod dotprod;
mod i8mm;
mod neon;
mod vectors;

use super::Backend;
use super::generic::Vectorized;

static NEON: Vectorized<neon::Neon> = Vectorized::new("neon", neon::Neon::TOKEN);
static NEON_DOT: Vectorized<dotprod::NeonDot> =
    Vectorized::new("neon-dot", dotprod::NeonDot::TOKEN);
static NEON_I8MM: Vectorized<i8mm::NeonI8mm> = Vectorized::new("neon-i8mm", i8mm::NeonI8mm::TOKEN);

/// Whether all the named features are there: asked of the processor under `std`, known from the
/// build otherwise.
macro_rules! has {
    ($($feature:tt),*) => {{
        #[cfg(feature = "std")]
        let all = true $(&& std::arch::is_aarch64_feature_detected!($feature))*;
        #[cfg(not(feature = "std"))]
        let all = true $(&& cfg!(target_feature = $feature))*;
        all
    }};
}

/// The NEON backend; where this module is built, all code may use NEON.
pub(super) fn neon() -> Option<&'static dyn Backend> {
    Some(&NEON)
}

/// The backend with SDOT.
pub(super) fn neon_dot() -> Option<&'static dyn Backend> {
    has!("dotprod").then_some(&NEON_DOT)
}

/// The backend with SMMLA.
pub(super) fn neon_i8mm() -> Option<&'static dyn Backend> {
    has!("i8mm").then_some(&NEON_I8MM)
}
