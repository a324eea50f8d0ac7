//! The host's end of the line: frames out, frames in, never waiting for ever.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use grouse_runtime::wire::{Frame, LINE_BYTES, Receiver, Request, Response, encode};

/// Why nothing came.
#[derive(Debug)]
pub(super) enum Silence {
    /// Time is up.
    Timeout,
    /// The other side closed the line.
    Closed,
}

/// A line to a board.
pub(super) struct Link<W> {
    output: W,
    input: mpsc::Receiver<Vec<u8>>,
    pending: VecDeque<u8>,
    receiver: Box<Receiver>,
}

impl<W: Write> Link<W> {
    /// A line that writes to `output` and reads `input` on a thread of its own, which ends with
    /// the input.
    pub(super) fn new(output: W, mut input: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = input.read(&mut buffer) {
                let Some(bytes) = buffer.get(..length) else { break };
                if sender.send(bytes.to_vec()).is_err() {
                    break;
                }
            }
        });
        let receiver_frames = Box::new(Receiver::new());
        Self { output, input: receiver, pending: VecDeque::new(), receiver: receiver_frames }
    }

    /// Sends a request.
    pub(super) fn send(&mut self, id: u16, request: &Request<'_>) -> std::io::Result<()> {
        let mut line = [0; LINE_BYTES];
        let length = encode(id, request, &mut line)
            .map_err(|fault| std::io::Error::new(std::io::ErrorKind::InvalidInput, fault))?;
        self.send_bytes(line.get(..length).unwrap_or_default())
    }

    /// Sends bytes as they are.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.output.write_all(bytes)?;
        self.output.flush()
    }

    /// Waits for the next frame; `idle` is called from time to time.
    pub(super) fn receive(
        &mut self,
        deadline: Instant,
        mut idle: impl FnMut(),
    ) -> Result<Frame<Response<'_>>, Silence> {
        loop {
            while let Some(byte) = self.pending.pop_front() {
                if self.receiver.push(byte) {
                    return Ok(self.receiver.take());
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.input.recv_timeout(left.min(Duration::from_millis(100))) {
                Ok(bytes) => self.pending.extend(bytes),
                Err(RecvTimeoutError::Disconnected) => return Err(Silence::Closed),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Silence::Timeout),
                Err(RecvTimeoutError::Timeout) => idle(),
            }
        }
    }
}
