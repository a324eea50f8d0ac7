//! The Pico 2's lines: the protocol over USB and over UART 0, the log over UART 1.
//!
//! An answer goes where the last byte came from, so a plain USB cable is enough.

use core::convert::Infallible;
use core::sync::atomic::{AtomicBool, Ordering};

use super::{polled, usb};

/// The last byte came by USB.
static BY_USB: AtomicBool = AtomicBool::new(false);

/// A serial line.
#[derive(Clone, Copy)]
pub struct Uart {
    uart: polled::Uart,
    with_usb: bool,
}

impl Uart {
    /// The line that carries the protocol.
    pub const fn wire() -> Self {
        Self { uart: polled::Uart::wire(), with_usb: true }
    }

    /// The line that carries the log.
    pub const fn log() -> Self {
        Self { uart: polled::Uart::log(), with_usb: false }
    }

    /// Turns the line on.
    pub fn start(self) {
        self.uart.start();
    }

    fn is_usb(self) -> bool {
        self.with_usb && BY_USB.load(Ordering::Relaxed)
    }
}

impl embedded_io::ErrorType for Uart {
    type Error = Infallible;
}

impl embedded_io::Read for Uart {
    /// Waits until a byte has come, by either.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let Some(first) = buffer.first_mut() else { return Ok(0) };
        loop {
            let came = usb::take();
            let by_usb = came.is_some();
            if let Some(byte) = came.or_else(|| self.uart.take()) {
                BY_USB.store(by_usb, Ordering::Relaxed);
                *first = byte;
                return Ok(1);
            }
        }
    }
}

impl embedded_io::Write for Uart {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        if !self.is_usb() {
            return self.uart.write(buffer);
        }
        loop {
            match usb::give(buffer) {
                Some(0) => {}
                Some(bytes) => return Ok(bytes),
                // Nobody is there: it is lost.
                None => return Ok(buffer.len()),
            }
        }
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        if !self.is_usb() {
            return self.uart.flush();
        }
        while usb::is_full() {}
        Ok(())
    }
}
