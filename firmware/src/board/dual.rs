//! Driver of Arm's CMSDK dual timer as a 40-bit counter: timer 1 counts every tick, timer 2 every
//! 256th. Both count down from all ones and start anew below zero.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{COUNTER_CONTROL, read_register, write_register};

const TIMER_1: usize = 0x00;
const TIMER_2: usize = 0x20;
const VALUE: usize = 0x04;
const CONTROL: usize = 0x08;
/// Enabled, free-running, 32 bits.
const FREE_RUNNING: u32 = 1 << 7 | 1 << 1;
const EVERY_256TH: u32 = 2 << 2;

/// The free-running counter.
pub struct Counter;

impl Counter {
    /// Starts counting.
    pub fn start() {
        // SAFETY: the timers' control registers by the catalogue; they touch no memory.
        unsafe {
            write_register(COUNTER_CONTROL + TIMER_2 + CONTROL, FREE_RUNNING | EVERY_256TH);
            write_register(COUNTER_CONTROL + TIMER_1 + CONTROL, FREE_RUNNING);
        }
    }

    /// Ticks since the start. Work before and after the call stays on its side.
    pub fn ticks() -> u64 {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the timers' value registers by the catalogue.
        let read = |timer| !unsafe { read_register(COUNTER_CONTROL + timer + VALUE) };
        let (coarse, fine) = (read(TIMER_2), read(TIMER_1));
        compiler_fence(Ordering::SeqCst);
        // The timers started some ticks apart: the coarse one tells only which turn of the fine
        // one is nearest.
        let coarse = u64::from(coarse) << 8;
        let turns = coarse.wrapping_sub(fine.into()).wrapping_add(1 << 31) >> 32;
        turns << 32 | u64::from(fine)
    }
}
