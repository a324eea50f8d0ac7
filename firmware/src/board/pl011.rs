//! Driver of Arm's PL011 UART. The baud rate is set by `super::start_clocks` or needs no setting.
//!
//! A line at address 0 is the emulator's console: not every machine has a second UART for the log.
//! It waits without sleeping: what wakes a core differs from board to board.

use core::convert::Infallible;

use super::{UART_LOG, UART_WIRE, read_register, write_register};

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const FLAGS_BUSY: u32 = 1 << 3;
const FLAGS_RX_EMPTY: u32 = 1 << 4;
const FLAGS_TX_FULL: u32 = 1 << 5;
const CONTROL: usize = 0x30;
/// The UART, its sender and its receiver.
const CONTROL_ON: u32 = 1 << 9 | 1 << 8 | 1;

/// A serial line. Handles are free to copy: they hold no state of their own.
#[derive(Clone, Copy)]
pub struct Uart {
    base: usize,
}

impl Uart {
    /// The line that carries the protocol.
    pub const fn wire() -> Self {
        Self { base: UART_WIRE }
    }

    /// The line that carries the log.
    pub const fn log() -> Self {
        Self { base: UART_LOG }
    }

    /// Turns the line on.
    pub fn start(self) {
        if self.base == 0 {
            return;
        }
        // SAFETY: `base` is a UART by the catalogue; it moves bytes and touches no memory.
        unsafe { write_register(self.base + CONTROL, CONTROL_ON) }
    }

    fn has(self, flag: u32) -> bool {
        // SAFETY: as above.
        unsafe { read_register(self.base + FLAGS) & flag != 0 }
    }
}

impl embedded_io::ErrorType for Uart {
    type Error = Infallible;
}

impl embedded_io::Read for Uart {
    /// Waits until a byte has come.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(first) = buffer.first_mut() else { return Ok(0) };
        while self.has(FLAGS_RX_EMPTY) {
            core::hint::spin_loop();
        }
        // SAFETY: as above.
        *first = unsafe { read_register(self.base + DATA) as u8 };
        Ok(1)
    }
}

impl embedded_io::Write for Uart {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        if self.base == 0 {
            buffer.iter().for_each(|byte| super::semihosting::put(*byte));
            return Ok(buffer.len());
        }
        for byte in buffer {
            while self.has(FLAGS_TX_FULL) {}
            // SAFETY: as above.
            unsafe { write_register(self.base + DATA, u32::from(*byte)) }
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while self.base != 0 && self.has(FLAGS_BUSY) {}
        Ok(())
    }
}
