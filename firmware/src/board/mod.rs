//! The board: constants from its catalogue entry and the drivers that the entry names.
//!
//! A driver is `Uart` with `wire`, `log`, `start` and embedded-io's traits, or `Counter` with
//! `start` and `ticks`. `start` of this module comes before both: clocks, pins. A board with the
//! core's cycle counter also has `slow_cycles`, which tells how often that one turned over.

#[cfg(any(feature = "teensy41", feature = "stm32"))]
mod caches;
#[cfg(uart = "cmsdk")]
mod cmsdk;
#[cfg(counter = "cmsdk-dual")]
mod dual;
#[cfg(counter = "dwt")]
mod dwt;
#[cfg(counter = "generic")]
mod generic;
#[cfg(feature = "rp235x")]
mod pico;
#[cfg(any(uart = "pl011", uart = "stm32-usart", uart = "lpuart"))]
mod polled;
#[cfg(feature = "rp235x")]
mod rp235x;
#[cfg(any(uart = "pl011", uart = "stm32-usart", uart = "lpuart"))]
mod semihosting;
#[cfg(counter = "sse")]
mod sse;
#[cfg(uart = "stdio")]
mod stdio;
#[cfg(feature = "stm32")]
mod stm32;
#[cfg(feature = "stm32n657")]
mod stm32n6570;
#[cfg(feature = "teensy41")]
mod teensy41;
#[cfg(feature = "rp235x")]
mod usb;
#[cfg(feature = "stm32h743")]
mod weact_h743;

#[cfg(uart = "cmsdk")]
pub use cmsdk::Uart;
#[cfg(counter = "cmsdk-dual")]
pub use dual::Counter;
#[cfg(counter = "dwt")]
pub use dwt::Counter;
#[cfg(counter = "generic")]
pub use generic::Counter;
#[cfg(feature = "rp235x")]
pub use pico::Uart;
#[cfg(all(
    not(feature = "rp235x"),
    any(uart = "pl011", uart = "stm32-usart", uart = "lpuart")
))]
pub use polled::Uart;
#[cfg(feature = "rp235x")]
pub use rp235x::{slow_cycles, start};
#[cfg(any(uart = "pl011", uart = "stm32-usart", uart = "lpuart"))]
use semihosting::console;
#[cfg(counter = "sse")]
pub use sse::Counter;
#[cfg(uart = "stdio")]
pub use stdio::{Counter, Uart};
#[cfg(feature = "stm32n657")]
pub use stm32n6570::{slow_cycles, start};
#[cfg(feature = "teensy41")]
pub use teensy41::{slow_cycles, start};
#[cfg(feature = "stm32h743")]
pub use weact_h743::{slow_cycles, start};

/// Nothing has to be set before the drivers start.
#[cfg(not(counter = "dwt"))]
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
