//! The emulator's console, by Arm's semihosting.

/// Writes bytes.
#[cfg(target_arch = "aarch64")]
pub fn console(bytes: &[u8]) {
    bytes.iter().for_each(|byte| put(*byte));
}

#[cfg(target_arch = "aarch64")]
fn put(byte: u8) {
    const WRITE_C: usize = 3;
    // SAFETY: the emulator reads the byte that is pointed to, and changes nothing but w0.
    unsafe {
        core::arch::asm!(
            "hlt #0xf000",
            inout("x0") WRITE_C => _,
            in("x1") &raw const byte,
            options(nostack),
        );
    }
}

/// Nothing: no board of this core needs it.
#[cfg(not(target_arch = "aarch64"))]
pub fn console(_: &[u8]) {}
