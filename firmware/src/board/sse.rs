//! Driver of the 64-bit system counter in Arm's SSE subsystems.

use core::sync::atomic::{Ordering, compiler_fence};

use super::{COUNTER_CONTROL, COUNTER_STATUS, read_register, write_register};

const CONTROL_ENABLE: u32 = 1;
const STATUS_LOW: usize = 0;
const STATUS_HIGH: usize = 4;

/// The free-running counter.
pub struct Counter;

impl Counter {
    /// Starts counting.
    pub fn start() {
        // SAFETY: the counter's control register by the catalogue; it touches no memory.
        unsafe { write_register(COUNTER_CONTROL, CONTROL_ENABLE) }
    }

    /// Ticks since the start. Work before and after the call stays on its side.
    pub fn ticks() -> u64 {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the counter's status registers by the catalogue.
        let read = |offset| unsafe { read_register(COUNTER_STATUS + offset) };
        let ticks = loop {
            let high = read(STATUS_HIGH);
            let low = read(STATUS_LOW);
            // The low word may have wrapped between the two reads.
            if read(STATUS_HIGH) == high {
                break u64::from(high) << 32 | u64::from(low);
            }
        };
        compiler_fence(Ordering::SeqCst);
        ticks
    }
}
