//! The texts of a packed model's self-test.

use crate::error::Result;
use crate::format::{Arch, TestEntry, TestHeader};

use super::bytes::Section;

/// A text with what the scalar backend makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test<'a> {
    /// The text.
    pub text: &'a str,
    /// Its tokens, `[CLS]` and `[SEP]` included.
    pub tokens: usize,
    /// CRC-32 of its ids, u32 little-endian each.
    pub ids_crc: u32,
    /// CRC-32 of its embedding, the bits of an f32 little-endian each.
    pub embedding_crc: u32,
    /// Edition of the arithmetic that gave this embedding.
    pub edition: u32,
}

/// All of them; none in a file without section `TEST`.
#[derive(Debug, Clone, Copy)]
pub struct Tests<'a> {
    section: Option<(Section<'a>, &'a [TestEntry], u32)>,
}

impl<'a> Tests<'a> {
    pub(super) const NONE: Self = Self { section: None };

    pub(super) fn open(section: Section<'a>, arch: &Arch) -> Result<Self> {
        let head: &TestHeader = section.head()?;
        let at = size_of::<TestHeader>() as u32;
        let entries: &[TestEntry] = section.slice(at, head.count as usize)?;
        for entry in entries {
            text(section, entry)?;
            if !(2..=arch.max_tokens).contains(&entry.tokens) {
                return Err(section.malformed("the number of a text's tokens"));
            }
        }
        Ok(Self { section: Some((section, entries, head.edition)) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.section.map_or(0, |(_, entries, _)| entries.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Test<'a>> + use<'a> {
        let section = self.section;
        section.into_iter().flat_map(|(section, entries, edition)| {
            entries.iter().filter_map(move |entry| {
                let TestEntry { tokens, ids_crc, embedding_crc, .. } = *entry;
                let text = text(section, entry).ok()?;
                Some(Test { text, tokens: tokens as usize, ids_crc, embedding_crc, edition })
            })
        })
    }
}

fn text<'a>(section: Section<'a>, entry: &TestEntry) -> Result<&'a str> {
    let bytes = section.slice(entry.text, entry.bytes as usize)?;
    core::str::from_utf8(bytes).map_err(|_| section.malformed("a text is not UTF-8"))
}
