//! The aarch64 core's own counter.

/// The free-running counter.
pub struct Counter;

impl Counter {
    /// It runs from the start.
    pub fn start() {}

    /// Ticks since then. Work before and after the call stays on its side.
    pub fn ticks() -> u64 {
        let ticks;
        // SAFETY: reads a counter; the barriers keep other instructions on their side.
        unsafe {
            core::arch::asm!("isb", "mrs {}, cntvct_el0", "isb", out(reg) ticks, options(nostack));
        }
        ticks
    }
}
