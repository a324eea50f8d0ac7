//! Cortex-M: the DSP extension (M4F, M7, M33) and Helium (M55, M85).
//!
//! The only place of their instructions, which stable Rust has no intrinsics for. `build.rs` asks
//! the compiler which of them the build's flags allow; a build for a core is for that core, so
//! nothing is asked of the processor at run time but what the flags cannot say.
#![allow(unsafe_code)]

#[cfg(all(cortex_m_dsp, not(cortex_m_mve)))]
pub mod dsp;
#[cfg(cortex_m_mve)]
pub mod helium;
mod quantize;
