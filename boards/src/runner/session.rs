//! A session: a booted board that answers.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use grouse_runtime::accelerator::Injected;
use grouse_runtime::format::Header;
use grouse_runtime::wire::{Crash, FrameFault, Refusal, Request, Response};

use super::emulator::Emulator;
use super::firmware::Firmware;
use super::info::Info;
use super::link::{Line, Link, Silence};
use super::log::Log;
use super::{Listener, Progress, port};
use crate::catalogue::Board;
use crate::error::{Error, Result};

/// Tries before a line is given up.
const ATTEMPTS: u32 = 8;
/// Longest wait for a board on a port to say anything: it may test itself first. Time between two
/// tries.
const GREETING: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most tokens of one text; `None` = as many as the model knows.
    pub max_tokens: Option<u32>,
    /// Backend on the board; `None` = its default.
    pub backend: Option<String>,
    /// `model`, the software model of an accelerator, or the name of a fault of it; `None` = no
    /// accelerator.
    pub accelerator: Option<String>,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Whether a board that is booted in an emulator tests itself first, as a real one does when it
    /// meets a model or firmware.
    pub first_boot: bool,
}

impl Default for Options {
    fn default() -> Self {
        let timeout = Duration::from_secs(300);
        Self { max_tokens: None, backend: None, accelerator: None, timeout, first_boot: false }
    }
}

/// A board with a model that answers; an emulator ends with it.
pub struct Session<'l> {
    board: Board,
    timeout: Duration,
    link: Link,
    /// `None` for a board on a port.
    emulator: Option<Emulator>,
    /// Likewise: its log goes to a line of its own.
    log: Option<Log>,
    /// Flash and statics of the image, where it is known.
    sizes: Option<(u64, u64)>,
    listener: Listener<'l>,
    next_id: u16,
    info: Info,
    // After the emulator, which writes into it.
    _folder: Option<tempfile::TempDir>,
}

impl<'l> Session<'l> {
    /// Boots `board` with `firmware` and the model file, and prepares the model as `options` say.
    ///
    /// # Errors
    /// When the model does not fit the board, the emulator is missing or the model is refused.
    pub fn boot(
        board: &Board,
        firmware: &Firmware,
        model: &Path,
        options: &Options,
        listener: Listener<'l>,
    ) -> Result<Self> {
        let mut session = Self::start(board, firmware, model, options, listener)?;
        session.prepare(options)?;
        Ok(session)
    }

    /// Boots `board` and leaves the model alone: [`Session::prepare`] comes next.
    ///
    /// # Errors
    /// When the model does not fit the board or the emulator is missing.
    pub fn start(
        board: &Board,
        firmware: &Firmware,
        model: &Path,
        options: &Options,
        listener: Listener<'l>,
    ) -> Result<Self> {
        let needed = std::fs::metadata(model)
            .map_err(Error::io(format!("read the model {}", model.display())))?
            .len();
        let available = board.model_available();
        if needed > available {
            return Err(Error::ModelTooLong { board: board.id.clone(), needed, available });
        }
        firmware.check(board)?;
        listener(Progress::Step(&format!("booting {}", board.id)));
        let folder = tempfile::tempdir().map_err(Error::io("create a temporary folder"))?;
        let log_path = folder.path().join("log.defmt");
        let log = Log::new(firmware.elf(), &log_path)?;
        let held = firmware.tested_address().filter(|_| !options.first_boot);
        let (emulator, line) = Emulator::boot(board, firmware.path(), model, &log_path, held)?;
        let mut session = Self::over(board, line, options.timeout, listener);
        session.emulator = Some(emulator);
        session.log = Some(log);
        session.sizes = Some((firmware.flash_bytes(), firmware.static_bytes()));
        session._folder = Some(folder);
        Ok(session)
    }

    /// Talks to a board on the serial port called `port` (`/dev/ttyACM0`, `COM3`), which must hold
    /// `model`.
    ///
    /// # Errors
    /// When the port cannot be used, no firmware answers there, or the board or its model is
    /// another one.
    pub fn connect(
        board: &Board,
        port: &str,
        model: &Path,
        options: &Options,
        listener: Listener<'l>,
    ) -> Result<Self> {
        listener(Progress::Step(&format!("talking to {} on {port}", board.id)));
        Self::attach(board, port::open(board, port)?, model, options, listener)
    }

    /// As [`Session::connect`] over any line.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub fn attach(
        board: &Board,
        line: Line,
        model: &Path,
        options: &Options,
        listener: Listener<'l>,
    ) -> Result<Self> {
        let mut session = Self::over(board, line, options.timeout, listener);
        session.greet(GREETING.min(options.timeout))?;
        session
            .persist(|session| session.prepare(options))
            .map_err(|error| error.on_board(model))?;
        if session.info.model_checksum != checksum(model)? {
            let (board, model) = (board.id.clone(), model.display().to_string());
            return Err(Error::WrongModel { board, model });
        }
        Ok(session)
    }

    fn over(board: &Board, line: Line, timeout: Duration, listener: Listener<'l>) -> Self {
        Self {
            board: board.clone(),
            timeout,
            link: Link::new(line),
            emulator: None,
            log: None,
            sizes: None,
            listener,
            next_id: 1,
            info: Info::default(),
            _folder: None,
        }
    }

    /// Repeats what a disturbed line has garbled. What the board answers twice is dropped by its id.
    pub(super) fn persist<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS {
            match attempt(self) {
                Err(Error::Garbled { .. }) => {}
                // An emulator's pipes lose nothing: it is only slow.
                Err(Error::Timeout { .. }) if self.emulator.is_none() => {}
                result => return result,
            }
            // The board may be at work.
            self.greet(GREETING.max(self.timeout))?;
        }
        attempt(self)
    }

    /// Finds the place between two frames of a line on which anything may have been said before.
    fn greet(&mut self, wait: Duration) -> Result<()> {
        let deadline = Instant::now() + wait;
        let patience = std::mem::replace(&mut self.timeout, RETRY);
        let result = loop {
            // A zero ends whatever was begun.
            if let Err(error) = self.link.send_bytes(&[0]) {
                break Err(self.lost(&error));
            }
            match self.ping() {
                Err(Error::Timeout { .. } | Error::Garbled { .. }) if Instant::now() < deadline => {
                }
                Err(Error::Timeout { board, .. }) if self.emulator.is_none() => {
                    let what = format!("nothing came within {} s", wait.as_secs());
                    break Err(Error::Silent { board, what });
                }
                Err(Error::Garbled { board, what }) if self.emulator.is_none() => {
                    let what = format!("what comes is no frame ({what})");
                    break Err(Error::Silent { board, what });
                }
                result => break result,
            }
        };
        self.timeout = patience;
        result
    }

    /// Prepares the model anew, with another number of tokens or another backend.
    ///
    /// # Errors
    /// As the board refuses: [`Error::Arena`], [`Error::UnknownBackend`], [`Error::Refused`].
    pub fn prepare(&mut self, options: &Options) -> Result<()> {
        self.timeout = options.timeout;
        let backend = options.backend.as_deref().unwrap_or_default();
        let max_tokens = options.max_tokens.unwrap_or(0);
        let mut info = None;
        let accelerator = options.accelerator.as_deref().unwrap_or_default();
        self.ask(&Request::Hello { max_tokens, backend, accelerator }, |response| {
            if let Response::Info(i) = response {
                info = Some(Info::from(i));
            }
            Ok(info.is_some())
        })
        .map_err(|error| match error {
            Error::UnknownBackend { board, known, .. } => {
                Error::UnknownBackend { board, known, name: backend.to_owned() }
            }
            Error::UnknownAccelerator { board, known, .. } => {
                Error::UnknownAccelerator { board, known, name: accelerator.to_owned() }
            }
            error => error,
        })?;
        let mut info = info.unwrap_or_default();
        if let Some((flash, statics)) = self.sizes.filter(|_| info.flash_bytes == 0) {
            // A program of an operating system leaves this to its host.
            info.flash_bytes = flash;
            info.ram_bytes += statics;
        }
        if info.board != self.board.id {
            let (board, found) = (self.board.id.clone(), info.board);
            return Err(Error::WrongFirmware { board, found });
        }
        self.info = info;
        Ok(())
    }

    /// The board, the model and the memory between them.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The board.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Whether the board still answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn ping(&mut self) -> Result<()> {
        let sent = 0x6702_0000 | u32::from(self.next_id);
        self.ask(&Request::Ping { nonce: sent }, |response| match response {
            Response::Pong { nonce } if nonce == sent => Ok(true),
            _ => Err("another answer than a pong"),
        })
    }

    /// Work that the board's counter sees in `loops` turns of two instructions, and a little more for
    /// reading it.
    ///
    /// # Errors
    /// As [`Session::ping`].
    pub fn count(&mut self, loops: u32) -> Result<u64> {
        let mut ticks = 0;
        self.ask(&Request::Count { loops }, |response| match response {
            Response::Counted { ticks: counted } => {
                ticks = counted;
                Ok(true)
            }
            _ => Err("another answer than a count"),
        })?;
        Ok(self.board.work(ticks))
    }

    /// Makes the firmware fail and returns its report.
    ///
    /// # Errors
    /// Always: [`Error::Fault`] when all is well.
    pub fn crash(&mut self, how: Crash) -> Result<()> {
        self.ask(&Request::Crash(how), |_| Err("no fault was reported"))
    }

    /// Restarts a board without an operating system, its power on all the while, and prepares the
    /// model anew.
    ///
    /// # Errors
    /// As [`Session::prepare`].
    pub fn restart(&mut self, options: &Options) -> Result<()> {
        // Nothing answers this.
        if let Err(error) = self.link.send(self.next_id, &Request::Crash(Crash::Restart)) {
            return Err(self.lost(&error));
        }
        self.greet(GREETING)?;
        self.prepare(options)
    }

    /// Sends bytes that need not be a frame and returns the board's refusal.
    ///
    /// # Errors
    /// The refusal as [`Error::Garbled`], or as [`Session::ping`].
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.link.send_bytes(bytes) {
            return Err(self.lost(&error));
        }
        self.answer(0, &mut |_| Err("bytes that are no frame were taken for one"))
    }

    /// Sends a request and hands its answers to `take` until that says `true`.
    pub(super) fn ask(
        &mut self,
        request: &Request<'_>,
        mut take: impl FnMut(Response<'_>) -> std::result::Result<bool, &'static str>,
    ) -> Result<()> {
        let id = self.next_id;
        // 0 stands for frames of no request.
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        if let Err(error) = self.link.send(id, request) {
            return Err(self.lost(&error));
        }
        self.answer(id, &mut take)
    }

    fn answer(
        &mut self,
        id: u16,
        take: &mut dyn FnMut(Response<'_>) -> std::result::Result<bool, &'static str>,
    ) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        let listener = self.listener;
        let result = loop {
            let log = &mut self.log;
            let idle = || {
                if let Some(log) = log {
                    log.drain(|line| listener(Progress::Log(line)));
                }
            };
            let frame = match self.link.receive(deadline, idle) {
                Ok(frame) => frame,
                Err(Silence::Closed) => {
                    break Err(self.lost(&std::io::ErrorKind::UnexpectedEof.into()));
                }
                Err(Silence::Timeout) => {
                    let seconds = self.timeout.as_secs();
                    let said = self.emulator.as_ref().map(Emulator::said).unwrap_or_default();
                    let board = self.board.id.clone();
                    break Err(Error::Timeout { board, seconds, said });
                }
            };
            let board = self.board.id.clone();
            match frame.message {
                Ok(Response::Fault(report)) => {
                    break Err(Error::Fault { board, what: report.to_string() });
                }
                Ok(Response::Refused(Refusal::Frame(FrameFault::Protocol {
                    found,
                    supported,
                }))) => {
                    // As the board sees it: what it found is the host's.
                    break Err(Error::Version { board, found: supported, supported: found });
                }
                Ok(Response::Refused(refusal)) if frame.id == id || frame.id == 0 => {
                    break Err(refused(board, &refusal));
                }
                Ok(response) if frame.id == id => match take(response) {
                    Ok(true) => break Ok(()),
                    Ok(false) => {}
                    Err(what) => break Err(Error::Protocol { board, what: what.into() }),
                },
                // The rest of an answer that was given up.
                Ok(_) => {}
                Err(FrameFault::Protocol { found, supported }) => {
                    break Err(Error::Version { board, found, supported });
                }
                Err(FrameFault::Message) => {
                    break Err(Error::Protocol { board, what: FrameFault::Message.to_string() });
                }
                Err(fault) => break Err(Error::Garbled { board, what: fault.to_string() }),
            }
        };
        if let Some(log) = &mut self.log {
            log.drain(|line| listener(Progress::Log(line)));
        }
        result
    }

    /// Who hears of progress.
    pub(super) fn listener(&self) -> Listener<'l> {
        self.listener
    }

    /// The error for a line that is closed.
    fn lost(&mut self, error: &std::io::Error) -> Error {
        match &mut self.emulator {
            Some(emulator) => emulator.ended(&self.board),
            None => Error::Lost { board: self.board.id.clone(), what: error.to_string() },
        }
    }

    pub(super) fn nonsense(&self, what: &str) -> Error {
        Error::Protocol { board: self.board.id.clone(), what: what.into() }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let listener = self.listener;
        if let Some(log) = &mut self.log {
            log.drain(|line| listener(Progress::Log(line)));
        }
        if self.emulator.is_none() {
            self.link.close();
        }
    }
}

/// The checksum that tells the packed file at `path` from others.
fn checksum(path: &Path) -> Result<u32> {
    let mut head = [0; size_of::<Header>()];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut head))
        .map_err(Error::io(format!("read the model {}", path.display())))?;
    let (_, crc) = head.split_last_chunk().unwrap_or((&[], &[0; 4]));
    Ok(u32::from_le_bytes(*crc))
}

fn refused(board: String, refusal: &Refusal<'_>) -> Error {
    let refused = |board, what: String| Error::Refused { board, what, code: 0 };
    match *refusal {
        Refusal::Runtime(error) => {
            Error::Refused { board, what: error.to_string(), code: error.code }
        }
        Refusal::Frame(fault @ FrameFault::Message) => refused(board, fault.to_string()),
        Refusal::Frame(fault) => Error::Garbled { board, what: fault.to_string() },
        Refusal::Arena { tokens, needed, available, longest } => {
            Error::Arena { board, tokens, needed, available, longest }
        }
        Refusal::UnknownAccelerator => {
            let mut known = String::from("model");
            Injected::NAMED.iter().for_each(|(name, _)| known.extend([" ", name]));
            Error::UnknownAccelerator { board, name: String::new(), known }
        }
        Refusal::UnknownBackend { known } => {
            Error::UnknownBackend { board, name: String::new(), known: known.into() }
        }
        Refusal::NotReady => refused(board, "no model is ready".into()),
        Refusal::NoSelfTest => {
            refused(board, "the file carries no self-test; pack the model again".into())
        }
        Refusal::TextTooLong { needed, limit } => Error::TextTooLong { board, needed, limit },
        Refusal::TextOrder { expected, found } => {
            refused(board, format!("a piece of text came at {found} instead of {expected}"))
        }
    }
}
