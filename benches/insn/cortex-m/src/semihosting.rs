//! What the guest asks of the emulator: its command line, lines of output and the end.

use core::fmt::Display;

use cortex_m_semihosting::hio::{HostStream, hstderr, hstdout};
use cortex_m_semihosting::{debug, nr};

/// The command line, which the emulator writes to `buffer`; `None` when it has none that fits.
pub fn command_line(buffer: &mut [u8]) -> Option<&str> {
    let mut block = [buffer.as_mut_ptr().expose_provenance(), buffer.len()];
    let address = (&raw mut block).expose_provenance();
    // SAFETY: the block holds the address and length of a buffer that is ours to write; the
    // emulator puts at most so many bytes there, and their number into the block.
    let failed = unsafe { cortex_m_semihosting::syscall1(nr::GET_CMDLINE, address) };
    // What was passed by address may have changed.
    let [_, length] = core::hint::black_box(block);
    let bytes = if failed == 0 { buffer.get(..length)? } else { return None };
    core::str::from_utf8(bytes).ok()
}

/// The emulator's standard output.
pub fn output() -> Option<HostStream> {
    hstdout().ok()
}

/// Writes a line to the emulator's standard error and ends it.
pub fn fail(what: &dyn Display) -> ! {
    use core::fmt::Write;
    if let Ok(mut stream) = hstderr() {
        // If this fails, the exit code still tells.
        let _ = writeln!(stream, "error: {what}");
    }
    exit(false)
}

/// Ends the emulator, with exit code 0 for a success and 1 otherwise.
pub fn exit(success: bool) -> ! {
    debug::exit(if success { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi();
    }
}
