//! The marks around counted work: two functions of one instruction each, which the plugin finds
//! by their names.

#![allow(unsafe_code)] // The names must stay as they are, and the bodies one instruction.

/// Begins a region.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn grouse_count_start() {
    #[cfg(target_arch = "arm")]
    core::arch::naked_asm!("bx lr");
    #[cfg(not(target_arch = "arm"))]
    core::arch::naked_asm!("ret");
}

/// Ends a region.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn grouse_count_stop() {
    #[cfg(target_arch = "arm")]
    core::arch::naked_asm!("bx lr");
    #[cfg(not(target_arch = "arm"))]
    core::arch::naked_asm!("ret");
}

/// Runs `work` as a region. It includes two instructions of the marks themselves.
#[inline(never)]
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    grouse_count_start();
    let result = core::hint::black_box(work());
    grouse_count_stop();
    result
}

/// Turns `turns` times, at least once, through a loop of two instructions.
#[unsafe(naked)]
pub(crate) extern "C" fn turn(turns: usize) {
    #[cfg(target_arch = "arm")]
    core::arch::naked_asm!("2: subs r0, r0, #1", "bne 2b", "bx lr");
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!("2: subs x0, x0, #1", "b.ne 2b", "ret");
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!("2: sub rdi, 1", "jne 2b", "ret");
}
