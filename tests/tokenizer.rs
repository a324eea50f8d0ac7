//! The runtime's tokenizer against Hugging Face's own crate, id by id.
//!
//! The synthetic vocabularies hold every character that the oracle's normalizer lets through, so
//! that no difference can hide behind `[UNK]`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use grouse::pack::vocab::{WordPiece, section_from_dir};
use grouse_runtime::Error;
use grouse_runtime::tokenizer::{Encoded, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::{NormalizedString, Normalizer, TruncationParams};

#[path = "tokenizer/trim.rs"]
mod trim;

/// Clean text, CJK spacing, strip accents (as lower-case when `None`), lower-case.
type Flags = (bool, bool, Option<bool>, bool);
const UNCASED: Flags = (true, true, None, true);
const CASED: Flags = (true, true, None, false);
const FLAGS: [Flags; 6] = [
    UNCASED,
    CASED,
    (false, false, None, false),
    (false, true, Some(true), false),
    (true, false, Some(false), true),
    (false, false, Some(true), true),
];
const SPECIALS: [&str; 8] =
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[MASK][SEP]", "<ent>", "É\u{301}:"];

/// A `tokenizer.json` with `pieces` after the special tokens.
fn tokenizer_json(pieces: impl IntoIterator<Item = String>, flags: Flags) -> Value {
    let mut vocab = serde_json::Map::new();
    for piece in SPECIALS[..5].iter().map(ToString::to_string).chain(pieces) {
        let id = vocab.len();
        vocab.entry(piece).or_insert(id.into());
    }
    // Of the added tokens the last three are no pieces: their ids follow the vocabulary's.
    let added: Vec<Value> = SPECIALS
        .iter()
        .enumerate()
        .map(|(i, content)| {
            let id = if i < 5 { i } else { vocab.len() + i - 5 };
            let (lstrip, rstrip) = (*content == "[MASK]", *content == "<ent>");
            json!({"id": id, "content": content, "single_word": false, "lstrip": lstrip,
                   "rstrip": rstrip, "normalized": false, "special": i < 6})
        })
        .collect();
    let (clean_text, handle_chinese_chars, strip_accents, lowercase) = flags;
    json!({
        "version": "1.0",
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0,
                       "direction": "Right"},
        "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": clean_text,
                       "handle_chinese_chars": handle_chinese_chars,
                       "strip_accents": strip_accents, "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab},
    })
}

/// The oracle and the section under test.
struct Pair {
    oracle: tokenizers::Tokenizer,
    /// The oracle for truncation, which is a setting of it.
    limited: RefCell<tokenizers::Tokenizer>,
    section: &'static [u8],
    tokenizer: Tokenizer<'static>,
}

impl Pair {
    fn new(json: &str) -> Self {
        let section = WordPiece::from_json(json).unwrap().section().unwrap();
        Self::with_section(json, section)
    }

    fn with_section(json: &str, section: Vec<u8>) -> Self {
        let mut oracle = tokenizers::Tokenizer::from_bytes(json).unwrap();
        oracle.with_padding(None).with_truncation(None).unwrap();
        let limited = RefCell::new(oracle.clone());
        // Opened once; the process is short.
        let section: &'static [u8] = section.leak();
        Self { oracle, limited, section, tokenizer: Tokenizer::open(section).unwrap() }
    }

    /// A vocabulary of every character that `texts` come down to, at the start and inside a word.
    fn of_texts(texts: &str, flags: Flags, more: &[&str]) -> Self {
        let (clean_text, chinese, strip_accents, lowercase) = flags;
        let normalizer = BertNormalizer::new(clean_text, chinese, strip_accents, lowercase);
        let mut normalized = NormalizedString::from(texts);
        normalizer.normalize(&mut normalized).unwrap();
        let chars: BTreeSet<char> = normalized.get().chars().collect();
        let pieces = chars.iter().flat_map(|c| [c.to_string(), format!("##{c}")]);
        let more = more.iter().map(ToString::to_string);
        Self::new(&tokenizer_json(pieces.chain(more), flags).to_string())
    }

    /// `None` when the ids are the oracle's, else both.
    fn difference(&self, text: &str) -> Option<(Vec<u32>, Vec<u32>)> {
        let wanted = self.oracle.encode_fast(text, true).unwrap().get_ids().to_vec();
        // A character decomposes into three at most, and each may be a token.
        let mut ids = vec![0; 3 * text.len() + 2];
        let encoded = self.tokenizer.encode(text, &mut ids).unwrap();
        ids.truncate(encoded.tokens);
        (encoded.truncated || ids != wanted).then_some((ids, wanted))
    }

    #[track_caller]
    fn check(&self, text: &str) {
        if let Some((ids, wanted)) = self.difference(text) {
            panic!("{text:?}\n  ours   {ids:?}\n  theirs {wanted:?}");
        }
    }
}

/// Every scalar value, by the chunk.
fn chunks() -> impl Iterator<Item = Vec<char>> {
    (0..0x11_0000 / 0x2000)
        .map(|chunk| (chunk * 0x2000..(chunk + 1) * 0x2000).filter_map(char::from_u32).collect())
}

fn check_every_scalar(flags: Flags) {
    for chars in chunks() {
        // Planes 4 to 13 are empty: once is enough.
        if flags != UNCASED
            && (0x4_0000..0xE_0000).contains(&chars.first().map_or(0, |c| *c as u32))
        {
            continue;
        }
        let forms = |c: char| [format!("{c}"), format!("a{c}b"), format!("{c}{c}")];
        let all: String = chars.iter().flat_map(|c| forms(*c)).collect();
        let pair = Pair::of_texts(&all, flags, &[]);
        // Many at once for speed; one by one to name the culprit.
        for chars in chars.chunks(64) {
            let mut text = String::new();
            for form in chars.iter().flat_map(|c| forms(*c)) {
                write!(text, "{form} a ").unwrap();
            }
            if pair.difference(&text).is_some() {
                chars.iter().flat_map(|c| forms(*c)).for_each(|form| pair.check(&form));
                pair.check(&text);
            }
        }
    }
}

#[test]
fn every_scalar_uncased() {
    check_every_scalar(UNCASED);
}

#[test]
fn every_scalar_cased() {
    check_every_scalar(CASED);
}

#[test]
fn every_scalar_unclean() {
    FLAGS[2..].iter().for_each(|flags| check_every_scalar(*flags));
}

#[test]
fn every_scalar_alone() {
    // At the very start and end of the text, where nothing else ends a word.
    for chars in chunks().take(0x4_0000 / 0x2000) {
        let all: String = chars.iter().collect();
        let pair = Pair::of_texts(&all, UNCASED, &[]);
        chars.iter().for_each(|c| pair.check(c.encode_utf8(&mut [0; 4])));
    }
}

/// Characters of every kind that matters, some several times over.
const POOL: &str = "aabbccdxyzABÉéçñİIıßΣσςǅŒ  \t\n\r\u{b}\u{a0}\u{3000}\u{2028}.,!-_#$+<[]{}~\
    \0\u{1}\u{7f}\u{85}\u{ad}\u{200b}\u{200d}\u{feff}\u{fffd}\u{e000}\u{10fffd}\u{378}\
    \u{300}\u{301}\u{308}\u{323}\u{327}\u{345}\u{34f}\u{5b0}\u{5bc}\u{93c}\u{94d}\u{9be}\u{9c7}\
    \u{302e}\u{302f}\u{16ff0}\u{16ff1}\u{1d165}\u{1d16d}\u{1d15e}\u{1d1bb}\u{1df6}\u{e31}\u{f73}\
    \u{1112e}\u{cca}\u{cc0}\u{ddd}\u{2000}\u{37e}\u{1fef}\u{2126}\u{212b}\u{fb2c}\u{344}\
    中文字\u{f900}\u{2f800}\u{2f81a}\u{20000}\u{2b820}가각힣각日本語ガぱ한국हिन्दीไทย»«—…’¿;·😀👍🏽";

/// Pieces to be chosen between, and to be left without.
const PIECES: [&str; 14] = [
    "ab", "abc", "abcab", "##bc", "##bcd", "##ca", "aab", "##éç", "ç", "中文", "##文字", "##xyz",
    "xyzxy", "##ab",
];

fn pool_pair(flags: Flags) -> Pair {
    // Without "##z", some words are unknown only at their end.
    let whole = Pair::of_texts(POOL, flags, &PIECES);
    let vocab = whole.oracle.get_vocab(false);
    let pieces: BTreeSet<String> =
        vocab.into_keys().filter(|p| p != "##z" && p != "[UNK]" && p != "ı").collect();
    Pair::new(&tokenizer_json(pieces, flags).to_string())
}

fn random_text() -> impl Strategy<Value = String> {
    let pool: Vec<char> = POOL.chars().collect();
    let token = prop_oneof![
        30 => prop::sample::select(pool.clone()).prop_map(String::from),
        6 => "[a-d]{1,6}",
        2 => any::<char>().prop_map(String::from),
        2 => prop::sample::select(&SPECIALS[..]).prop_map(String::from),
        1 => prop::sample::select(vec!["[MASK", "MASK]", "[MASK][SE", "É\u{301}", "<en", "[CLS]]"])
            .prop_map(String::from),
        1 => (prop::sample::select(pool), 30..130_usize).prop_map(|(c, n)| c.to_string().repeat(n)),
        1 => prop::collection::vec(prop::sample::select(vec!['\u{302e}', '\u{16ff0}', '\u{1d165}',
            '\u{300}', '\u{34f}', '\u{323}', 'a']), 1..120).prop_map(|v| v.into_iter().collect()),
    ];
    prop::collection::vec(token, 0..40).prop_map(|v| v.concat())
}

#[test]
fn random_texts() {
    let pairs = FLAGS.map(pool_pair);
    let config = ProptestConfig { cases: 5_000, failure_persistence: None, ..Default::default() };
    proptest!(config, |(text in random_text(), limit in 2..40_usize)| {
        for pair in &pairs {
            prop_assert_eq!(pair.difference(&text), None, "{:?}", text);
        }
        check_limit(&pairs[0], &text, limit);
    });
}

/// Encodes into `limit` ids and compares with what the oracle's truncation would keep.
#[track_caller]
fn check_limit(pair: &Pair, text: &str, limit: usize) {
    let all = pair.oracle.encode_fast(text, true).unwrap().len();
    let mut oracle = pair.limited.borrow_mut();
    let truncation = TruncationParams { max_length: limit, ..Default::default() };
    let wanted = oracle.with_truncation(Some(truncation)).unwrap();
    let wanted = wanted.encode_fast(text, true).unwrap().get_ids().to_vec();
    let mut ids = vec![u32::MAX; limit];
    let encoded = pair.tokenizer.encode(text, &mut ids).unwrap();
    assert_eq!(encoded, Encoded { tokens: wanted.len(), truncated: all > limit }, "{text:?}");
    assert_eq!(ids[..encoded.tokens], wanted, "{text:?} in {limit}");
}

const TEXTS: [&str; 9] = [
    "",
    "a",
    " \u{200b} ",
    "abcabcd abcdz xyzxyz, ab! [MASK] aab\u{301} [MASK][SEP]ç",
    "abcz abcz abcz abcz abcz abcz abcz abcz abcz abcz abcz abcz abcz",
    "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc",
    "中文字 가각힣 日本語 हिन्दी ไทย Σίσυφος İstanbul",
    "abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabcz a",
    "[CLS] a [SEP] [SEP][SEP][SEP][SEP][SEP][SEP][SEP][SEP][SEP][SEP][SEP][SEP][SEP]",
];

#[test]
fn truncation_at_every_limit() {
    for pair in [UNCASED, CASED].map(pool_pair) {
        for text in TEXTS {
            (2..=40).for_each(|limit| check_limit(&pair, text, limit));
        }
    }
    let pair = pool_pair(UNCASED);
    for available in [0, 1] {
        let refused = pair.tokenizer.encode("a", &mut vec![0; available]);
        assert_eq!(refused, Err(Error::OutputLength { needed: 2, available }));
    }
}

#[test]
fn long_words_and_long_texts() {
    let pair = pool_pair(UNCASED);
    for c in ["a", "É", "각", "\u{302e}", "\u{301}", "😀", "İ"] {
        for n in [33, 34, 50, 51, 99, 100, 101, 127, 128, 129, 130, 1000] {
            pair.check(&c.repeat(n));
            pair.check(&format!("{}\u{302e}\u{16ff0}b", c.repeat(n)));
        }
    }
    let text = "Abc, 中文 é\u{200b}xyz [MASK] ".repeat(60_000);
    pair.check(&text);
    check_limit(&pair, &text, 16);
    check_limit(&pair, &"\u{300}\u{302e}".repeat(500_000), 16);
    check_limit(&pair, &"a".repeat(2_000_000), 3);
}

#[test]
fn large_ids_and_other_prefixes() {
    // More than 65,536 ids: three bytes each.
    let many = (0..70_000).map(|i| format!("w{i:x}"));
    let chars = "w0123456789abcdef".chars().flat_map(|c| [c.to_string(), format!("##{c}")]);
    let pair = Pair::new(&tokenizer_json(chars.chain(many), UNCASED).to_string());
    for i in (0..70_000).step_by(7) {
        pair.check(&format!("w{i:x} w{i:x}0 W{:x}[MASK][SEP]<ent>", 65_500 + i % 100));
    }
    // A prefix that could be part of a word, and none.
    for prefix in ["x", "é", ""] {
        let mut json = tokenizer_json(
            ["a", "b", "xa", "xb", "xab", "x", "xx", "éa", "éb"].map(String::from),
            CASED,
        );
        json["model"]["continuing_subword_prefix"] = prefix.into();
        let pair = Pair::new(&json.to_string());
        for text in ["aab", "abxab", "xxab", "xab", "éab", "aéb", "xaxb", "b", "bbbb", "q", "aq"]
        {
            pair.check(text);
        }
    }
}

#[test]
fn pieces_by_id() {
    let pair = pool_pair(UNCASED);
    let tokenizer = pair.tokenizer;
    assert_eq!(tokenizer.vocab_size(), pair.oracle.get_vocab_size(true));
    for id in 0..tokenizer.vocab_size() as u32 + 2 {
        assert_eq!(tokenizer.piece(id).map(|p| p.to_string()), pair.oracle.id_to_token(id));
    }
}

#[test]
fn damaged_sections() {
    let pieces = "abcdeé".chars().flat_map(|c| [c.to_string(), format!("##{c}")]);
    let json = tokenizer_json(pieces.chain(PIECES.map(String::from)), UNCASED).to_string();
    let section = Pair::new(&json).section;
    for end in 0..section.len() {
        assert!(Tokenizer::open(&section[..end]).is_err(), "cut at {end}");
    }
    assert!(Tokenizer::open(&[section, &[0]].concat()).is_err());

    let mut damaged = section.to_vec();
    let mut opened = 0;
    for at in 0..section.len() {
        let byte = section[at];
        let values = (0..8).map(|bit| byte ^ 1 << bit).chain([!byte, 0, 1, 0x7F, 0x80, 0xC0, 0xFF]);
        for value in values {
            damaged[at] = value;
            let Ok(tokenizer) = Tokenizer::open(&damaged) else { continue };
            opened += 1;
            for text in TEXTS {
                for limit in [2, 5, 64] {
                    let mut ids = vec![0; limit];
                    let encoded = tokenizer.encode(text, &mut ids).unwrap();
                    let in_range = |id: &u32| (*id as usize) < tokenizer.vocab_size();
                    assert!(ids[..encoded.tokens].iter().all(in_range), "byte {at} = {value:#x}");
                }
            }
            (0..40).for_each(|id| drop(tokenizer.piece(id)));
        }
        damaged[at] = byte;
    }
    // Labels and ids may well change to other valid ones.
    assert!(opened > 0);
}

#[test]
fn unsupported_tokenizers_are_refused() {
    let good = tokenizer_json(["a".to_string()], UNCASED);
    WordPiece::from_json(&good.to_string()).unwrap();
    let cases = [
        ("/model/type", json!("BPE"), "BPE"),
        ("/normalizer", json!({"type": "NFC"}), "NFC"),
        ("/normalizer", json!(null), "normalizer"),
        ("/pre_tokenizer/type", json!("ByteLevel"), "ByteLevel"),
        ("/post_processor", json!(null), "post-processor"),
        ("/post_processor/type", json!("RobertaProcessing"), "RobertaProcessing"),
        ("/model/max_input_chars_per_word", json!(1000), "1000 characters per word"),
        ("/model/unk_token", json!("<none>"), "<none>"),
        ("/model/vocab", json!({"[UNK]": -1}), "model.vocab"),
        ("/added_tokens/4/normalized", json!(true), "[MASK]"),
        ("/added_tokens/4/single_word", json!(true), "[MASK]"),
        ("/added_tokens/4/id", json!(7), "[MASK]"),
        ("/added_tokens/4/content", json!("[MASK] "), "[MASK] "),
    ];
    for (place, value, named) in cases {
        let mut json = good.clone();
        *json.pointer_mut(place).unwrap() = value;
        let refused = WordPiece::from_json(&json.to_string()).and_then(|w| w.section());
        let message = refused.expect_err(place).to_string();
        assert!(message.contains(named), "{place}: {message}");
    }
    assert!(section_from_dir(Path::new("no such directory")).is_err());
}

#[test]
fn vocab_txt_is_the_same_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nÉ\n##a\n##É\n";
    std::fs::write(dir.path().join("vocab.txt"), vocab).unwrap();
    let uncased = section_from_dir(dir.path()).unwrap();
    let config = json!({"do_lower_case": false, "tokenize_chinese_chars": false,
                        "mask_token": {"content": "[MASK]"}, "tokenizer_class": "BertTokenizer"});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let cased = section_from_dir(dir.path()).unwrap();
    for (section, flags) in [(uncased, UNCASED), (cased, (true, false, None, false))] {
        let mut json = tokenizer_json(vocab.lines().skip(5).map(String::from), flags);
        json["added_tokens"].as_array_mut().unwrap().truncate(5);
        let pair = Pair::with_section(&json.to_string(), section);
        for text in ["aÉ É a", "AÉ中a", "[MASK][PAD][CLS]a[UNK]", "É\u{301}: <ent>"] {
            pair.check(text);
        }
    }
}

/// Every line, every whole file and every naughty string of the evaluation data's texts.
fn data_texts(data: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    let mut folders = vec![data.join("unicode"), data.join("calib")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "txt") {
                let file = std::fs::read_to_string(path).unwrap();
                texts.extend(file.lines().map(String::from));
                texts.push(file);
            }
        }
    }
    let naughty = std::fs::read_to_string(data.join("unicode/blns/blns.json")).unwrap();
    texts.extend(serde_json::from_str::<Vec<String>>(&naughty).unwrap());
    texts
}

#[test]
fn real_model_on_real_texts() {
    let Some(dir) = grouse_tests::real_model() else { return };
    let section = section_from_dir(&dir).unwrap();
    assert!(section.len() <= 330_000, "{} bytes", section.len());
    let alone = tempfile::tempdir().unwrap();
    for file in ["vocab.txt", "tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::copy(dir.join(file), alone.path().join(file)).unwrap();
    }
    assert!(section_from_dir(alone.path()).unwrap() == section, "vocab.txt differs");

    let json = std::fs::read_to_string(dir.join("tokenizer.json")).unwrap();
    let pair = Pair::with_section(&json, section);
    for id in [0, 100, 101, 999, 1000, 2088, 7592, 30_521] {
        assert_eq!(pair.tokenizer.piece(id).map(|p| p.to_string()), pair.oracle.id_to_token(id));
    }
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if !data.exists() {
        println!("skipped: no evaluation data beside the project");
        return;
    }
    let texts = data_texts(&data);
    texts.iter().for_each(|text| pair.check(text));
    texts.iter().step_by(50).for_each(|t| (2..=40).for_each(|limit| check_limit(&pair, t, limit)));

    // Ids that transformers wrote in Python.
    let golden = std::fs::read_to_string(data.join("golden/minilm.jsonl")).unwrap();
    for line in golden.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut ids = vec![0; 256];
        let text = line["text"].as_str().unwrap();
        let tokens = pair.tokenizer.encode(text, &mut ids).unwrap().tokens;
        assert_eq!(json!(ids[..tokens]), line["input_ids"], "{text:?}");
    }
    println!(
        "{} texts and {} golden ones equal; the section has {} bytes",
        texts.len(),
        golden.lines().count(),
        pair.section.len()
    );
}
