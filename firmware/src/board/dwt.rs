//! Cycles of the core: its 32-bit counter, and a slow one of the chip's for its turns.

use core::sync::atomic::{Ordering, compiler_fence};

use cortex_m::peripheral::{DCB, DWT};

use super::slow_cycles;

/// The counter.
pub struct Counter;

impl Counter {
    /// Starts counting.
    pub fn start() {
        DWT::unlock();
        // SAFETY: switches the core's counter on; nothing else uses these registers.
        unsafe {
            (*DCB::PTR).demcr.modify(|bits| bits | 1 << 24);
            (*DWT::PTR).cyccnt.write(0);
            (*DWT::PTR).ctrl.modify(|bits| bits | 1);
        }
    }

    /// Cycles since the start. Work before and after the call stays on its side.
    pub fn ticks() -> u64 {
        compiler_fence(Ordering::SeqCst);
        let cycles = DWT::cycle_count();
        // Both are of one clock; they started at most some microseconds apart.
        let coarse = slow_cycles();
        compiler_fence(Ordering::SeqCst);
        let turns = coarse.wrapping_sub(cycles.into()).wrapping_add(1 << 31) >> 32;
        turns << 32 | u64::from(cycles)
    }
}
