//! Driver of Arm's CMSDK APB UART.

use core::convert::Infallible;

use cortex_m::interrupt::InterruptNumber;
use cortex_m::peripheral::NVIC;

use super::{
    UART_CLOCK_HZ, UART_LOG, UART_WIRE, UART_WIRE_INTERRUPT, read_register, write_register,
};

const DATA: usize = 0x00;
const STATE: usize = 0x04;
const STATE_TX_FULL: u32 = 1 << 0;
const STATE_RX_FULL: u32 = 1 << 1;
const CTRL: usize = 0x08;
const CTRL_TX: u32 = 1 << 0;
const CTRL_RX: u32 = 1 << 1;
const CTRL_RX_INTERRUPT: u32 = 1 << 3;
const INT_CLEAR: usize = 0x0C;
const INT_RX: u32 = 1 << 1;
const BAUDDIV: usize = 0x10;

const BAUD: usize = 115_200;

/// A serial line. Handles are free to copy: they hold no state of their own.
#[derive(Clone, Copy)]
pub struct Uart {
    base: usize,
}

/// The receiver's interrupt, which only wakes the core and never runs a handler.
#[derive(Clone, Copy)]
struct WireInterrupt;

// SAFETY: one fixed number, below the core's interrupt count by the catalogue.
unsafe impl InterruptNumber for WireInterrupt {
    fn number(self) -> u16 {
        UART_WIRE_INTERRUPT
    }
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
        let divider = (UART_CLOCK_HZ / BAUD).max(16);
        self.write_register(BAUDDIV, divider as u32);
        if self.base != UART_WIRE {
            return self.write_register(CTRL, CTRL_TX);
        }
        // With interrupts masked in the core, a pending one still ends `wfi`: that is all it is for.
        cortex_m::interrupt::disable();
        // SAFETY: no critical section of ours relies on this interrupt being masked.
        unsafe { NVIC::unmask(WireInterrupt) };
        self.write_register(CTRL, CTRL_TX | CTRL_RX | CTRL_RX_INTERRUPT);
    }

    fn has_byte(self) -> bool {
        self.read_register(STATE) & STATE_RX_FULL != 0
    }

    fn read_register(self, offset: usize) -> u32 {
        // SAFETY: `base` is a UART by the catalogue, `offset` one of the registers above.
        unsafe { read_register(self.base + offset) }
    }

    fn write_register(self, offset: usize, value: u32) {
        // SAFETY: as above; the UART moves single bytes and touches no memory.
        unsafe { write_register(self.base + offset, value) }
    }
}

impl embedded_io::ErrorType for Uart {
    type Error = Infallible;
}

impl embedded_io::Read for Uart {
    /// Sleeps until a byte has come.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(first) = buffer.first_mut() else { return Ok(0) };
        loop {
            // Cleared before the check: a byte that comes after it ends the sleep at once.
            self.write_register(INT_CLEAR, INT_RX);
            NVIC::unpend(WireInterrupt);
            if self.has_byte() {
                *first = self.read_register(DATA) as u8;
                return Ok(1);
            }
            cortex_m::asm::wfi();
        }
    }
}

impl embedded_io::Write for Uart {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        for byte in buffer {
            while self.read_register(STATE) & STATE_TX_FULL != 0 {}
            self.write_register(DATA, u32::from(*byte));
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while self.read_register(STATE) & STATE_TX_FULL != 0 {}
        Ok(())
    }
}
