//! Caches of cores that have them: without, every weight is waited for.

use cortex_m::Peripherals;

/// Switches both on.
pub fn start() {
    // SAFETY: called once, by `start` of the board, before anything else uses these registers.
    let mut core = unsafe { Peripherals::steal() };
    core.SCB.enable_icache();
    core.SCB.enable_dcache(&mut core.CPUID);
}
