//! Under an operating system: the line is standard input and output, the log is a file, and the
//! counter is the system's clock.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::sync::OnceLock;
use std::time::Instant;

static LOG: OnceLock<File> = OnceLock::new();

/// A line. Handles are free to copy: they hold no state of their own.
#[derive(Clone, Copy)]
pub enum Uart {
    /// The protocol's.
    Wire,
    /// The log's.
    Log,
}

impl Uart {
    /// The line that carries the protocol.
    pub const fn wire() -> Self {
        Self::Wire
    }

    /// The line that carries the log.
    pub const fn log() -> Self {
        Self::Log
    }

    /// There is nothing to turn on.
    pub fn start(self) {}

    /// Sends the log to `file` from now on.
    pub fn log_to(file: File) {
        // Called once.
        let _ = LOG.set(file);
    }
}

impl embedded_io::ErrorType for Uart {
    type Error = Infallible;
}

impl embedded_io::Read for Uart {
    /// Waits for bytes; ends the program when the host has closed the line.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        match stdin().lock().read(buffer) {
            Ok(length @ 1..) => Ok(length),
            _ => std::process::exit(0),
        }
    }
}

impl embedded_io::Write for Uart {
    fn write(&mut self, buffer: &[u8]) -> Result<usize, Infallible> {
        // Nobody can be told when these fail: the host is gone, or the disk of the log is full.
        let _ = match self {
            Self::Wire => stdout().lock().write_all(buffer),
            Self::Log => LOG.get().map_or(Ok(()), |mut file| file.write_all(buffer)),
        };
        Ok(buffer.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        let _ = match self {
            Self::Wire => stdout().lock().flush(),
            Self::Log => Ok(()),
        };
        Ok(())
    }
}

/// The system's clock.
pub struct Counter;

static START: OnceLock<Instant> = OnceLock::new();

impl Counter {
    /// Remembers when it was.
    pub fn start() {
        START.get_or_init(Instant::now);
    }

    /// Nanoseconds since the start.
    pub fn ticks() -> u64 {
        u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
