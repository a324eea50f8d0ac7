//! The board: constants from its catalogue entry and the drivers that the entry names.
//!
//! A driver is `Uart` with `wire`, `log`, `start` and embedded-io's traits, or `Counter` with
//! `start` and `ticks`. `start` of this module comes before both: clocks, pins.

#[cfg(uart = "cmsdk")]
mod cmsdk;
#[cfg(counter = "cmsdk-dual")]
mod dual;
#[cfg(counter = "generic")]
mod generic;
#[cfg(uart = "pl011")]
mod pl011;
#[cfg(feature = "rp235x")]
mod rp235x;
#[cfg(uart = "pl011")]
mod semihosting;
#[cfg(counter = "sse")]
mod sse;
#[cfg(uart = "stdio")]
mod stdio;

#[cfg(uart = "cmsdk")]
pub use cmsdk::Uart;
#[cfg(counter = "cmsdk-dual")]
pub use dual::Counter;
#[cfg(counter = "generic")]
pub use generic::Counter;
#[cfg(uart = "pl011")]
pub use pl011::Uart;
#[cfg(feature = "rp235x")]
pub use rp235x::{Counter, start};
#[cfg(counter = "sse")]
pub use sse::Counter;
#[cfg(uart = "stdio")]
pub use stdio::{Counter, Uart};

/// Nothing has to be set before the drivers start.
#[cfg(not(feature = "rp235x"))]
pub fn start() {}

mod constants {
    //! What the catalogue says.

    // No board needs all of them.
    #![allow(dead_code)]
    include!(concat!(env!("OUT_DIR"), "/constants.rs"));
}
pub use constants::*;

/// Reads a device register.
///
/// # Safety
/// `address` is a device register of this board that may be read at any time.
#[cfg(target_os = "none")]
unsafe fn read_register(address: usize) -> u32 {
    // SAFETY: the caller's promise; registers are aligned words outside Rust's memory.
    unsafe { core::ptr::with_exposed_provenance::<u32>(address).read_volatile() }
}

/// Writes a device register.
///
/// # Safety
/// `address` is a device register of this board whose change touches no memory of Rust's.
#[cfg(target_os = "none")]
unsafe fn write_register(address: usize, value: u32) {
    // SAFETY: the caller's promise; registers are aligned words outside Rust's memory.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(address).write_volatile(value) }
}
