//! A word under construction: normalized characters as UTF-8, in canonical order.

use super::normalize::combining_class;
use super::vocab::MAX_WORD_CHARS;

/// Bytes of the longest word that can still have pieces.
const MAX_BYTES: usize = 4 * MAX_WORD_CHARS;

/// The characters since the last boundary.
pub(super) struct Word {
    bytes: heapless::Vec<u8, MAX_BYTES>,
    chars: usize,
    /// Start of the marks that have yet to be put in order.
    run: usize,
    max_chars: usize,
}

impl Word {
    /// An empty word; one of more than `max_chars` characters is too long.
    pub fn new(max_chars: usize) -> Self {
        Self { bytes: heapless::Vec::new(), chars: 0, run: 0, max_chars }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.chars = 0;
        self.run = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.chars == 0
    }

    /// The word, or `None` when it is too long.
    pub fn get(&self) -> Option<&[u8]> {
        (self.chars <= self.max_chars).then_some(&self.bytes)
    }

    /// Appends `c`.
    pub fn push(&mut self, c: char) {
        self.chars = self.chars.saturating_add(1);
        if self.chars <= self.max_chars {
            // There is room: `max_chars` is at most `MAX_WORD_CHARS`.
            let _ = self.bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    /// Ends a run of marks: later ones are not sorted before what is there.
    pub fn end_run(&mut self) {
        self.run = self.bytes.len();
    }

    /// Appends a mark of combining class `class`, not 0, after those of the same or a lower class.
    ///
    /// In a word that is too long marks go unsorted, as its bytes no longer matter.
    pub fn push_mark(&mut self, c: char, class: u8) {
        let before = self.bytes.len();
        self.push(c);
        let added = self.bytes.len().saturating_sub(before);
        let Some(run) = self.bytes.get_mut(self.run..) else { return };
        let place = core::str::from_utf8(run)
            .unwrap_or_default()
            .char_indices()
            .find(|(_, other)| combining_class(*other) > class)
            .map(|(at, _)| at);
        if let Some(later) = place.and_then(|at| run.get_mut(at..))
            && added <= later.len()
        {
            later.rotate_right(added);
        }
    }
}
