//! What Hugging Face's `BertNormalizer` and `BertPreTokenizer` do to one character.
//!
//! Everything here is a pure function of a character; the order of the steps and the word they
//! build is [`super::word`]'s.

use super::tables::{CLASSES, COMBINING, DECOMPOSITIONS, SEQUENCES, VALUES};

/// What the tables say about a character; most have no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Class {
    /// General category Cc, Cf or Co: removed by `clean_text`.
    Control = 0,
    /// General category P: a word of its own.
    Punctuation = 1,
    /// Decomposes to non-spacing marks only, none of them a starter: removed by `strip_accents`.
    Mark = 2,
    /// The same with a starter: also ends the run of marks that is sorted.
    MarkStarter = 3,
}

/// Fills up a decomposition: not a character.
const NOTHING: u32 = 0x11_0000;

const HANGUL_FIRST: u32 = 0xAC00;
const HANGUL_LEADING: u32 = 0x1100;
const HANGUL_VOWEL: u32 = 0x1161;
const HANGUL_TRAILING: u32 = 0x11A7;
const HANGUL_VOWELS: u32 = 21;
const HANGUL_TRAILINGS: u32 = 28;

/// Whether `c` is a precomposed Hangul syllable.
pub(super) fn is_hangul_syllable(c: char) -> bool {
    ('\u{AC00}'..='\u{D7A3}').contains(&c)
}

/// Whether `c` is for private use; all of these are [`Class::Control`].
pub(super) fn is_private_use(c: char) -> bool {
    matches!(c, '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..='\u{FFFFD}' | '\u{100000}'..='\u{10FFFD}')
}

/// The characters that `handle_chinese_chars` puts between spaces. The gaps are Hugging Face's.
pub(super) fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{4E00}'..='\u{9FFF}'
        | '\u{3400}'..='\u{4DBF}'
        | '\u{20000}'..='\u{2A6DF}'
        | '\u{2A700}'..='\u{2B73F}'
        | '\u{2B740}'..='\u{2B81F}'
        | '\u{2B920}'..='\u{2CEAF}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{2F800}'..='\u{2FA1F}')
}

/// Whether `clean_text` removes `c`.
pub(super) fn is_removed(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        '\0' | '\u{FFFD}' => true,
        c if c.is_ascii() => c.is_ascii_control(),
        c => class(c) == Some(Class::Control),
    }
}

/// Whether `c` stands alone as a word.
pub(super) fn is_punctuation(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_punctuation() } else { class(c) == Some(Class::Punctuation) }
}

/// The class of a character from U+0080.
pub(super) fn class(c: char) -> Option<Class> {
    if is_private_use(c) {
        return Some(Class::Control);
    }
    let code = u32::from(c);
    let entry = *last_at_or_before(&CLASSES, |entry| entry >> 11 <= code)?;
    if code - (entry >> 11) > (entry >> 2) & 0x1FF {
        return None;
    }
    Some(match entry & 3 {
        0 => Class::Control,
        1 => Class::Punctuation,
        2 => Class::Mark,
        _ => Class::MarkStarter,
    })
}

/// Canonical combining class of a character that is not a non-spacing mark.
pub(super) fn combining_class(c: char) -> u8 {
    let code = u32::from(c);
    match last_at_or_before(&COMBINING, |entry| entry.0 <= code) {
        Some((start, len, class)) if code - start < u32::from(*len) => *class,
        _ => 0,
    }
}

/// The canonical decomposition of `c` without its non-spacing marks: up to three characters.
///
/// The caller has dealt with [`Class::Mark`] and [`Class::MarkStarter`], of which nothing is left.
pub(super) fn decompose(c: char) -> impl Iterator<Item = char> {
    let codes = if is_hangul_syllable(c) { hangul(c) } else { decompose_by_table(c) };
    codes.into_iter().filter_map(char::from_u32)
}

fn hangul(c: char) -> [u32; 3] {
    let index = u32::from(c).saturating_sub(HANGUL_FIRST);
    let trailing = index % HANGUL_TRAILINGS;
    let vowel = index / HANGUL_TRAILINGS % HANGUL_VOWELS;
    let leading = index / HANGUL_TRAILINGS / HANGUL_VOWELS;
    let trailing = if trailing == 0 { NOTHING } else { HANGUL_TRAILING + trailing };
    [HANGUL_LEADING + leading, HANGUL_VOWEL + vowel, trailing]
}

fn decompose_by_table(c: char) -> [u32; 3] {
    let code = u32::from(c);
    let unchanged = [code, NOTHING, NOTHING];
    let Some((start, len, first)) = last_at_or_before(&DECOMPOSITIONS, |entry| entry.0 <= code)
    else {
        return unchanged;
    };
    let offset = code - start;
    if offset >= u32::from(*len) {
        return unchanged;
    }
    let Some([low, middle, high]) = VALUES.get(usize::from(*first) + offset as usize) else {
        return unchanged;
    };
    let value = u32::from_le_bytes([*low, *middle, *high, 0]);
    match value.checked_sub(NOTHING) {
        None => [value, NOTHING, NOTHING],
        Some(index) => SEQUENCES.get(index as usize).copied().unwrap_or(unchanged),
    }
}

/// The last entry of an ascending table for which `starts` holds.
fn last_at_or_before<T>(table: &[T], starts: impl Fn(&T) -> bool) -> Option<&T> {
    table.partition_point(starts).checked_sub(1).and_then(|i| table.get(i))
}
