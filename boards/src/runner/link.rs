//! The host's end of the line: frames out, frames in, never waiting for ever.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use grouse_runtime::wire::{Frame, LINE_BYTES, Receiver, Request, Response, encode};

/// Longest wait for the reader of a port to notice that it is closed: three of its own time-outs.
const CLOSING: Duration = Duration::from_millis(300);

/// Why nothing came.
#[derive(Debug)]
pub(super) enum Silence {
    /// Time is up.
    Timeout,
    /// The other side closed the line.
    Closed,
}

/// Both directions of a line: an emulator's pipes, a serial port.
pub struct Line {
    /// Towards the board.
    pub output: Box<dyn Write + Send>,
    /// From the board.
    pub input: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

/// A line to a board.
pub(super) struct Link {
    output: Box<dyn Write + Send>,
    input: mpsc::Receiver<Vec<u8>>,
    reader: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    pending: VecDeque<u8>,
    receiver: Box<Receiver>,
}

impl Link {
    /// A link over `line`, whose input is read on a thread of its own, which ends with it or soon
    /// after [`Link::close`].
    pub(super) fn new(line: Line) -> Self {
        let Line { output, mut input } = line;
        let (sender, receiver) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let length = match input.read(&mut buffer) {
                    Ok(length @ 1..) => length,
                    // A port that is silent for a while.
                    Err(error) if error.kind() == ErrorKind::TimedOut => continue,
                    _ => break,
                };
                let Some(bytes) = buffer.get(..length) else { break };
                if sender.send(bytes.to_vec()).is_err() {
                    break;
                }
            }
        });
        let (pending, frames) = (VecDeque::new(), Box::new(Receiver::new()));
        Self { output, input: receiver, reader, stop, pending, receiver: frames }
    }

    /// Lets go of a port, so that another may open it.
    pub(super) fn close(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + CLOSING;
        while !self.reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
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
