//! Shrinking to a device: which number types, vocabulary and density make a model fit.
//!
//! Int4 costs next to nothing, so it comes first; then vocabulary and density share what is left,
//! by what each was measured to cost (`docs/pruning.md`).

use grouse_boards::Board;
use grouse_boards::runner::fit::{Estimate, Work};
use grouse_runtime::format::{
    self, Arch, DataType, EmbeddingHeader, Header, LayerHeader, MatrixKind, SectionEntry,
    table_row_i2, table_row_i4,
};
use grouse_runtime::kernels::TILE_TOKENS;
use serde::Serialize;

use crate::model::DenseModel;
use crate::prune::cost::Measure;
use crate::prune::options::{dense_cost, shape};
use crate::{Error, Result};

/// What a device has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Room {
    /// Bytes for the packed file.
    pub file: u64,
    /// Bytes for the arena, if that is limited.
    pub arena: Option<u64>,
    /// Most tokens of one text.
    pub tokens: usize,
    /// How long such a text may take, if that is limited.
    pub time: Option<Time>,
}

/// A limit of time, by the estimate of `grouse fit`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Time {
    /// Milliseconds from ids to embedding.
    pub milliseconds: f64,
    /// Whose clock and cost figures.
    #[serde(skip)]
    pub board: Board,
}

impl Time {
    /// Milliseconds that `model` takes with its matrices at this density, and all else whole.
    ///
    /// # Errors
    /// [`Error::Input`] when the board has no figures.
    fn estimate(&self, model: &DenseModel, choice: &Choice, tokens: usize) -> Result<f64> {
        let work = work(model, choice, tokens);
        let estimate = Estimate::of(&self.board, &work).ok_or_else(|| {
            Error::input(
                format!("the catalogue has no figures to estimate time on {} by", self.board.id),
                "leave out --latency, or count them: boards/examples/cost.rs".to_owned(),
            )
        })?;
        Ok(estimate.milliseconds)
    }

    /// Most that may be kept of the matrices, which can exceed 1, and the least time that a model
    /// can be brought to.
    fn density(&self, model: &DenseModel, choice: &Choice, tokens: usize) -> Result<(f64, f64)> {
        let at = |density| self.estimate(model, &Choice { density, ..*choice }, tokens);
        let (none, all) = (at(0.0)?, at(1.0)?);
        Ok(((self.milliseconds - none) / (all - none), none + LEAST_DENSITY * (all - none)))
    }
}

/// What the encoder does for a text, as [`Work::new`] has it of a packed model.
fn work(model: &DenseModel, choice: &Choice, tokens: usize) -> Work {
    let tokens = tokens.next_multiple_of(TILE_TOKENS) as u64;
    let mut work = Work::default();
    for layer in 0..model.layers.len() {
        for kind in MatrixKind::ALL {
            let (rows, cols) = shape(model, layer, kind);
            let macs = ((rows * cols) as f64 * choice.density) as u64 * tokens;
            let by_type =
                if choice.weight_bits == 4 { &mut work.i4_macs } else { &mut work.i8_macs };
            *by_type += macs;
            work.elements += (rows + cols) as u64 * tokens;
        }
        work.attention_macs += 2 * tokens * tokens * model.config.hidden_size as u64;
    }
    work
}

/// What is to be done to a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Choice {
    /// Bits of a weight: 8 or 4.
    pub weight_bits: u8,
    /// Bits of a number of the word table: 8, 4 or 2.
    pub table_bits: u8,
    /// Pieces to keep; all when `None`.
    pub vocabulary: Option<usize>,
    /// What of the matrices is kept, by [`Choice::measure`].
    pub density: f64,
    /// It is time that limits the density, not bytes.
    pub by_time: bool,
    /// Points of Spearman × 100 that all-MiniLM-L6-v2 lost on STS-Benchmark dev by as much.
    pub expected_loss: f64,
}

impl Choice {
    /// Number type of the matrices.
    pub fn weights(&self) -> DataType {
        if self.weight_bits == 4 { DataType::I4 } else { DataType::I8 }
    }

    /// Number type of the tables.
    pub fn embeddings(&self) -> DataType {
        match self.table_bits {
            2 => DataType::I2,
            4 => DataType::I4,
            _ => DataType::I8,
        }
    }

    /// Bytes of a row of the word table, its scale included.
    pub fn row_bytes(&self, hidden: usize) -> usize {
        let row = match self.table_bits {
            2 => table_row_i2(hidden),
            4 => table_row_i4(hidden),
            _ => hidden,
        };
        row + size_of::<f32>()
    }

    /// What the density counts.
    pub fn measure(&self) -> Measure {
        if self.by_time {
            return Measure::Macs;
        }
        if self.weight_bits == 4 { Measure::Int4Bytes } else { Measure::Bytes }
    }

    /// What pruning is to keep of it. Of time a little is left over: what a file takes differs from
    /// the sum over its matrices by the inputs that they gather.
    pub fn budget(&self) -> f64 {
        if self.by_time { TIME_USED * self.density } else { self.density }
    }
}

/// Part of the multiplications that time allows which are given out.
const TIME_USED: f64 = 0.99;

/// Pieces and points lost, all-MiniLM-L6-v2, dense: the prototype.
const BY_VOCABULARY: [(f64, f64); 6] =
    [(4e3, 3.9), (6e3, 3.0), (8e3, 2.3), (12e3, 1.9), (16e3, 1.0), (30_522.0, 0.0)];
/// Density and points lost, all-MiniLM-L6-v2, `--method auto`, not healed; the first point is older
/// than the removal of heads and neurons.
const BY_DENSITY: [(f64, f64); 5] =
    [(0.06, 9.0), (0.12, 4.1), (0.25, 1.75), (0.5, 0.55), (1.0, 0.0)];
/// Points lost by an int2 word table.
const BY_INT2: f64 = 0.4;
/// Vocabularies that are looked at.
const VOCABULARIES: [usize; 16] = [
    24_000, 20_000, 16_000, 14_000, 12_000, 11_000, 10_000, 9_000, 8_000, 7_000, 6_000, 5_000,
    4_000, 3_000, 2_000, 1_000,
];
/// Time limits the density when it allows less than so much of what bytes do.
const NEAR: f64 = 0.95;
/// Below it nothing is left of a model.
const LEAST_DENSITY: f64 = 0.06;
/// Bytes of the JSON section and the self-test, about.
const NOTES: u64 = 6 << 10;
/// Bytes of a group beside its weights: its descriptor and what aligns its block, about.
const GROUP: u64 = 64;
/// Groups of a pruned matrix, about.
const GROUPS: u64 = 24;

/// Chooses for `model`, whose vocabulary can be trimmed to `least` pieces.
///
/// # Errors
/// [`Error::Input`] when nothing fits, with the bytes or the time that would.
pub fn choose(model: &DenseModel, room: &Room, least: usize) -> Result<Choice> {
    check_arena(model, room)?;
    let whole = model.config.vocab_size;
    let choice = |weight_bits, table_bits| Choice {
        weight_bits,
        table_bits,
        vocabulary: None,
        density: 1.0,
        by_time: false,
        expected_loss: 0.0,
    };
    let sizes = VOCABULARIES.into_iter().filter(|size| *size > least && *size < whole);
    let smaller = sizes
        .chain([least])
        .flat_map(|size| [4, 2].map(|bits| Choice { vocabulary: Some(size), ..choice(4, bits) }));
    // Equal losses go to the first.
    let candidates = [(8, 8), (8, 4), (4, 4), (4, 2)].map(|(w, t)| choice(w, t));
    let mut best: Option<Choice> = None;
    for candidate in candidates.into_iter().chain(smaller) {
        let Some(fitted) = fit(model, room, candidate)? else { continue };
        if best.is_none_or(|best| fitted.expected_loss < best.expected_loss) {
            best = Some(fitted);
        }
    }
    if let Some(best) = best {
        return Ok(best);
    }
    if let Some(time) = &room.time {
        let times = [8, 4].map(|bits| time.density(model, &choice(bits, 4), room.tokens));
        let least = times
            .into_iter()
            .try_fold(f64::INFINITY, |least, each| Ok::<_, Error>(least.min(each?.1)))?;
        if least > time.milliseconds {
            return Err(Error::input(
                format!(
                    "{} takes at least {least:.1} ms for {} tokens on {} (an estimate), however \
                     little of it is kept",
                    model.name, room.tokens, time.board.id
                ),
                format!("allow --latency {:.0}, fewer --tokens, or a faster board", least.ceil()),
            ));
        }
    }
    let smallest = choice(4, 2);
    let needed = fixed_bytes(model, &smallest, least, room.tokens)
        + (LEAST_DENSITY * dense_cost(model, smallest.measure()) as f64) as u64;
    Err(Error::input(
        format!("{} does not fit {} bytes, however small", model.name, room.file),
        format!("{needed} bytes are the least that it takes; choose a smaller model"),
    ))
}

/// The most of `candidate`'s matrices that bytes and time allow; `None` when that is too little.
fn fit(model: &DenseModel, room: &Room, candidate: Choice) -> Result<Option<Choice>> {
    let pieces = candidate.vocabulary.unwrap_or(model.config.vocab_size);
    let fixed = fixed_bytes(model, &candidate, pieces, room.tokens);
    let Some(left) = room.file.checked_sub(fixed) else { return Ok(None) };
    let by_bytes = (left as f64 / dense_cost(model, candidate.measure()) as f64).min(1.0);
    let by_time = match &room.time {
        None => 1.0,
        Some(time) => time.density(model, &candidate, room.tokens)?.0,
    };
    let density = by_bytes.min(by_time);
    // Int8 matrices that have to be pruned for want of bytes are twice the int4 ones.
    let wasteful = candidate.weight_bits == 8 && by_bytes < 1.0 && by_bytes <= by_time;
    if density < LEAST_DENSITY || wasteful {
        return Ok(None);
    }
    let lost = |pieces| interpolate(&BY_VOCABULARY, pieces as f64);
    let expected_loss = lost(pieces) - lost(model.config.vocab_size)
        + interpolate(&BY_DENSITY, density)
        + if candidate.table_bits == 2 { BY_INT2 } else { 0.0 };
    // What groups take beside their weights could fill the bytes first when both are near.
    let by_time = by_time < if by_bytes < 1.0 { NEAR * by_bytes } else { 1.0 };
    Ok(Some(Choice { density, by_time, expected_loss, ..candidate }))
}

/// Pieces for `choice` that fill `room` when a file with `packed` pieces takes `bytes`, a little
/// left over.
pub fn refill(model: &DenseModel, room: &Room, packed: usize, bytes: u64, piece: u64) -> usize {
    // Names of pieces differ in length.
    let spare = room.file as i64 - bytes as i64 - 512;
    let more = spare.div_euclid(piece.max(1) as i64);
    let pieces = packed as i64 + more;
    usize::try_from(pieces).unwrap_or(0).min(model.config.vocab_size)
}

/// Refuses what needs more memory than there is even before a weight is chosen.
fn check_arena(model: &DenseModel, room: &Room) -> Result<()> {
    let Some(arena) = room.arena else { return Ok(()) };
    // Residual stream, queries, keys and values of 16 tokens at a time, f32.
    let tile = (4 * model.config.hidden_size * 16 * size_of::<f32>()) as u64;
    let needed = tile * room.tokens.div_ceil(16) as u64;
    if needed <= arena {
        return Ok(());
    }
    Err(Error::input(
        format!(
            "{} tokens take more than {needed} bytes of RAM, the device has {arena}",
            room.tokens
        ),
        format!("at most {} tokens fit: --tokens", arena / tile * 16),
    ))
}

/// Bytes of the packed file beside what [`Measure`] counts, with `pieces` in the vocabulary.
fn fixed_bytes(model: &DenseModel, choice: &Choice, pieces: usize, tokens: usize) -> u64 {
    let hidden = model.config.hidden_size;
    let position =
        if choice.table_bits < 8 { table_row_i4(hidden) + size_of::<f32>() } else { 2 * hidden };
    let tables = pieces * choice.row_bytes(hidden)
        + tokens * position
        + (model.config.token_types + 2) * hidden * size_of::<f32>();
    let names = model.tokenizer.len() as u64 * pieces as u64 / model.config.vocab_size as u64;
    let matrices = (0..model.layers.len()).flat_map(|l| MatrixKind::ALL.map(|kind| (l, kind)));
    let equalize: usize =
        matrices.map(|(l, kind)| shape(model, l, kind).1 * size_of::<f32>()).sum();
    let layer = size_of::<LayerHeader>() + 4 * hidden * size_of::<f32>();
    let heads = [
        size_of::<Header>(),
        (model.layers.len() + 5) * (size_of::<SectionEntry>() + format::ALIGN),
        size_of::<Arch>() + size_of::<EmbeddingHeader>(),
        model.layers.len() * layer,
    ];
    let groups = if choice.weight_bits == 4 { GROUPS * GROUP } else { GROUP };
    (tables + equalize + heads.iter().sum::<usize>()) as u64
        + names
        + NOTES
        + groups * 4 * model.layers.len() as u64
}

/// The value at `x` of a curve through `points`, straight in ln x and level beyond its ends.
fn interpolate(points: &[(f64, f64)], x: f64) -> f64 {
    let after = points.partition_point(|(at, _)| *at < x);
    match (after.checked_sub(1).and_then(|i| points.get(i)), points.get(after)) {
        (Some((x0, y0)), Some((x1, y1))) => {
            y0 + (y1 - y0) * (x.ln() - x0.ln()) / (x1.ln() - x0.ln())
        }
        (Some((_, y)), None) | (None, Some((_, y))) => *y,
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use grouse_tests::random_bert::{self, Shape};

    use super::*;

    fn model() -> DenseModel {
        let dir = tempfile::tempdir().unwrap();
        let shape =
            Shape { vocab: 2_000, hidden: 64, heads: 4, intermediate: 256, ..Shape::default() };
        random_bert::write(dir.path(), &shape, 3);
        crate::import::load_dir(dir.path()).unwrap()
    }

    fn room(file: u64) -> Room {
        Room { file, arena: None, tokens: 16, time: None }
    }

    #[test]
    fn less_room_takes_more_away() {
        let model = model();
        let mut last: Option<Choice> = None;
        for file in (20..400).rev().map(|kib| kib << 10) {
            let Ok(choice) = choose(&model, &room(file), 300) else { break };
            let pieces = choice.vocabulary.unwrap_or(2_000);
            let dense = dense_cost(&model, choice.measure()) as f64;
            let size = fixed_bytes(&model, &choice, pieces, 16) as f64 + choice.density * dense;
            assert!(size <= file as f64 + 1.0, "{choice:?} in {file}");
            if let Some(last) = last {
                assert!(choice.expected_loss >= last.expected_loss - 1e-9, "{last:?} {choice:?}");
                assert!(choice.weight_bits <= last.weight_bits);
            }
            last = Some(choice);
        }
        let last = last.unwrap();
        assert!(
            last.weight_bits == 4 && last.density < 0.2 && last.vocabulary.is_some(),
            "{last:?}"
        );
        let first = choose(&model, &room(10 << 20), 300).unwrap();
        assert!(first.weight_bits == 8 && first.density == 1.0 && first.vocabulary.is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_figures() {
        let model = model();
        let error = choose(&model, &room(10_000), 300).unwrap_err();
        assert!(error.to_string().contains("does not fit 10000 bytes"), "{error}");
        let small = Room { arena: Some(10_000), ..room(1 << 20) };
        let error = choose(&model, &small, 300).unwrap_err();
        assert!(error.to_string().contains("16 tokens take more than 16384 bytes"), "{error}");
    }

    #[test]
    fn less_time_takes_more_away_and_none_is_refused() {
        let model = model();
        let board = Board::by_id("pico2").unwrap();
        let timed = |file, milliseconds| Room {
            time: Some(Time { milliseconds, board: board.clone() }),
            ..room(file)
        };
        let dense = choose(&model, &room(10 << 20), 300).unwrap();
        let time = Time { milliseconds: 0.0, board: board.clone() };
        let whole = time.estimate(&model, &dense, 16).unwrap();
        // Enough of it changes nothing.
        assert_eq!(choose(&model, &timed(10 << 20, whole * 1.01), 300).unwrap(), dense);
        let mut last = 1.0;
        for part in [0.95, 0.9, 0.8, 0.7] {
            let choice = choose(&model, &timed(10 << 20, whole * part), 300).unwrap();
            assert!(choice.by_time && choice.weight_bits == 8 && choice.density < last);
            assert_eq!(choice.measure(), Measure::Macs);
            let took = time.estimate(&model, &choice, 16).unwrap();
            assert!((took / (whole * part) - 1.0).abs() < 1e-3, "{took} of {}", whole * part);
            last = choice.density;
        }
        // Where bytes are shorter, they decide as they did.
        let tight = choose(&model, &room(60 << 10), 300).unwrap();
        assert!(tight.density < 0.9, "{tight:?}");
        assert_eq!(choose(&model, &timed(60 << 10, whole * 2.0), 300).unwrap(), tight);
        let error = choose(&model, &timed(10 << 20, whole * 0.01), 300).unwrap_err();
        assert!(error.to_string().contains("takes at least"), "{error}");
        // The catalogue has no figures for an operating system.
        let linux = Time { board: Board::by_id("linux-a53").unwrap(), ..time };
        let error = choose(&model, &Room { time: Some(linux), ..room(10 << 20) }, 300).unwrap_err();
        assert!(error.to_string().contains("no figures"), "{error}");
    }

    /// The estimate before packing is that of the packed file.
    #[test]
    fn the_time_is_that_of_the_packed_model() {
        let model = model();
        let sentences = crate::calibrate::sentences(&model, None, 8).unwrap();
        let stats = crate::calibrate::collect(&model, &sentences).unwrap();
        let dense = choose(&model, &room(10 << 20), 300).unwrap();
        let options = crate::pack::Options {
            weights: dense.weights(),
            exceptions: Vec::new(),
            embeddings: dense.embeddings(),
            max_tokens: None,
            calibration: String::new(),
            vocabulary: None,
            measure: false,
        };
        let bytes = crate::pack::pack(&model, Some(&stats), &options).unwrap().bytes;
        let aligned = grouse_tests::packed::Aligned::new(&bytes);
        let packed = grouse_runtime::view::Model::open(aligned.bytes()).unwrap();
        assert_eq!(work(&model, &dense, 20), Work::new(&packed, 20).unwrap());
    }

    #[test]
    fn curves_go_through_their_points() {
        for (x, y) in BY_DENSITY.iter().chain(&BY_DENSITY) {
            assert!((interpolate(&BY_DENSITY, *x) - y).abs() < 1e-12);
        }
        assert!((interpolate(&[(1.0, 0.0), (4.0, 2.0)], 2.0) - 1.0).abs() < 1e-12);
        assert_eq!(interpolate(&BY_VOCABULARY, 1e6), 0.0);
    }
}
