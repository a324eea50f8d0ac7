//! Trims a vocabulary to the pieces that a corpus uses (`docs/tokenizer.md`).
//!
//! A word whose piece is dropped still splits into kept ones, because the characters stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use grouse_runtime::tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::Serialize;

use super::vocab::WordPiece;
use crate::heal::respell::Respell;
use crate::model::{DenseModel, Matrix};
use crate::{Error, Result, calibrate};

/// How much to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Pieces to keep, special tokens and characters included; every piece that the corpus uses
    /// when `None`.
    pub size: Option<usize>,
    /// Which single characters stay.
    pub chars: Chars,
}

/// The single characters that stay, at a word's start and inside of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Chars {
    /// Every character that the vocabulary has: nothing becomes unknown that was not.
    #[default]
    All,
    /// ASCII and the characters of the corpus: words of other scripts become unknown.
    Corpus,
}

/// A part of a vocabulary.
#[derive(Debug, Clone)]
pub struct Trimmed {
    /// The kept pieces, numbered anew from 0 in the order of their old ids.
    pub words: WordPiece,
    /// Old ids of the kept pieces, ascending: row `new` of the new table is row `kept[new]`.
    pub kept: Vec<u32>,
    /// What it does to the corpus.
    pub coverage: Coverage,
}

/// What a trimmed vocabulary does to the corpus that it was chosen by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Rows of the new table.
    pub size: usize,
    /// Pieces of the whole vocabulary.
    pub of: usize,
    /// Texts of the corpus.
    pub texts: usize,
    /// Words, punctuation included.
    pub words: u64,
    /// Words that have the pieces they had.
    pub words_unchanged: u64,
    /// Pieces by the whole vocabulary.
    pub pieces: u64,
    /// Those of them that are kept.
    pub pieces_kept: u64,
    /// Pieces by the trimmed vocabulary: the corpus is longer by so much.
    pub pieces_after: u64,
    /// Words unknown to the whole vocabulary.
    pub unknown_before: u64,
    /// Words unknown to the trimmed one.
    pub unknown: u64,
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: u64, all: u64| 100.0 * part as f64 / all.max(1) as f64;
        write!(
            f,
            "vocabulary: {} of {} pieces kept; in the corpus ({} texts, {} words) {:.2} % of the \
             words are split as before, {:.2} % of the pieces are kept, texts have {:.2} % more \
             tokens, {} words are unknown ({} before)",
            self.size,
            self.of,
            self.texts,
            self.words,
            percent(self.words_unchanged, self.words),
            percent(self.pieces_kept, self.pieces),
            percent(self.pieces_after, self.pieces) - 100.0,
            self.unknown,
            self.unknown_before,
        )
    }
}

/// Chooses the pieces of `words` that `texts` use, the most frequent first, and of equally
/// frequent ones those with lower ids: BERT's vocabularies are sorted by frequency.
///
/// Special tokens and characters ([`Chars`]) stay whatever the texts. With more room than the
/// texts fill, unused pieces follow by their ids.
///
/// # Errors
/// [`Error::Input`] for texts without a word, and for a size below what must stay.
pub fn trim(words: &WordPiece, texts: &[&str], options: Options) -> Result<Trimmed> {
    let section = words.section()?;
    let whole = open(&section)?;
    let Start { counts, alphabet, mut kept } = Start::new(words, &whole, texts, options.chars)?;
    let must = kept.len();
    let count = |id: u32| counts.get(id as usize).copied().unwrap_or_default();
    let reachable =
        |(piece, id): &(&String, &u32)| count(**id) > 0 || alphabet.spells(words, piece);
    let mut rest: Vec<u32> = words.pieces.iter().filter(reachable).map(|(_, id)| *id).collect();
    rest.retain(|id| !kept.contains(id));
    rest.sort_by_key(|id| (std::cmp::Reverse(count(*id)), *id));
    let used = rest.iter().take_while(|id| count(**id) > 0).count();
    let more = match options.size {
        None => used,
        Some(size) => size.checked_sub(must).ok_or_else(|| too_few(size, must, options.chars))?,
    };
    kept.extend(rest.into_iter().take(more));

    let kept: Vec<u32> = kept.into_iter().collect();
    let new: BTreeMap<u32, u32> = kept.iter().copied().zip(0..).collect();
    let smaller = words.renumbered(&new);
    let coverage = coverage(words, &whole, &smaller, &new, texts)?;
    Ok(Trimmed { words: smaller, kept, coverage })
}

/// The fewest pieces that [`trim`] can keep.
///
/// # Errors
/// As [`trim`].
pub fn least(words: &WordPiece, texts: &[&str], chars: Chars) -> Result<usize> {
    let section = words.section()?;
    Ok(Start::new(words, &open(&section)?, texts, chars)?.kept.len())
}

/// How a model's vocabulary was trimmed.
#[derive(Debug, Clone, Serialize)]
pub struct Vocabulary {
    /// Name of the corpus.
    pub corpus: String,
    /// What that does to it.
    #[serde(flatten)]
    pub coverage: Coverage,
}

impl Vocabulary {
    /// Trims the vocabulary of `model`, whose tokenizer `dir` holds, to the text in `file` (and the
    /// built-in sentences, which are all there is without it).
    ///
    /// # Errors
    /// As [`trim`], [`calibrate::corpus`] and [`WordPiece::from_dir`].
    pub fn trim(
        model: &mut DenseModel,
        dir: &Path,
        file: Option<&Path>,
        options: Options,
    ) -> Result<Self> {
        let (_, trimmed) = trim_dir(dir, file, options)?;
        trimmed.apply(model)?;
        let name = file.map_or("built-in sentences".into(), |file| {
            file.file_name().unwrap_or_default().to_string_lossy()
        });
        Ok(Self { corpus: name.into_owned(), coverage: trimmed.coverage })
    }
}

/// How `model`, whose tokenizer `dir` holds, is read once its vocabulary is trimmed as by
/// [`Vocabulary::trim`].
///
/// # Errors
/// As [`Vocabulary::trim`].
pub fn respell(
    model: &DenseModel,
    dir: &Path,
    file: Option<&Path>,
    options: Options,
) -> Result<Respell> {
    let (words, trimmed) = trim_dir(dir, file, options)?;
    Ok(Respell::new(model, &words, &trimmed))
}

/// The whole vocabulary and the trimmed one.
fn trim_dir(dir: &Path, file: Option<&Path>, options: Options) -> Result<(WordPiece, Trimmed)> {
    let corpus = calibrate::corpus(file)?;
    let texts: Vec<&str> = corpus.iter().map(String::as_str).collect();
    let words = WordPiece::from_dir(dir)?;
    let trimmed = trim(&words, &texts, options)?;
    Ok((words, trimmed))
}

/// What is known before pieces are chosen.
struct Start {
    /// How often the texts have each id.
    counts: Vec<u64>,
    alphabet: Alphabet,
    /// Ids that stay in any case.
    kept: BTreeSet<u32>,
}

impl Start {
    fn new(words: &WordPiece, whole: &Tokenizer<'_>, texts: &[&str], chars: Chars) -> Result<Self> {
        let counts = count(whole, texts)?;
        if counts.iter().all(|count| *count == 0) {
            return Err(Error::input(
                "the corpus of --vocab-from has no words",
                "give a plain text file with a sentence a line, of the kind that the model will read",
            ));
        }
        let alphabet = Alphabet::of(words, &counts, chars)?;
        let specials = words.added.values().chain([&words.unk_id, &words.cls_id, &words.sep_id]);
        let kept = specials.copied().chain(alphabet.ids.iter().copied()).collect();
        Ok(Self { counts, alphabet, kept })
    }
}

impl Trimmed {
    /// Gives `model` this vocabulary: its tokenizer, and of its word table the kept rows.
    ///
    /// # Errors
    /// [`Error::Input`] when the word table has fewer rows than the vocabulary has ids.
    pub fn apply(&self, model: &mut DenseModel) -> Result<()> {
        let table = &model.embeddings.word;
        let mut word = Matrix { rows: self.kept.len(), cols: table.cols, data: Vec::new() };
        for id in &self.kept {
            let row = Some(*id as usize).filter(|id| *id < table.rows).ok_or_else(|| {
                Error::input(
                    format!("the vocabulary has id {id}, the word table {} rows", table.rows),
                    "correct config.json or the tokenizer: they do not belong together",
                )
            })?;
            word.data.extend_from_slice(table.row(row));
        }
        model.config.vocab_size = word.rows;
        model.embeddings.word = word;
        model.tokenizer = self.words.section()?;
        Ok(())
    }
}

impl WordPiece {
    /// The pieces and tokens that `new` names, with the ids that it gives them. It must name the
    /// ids of unknown words and of the text's beginning and end.
    fn renumbered(&self, new: &BTreeMap<u32, u32>) -> Self {
        let part = |all: &BTreeMap<String, u32>| {
            all.iter().filter_map(|(text, id)| Some((text.clone(), *new.get(id)?))).collect()
        };
        let id = |old: u32| new.get(&old).copied().unwrap_or_default();
        Self {
            pieces: part(&self.pieces),
            added: part(&self.added),
            unk_id: id(self.unk_id),
            cls_id: id(self.cls_id),
            sep_id: id(self.sep_id),
            ..self.clone()
        }
    }

    /// For each id whether its piece continues a word, `[ids]`.
    fn continuations(&self) -> Vec<bool> {
        let ids = self.pieces.values().chain(self.added.values());
        let mut continues = vec![false; ids.max().map_or(0, |id| *id as usize + 1)];
        for (piece, id) in &self.pieces {
            continues[*id as usize] = self.tail(piece).is_some();
        }
        continues
    }
}

/// The characters that stay.
struct Alphabet {
    /// Ids of their pieces.
    ids: BTreeSet<u32>,
    /// Characters with a piece for a word's start.
    starts: BTreeSet<char>,
    /// Characters with a piece for the inside of a word.
    inside: BTreeSet<char>,
}

impl Alphabet {
    /// Those of `words` that a text can come to; with [`Chars::Corpus`] only ASCII and what the
    /// pieces with a count have.
    fn of(words: &WordPiece, counts: &[u64], which: Chars) -> Result<Self> {
        let text = |piece: &'_ str| words.tail(piece).unwrap_or(piece).to_string();
        let used = |id: &u32| counts.get(*id as usize).is_some_and(|count| *count > 0);
        let in_corpus: BTreeSet<char> = words
            .pieces
            .iter()
            .filter(|(_, id)| used(id))
            .flat_map(|(piece, _)| text(piece).chars().collect::<Vec<_>>())
            .collect();
        let single = |piece: &str| {
            let text = text(piece);
            let mut chars = text.chars();
            chars.next().filter(|_| chars.next().is_none())
        };
        let wanted = |c: &char| which == Chars::All || c.is_ascii() || in_corpus.contains(c);
        let specials = [words.unk_id, words.cls_id, words.sep_id];
        // A vocabulary of characters only says which pieces are ever reached: no word has a
        // punctuation character inside, say.
        let mut chars = words.clone();
        chars
            .pieces
            .retain(|piece, id| specials.contains(id) || single(piece).is_some_and(|c| wanted(&c)));
        chars.added.retain(|_, id| specials.contains(id));
        let section = chars.section()?;
        let tokenizer = open(&section)?;
        let all: BTreeSet<char> = chars.pieces.keys().filter_map(|piece| single(piece)).collect();
        let mut alphabet =
            Self { ids: BTreeSet::new(), starts: BTreeSet::new(), inside: BTreeSet::new() };
        for c in all {
            alphabet.ids.extend(encode(&tokenizer, &format!("{c}{c}"))?);
        }
        for (piece, _) in chars.pieces.iter().filter(|(_, id)| alphabet.ids.contains(id)) {
            let Some(c) = single(piece) else { continue };
            if words.tail(piece).is_some() {
                alphabet.inside.insert(c);
            }
            if words.tail(piece).is_none() || words.prefix.is_empty() {
                alphabet.starts.insert(c);
            }
        }
        Ok(alphabet)
    }

    /// Whether a word made of these characters can have `piece`.
    fn spells(&self, words: &WordPiece, piece: &str) -> bool {
        let tail = words.tail(piece);
        let mut chars = tail.unwrap_or(piece).chars();
        let first = if tail.is_some() { &self.inside } else { &self.starts };
        chars.next().is_some_and(|c| first.contains(&c)) && chars.all(|c| self.inside.contains(&c))
    }
}

fn too_few(size: usize, must: usize, chars: Chars) -> Error {
    let or = match chars {
        Chars::All => ", or --vocab-chars corpus, which keeps fewer characters",
        Chars::Corpus => "",
    };
    Error::input(
        format!("--vocab-size {size}: special tokens and single characters alone are {must}"),
        format!("give more than {must}{or}"),
    )
}

fn open(section: &[u8]) -> Result<Tokenizer<'_>> {
    Tokenizer::open(section).map_err(Error::runtime("the tokenizer's section"))
}

/// The ids of `text` alone.
fn encode(tokenizer: &Tokenizer<'_>, text: &str) -> Result<Vec<u32>> {
    // A character decomposes into three at most, and each may be a token.
    let mut ids = vec![0; 3 * text.len() + 2];
    let encoded = tokenizer.encode(text, &mut ids).map_err(Error::runtime("tokenizing"))?;
    ids.truncate(encoded.tokens.saturating_sub(1));
    ids.remove(0);
    Ok(ids)
}

/// How often `texts` have each id, `[ids]`.
fn count(tokenizer: &Tokenizer<'_>, texts: &[&str]) -> Result<Vec<u64>> {
    let none = || vec![0_u64; tokenizer.vocab_size()];
    texts
        .par_iter()
        .try_fold(none, |mut counts, text| {
            for id in encode(tokenizer, text)? {
                counts[id as usize] += 1;
            }
            Ok(counts)
        })
        .try_reduce(none, |mut a, b| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            Ok(a)
        })
}

/// What becomes of `texts` when `whole` (the tokenizer of `words`) gives way to `smaller`, whose
/// ids `new` gives for the old ones.
fn coverage(
    words: &WordPiece,
    whole: &Tokenizer<'_>,
    smaller: &WordPiece,
    new: &BTreeMap<u32, u32>,
    texts: &[&str],
) -> Result<Coverage> {
    let section = smaller.section()?;
    let trimmed = open(&section)?;
    let (continues, continues_new) = (words.continuations(), smaller.continuations());
    let none = || Coverage {
        size: new.len(),
        of: words.pieces.len(),
        texts: texts.len(),
        words: 0,
        words_unchanged: 0,
        pieces: 0,
        pieces_kept: 0,
        pieces_after: 0,
        unknown_before: 0,
        unknown: 0,
    };
    let unknown = |ids: &[u32], unk: u32| ids.iter().filter(|id| **id == unk).count() as u64;
    texts
        .par_iter()
        .try_fold(none, |mut sum, text| {
            let (before, after) = (encode(whole, text)?, encode(&trimmed, text)?);
            // Both divide the text into the same words.
            let old = before.chunk_by(|_, id| continues[*id as usize]);
            let now = after.chunk_by(|_, id| continues_new[*id as usize]);
            for (old, now) in old.zip(now) {
                let same = old.iter().map(|id| new.get(id)).eq(now.iter().map(Some));
                sum.words += 1;
                sum.words_unchanged += u64::from(same);
            }
            sum.pieces += before.len() as u64;
            sum.pieces_kept += before.iter().filter(|id| new.contains_key(id)).count() as u64;
            sum.pieces_after += after.len() as u64;
            sum.unknown_before += unknown(&before, words.unk_id);
            sum.unknown += unknown(&after, smaller.unk_id);
            Ok(sum)
        })
        .try_reduce(none, |a, b| {
            Ok(Coverage {
                words: a.words + b.words,
                words_unchanged: a.words_unchanged + b.words_unchanged,
                pieces: a.pieces + b.pieces,
                pieces_kept: a.pieces_kept + b.pieces_kept,
                pieces_after: a.pieces_after + b.pieces_after,
                unknown_before: a.unknown_before + b.unknown_before,
                unknown: a.unknown + b.unknown,
                ..a
            })
        })
}
