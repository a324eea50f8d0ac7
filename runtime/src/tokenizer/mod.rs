//! WordPiece on the device: text to ids without allocation, equal to Hugging Face `tokenizers`.
//!
//! A text streams through once, a character at a time: added tokens are cut out, `normalize`
//! says what becomes of a character, a `word` collects what is left, and each finished word is
//! split into pieces of the [`vocab`]ulary.

#[cfg(test)]
mod generate;
mod normalize;
mod tables;
pub mod vocab;
mod word;

use core::fmt;
use core::ops::ControlFlow::{self, Break, Continue};

use crate::error::{Error, Result};
use normalize::Class;
use vocab::{Place, Vocab};
use word::Word;

/// A tokenizer: a validated view of the `TOKN` section's bytes.
#[derive(Clone, Copy)]
pub struct Tokenizer<'a> {
    vocab: Vocab<'a>,
}

/// What [`Tokenizer::encode`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Encoded {
    /// Number of ids, `[CLS]` and `[SEP]` included.
    pub tokens: usize,
    /// Whether the text has more tokens than fit.
    pub truncated: bool,
}

/// The text of a vocabulary entry, as [`fmt::Display`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<'a> {
    prefix: &'a str,
    text: heapless::String<{ vocab::MAX_PIECE_BYTES }>,
}

impl Piece<'_> {
    /// The text without the prefix of continuations.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The prefix of continuations ("##") when this is one, else empty.
    pub fn prefix(&self) -> &str {
        self.prefix
    }
}

impl fmt::Display for Piece<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix)?;
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Tokenizer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("header", &self.vocab.header).finish_non_exhaustive()
    }
}

impl<'a> Tokenizer<'a> {
    /// Reads a `TOKN` section in place. Validation is total and linear: after `Ok`, no call can
    /// panic, loop forever or read out of bounds.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the bytes are not what the format allows, [`Error::Unsupported`]
    /// for a kind of tokenizer that this runtime does not know.
    pub fn open(section: &'a [u8]) -> Result<Self> {
        Ok(Self { vocab: Vocab::open(section)? })
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab.header.vocab_size as usize
    }

    /// Writes the ids of `[CLS]`, the text and `[SEP]` to the start of `ids`.
    ///
    /// `ids.len()` is the most tokens: of a longer text the first ones are kept, between `[CLS]`
    /// and `[SEP]`. What `ids` holds after [`Encoded::tokens`] is undefined. A text of any length streams through about half a kilobyte of stack.
    ///
    /// # Errors
    /// [`Error::OutputLength`] when `ids` has no room for `[CLS]` and `[SEP]`.
    pub fn encode(&self, text: &str, ids: &mut [u32]) -> Result<Encoded> {
        let too_short = Error::OutputLength { needed: 2, available: ids.len() };
        let header = &self.vocab.header;
        let capacity = ids.len().checked_sub(2).ok_or(too_short)?;
        let (first, rest) = ids.split_first_mut().ok_or(too_short)?;
        *first = header.cls_id;
        let room = rest.get_mut(..capacity).ok_or(too_short)?;
        let mut encoder = Encoder {
            vocab: &self.vocab,
            word: Word::new(header.max_word_chars as usize),
            ids: room,
            tokens: 0,
        };
        let truncated = encoder.text(text).is_break();
        let tokens = encoder.tokens.min(capacity);
        *rest.get_mut(tokens).ok_or(too_short)? = header.sep_id;
        Ok(Encoded { tokens: tokens + 2, truncated })
    }

    /// The text of `id`, or `None` when the vocabulary has no such entry.
    ///
    /// For people and tools: it searches the whole vocabulary.
    pub fn piece(&self, id: u32) -> Option<Piece<'a>> {
        let found = |prefix, text| {
            let text = core::str::from_utf8(text).ok()?;
            Some(Piece { prefix, text: text.try_into().ok()? })
        };
        for (place, prefix) in [(Place::Start, ""), (Place::Continuation, self.vocab.prefix)] {
            let mut walk = self.vocab.walk(place);
            while let Ok(Some(node)) = walk.next_node() {
                if node == Some(id) {
                    return found(prefix, walk.path());
                }
            }
        }
        let (content, _) = self.vocab.added_tokens().find(|(_, other)| *other == id)?;
        found("", content)
    }
}

/// One text on its way to ids. `Break` means that the ids are full and more tokens would follow.
struct Encoder<'v, 'a, 'i> {
    vocab: &'v Vocab<'a>,
    word: Word,
    /// Room for the ids between `[CLS]` and `[SEP]`.
    ids: &'i mut [u32],
    /// Tokens found so far, of which those beyond `ids` are not written.
    tokens: usize,
}

impl Encoder<'_, '_, '_> {
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let len = match self.vocab.added(rest.as_bytes()) {
                // What is before and after an added token is normalized on its own.
                Some((len, id)) => {
                    self.end_word()?;
                    self.token(id)?;
                    len
                }
                None => {
                    self.raw(c)?;
                    c.len_utf8()
                }
            };
            rest = rest.get(len..).unwrap_or_default();
        }
        self.end_word()
    }

    fn has(&self, flag: u32) -> bool {
        self.vocab.header.flags & flag != 0
    }

    /// A character of the text: `clean_text` and `handle_chinese_chars`.
    fn raw(&mut self, c: char) -> ControlFlow<()> {
        if self.has(vocab::FLAG_CLEAN_TEXT) && normalize::is_removed(c) {
            return Continue(());
        }
        if self.has(vocab::FLAG_CHINESE) && normalize::is_chinese(c) {
            self.end_word()?;
            self.cleaned(c)?;
            return self.end_word();
        }
        self.cleaned(c)
    }

    /// `strip_accents`: canonical decomposition, order of marks, removal of non-spacing ones.
    fn cleaned(&mut self, c: char) -> ControlFlow<()> {
        if c.is_ascii() || !self.has(vocab::FLAG_STRIP_ACCENTS) {
            self.cased(c)?;
            self.word.end_run();
            return Continue(());
        }
        match normalize::class(c) {
            Some(Class::Mark) => {}
            Some(Class::MarkStarter) => self.word.end_run(),
            _ => {
                for part in normalize::decompose(c) {
                    match normalize::combining_class(part) {
                        0 => {
                            self.cased(part)?;
                            self.word.end_run();
                        }
                        // Neither lower-cased nor a word's end, as `generate.rs` checks.
                        class => self.word.push_mark(part, class),
                    }
                }
            }
        }
        Continue(())
    }

    /// `lowercase`.
    fn cased(&mut self, c: char) -> ControlFlow<()> {
        if !self.has(vocab::FLAG_LOWERCASE) {
            return self.normalized(c);
        }
        if c.is_ascii() {
            return self.normalized(c.to_ascii_lowercase());
        }
        c.to_lowercase().try_for_each(|c| self.normalized(c))
    }

    /// A normalized character: white space ends a word, punctuation is one.
    fn normalized(&mut self, c: char) -> ControlFlow<()> {
        if c.is_whitespace() {
            return self.end_word();
        }
        if normalize::is_punctuation(c) {
            self.end_word()?;
            self.word.push(c);
            return self.end_word();
        }
        self.word.push(c);
        Continue(())
    }

    /// Splits the word into pieces, if there is one.
    fn end_word(&mut self) -> ControlFlow<()> {
        if self.word.is_empty() {
            return Continue(());
        }
        let before = self.tokens;
        if before == self.ids.len() {
            return Break(());
        }
        let mut place = Place::Start;
        let mut whole = self.word.get();
        while let Some(rest) = whole.filter(|rest| !rest.is_empty()) {
            let Some((len, id)) = self.vocab.longest(place, rest) else {
                whole = None;
                break;
            };
            if let Some(slot) = self.ids.get_mut(self.tokens) {
                *slot = id;
            }
            self.tokens += 1;
            place = Place::Continuation;
            whole = rest.get(len..);
        }
        let unknown = whole.is_none();
        self.word.clear();
        if unknown {
            self.tokens = before;
            return self.token(self.vocab.header.unk_id);
        }
        if self.tokens > self.ids.len() { Break(()) } else { Continue(()) }
    }

    fn token(&mut self, id: u32) -> ControlFlow<()> {
        let Some(slot) = self.ids.get_mut(self.tokens) else { return Break(()) };
        *slot = id;
        self.tokens += 1;
        Continue(())
    }
}
