//! Messages: what a host asks and a board answers.
//!
//! A variant's number on the line is its place in its enum: add new ones at the end.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::FrameFault;
use crate::accelerator::{Fault, Report};
use crate::error::{Error, SectionName};
use crate::self_test::Failure;

/// What a host asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Request<'a> {
    /// Prepare the model; answered by [`Response::Info`]. Must come before text is run.
    Hello {
        /// Most tokens of one text; 0 = the model's own maximum.
        max_tokens: u32,
        /// Name of a backend; empty = the board's default.
        backend: &'a str,
        /// Where products of int8 groups are worked out: empty = by the backend; `model` = by the
        /// accelerator's software model; or the name of a fault that this model then has
        /// ([`crate::accelerator::Injected::NAMED`]).
        accelerator: &'a str,
    },
    /// Answered by [`Response::Pong`].
    Ping {
        /// Comes back in the answer.
        nonce: u32,
    },
    /// A piece of the next text; answered by [`Response::Received`]. Offset 0 begins a new text.
    Text {
        /// Where the piece belongs: the number of bytes sent before it.
        offset: u32,
        /// The piece, at most [`super::CHUNK`] bytes.
        bytes: &'a [u8],
    },
    /// Turn the text into ids; answered by [`Response::Ids`]… and [`Response::Done`].
    Tokenize,
    /// Turn the text into an embedding; answered by [`Response::Ids`]…, [`Response::Values`]… and
    /// [`Response::Done`].
    Embed,
    /// Run a loop of two instructions this many times; answered by [`Response::Counted`]. Shows
    /// that ticks and instructions belong together.
    Count {
        /// Turns of the loop, at least 1.
        loops: u32,
    },
    /// Fail on purpose; answered by [`Response::Fault`], after which the board has stopped.
    Crash(Crash),
    /// As [`Request::Embed`], with [`Response::Stages`] before [`Response::Done`].
    Bench,
    /// Run the texts that the model file carries, by the backend in use and without an accelerator;
    /// answered by [`Response::Tested`]. A text that was sent before is kept.
    SelfTest,
    /// How the self-test went that the board ran by itself when it met this model and this firmware
    /// for the first time; answered by [`Response::FirstBoot`].
    FirstBoot,
}

/// Ways to fail on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Crash {
    /// An undefined instruction. (The firmware holds no panic to fail by.)
    Undefined,
    /// A read from an address where nothing is.
    BusFault,
    /// A recursion without end.
    StackOverflow,
    /// A warm restart: nothing is answered, and the board is there again.
    Restart,
}

/// What a board answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Response<'a> {
    /// To [`Request::Hello`].
    Info(Info<'a>),
    /// To [`Request::Ping`].
    Pong {
        /// The request's.
        nonce: u32,
    },
    /// To [`Request::Text`].
    Received {
        /// Bytes of the text that the board now holds.
        bytes: u32,
    },
    /// A piece of the ids.
    Ids {
        /// Number of ids before this piece.
        offset: u32,
        /// Number of all ids.
        total: u32,
        /// u32, little-endian.
        bytes: &'a [u8],
    },
    /// A piece of the embedding.
    Values {
        /// Number of values before this piece.
        offset: u32,
        /// Number of all values.
        total: u32,
        /// Bits of f32, little-endian.
        bytes: &'a [u8],
    },
    /// The last frame to [`Request::Tokenize`] and [`Request::Embed`].
    Done {
        /// The text had more tokens than fit and was cut.
        truncated: bool,
        /// Ticks of the board's counter from text to ids.
        tokenize_ticks: u64,
        /// Ticks from text to embedding: tokenizing and running.
        ticks: u64,
        /// Bytes of stack in use at the deepest, from its top, the caller's included.
        stack_bytes: u32,
    },
    /// To [`Request::Count`].
    Counted {
        /// Ticks around the loop.
        ticks: u64,
    },
    /// The request is refused; the board goes on.
    Refused(Refusal<'a>),
    /// The firmware failed and has stopped.
    Fault(FaultReport<'a>),
    /// Comes before [`Response::Done`] when [`Request::Hello`] named an accelerator.
    Offloaded(Offloaded<'a>),
    /// To [`Request::Bench`], before [`Response::Done`]: ticks of the encoder's stages.
    Stages {
        /// Looking up words and positions.
        embed: u64,
        /// All layers' attention.
        attention: u64,
        /// All layers' feed-forward parts.
        feed_forward: u64,
        /// Pooling.
        pool: u64,
    },
    /// To [`Request::SelfTest`].
    Tested(Tested<'a>),
    /// To [`Request::FirstBoot`].
    FirstBoot(FirstBoot<'a>),
}

/// The self-test that a board runs by itself, once for a model and a firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FirstBoot<'a> {
    /// It was not run.
    NotRun {
        /// Why.
        why: &'a str,
    },
    /// It was.
    Ran {
        /// At this start; otherwise at one before, and the board has been on since.
        now: bool,
        /// Texts that passed, all backends together.
        passed: u32,
        /// Names of the backends with a text that failed, separated by spaces.
        failed: &'a str,
    },
}

/// How the self-test of a model file went ([`crate::view::Model::self_test`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Tested<'a> {
    /// Texts that passed.
    pub passed: u32,
    /// Texts with a difference, or refused.
    pub failed: u32,
    /// Texts with more tokens than [`Request::Hello`] allows.
    pub skipped: u32,
    /// Bytes of stack in use at the deepest, from its top.
    pub stack_bytes: u32,
    /// The first text that failed.
    #[serde(borrow)]
    pub first: Option<Difference<'a>>,
}

/// A text of a self-test that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Difference<'a> {
    /// Number of the text in the file, from 0.
    pub text: u32,
    /// What was wrong.
    #[serde(borrow)]
    pub kind: Failure<RuntimeError<'a>>,
}

/// What an accelerator did since it was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Offloaded<'a> {
    /// Groups' products by the device.
    pub on_device: u32,
    /// By the CPU, for any reason.
    pub on_cpu: u32,
    /// Too small for the device.
    pub too_small: u32,
    /// That the device could not take.
    pub refused: u32,
    /// That failed on the device.
    pub faults: u32,
    /// The device is not in use any more.
    pub switched_off: bool,
    /// Kind of the last refusal or fault, one of [`crate::accelerator::Fault::KINDS`]; empty when
    /// there was none.
    pub last: &'a str,
}

impl From<&Report> for Offloaded<'static> {
    fn from(report: &Report) -> Self {
        let kind = report.last_fault.and_then(|fault| Fault::KINDS.get(fault.kind()));
        let Report { on_device, on_cpu, too_small, refused, faults, switched_off, .. } = *report;
        let last = kind.copied().unwrap_or_default();
        Self { on_device, on_cpu, too_small, refused, faults, switched_off, last }
    }
}

/// The board, the model and the memory between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Info<'a> {
    /// Id in the catalogue.
    pub board: &'a str,
    /// Version of the firmware.
    pub firmware: &'a str,
    /// Backend in use.
    pub backend: &'a str,
    /// Length of the model file.
    pub model_bytes: u32,
    /// Width of an embedding.
    pub hidden_size: u32,
    /// Encoder layers.
    pub layers: u32,
    /// Entries of the vocabulary.
    pub vocab_size: u32,
    /// Most tokens that the model knows.
    pub model_tokens: u32,
    /// Most tokens now in force.
    pub max_tokens: u32,
    /// Arena bytes used for that many.
    pub arena_bytes: u32,
    /// Arena bytes that the board has.
    pub arena_available: u32,
    /// Longest text in bytes.
    pub text_limit: u32,
    /// Bytes of the firmware's code, constants and initial values.
    pub flash_bytes: u32,
    /// Bytes of its statics.
    pub static_bytes: u32,
    /// Bytes kept for the stack.
    pub stack_bytes: u32,
    /// Which model it is: [`crate::view::Model::checksum`].
    pub model_checksum: u32,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Refusal<'a> {
    /// The bytes on the line were no frame.
    Frame(FrameFault),
    /// The runtime refused the model or the text.
    Runtime(RuntimeError<'a>),
    /// The arena is too small for so many tokens.
    Arena {
        /// Tokens asked for.
        tokens: u32,
        /// Arena bytes needed.
        needed: u32,
        /// Arena bytes there.
        available: u32,
        /// Most tokens that fit; 0 when not even two do.
        longest: u32,
    },
    /// No backend has this name.
    UnknownBackend {
        /// The names there are, separated by spaces.
        known: &'a str,
    },
    /// A text must be run only after [`Request::Hello`].
    NotReady,
    /// The text is longer than the board's buffer.
    TextTooLong {
        /// Bytes of the text so far.
        needed: u64,
        /// Bytes of the buffer.
        limit: u32,
    },
    /// A piece of text does not continue the one before it.
    TextOrder {
        /// The offset that was due.
        expected: u32,
        /// The offset that came.
        found: u32,
    },
    /// No accelerator and no fault of its model has this name.
    UnknownAccelerator,
    /// The model file carries no self-test.
    NoSelfTest,
}

/// An [`Error`] of the runtime on the line: a number, two figures and what it speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct RuntimeError<'a> {
    /// Number of the error, 0 for one that the protocol does not know yet.
    pub code: u16,
    /// First figure (found, needed, tokens, id, offset).
    pub a: u64,
    /// Second figure (supported, available, limit, vocabulary size).
    pub b: u64,
    /// Section of a damaged file.
    pub section: [u8; 4],
    /// What is wrong, for errors that say so in words.
    pub what: &'a str,
}

impl RuntimeError<'static> {
    /// The error as it goes on the line.
    pub fn new(error: &Error) -> Self {
        let plain = |code, a, b| Self { code, a, b, section: [0; 4], what: "" };
        match *error {
            Error::NotGrouse => plain(1, 0, 0),
            Error::Version { found, supported } => plain(2, found.into(), supported.into()),
            Error::Truncated { needed, available } => plain(3, needed, available),
            Error::Checksum { section, index } => {
                Self { section: section.0, ..plain(4, index.into(), 0) }
            }
            Error::Malformed { section, what } => {
                Self { section: section.0, what, ..plain(5, 0, 0) }
            }
            Error::Misaligned { needed } => plain(6, needed as u64, 0),
            Error::Unsupported { what } => Self { what, ..plain(7, 0, 0) },
            Error::ArenaTooSmall { needed, available } => plain(8, needed as u64, available as u64),
            Error::TooManyTokens { tokens, limit } => plain(9, tokens as u64, limit as u64),
            Error::TokenOutOfRange { id, vocab_size } => plain(10, id.into(), vocab_size.into()),
            Error::NoTokens => plain(11, 0, 0),
            Error::InvalidUtf8 { offset } => plain(12, offset as u64, 0),
            Error::OutputLength { needed, available } => plain(13, needed as u64, available as u64),
            Error::NotFinite => plain(14, 0, 0),
            Error::Edition { found, supported } => plain(15, found.into(), supported.into()),
        }
    }
}

impl RuntimeError<'_> {
    /// The error as the runtime knows it, except for the two that carry words of their own.
    pub fn error(&self) -> Option<Error> {
        let (a, b) = (self.a as usize, self.b as usize);
        Some(match self.code {
            1 => Error::NotGrouse,
            2 => Error::Version { found: a as u16, supported: b as u16 },
            3 => Error::Truncated { needed: self.a, available: self.b },
            4 => Error::Checksum { section: SectionName(self.section), index: a as u32 },
            6 => Error::Misaligned { needed: a },
            8 => Error::ArenaTooSmall { needed: a, available: b },
            9 => Error::TooManyTokens { tokens: a, limit: b },
            10 => Error::TokenOutOfRange { id: a as u32, vocab_size: b as u32 },
            11 => Error::NoTokens,
            12 => Error::InvalidUtf8 { offset: a },
            13 => Error::OutputLength { needed: a, available: b },
            14 => Error::NotFinite,
            15 => Error::Edition { found: a as u32, supported: b as u32 },
            _ => return None,
        })
    }
}

impl fmt::Display for RuntimeError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = self.error() {
            return write!(f, "{error}");
        }
        let Self { code, what, .. } = self;
        let section = SectionName(self.section);
        match code {
            5 => write!(f, "section {section} is malformed: {what}; pack the model again"),
            7 => write!(
                f,
                "{what} is not supported by the board's runtime; pack the model for it again"
            ),
            _ => {
                write!(f, "the board's runtime reports error {code}, which this host does not know")
            }
        }
    }
}

/// What stopped the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct FaultReport<'a> {
    /// Kind of failure.
    pub kind: FaultKind,
    /// Where: program counter, 0 when unknown.
    pub pc: u32,
    /// Cortex-M: the Configurable Fault Status Register.
    pub cfsr: u32,
    /// The address at fault, 0 when unknown.
    pub address: u32,
    /// A panic's words.
    pub what: &'a str,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FaultKind {
    /// A Rust panic.
    Panic,
    /// A hardware exception.
    Exception,
    /// The stack reached its limit.
    StackOverflow,
}

impl fmt::Display for FaultReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pc, cfsr, address, what, .. } = self;
        match self.kind {
            FaultKind::Panic => write!(f, "panic: {what}"),
            FaultKind::Exception => write!(
                f,
                "hard fault at {pc:#010x} (fault status {cfsr:#010x}, address {address:#010x})"
            ),
            FaultKind::StackOverflow => write!(f, "stack overflow at {pc:#010x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_runtime_keep_their_words() {
        let section = SectionName(*b"LAYR");
        for error in [
            Error::NotGrouse,
            Error::Version { found: 2, supported: 1 },
            Error::Truncated { needed: 1 << 40, available: 3 },
            Error::Checksum { section, index: 5 },
            Error::Malformed { section, what: "a group has no outputs" },
            Error::Misaligned { needed: 16 },
            Error::ArenaTooSmall { needed: 9, available: 8 },
            Error::TooManyTokens { tokens: 9, limit: 8 },
            Error::TokenOutOfRange { id: 70_000, vocab_size: 8 },
            Error::NoTokens,
            Error::InvalidUtf8 { offset: 3 },
            Error::OutputLength { needed: 4, available: 3 },
            Error::NotFinite,
            Error::Edition { found: 1, supported: 2 },
        ] {
            let sent = RuntimeError::new(&error);
            assert_eq!(std::format!("{sent}"), std::format!("{error}"));
            assert!(sent.error().is_none_or(|e| e == error));
        }
    }
}
