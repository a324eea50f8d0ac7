//! Trimmed vocabularies: the packed tokenizer against Hugging Face's with the same vocabulary.

use std::collections::BTreeMap;

use grouse::pack::trim::{Chars, Options, Trimmed, trim};

use super::*;

/// `json` with the pieces of `trimmed`, numbered as it numbers them.
fn trimmed_json(mut json: Value, trimmed: &Trimmed) -> Value {
    let new: BTreeMap<u64, usize> =
        trimmed.kept.iter().enumerate().map(|(new, old)| (u64::from(*old), new)).collect();
    let renumber = |id: &mut Value| *id = json!(new[&id.as_u64().unwrap()]);
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| new.contains_key(&id.as_u64().unwrap()));
    vocab.values_mut().for_each(renumber);
    for token in json["added_tokens"].as_array_mut().unwrap() {
        renumber(&mut token["id"]);
    }
    let processor = &mut json["post_processor"];
    if processor["type"] == "BertProcessing" {
        ["cls", "sep"].iter().for_each(|name| renumber(&mut processor[*name][1]));
    } else {
        for token in processor["special_tokens"].as_object_mut().unwrap().values_mut() {
            renumber(&mut token["ids"][0]);
        }
    }
    json
}

fn pair(json: &str, trimmed: &Trimmed) -> Pair {
    let smaller = trimmed_json(serde_json::from_str(json).unwrap(), trimmed);
    Pair::with_section(&smaller.to_string(), trimmed.words.section().unwrap())
}

fn random_pool_json(flags: Flags) -> String {
    // Every character is a piece, so that a word of the pool is never unknown.
    let whole = Pair::of_texts(POOL, flags, &PIECES);
    tokenizer_json(whole.oracle.get_vocab(false).into_keys(), flags).to_string()
}

#[test]
fn ids_are_those_of_hugging_face_with_the_same_vocabulary() {
    let corpus = ["abcab abc xyzxyz. 中文字 [MASK]", "abcab, abc abc aab", "éç Σ"];
    for flags in [UNCASED, CASED] {
        let json = random_pool_json(flags);
        let words = WordPiece::from_json(&json).unwrap();
        let most = trim(&words, &corpus, Options::default()).unwrap();
        assert!(most.kept.len() < words.pieces.len());
        let fewest = Options { chars: Chars::Corpus, ..Options::default() };
        for options in [Options::default(), fewest, Options { size: Some(300), ..fewest }] {
            let trimmed = trim(&words, &corpus, options).unwrap();
            let pair = pair(&json, &trimmed);
            corpus.iter().chain(&TEXTS).for_each(|text| pair.check(text));
            pair.check(POOL);
        }
        let config = ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() };
        let pair = pair(&json, &most);
        proptest!(config, |(text in random_text())| {
            prop_assert_eq!(pair.difference(&text), None, "{:?}", text);
        });
    }
}

#[test]
fn nothing_becomes_unknown_while_all_characters_stay() {
    let json = random_pool_json(UNCASED);
    let words = WordPiece::from_json(&json).unwrap();
    let trimmed = trim(&words, &["abc"], Options::default()).unwrap();
    let (whole, smaller) = (Pair::new(&json), pair(&json, &trimmed));
    let unknown = |pair: &Pair, unk: u32, text: &str| {
        let ids = pair.oracle.encode_fast(text, false).unwrap();
        ids.get_ids().iter().filter(|id| **id == unk).count()
    };
    let mut split = 0;
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() };
    proptest!(config, |(text in random_text())| {
        let before = unknown(&whole, words.unk_id, &text);
        prop_assert_eq!(unknown(&smaller, trimmed.words.unk_id, &text), before);
    });
    for piece in PIECES.iter().filter(|piece| !piece.starts_with("##")) {
        let ids = smaller.oracle.encode_fast(*piece, false).unwrap();
        split += usize::from(ids.len() > 1);
    }
    assert!(split > 0, "no piece was dropped");
}

#[test]
fn the_most_frequent_pieces_stay_and_the_coverage_is_counted() {
    let pieces = ["a", "b", "##a", "##b", "ab", "aba", "bb", "##ab", "z!z", "Q", "##Q"];
    let json = tokenizer_json(pieces.map(String::from), UNCASED).to_string();
    let words = WordPiece::from_json(&json).unwrap();
    let corpus = ["ab ab ab aba aba", "bb q abab"];
    let options = |size| Options { size, ..Options::default() };
    let trimmed = |size| trim(&words, &corpus, options(size)).unwrap();
    let names = |trimmed: &Trimmed| {
        let mut names: Vec<_> = trimmed.words.pieces.iter().collect();
        names.sort_by_key(|(_, id)| **id);
        let names: Vec<_> = names.into_iter().map(|(piece, _)| piece.as_str()).collect();
        names[5..].join(" ")
    };
    // "abab" is aba + ##b; q is unknown; Q is never reached, nor are pieces with a "!" inside.
    assert_eq!(names(&trimmed(None)), "a b ##a ##b ab aba bb");
    // 8 special tokens, 4 characters, 2 more.
    assert_eq!(names(&trimmed(Some(14))), "a b ##a ##b ab aba");
    let small = trimmed(Some(13));
    assert_eq!(names(&small), "a b ##a ##b ab");
    assert_eq!(names(&trimmed(Some(1000))), "a b ##a ##b ab aba bb ##ab");
    let c = &small.coverage;
    assert_eq!((c.texts, c.size, c.of), (2, 13, 16));
    assert_eq!((c.words, c.words_unchanged), (8, 4));
    // ab ab ab aba aba | bb q aba ##b; then ab ab ab ab ##a ab ##a | b ##b q ab ##a ##b.
    assert_eq!((c.pieces, c.pieces_kept, c.pieces_after), (9, 5, 13));
    assert_eq!((c.unknown_before, c.unknown), (1, 1));
    assert_eq!(small.kept[small.words.cls_id as usize], words.cls_id);

    let error =
        |corpus: &[&str], size| trim(&words, corpus, options(size)).unwrap_err().to_string();
    assert!(error(&corpus, Some(11)).contains("alone are 12"), "{}", error(&corpus, Some(11)));
    assert!(error(&[" ", ""], None).contains("no words"));
}

#[test]
fn the_real_vocabulary_trimmed() {
    let Some(dir) = grouse_tests::real_model() else { return };
    let json = std::fs::read_to_string(dir.join("tokenizer.json")).unwrap();
    let words = WordPiece::from_dir(&dir).unwrap();
    let corpus: Vec<&str> = grouse::calibrate::built_in().collect();
    for (chars, size) in [(Chars::All, None), (Chars::Corpus, Some(4_000))] {
        let trimmed = trim(&words, &corpus, Options { size, chars }).unwrap();
        println!("{}", trimmed.coverage);
        assert_eq!(size.unwrap_or(trimmed.kept.len()), trimmed.kept.len());
        let pair = pair(&json, &trimmed);
        corpus.iter().chain(&TEXTS).for_each(|text| pair.check(text));
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
        if !data.exists() {
            println!("skipped: no evaluation data beside the project");
            continue;
        }
        data_texts(&data).iter().step_by(5).for_each(|text| pair.check(text));
    }
}
