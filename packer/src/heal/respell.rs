//! Healing for a trimmed vocabulary: the student reads dropped words in the pieces that are left,
//! while the dense model reads them whole.

use grouse_runtime::tokenizer::vocab::MAX_PIECE_BYTES;

use crate::forward::Batch;
use crate::model::{DenseModel, Embeddings};
use crate::pack::trim::Trimmed;
use crate::pack::vocab::WordPiece;

/// How the pieces of the whole vocabulary are spelled in the trimmed one, both by the whole one's
/// ids.
#[derive(Debug, Clone)]
pub struct Respell {
    /// For each id the pieces that take its place: itself, if it is kept.
    spelling: Vec<Vec<u32>>,
    tables: Embeddings,
    most: usize,
}

impl Respell {
    /// For `model`, whose whole vocabulary is `words`.
    ///
    /// A word of several pieces is respelled piece by piece; the trimmed tokenizer may split the
    /// whole of it in another way.
    pub fn new(model: &DenseModel, words: &WordPiece, trimmed: &Trimmed) -> Self {
        let mut spelling: Vec<Vec<u32>> =
            (0..model.config.vocab_size as u32).map(|id| vec![id]).collect();
        for (piece, id) in &words.pieces {
            if trimmed.kept.binary_search(id).is_err()
                && let Some(place) = spelling.get_mut(*id as usize)
            {
                *place = spell(piece, words, trimmed).unwrap_or_else(|| vec![words.unk_id]);
            }
        }
        Self { spelling, tables: model.embeddings.clone(), most: model.config.max_positions }
    }

    /// The model's tables.
    pub fn tables(&self) -> &Embeddings {
        &self.tables
    }

    /// What the hash of a run covers.
    pub fn bytes(&self) -> impl Iterator<Item = u8> {
        self.spelling.iter().flatten().flat_map(|id| id.to_le_bytes())
    }

    /// `batch` respelled, and where each of its tokens begins there.
    pub fn batch(&self, batch: &Batch) -> (Batch, Vec<u32>) {
        let mut new = Batch { ids: Vec::new(), starts: vec![0] };
        let mut places = Vec::with_capacity(batch.tokens());
        for window in batch.starts.windows(2) {
            let start = new.ids.len();
            for id in &batch.ids[window[0]..window[1]] {
                let room = self.most - (new.ids.len() - start);
                if room > 0 {
                    let spelling = self.spelling.get(*id as usize).map_or(&[][..], Vec::as_slice);
                    places.push(new.ids.len() as u32);
                    new.ids.extend(spelling.iter().take(room));
                } else {
                    places.push(new.ids.len() as u32 - 1);
                }
            }
            new.starts.push(new.ids.len());
        }
        (new, places)
    }
}

/// The kept pieces that `piece` splits into, the longest first, by their old ids.
fn spell(piece: &str, words: &WordPiece, trimmed: &Trimmed) -> Option<Vec<u32>> {
    let tail = piece.strip_prefix(&words.prefix).filter(|tail| !tail.is_empty());
    let (mut rest, mut inside) = (tail.unwrap_or(piece), tail.is_some());
    let mut spelling = Vec::new();
    while !rest.is_empty() {
        let ends =
            (1..=rest.len().min(MAX_PIECE_BYTES)).rev().filter(|end| rest.is_char_boundary(*end));
        let (end, id) = ends.into_iter().find_map(|end| {
            let text = &rest[..end];
            let found = if inside {
                trimmed.words.pieces.get(&format!("{}{text}", words.prefix))
            } else {
                trimmed.words.pieces.get(text)
            };
            Some((end, trimmed.kept[*found? as usize]))
        })?;
        spelling.push(id);
        rest = &rest[end..];
        inside = true;
    }
    Some(spelling)
}

#[cfg(test)]
mod tests {
    use grouse_runtime::tokenizer::Tokenizer;
    use grouse_tests::random_bert::{self, Shape};

    use super::*;
    use crate::pack::trim::{Chars, Options, trim};

    #[test]
    fn words_of_one_piece_are_spelled_as_the_trimmed_tokenizer_does() {
        let dir = tempfile::tempdir().unwrap();
        random_bert::write(dir.path(), &Shape { vocab: 600, ..Shape::default() }, 8);
        let model = crate::import::load_dir(dir.path()).unwrap();
        let words = WordPiece::from_dir(dir.path()).unwrap();
        let options = Options { size: Some(250), chars: Chars::All };
        let trimmed = trim(&words, &["the man and the dog"], options).unwrap();
        let section = trimmed.words.section().unwrap();
        let tokenizer = Tokenizer::open(&section).unwrap();
        let respell = Respell::new(&model, &words, &trimmed);
        let mut split = 0;
        let plain = |piece: &str| piece.chars().all(|c| c.is_ascii_alphanumeric());
        for (piece, id) in words.pieces.iter().filter(|(piece, _)| plain(piece)) {
            let batch = Batch { ids: vec![2, *id, 3], starts: vec![0, 3] };
            let (new, places) = respell.batch(&batch);
            let mut ids = [0; 32];
            let tokens = tokenizer.encode(piece, &mut ids).unwrap().tokens;
            let wanted: Vec<u32> =
                ids[..tokens].iter().map(|id| trimmed.kept[*id as usize]).collect();
            assert_eq!(new.ids, wanted, "{piece}");
            assert_eq!(new.starts, [0, tokens]);
            assert_eq!(places, [0, 1, tokens as u32 - 1]);
            split += usize::from(tokens > 3);
        }
        assert!(split > 20, "{split} words are split");
    }

    #[test]
    fn long_texts_are_cut_at_the_position_table() {
        let dir = tempfile::tempdir().unwrap();
        random_bert::write(
            dir.path(),
            &Shape { vocab: 600, max_positions: 8, ..Shape::default() },
            8,
        );
        let model = crate::import::load_dir(dir.path()).unwrap();
        let words = WordPiece::from_dir(dir.path()).unwrap();
        let options = Options { size: Some(250), chars: Chars::All };
        let trimmed = trim(&words, &["the"], options).unwrap();
        let respell = Respell::new(&model, &words, &trimmed);
        let dropped = words.pieces.values().find(|id| trimmed.kept.binary_search(id).is_err());
        let ids = vec![*dropped.unwrap(); 8];
        let (new, places) = respell.batch(&Batch { ids, starts: vec![0, 8] });
        assert_eq!((new.ids.len(), places.len()), (8, 8));
        assert!(places.iter().all(|place| *place < 8));
    }
}
