//! The board: constants from its catalogue entry and the drivers that the entry names.
//!
//! A driver is `Uart` with `wire`, `log`, `start` and embedded-io's traits, or `Counter` with
//! `start` and `ticks`.

#[cfg(uart = "cmsdk")]
mod cmsdk;
#[cfg(counter = "sse")]
mod sse;

#[cfg(uart = "cmsdk")]
pub use cmsdk::Uart;
#[cfg(counter = "sse")]
pub use sse::Counter;

include!(concat!(env!("OUT_DIR"), "/constants.rs"));

/// Reads a device register.
///
/// # Safety
/// `address` is a device register of this board that may be read at any time.
unsafe fn read_register(address: usize) -> u32 {
    // SAFETY: the caller's promise; registers are aligned words outside Rust's memory.
    unsafe { core::ptr::with_exposed_provenance::<u32>(address).read_volatile() }
}

/// Writes a device register.
///
/// # Safety
/// `address` is a device register of this board whose change touches no memory of Rust's.
unsafe fn write_register(address: usize, value: u32) {
    // SAFETY: the caller's promise; registers are aligned words outside Rust's memory.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(address).write_volatile(value) }
}
