//! Frames over a serial line.

use embedded_io::{Read, Write};
use grouse_runtime::wire::{Frame, FrameFault, LINE_BYTES, Receiver, Request, Response, encode};
use static_cell::ConstStaticCell;

static RECEIVER: ConstStaticCell<Receiver> = ConstStaticCell::new(Receiver::new());
static LINE: ConstStaticCell<[u8; LINE_BYTES]> = ConstStaticCell::new([0; LINE_BYTES]);

/// The receiving half.
pub struct Input<P> {
    port: P,
    receiver: &'static mut Receiver,
}

impl<P: Read> Input<P> {
    /// The one receiving half; `None` when it is already taken.
    pub fn take(port: P) -> Option<Self> {
        Some(Self { port, receiver: RECEIVER.try_take()? })
    }

    /// Waits for the next frame.
    pub fn receive(&mut self) -> Frame<Request<'_>> {
        let mut byte = [0];
        loop {
            // A line error loses a byte, which the frame's checksum shows.
            let [byte] = match self.port.read(&mut byte) {
                Ok(1..) => byte,
                _ => continue,
            };
            if self.receiver.push(byte) {
                return self.receiver.take();
            }
        }
    }
}

/// The sending half.
pub struct Output<P> {
    port: P,
    line: &'static mut [u8; LINE_BYTES],
}

impl<P: Write> Output<P> {
    /// The one sending half; `None` when it is already taken.
    pub fn take(port: P) -> Option<Self> {
        Some(Self { port, line: LINE.try_take()? })
    }

    /// Sends an answer to request `id`.
    pub fn send(&mut self, id: u16, response: &Response<'_>) {
        if send(&mut self.port, id, response, self.line).is_err() {
            defmt::error!("an answer to request {=u16} does not fit a frame", id);
        }
    }
}

/// Sends one frame by way of `line`, for places that own nothing, such as fault handlers.
///
/// # Errors
/// [`FrameFault::Unsendable`] when `line` is too short.
pub fn send(
    port: &mut impl Write,
    id: u16,
    response: &Response<'_>,
    line: &mut [u8],
) -> Result<(), FrameFault> {
    let length = encode(id, response, line)?;
    // A line error loses the frame; the host's time limit tells.
    let _ = port.write_all(line.get(..length).unwrap_or_default());
    let _ = port.flush();
    Ok(())
}
