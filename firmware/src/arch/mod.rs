//! What depends on the core or the operating system: entry, stack, faults, and where the model and
//! the arena are.

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod aarch64;
#[cfg(all(target_os = "none", target_arch = "arm"))]
mod cortex_m;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "none")]
mod memory;
pub mod stack;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
pub use aarch64::*;
#[cfg(all(target_os = "none", target_arch = "arm"))]
pub use cortex_m::*;
#[cfg(target_os = "linux")]
pub use linux::*;
#[cfg(target_os = "none")]
pub use memory::*;
