//! What can go wrong between a file, a text and an embedding, as values with their numbers.

use core::fmt;

/// Why a file, a text or a buffer was refused.
///
/// Every variant carries the figures that a remedy needs; [`fmt::Display`] spells out the
/// cause and the remedy in one or two sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not start with the Grouse magic.
    NotGrouse,
    /// The file was written by a later (or unknown) version of the format.
    Version {
        /// Version named in the file.
        found: u16,
        /// The one version this runtime reads.
        supported: u16,
    },
    /// The file ends before what it promises.
    Truncated {
        /// Bytes that the file says it has, or that its header needs.
        needed: u64,
        /// Bytes that are there.
        available: u64,
    },
    /// A checksum does not match: the bytes changed after packing.
    Checksum {
        /// What is damaged: a section kind as four ASCII characters, or `HEAD`.
        section: SectionName,
        /// Layer number for layer sections, otherwise 0.
        index: u32,
    },
    /// The bytes of a section are not what the format allows.
    Malformed {
        /// The section at fault.
        section: SectionName,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file's bytes are not aligned in memory as the format needs.
    Misaligned {
        /// Needed alignment in bytes.
        needed: usize,
    },
    /// The file uses something this runtime does not know (a layout, a weight type).
    Unsupported {
        /// What is not supported.
        what: &'static str,
    },
    /// The caller's arena is too small for the model at this length.
    ArenaTooSmall {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        available: usize,
    },
    /// More tokens than the model, or the plan, holds.
    TooManyTokens {
        /// Tokens given.
        tokens: usize,
        /// Most tokens allowed.
        limit: usize,
    },
    /// A token id beyond the vocabulary.
    TokenOutOfRange {
        /// The offending id.
        id: u32,
        /// Number of entries in the vocabulary.
        vocab_size: u32,
    },
    /// No tokens at all were given (even an empty text has `[CLS]` and `[SEP]`).
    NoTokens,
    /// The text is not UTF-8.
    InvalidUtf8 {
        /// Offset of the first bad byte.
        offset: usize,
    },
    /// The caller's output buffer has the wrong length.
    OutputLength {
        /// Elements needed.
        needed: usize,
        /// Elements given.
        available: usize,
    },
    /// The result is not a finite number: the model's scales or weights overflow.
    NotFinite,
    /// The file's expected answers were made by another edition of the arithmetic.
    Edition {
        /// Edition named in the file.
        found: u32,
        /// The one that this runtime computes by.
        supported: u32,
    },
}

/// A section kind as four ASCII characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SectionName(pub [u8; 4]);

impl fmt::Display for SectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.0).unwrap_or("????"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::NotGrouse => f.write_str(
                "this is not a Grouse model file (its first bytes differ); make one with `grouse pack`",
            ),
            Error::Version { found, supported } => write!(
                f,
                "the file has format version {found}, this runtime reads version {supported}; \
                 pack the model again with this version of grouse, or update the runtime"
            ),
            Error::Truncated { needed, available } => write!(
                f,
                "the file is cut short: {needed} bytes needed, {available} there; \
                 copy or flash it again, whole"
            ),
            Error::Checksum { section, index } => write!(
                f,
                "checksum mismatch in section {section} {index}: the file changed after it was packed; \
                 copy or flash it again"
            ),
            Error::Malformed { section, what } => write!(
                f,
                "section {section} is malformed: {what}; pack the model again"
            ),
            Error::Misaligned { needed } => write!(
                f,
                "the model does not lie at a multiple of {needed} bytes in memory; \
                 map or flash it at an aligned address"
            ),
            Error::Unsupported { what } => {
                write!(f, "{what} is not supported by this runtime; pack the model for it again")
            }
            Error::ArenaTooSmall { needed, available } => write!(
                f,
                "the arena is too small: {needed} bytes needed, {available} available; \
                 lower the number of tokens or give more memory"
            ),
            Error::TooManyTokens { tokens, limit } => write!(
                f,
                "{tokens} tokens given, at most {limit} allowed; shorten or truncate the text"
            ),
            Error::TokenOutOfRange { id, vocab_size } => write!(
                f,
                "token id {id} is outside the vocabulary of {vocab_size}; \
                 use ids from this model's own tokenizer"
            ),
            Error::NoTokens => f.write_str(
                "no tokens were given; even an empty text has [CLS] and [SEP], tokenize it first",
            ),
            Error::InvalidUtf8 { offset } => write!(
                f,
                "the text is not valid UTF-8 (byte {offset}); convert it to UTF-8"
            ),
            Error::OutputLength { needed, available } => write!(
                f,
                "the output buffer has {available} elements, {needed} needed"
            ),
            Error::Edition { found, supported } => write!(
                f,
                "the file's self-test was made by edition {found} of the arithmetic, this runtime \
                 computes by edition {supported}: other bits are to be expected; pack the model \
                 again, and use one version of grouse everywhere"
            ),
            Error::NotFinite => f.write_str(
                "the result is not a finite number; the model's weights overflow, pack a sound checkpoint",
            ),
        }
    }
}

impl core::error::Error for Error {}

/// Result of this crate's functions.
pub type Result<T> = core::result::Result<T, Error>;
