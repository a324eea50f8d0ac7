//! Driver of UARTs that are asked byte by byte: Arm's PL011, ST's USART, NXP's LPUART. The baud rate
//! is set by `super::start` or needs no setting.
//!
//! A line at address 0 is the emulator's console: not every machine has a second UART for the log.
//! It waits without sleeping: what wakes a core differs from board to board.

use core::convert::Infallible;

use super::{UART_LOG, UART_WIRE, read_register, write_register};

/// Where a kind of UART has what, as offsets from its address, and bits of its flags.
struct Registers {
    receive: usize,
    transmit: usize,
    flags: usize,
    /// Flags that say the opposite of what is asked for below.
    inverted: u32,
    /// A byte has come.
    received: u32,
    /// A byte can be sent.
    room: u32,
    /// All is sent.
    idle: u32,
    /// A byte was lost or damaged, and where writing the same bits clears that; some receivers stop
    /// until it is done.
    errors: (u32, usize),
    /// What turns the UART on and where, unless `super::start` did.
    on: Option<(usize, u32)>,
}

#[cfg(uart = "pl011")]
const UART: Registers = Registers {
    receive: 0x00,
    transmit: 0x00,
    flags: 0x18,
    inverted: 1 << 4 | 1 << 5 | 1 << 3,
    received: 1 << 4,
    room: 1 << 5,
    idle: 1 << 3,
    errors: (0, 0),
    // The UART, its sender and its receiver.
    on: Some((0x30, 1 << 9 | 1 << 8 | 1)),
};

/// Interrupt and status register, its clearing register, and data registers apart.
#[cfg(uart = "stm32-usart")]
const UART: Registers = Registers {
    receive: 0x24,
    transmit: 0x28,
    flags: 0x1C,
    inverted: 0,
    received: 1 << 5,
    room: 1 << 7,
    idle: 1 << 6,
    errors: (0b1111, 0x20),
    on: None,
};

/// The status register's errors are cleared in place.
#[cfg(uart = "lpuart")]
const UART: Registers = Registers {
    receive: 0x1C,
    transmit: 0x1C,
    flags: 0x14,
    inverted: 0,
    received: 1 << 21,
    room: 1 << 23,
    idle: 1 << 22,
    errors: (0b1111 << 16, 0x14),
    on: None,
};

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
        if let (1.., Some((offset, bits))) = (self.base, UART.on) {
            self.set(offset, bits);
        }
    }

    /// A byte, if one has come.
    pub fn take(self) -> Option<u8> {
        if self.is(UART.received) {
            return Some(self.get(UART.receive) as u8);
        }
        let (errors, clear) = UART.errors;
        // The frame's checksum shows the loss.
        if errors != 0 && self.is(errors) {
            self.set(clear, errors);
        }
        None
    }

    fn get(self, offset: usize) -> u32 {
        // SAFETY: `base` is a UART by the catalogue; it moves bytes and touches no memory.
        unsafe { read_register(self.base + offset) }
    }

    fn set(self, offset: usize, value: u32) {
        // SAFETY: as above.
        unsafe { write_register(self.base + offset, value) }
    }

    fn is(self, flag: u32) -> bool {
        (self.get(UART.flags) ^ UART.inverted) & flag != 0
    }
}

impl embedded_io::ErrorType for Uart {
    type Error = Infallible;
}

impl embedded_io::Read for Uart {
    /// Waits until a byte has come.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(first) = buffer.first_mut() else { return Ok(0) };
        loop {
            if let Some(byte) = self.take() {
                *first = byte;
                return Ok(1);
            }
        }
    }
}

impl embedded_io::Write for Uart {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        if self.base == 0 {
            super::console(buffer);
            return Ok(buffer.len());
        }
        for byte in buffer {
            while !self.is(UART.room) {}
            self.set(UART.transmit, u32::from(*byte));
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while self.base != 0 && !self.is(UART.idle) {}
        Ok(())
    }
}
