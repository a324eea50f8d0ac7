//! Reads a Hugging Face BERT tokenizer and writes it as section `TOKN` (`docs/tokenizer.md`).

use std::collections::BTreeMap;
use std::path::Path;

use bytemuck::Zeroable;
use grouse_runtime::tokenizer::Tokenizer;
use grouse_runtime::tokenizer::vocab::{
    FLAG_CHINESE, FLAG_CLEAN_TEXT, FLAG_LOWERCASE, FLAG_STRIP_ACCENTS, Header, KIND_BERT_WORDPIECE,
    MAX_PIECE_BYTES, MAX_PREFIX_BYTES, MAX_VOCAB, MAX_WORD_CHARS, NODE_CHILDREN, NODE_ID,
    NODE_LABEL, ROOTS, id_bytes,
};
use serde_json::{Map, Value};

use crate::{Error, Result};

const REMEDY: &str = "Grouse runs BERT's WordPiece tokenizer (BertNormalizer, BertPreTokenizer, \
                      WordPiece, [CLS] … [SEP]); choose a model that has it";

/// A BERT WordPiece tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordPiece {
    /// Pieces and their ids, continuations with their prefix.
    pub pieces: BTreeMap<String, u32>,
    /// Tokens that are recognised in the text as it is, before normalization.
    pub added: BTreeMap<String, u32>,
    /// Prefix of pieces that continue a word: "##".
    pub prefix: String,
    /// A word of more characters is unknown.
    pub max_word_chars: u32,
    /// Id of a word that has no pieces.
    pub unk_id: u32,
    /// Id before the text.
    pub cls_id: u32,
    /// Id after the text.
    pub sep_id: u32,
    /// Remove control characters, make white space plain.
    pub clean_text: bool,
    /// CJK ideographs are words of their own.
    pub handle_chinese_chars: bool,
    /// Decompose and remove non-spacing marks.
    pub strip_accents: bool,
    /// Lower-case.
    pub lowercase: bool,
}

/// Reads the tokenizer of a Hugging Face directory and returns the bytes of section `TOKN`.
///
/// # Errors
/// When there is no tokenizer, or it is not one that the runtime can follow exactly.
pub fn section_from_dir(dir: &Path) -> Result<Vec<u8>> {
    WordPiece::from_dir(dir)?.section()
}

impl WordPiece {
    /// Reads `tokenizer.json`, or else `vocab.txt` with `tokenizer_config.json` and
    /// `special_tokens_map.json`.
    ///
    /// # Errors
    /// As [`section_from_dir`].
    pub fn from_dir(dir: &Path) -> Result<Self> {
        if let Some(text) = read(&dir.join("tokenizer.json"))? {
            return Self::from_json(&text);
        }
        if let Some(text) = read(&dir.join("vocab.txt"))? {
            let config = read_object(&dir.join("tokenizer_config.json"))?;
            let specials = read_object(&dir.join("special_tokens_map.json"))?;
            return Self::from_vocab_txt(&text, &config, &specials);
        }
        Err(Error::input(
            format!("{} has neither tokenizer.json nor vocab.txt", dir.display()),
            "give the directory of a Hugging Face BERT model, with its tokenizer",
        ))
    }

    /// Reads the text of a `tokenizer.json`. Its truncation and padding are left out: the model's
    /// maximum is what counts.
    ///
    /// # Errors
    /// When it is not the JSON of a tokenizer that the runtime can follow exactly.
    pub fn from_json(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text).map_err(|e| {
            Error::input(format!("tokenizer.json is not JSON: {e}"), "download the model again")
        })?;
        let model = &json["model"];
        // Files of old versions do not name the type.
        let legacy = model["type"].is_null() && model["continuing_subword_prefix"].is_string();
        if !legacy {
            expect_type(model, "model", "WordPiece")?;
        }
        expect_type(&json["normalizer"], "normalizer", "BertNormalizer")?;
        expect_type(&json["pre_tokenizer"], "pre-tokenizer", "BertPreTokenizer")?;

        let vocab = model["vocab"].as_object().ok_or_else(|| bad("model.vocab"))?;
        let pieces = vocab
            .iter()
            .map(|(piece, id)| Ok((piece.clone(), to_id(id, "model.vocab")?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let max_word_chars = model["max_input_chars_per_word"]
            .as_u64()
            .ok_or_else(|| bad("model.max_input_chars_per_word"))?;
        let unk = text_at(&model["unk_token"], "model.unk_token")?;
        let (cls_id, sep_id) = specials(&json["post_processor"])?;

        let normalizer = &json["normalizer"];
        let flag = |name: &str| normalizer[name].as_bool().ok_or_else(|| bad("normalizer"));
        let lowercase = flag("lowercase")?;
        let mut this = Self {
            added: BTreeMap::new(),
            prefix: text_at(&model["continuing_subword_prefix"], "model")?.to_string(),
            max_word_chars: u32::try_from(max_word_chars).unwrap_or(u32::MAX),
            unk_id: unknown(&pieces, unk)?,
            cls_id,
            sep_id,
            clean_text: flag("clean_text")?,
            handle_chinese_chars: flag("handle_chinese_chars")?,
            strip_accents: normalizer["strip_accents"].as_bool().unwrap_or(lowercase),
            lowercase,
            pieces,
        };
        for token in json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let id = this.add(token)?;
            if to_id(&token["id"], "added_tokens")? != id {
                return Err(Error::input(
                    format!(
                        "tokenizer.json gives added token {} an id other than {id}",
                        token["content"]
                    ),
                    "save the tokenizer again with a current version of transformers",
                ));
            }
        }
        Ok(this)
    }

    /// Reads a `vocab.txt`, a piece a line, with the objects of `tokenizer_config.json` and
    /// `special_tokens_map.json` (which may be empty).
    ///
    /// # Errors
    /// When a special token is missing or a setting is not supported.
    pub fn from_vocab_txt(
        text: &str,
        config: &Map<String, Value>,
        specials: &Map<String, Value>,
    ) -> Result<Self> {
        let class =
            config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("BertTokenizer");
        let known =
            ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"];
        if !known.contains(&class.trim_end_matches("Fast")) {
            return Err(Error::input(format!("the tokenizer is a {class}"), REMEDY));
        }
        // As in Hugging Face, of equal lines the last one counts.
        let pieces: BTreeMap<String, u32> =
            text.lines().enumerate().map(|(id, piece)| (piece.to_string(), id as u32)).collect();
        let flag = |name: &str, default: bool| {
            config.get(name).and_then(Value::as_bool).unwrap_or(default)
        };
        let name = |key: &str, default: &str| {
            let named = specials.get(key).or_else(|| config.get(key));
            let name = named.and_then(|v| v.as_str().or_else(|| v["content"].as_str()));
            name.unwrap_or(default).to_string()
        };
        let id = |name: &str| {
            pieces.get(name).copied().ok_or_else(|| {
                Error::input(format!("vocab.txt has no {name}"), "give the model's own vocab.txt")
            })
        };
        let [unk, cls, sep] =
            [("unk_token", "[UNK]"), ("cls_token", "[CLS]"), ("sep_token", "[SEP]")]
                .map(|(key, default)| name(key, default));
        let lowercase = flag("do_lower_case", true);
        let mut this = Self {
            added: BTreeMap::new(),
            prefix: "##".to_string(),
            max_word_chars: 100,
            unk_id: unknown(&pieces, &unk)?,
            cls_id: id(&cls)?,
            sep_id: id(&sep)?,
            clean_text: true,
            handle_chinese_chars: flag("tokenize_chinese_chars", true),
            strip_accents: flag("strip_accents", lowercase),
            lowercase,
            pieces: pieces.clone(),
        };
        let mut added: Vec<Value> =
            match config.get("added_tokens_decoder").and_then(Value::as_object) {
                Some(tokens) => {
                    let mut tokens: Vec<_> = tokens.iter().collect();
                    tokens.sort_by_key(|(id, _)| id.parse::<u32>().unwrap_or(u32::MAX));
                    tokens.into_iter().map(|(_, token)| token.clone()).collect()
                }
                None => Vec::new(),
            };
        for (key, default) in [("pad_token", "[PAD]"), ("mask_token", "[MASK]")] {
            let name = name(key, default);
            if pieces.contains_key(&name) {
                added.push(name.into());
            }
        }
        added.extend([unk.into(), cls.into(), sep.into()]);
        let more = specials.get("additional_special_tokens");
        let more =
            more.or_else(|| config.get("additional_special_tokens")).and_then(Value::as_array);
        added.extend(more.into_iter().flatten().cloned());
        for token in &added {
            this.add(token)?;
        }
        Ok(this)
    }

    /// Adds a token as Hugging Face would and returns its id: the piece's that is spelled so, or
    /// the next free one.
    fn add(&mut self, token: &Value) -> Result<u32> {
        let content =
            token.as_str().map_or_else(|| text_at(&token["content"], "added_tokens"), Ok)?;
        let is = |name: &str| token[name].as_bool().unwrap_or(false);
        let unsupported = [
            (is("normalized"), "is matched in the normalized text"),
            (is("single_word"), "is matched as a single word only"),
            // Stripping is of no consequence otherwise, as white space has no tokens.
            (
                (is("lstrip") || is("rstrip")) && content.trim() != content,
                "strips white space and starts or ends with it",
            ),
            (content.is_empty(), "is empty"),
            (content.len() > MAX_PIECE_BYTES, "is too long"),
        ];
        if let Some((_, why)) = unsupported.iter().find(|(is, _)| *is) {
            return Err(Error::input(
                format!("the tokenizer's added token {content:?} {why}, which is not supported"),
                "save the tokenizer with this token special (normalized, single_word: false), or without it",
            ));
        }
        if let Some(id) = self.added.get(content) {
            return Ok(*id);
        }
        let next = |this: &Self| {
            let new = this.added.keys().filter(|token| !this.pieces.contains_key(*token)).count();
            (this.pieces.len() + new) as u32
        };
        let id = self.pieces.get(content).copied().unwrap_or_else(|| next(self));
        self.added.insert(content.to_string(), id);
        Ok(id)
    }

    /// The bytes of section `TOKN`, accepted by the runtime.
    ///
    /// # Errors
    /// When a limit of the format is exceeded.
    pub fn section(&self) -> Result<Vec<u8>> {
        let ids = self.pieces.values().chain(self.added.values());
        let vocab_size = ids.max().map_or(0, |id| id.saturating_add(1));
        check_limit("ids in the vocabulary", vocab_size as usize, MAX_VOCAB as usize)?;
        check_limit("characters per word", self.max_word_chars as usize, MAX_WORD_CHARS)?;
        check_limit("bytes of the prefix of continuations", self.prefix.len(), MAX_PREFIX_BYTES)?;

        let (starts, continuations) = self.namespaces();
        let mut trie = Trie { nodes: Vec::new(), id_bytes: id_bytes(vocab_size) as usize };
        let tables = [trie.roots(&starts)?, trie.roots(&continuations)?];
        let mut added = Vec::new();
        for (content, id) in &self.added {
            added.push(content.len() as u8);
            added.extend_from_slice(&id.to_le_bytes()[..3]);
            added.extend_from_slice(content.as_bytes());
        }
        let flags = [
            (self.clean_text, FLAG_CLEAN_TEXT),
            (self.handle_chinese_chars, FLAG_CHINESE),
            (self.strip_accents, FLAG_STRIP_ACCENTS),
            (self.lowercase, FLAG_LOWERCASE),
        ];
        let header = Header {
            kind: KIND_BERT_WORDPIECE,
            flags: flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum(),
            vocab_size,
            unk_id: self.unk_id,
            cls_id: self.cls_id,
            sep_id: self.sep_id,
            max_word_chars: self.max_word_chars,
            id_bytes: id_bytes(vocab_size),
            prefix_bytes: self.prefix.len() as u32,
            added_bytes: added.len() as u32,
            node_bytes: trie.nodes.len() as u32,
            ..Header::zeroed()
        };
        let mut section = bytemuck::bytes_of(&header).to_vec();
        section.extend(tables.iter().flatten().flat_map(|offset| offset.to_le_bytes()));
        section.extend_from_slice(self.prefix.as_bytes());
        section.extend_from_slice(&added);
        section.extend_from_slice(&trie.nodes);
        Tokenizer::open(&section).map_err(Error::runtime("the packed form of the tokenizer"))?;
        Ok(section)
    }

    /// The text of a piece that continues a word, without the prefix.
    pub(super) fn tail<'p>(&self, piece: &'p str) -> Option<&'p str> {
        piece.strip_prefix(&self.prefix).filter(|tail| !tail.is_empty())
    }

    /// Pieces that start a word and pieces that continue one (without the prefix), sorted.
    fn namespaces(&self) -> (Vec<Entry<'_>>, Vec<Entry<'_>>) {
        // Punctuation is never inside a word, so "##x" can never start one; "x_" could.
        let apart = self.prefix.chars().any(|c| c.is_ascii_punctuation());
        let pieces = || self.pieces.iter().filter(|(piece, _)| !piece.is_empty());
        let starts = pieces().filter(|(piece, _)| !apart || self.tail(piece).is_none());
        let continuations = pieces().filter_map(|(piece, id)| Some((self.tail(piece)?, id)));
        (
            starts.map(|(piece, id)| (piece.as_bytes(), *id)).collect(),
            continuations.map(|(tail, id)| (tail.as_bytes(), *id)).collect(),
        )
    }
}

/// A piece and its id.
type Entry<'a> = (&'a [u8], u32);

/// Writes tries, nodes in preorder.
struct Trie {
    nodes: Vec<u8>,
    id_bytes: usize,
}

impl Trie {
    /// Writes the trie of sorted `entries` and returns where the root of each first byte starts.
    fn roots(&mut self, entries: &[Entry]) -> Result<Vec<u32>> {
        if let Some((piece, _)) = entries.iter().find(|(piece, _)| piece.len() > MAX_PIECE_BYTES) {
            let what = format!("bytes of the piece {:?}", String::from_utf8_lossy(piece));
            check_limit(&what, piece.len(), MAX_PIECE_BYTES)?;
        }
        let mut table = Vec::with_capacity(ROOTS);
        for byte in 0..=u8::MAX {
            table.push(self.nodes.len() as u32);
            let below = |edge: fn(&u8, &u8) -> bool| {
                entries.partition_point(|(piece, _)| edge(&piece[0], &byte))
            };
            let root = &entries[below(|a, b| a < b)..below(|a, b| a <= b)];
            if !root.is_empty() {
                let node = self.node(root, 0);
                self.nodes.extend(node);
            }
        }
        table.push(self.nodes.len() as u32);
        Ok(table)
    }

    /// The node of `entries`, not empty, which are equal up to `depth` and in the byte there.
    fn node(&self, entries: &[Entry], depth: usize) -> Vec<u8> {
        let (first, id) = entries[0];
        let (last, _) = entries[entries.len() - 1];
        let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let end = common.min(depth + usize::from(NODE_LABEL) + 1);
        let ends_piece = first.len() == end;
        let mut children = Vec::new();
        let below = &entries[usize::from(ends_piece)..];
        for siblings in below.chunk_by(|(a, _), (b, _)| a[end] == b[end]) {
            children.extend(self.node(siblings, end));
        }

        let mut head = (end - depth - 1) as u8;
        head |= if ends_piece { NODE_ID } else { 0 };
        head |= if children.is_empty() { 0 } else { NODE_CHILDREN };
        let mut node = vec![head];
        node.extend_from_slice(&first[depth..end]);
        if ends_piece {
            node.extend_from_slice(&id.to_le_bytes()[..self.id_bytes]);
        }
        if !children.is_empty() {
            let mut length = children.len();
            while length >= 0x80 {
                node.push(length as u8 | 0x80);
                length >>= 7;
            }
            node.push(length as u8);
            node.extend(children);
        }
        node
    }
}

fn check_limit(what: &str, value: usize, limit: usize) -> Result<()> {
    if value <= limit {
        return Ok(());
    }
    Err(Error::input(
        format!("the tokenizer has {value} {what}, at most {limit} are supported"),
        "choose a model with a smaller tokenizer",
    ))
}

/// The file's text, or `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// The file's JSON object, empty when there is no such file.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let Some(text) = read(path)? else { return Ok(Map::new()) };
    serde_json::from_str(&text).map_err(|e| {
        let what = format!("{} is not a JSON object: {e}", path.display());
        Error::input(what, "download the model again")
    })
}

fn bad(field: &str) -> Error {
    let what = format!("tokenizer.json is malformed at {field}");
    Error::input(what, "save the tokenizer again with a current version of transformers")
}

fn expect_type(value: &Value, part: &str, wanted: &str) -> Result<()> {
    match value["type"].as_str() {
        Some(found) if found == wanted => Ok(()),
        found => {
            let found = found.unwrap_or("not given");
            Err(Error::input(format!("the tokenizer's {part} is {found}, not {wanted}"), REMEDY))
        }
    }
}

fn text_at<'v>(value: &'v Value, field: &str) -> Result<&'v str> {
    value.as_str().ok_or_else(|| bad(field))
}

fn to_id(value: &Value, field: &str) -> Result<u32> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.filter(|id| *id < MAX_VOCAB).ok_or_else(|| bad(field))
}

fn unknown(pieces: &BTreeMap<String, u32>, unk: &str) -> Result<u32> {
    pieces.get(unk).copied().ok_or_else(|| {
        let what = format!("the vocabulary has no {unk}, the token of unknown words");
        Error::input(what, "give the model's own tokenizer")
    })
}

/// The ids before and after the text.
fn specials(processor: &Value) -> Result<(u32, u32)> {
    match processor["type"].as_str() {
        Some("BertProcessing") => {
            let id = |name: &str| to_id(&processor[name][1], "post_processor");
            Ok((id("cls")?, id("sep")?))
        }
        Some("TemplateProcessing") => {
            let other = || Error::input("the tokenizer's template is not [CLS] … [SEP]", REMEDY);
            let single = processor["single"].as_array().ok_or_else(|| bad("post_processor"))?;
            let [before, text, after] = &single[..] else { return Err(other()) };
            if text["Sequence"]["id"] != "A" {
                return Err(other());
            }
            let id = |part: &Value| {
                let name = part["SpecialToken"]["id"].as_str().ok_or_else(other)?;
                match processor["special_tokens"][name]["ids"].as_array().map(Vec::as_slice) {
                    Some([id]) => to_id(id, "post_processor"),
                    _ => Err(other()),
                }
            };
            Ok((id(before)?, id(after)?))
        }
        found => {
            let found = found.unwrap_or("not given");
            Err(Error::input(format!("the tokenizer's post-processor is {found}"), REMEDY))
        }
    }
}
