//! Regenerates `tables.rs` from the crates that Hugging Face `tokenizers` normalizes with.
//!
//! Those crates hold old versions of Unicode; taking the tables from them, not from the standard,
//! is what makes the ids agree. `GROUSE_BLESS=1 cargo test -p grouse-runtime tables` writes the
//! file; without the variable the test compares.

use std::collections::BTreeMap;
use std::fmt::Write;

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char::{canonical_combining_class, decompose_canonical};

use super::normalize::{Class, is_hangul_syllable, is_private_use};

const MAX_RUN: u32 = 512;

fn decompose(c: char) -> Vec<char> {
    let mut out = Vec::new();
    decompose_canonical(c, |d| out.push(d));
    out
}

/// What the normalizer must know about `c` besides its decomposition.
fn class(c: char) -> Option<Class> {
    let parts = decompose(c);
    let vanishes = parts.iter().all(|d| d.is_mark_nonspacing());
    let starter = parts.iter().any(|d| canonical_combining_class(*d) == 0);
    let classes = [
        (c.is_other(), Class::Control),
        (c.is_punctuation(), Class::Punctuation),
        (vanishes && !starter, Class::Mark),
        (vanishes && starter, Class::MarkStarter),
    ];
    let mut found = classes.into_iter().filter(|(is, _)| *is).map(|(_, class)| class);
    let class = found.next();
    assert!(found.next().is_none(), "{c:?} has two classes");
    class
}

/// The decomposition of `c` without non-spacing marks, where that is neither `c` nor nothing.
fn stripped(c: char) -> Option<Vec<char>> {
    let parts = decompose(c);
    let kept: Vec<char> = parts.iter().copied().filter(|d| !d.is_mark_nonspacing()).collect();
    if kept.is_empty() || kept == [c] {
        return None;
    }
    // A dropped starter may only separate marks when the kept characters around it do so too.
    for (i, d) in parts.iter().enumerate() {
        if d.is_mark_nonspacing() && canonical_combining_class(*d) == 0 {
            let next_kept = parts[i + 1..].iter().find(|d| !d.is_mark_nonspacing());
            let last_kept = parts[..i].iter().rfind(|d| !d.is_mark_nonspacing());
            let starts = |d: Option<&char>| d.is_some_and(|d| canonical_combining_class(*d) == 0);
            assert!(starts(next_kept) || starts(last_kept), "{c:?} hides a starter");
        }
    }
    Some(kept)
}

/// Maximal runs of consecutive characters with an equal, present value.
fn runs<T: PartialEq>(value: impl Fn(char) -> Option<T>) -> Vec<(u32, u32, T)> {
    let mut runs: Vec<(u32, u32, T)> = Vec::new();
    for c in char::MIN..=char::MAX {
        let Some(v) = value(c) else { continue };
        match runs.last_mut() {
            Some((start, len, last))
                if *start + *len == c as u32 && *last == v && *len < MAX_RUN =>
            {
                *len += 1;
            }
            _ => runs.push((c as u32, 1, v)),
        }
    }
    runs
}

fn array(out: &mut String, doc: &str, name: &str, item: &str, items: &[String]) {
    for line in doc.lines() {
        writeln!(out, "/// {line}").unwrap();
    }
    writeln!(out, "#[rustfmt::skip]").unwrap();
    writeln!(out, "pub(super) static {name}: [{item}; {}] = [", items.len()).unwrap();
    let mut line = String::from("   ");
    for item in items {
        if line.len() + item.len() + 2 > 100 {
            writeln!(out, "{line}").unwrap();
            line = String::from("   ");
        }
        write!(line, " {item},").unwrap();
    }
    writeln!(out, "{line}\n];").unwrap();
}

fn generate() -> String {
    let classes: Vec<String> = runs(|c| class(c).filter(|_| c >= '\u{80}' && !is_private_use(c)))
        .iter()
        .map(|(start, len, class)| format!("{:#x}", start << 11 | (len - 1) << 2 | *class as u32))
        .collect();

    let mut values: Vec<u32> = Vec::new();
    let mut sequences: BTreeMap<Vec<char>, u32> = BTreeMap::new();
    let has_value = |c| if is_hangul_syllable(c) { None } else { stripped(c) };
    for c in char::MIN..=char::MAX {
        match has_value(c) {
            Some(kept) if kept.len() > 1 => drop(sequences.insert(kept, 0)),
            _ => {}
        }
    }
    for (i, index) in sequences.values_mut().enumerate() {
        *index = char::MAX as u32 + 1 + i as u32;
    }
    let mut decompositions = Vec::new();
    for (start, len, ()) in runs(|c| has_value(c).map(|_| ())) {
        decompositions.push(format!("({start:#x}, {len}, {})", values.len()));
        for c in (start..start + len).filter_map(char::from_u32) {
            let kept = has_value(c).unwrap();
            values.push(match kept[..] {
                [one] => one as u32,
                _ => sequences[&kept],
            });
        }
    }
    let values: Vec<String> = values
        .iter()
        .map(|v| v.to_le_bytes())
        .map(|b| format!("[{}, {}, {}]", b[0], b[1], b[2]))
        .collect();
    let sequences: Vec<String> = sequences
        .keys()
        .map(|kept| {
            assert!(kept.len() <= 3);
            let at = |i: usize| kept.get(i).map_or(0x11_0000, |c| *c as u32);
            format!("[{:#x}, {:#x}, {:#x}]", at(0), at(1), at(2))
        })
        .collect();

    let combining = |c: char| {
        let class = canonical_combining_class(c);
        (class != 0 && !c.is_mark_nonspacing()).then_some(class)
    };
    // The encoder may drop such characters of an overlong word and sort before lower-casing.
    for c in (char::MIN..=char::MAX).filter(|c| combining(*c).is_some()) {
        assert!(c.to_lowercase().eq([c]) && !c.is_whitespace() && !c.is_punctuation());
    }
    let combining: Vec<String> = runs(combining)
        .iter()
        .map(|(start, len, class)| format!("({start:#x}, {len}, {class})"))
        .collect();

    let mut out = String::from(
        "//! Unicode properties as Hugging Face `tokenizers` knows them; generated, do not edit.\n\
         //!\n\
         //! `GROUSE_BLESS=1 cargo test -p grouse-runtime tables` writes this file (`generate.rs`).\n\n",
    );
    array(
        &mut out,
        "Classes of characters from U+0080, ascending: `start << 11 | (length - 1) << 2 | class`.",
        "CLASSES",
        "u32",
        &classes,
    );
    array(
        &mut out,
        "Characters that decompose, ascending: first, how many, index of the first in [`VALUES`].",
        "DECOMPOSITIONS",
        "(u32, u16, u16)",
        &decompositions,
    );
    array(
        &mut out,
        "What is left of a decomposition without non-spacing marks, little-endian: a character,\n\
         or 0x110000 plus an index into [`SEQUENCES`].",
        "VALUES",
        "[u8; 3]",
        &values,
    );
    array(
        &mut out,
        "Decompositions that keep more than one character; 0x110000 fills up.",
        "SEQUENCES",
        "[u32; 3]",
        &sequences,
    );
    array(
        &mut out,
        "Characters that survive stripping and have a canonical combining class other than 0,\n\
         ascending: first, how many, class.",
        "COMBINING",
        "(u32, u16, u8)",
        &combining,
    );
    out
}

#[test]
fn tables_are_current() {
    let fresh = generate();
    if std::env::var_os("GROUSE_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tokenizer/tables.rs");
        std::fs::write(path, &fresh).unwrap();
    }
    assert!(
        std::env::var_os("GROUSE_BLESS").is_some() || fresh == include_str!("tables.rs"),
        "tables.rs is out of date; run GROUSE_BLESS=1 cargo test -p grouse-runtime tables"
    );
}

#[test]
fn private_use_is_control() {
    for c in (char::MIN..=char::MAX).filter(|c| is_private_use(*c)) {
        assert!(class(c) == Some(Class::Control) && stripped(c).is_none());
    }
}
