//! Whether a model fits a board: bytes needed and there, for each kind of memory, and an estimate of
//! the time.

use grouse_runtime::format::{DataType, MatrixKind};
use grouse_runtime::kernels::TILE_TOKENS;
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;
use serde::Serialize;

use super::Firmware;
use crate::catalogue::{Board, Cost};

/// Lengths that are told beside the one that was asked for.
const LENGTHS: [usize; 6] = [16, 32, 64, 128, 256, 512];

/// The answer: all figures that a build and a run would show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    /// The board's id.
    pub board: String,
    /// Tokens of the longest text.
    pub tokens: u32,
    /// Everything fits.
    pub fits: bool,
    /// Each kind of memory.
    pub memory: Vec<Share>,
    /// Code, constants and initial values of the firmware.
    pub flash_bytes: u64,
    /// Bytes of the packed file.
    pub model_bytes: u64,
    /// Statics, stack and arena.
    pub ram_bytes: u64,
    /// Statics of the firmware.
    pub static_bytes: u64,
    /// Kept for the stack.
    pub stack_bytes: u64,
    /// The encoder's buffers for so many tokens.
    pub arena_bytes: u64,
    /// Most tokens that fit the arena.
    pub longest: Option<u32>,
    /// Arena bytes of other lengths.
    pub lengths: Vec<Length>,
    /// Work and time of a text of so many tokens; `None` where the catalogue has no figures.
    pub estimate: Option<Estimate>,
    /// What to try next, when it does not fit.
    pub advice: Vec<String>,
}

/// Bytes of one kind of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The catalogue's name of the region.
    pub region: &'static str,
    /// What takes it.
    pub of: String,
    /// Bytes needed.
    pub needed: u64,
    /// Bytes there.
    pub available: u64,
    /// Bytes left; negative when they do not do.
    pub margin: i64,
}

/// Arena bytes of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Length {
    /// Tokens.
    pub tokens: u32,
    /// Bytes.
    pub arena_bytes: u64,
    /// They are there.
    pub fits: bool,
}

/// What a text takes. An estimate: by instructions that were counted under QEMU on other models,
/// and cycles that nobody measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Instructions from ids to embedding.
    pub instructions: u64,
    /// Time by the two assumptions below.
    pub milliseconds: f64,
    /// Assumed.
    pub cycles_per_instruction: f64,
    /// By the catalogue.
    pub clock_hz: u64,
}

impl Fit {
    /// What `model` with texts of up to `tokens` tokens takes of `board` with `firmware`.
    ///
    /// # Errors
    /// The runtime's, for more tokens than the model knows.
    pub fn new(
        board: &Board,
        firmware: &Firmware,
        model: &Model<'_>,
        tokens: usize,
    ) -> grouse_runtime::Result<Self> {
        let (flash_bytes, static_bytes) = (firmware.flash_bytes(), firmware.static_bytes());
        let (stack_bytes, model_bytes) = (board.stack_bytes, model.bytes().len() as u64);
        let arena = board.arena_available();
        let room = usize::try_from(arena).unwrap_or(usize::MAX);
        let needed = |tokens| -> grouse_runtime::Result<u64> {
            Ok(Plan::fitting(model, tokens, room)?.arena_bytes() as u64)
        };
        let arena_bytes = needed(tokens)?;
        let mut memory = Vec::new();
        let mut share = |region, of: String, needed: u64, available: u64| {
            let margin = available as i64 - needed as i64;
            memory.push(Share { region, of, needed, available, margin });
        };
        if let Some(regions) = &board.regions {
            share("code", "firmware".into(), flash_bytes, regions.code.length.into());
            let of = format!("statics {static_bytes}, stack {stack_bytes}");
            share("ram", of, static_bytes + stack_bytes, regions.ram.length.into());
        }
        share("model", "packed file".into(), model_bytes, board.model_available());
        share("arena", format!("buffers for {tokens} tokens"), arena_bytes, arena);
        let longest = Plan::longest(model, room)?;
        let longest = longest.map(|plan| plan.tokens as u32);
        let most = model.arch().max_tokens as usize;
        let lengths = LENGTHS.into_iter().filter(|tokens| *tokens <= most);
        let lengths = lengths.map(|tokens| {
            let arena_bytes = needed(tokens)?;
            Ok(Length { tokens: tokens as u32, arena_bytes, fits: arena_bytes <= arena })
        });
        let lengths = lengths.collect::<grouse_runtime::Result<_>>()?;
        let advice = advice(model, &memory, longest)?;
        Ok(Self {
            board: board.id.clone(),
            tokens: tokens as u32,
            fits: memory.iter().all(|share| share.margin >= 0),
            memory,
            flash_bytes,
            model_bytes,
            ram_bytes: static_bytes + stack_bytes + arena_bytes,
            static_bytes,
            stack_bytes,
            arena_bytes,
            longest,
            lengths,
            estimate: Estimate::new(board, model, tokens)?,
            advice,
        })
    }
}

impl Estimate {
    fn new(
        board: &Board,
        model: &Model<'_>,
        tokens: usize,
    ) -> grouse_runtime::Result<Option<Self>> {
        Ok(Self::of(board, &Work::new(model, tokens)?))
    }

    /// What this work takes of `board`; `None` where the catalogue has no figures for it.
    pub fn of(board: &Board, work: &Work) -> Option<Self> {
        let instructions = work.instructions(&board.cost)?;
        let cycles_per_instruction = board.cost.cycles_per_instruction;
        let seconds = instructions as f64 * cycles_per_instruction / board.clock_hz as f64;
        let milliseconds = seconds * 1000.0;
        let clock_hz = board.clock_hz;
        Some(Self { instructions, milliseconds, cycles_per_instruction, clock_hz })
    }
}

/// What an encoder does for a text, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Work {
    /// Multiplications with int8 weights, in whole tiles of tokens.
    pub i8_macs: u64,
    /// With int4 weights.
    pub i4_macs: u64,
    /// With float weights, for which no board has figures.
    pub float_macs: u64,
    /// Attention's.
    pub attention_macs: u64,
    /// Numbers that matrices take in and put out.
    pub elements: u64,
}

impl Work {
    /// The work for `tokens` tokens.
    ///
    /// # Errors
    /// None for an opened model.
    pub fn new(model: &Model<'_>, tokens: usize) -> grouse_runtime::Result<Self> {
        let tokens = tokens.next_multiple_of(TILE_TOKENS) as u64;
        let arch = model.arch();
        let mut work = Self::default();
        for layer in 0..arch.layers as usize {
            let layer = model.layer(layer)?;
            for kind in MatrixKind::ALL {
                let matrix = layer.matrix(kind);
                let macs = u64::from(matrix.kept()) * tokens;
                match matrix.weights() {
                    DataType::I8 => work.i8_macs += macs,
                    DataType::I4 => work.i4_macs += macs,
                    // No matrix has int2.
                    DataType::I2 | DataType::F16 | DataType::F32 => work.float_macs += macs,
                }
                work.elements += (matrix.rows() + matrix.cols()) as u64 * tokens;
            }
            work.attention_macs += 2 * tokens * tokens * u64::from(arch.hidden_size);
        }
        Ok(work)
    }

    /// Instructions by a board's figures; `None` when it has none for this work.
    pub fn instructions(&self, cost: &Cost) -> Option<u64> {
        let known = cost.element > 0.0 && self.float_macs == 0;
        let sum = self.i8_macs as f64 * cost.i8_mac
            + self.i4_macs as f64 * cost.i4_mac
            + self.attention_macs as f64 * cost.attention_mac
            + self.elements as f64 * cost.element;
        known.then_some(sum as u64)
    }
}

fn advice(
    model: &Model<'_>,
    memory: &[Share],
    longest: Option<u32>,
) -> grouse_runtime::Result<Vec<String>> {
    let mut advice = Vec::new();
    for share in memory.iter().filter(|share| share.margin < 0) {
        let missing = share.margin.unsigned_abs();
        match (share.region, longest) {
            ("arena", Some(longest)) => {
                advice.push(format!("at most {longest} tokens fit: add `--tokens {longest}`"));
            }
            ("arena", None) => advice.push(
                "no length fits: choose a narrower model or a larger board (`grouse boards`)"
                    .into(),
            ),
            ("model", _) => {
                let first = model.layer(0)?.matrix(MatrixKind::Qkv).weights();
                if first != DataType::I4 {
                    advice.push("pack with `--weights i4 --embeddings i4`".into());
                }
                let (kept, all) = model.encoder_weights()?;
                advice.push(format!(
                    "prune: {missing} bytes are too many, and {:.0} % of the encoder's weights \
                     are kept (`grouse prune --density`)",
                    100.0 * kept as f64 / all as f64
                ));
                advice.push(format!(
                    "trim the vocabulary, {} pieces, to what your texts use",
                    model.arch().vocab_size
                ));
                advice.push("choose a larger board (`grouse boards`)".into());
            }
            (region, _) => advice.push(format!(
                "{missing} bytes are missing in {region}: choose a larger board (`grouse boards`)"
            )),
        }
    }
    Ok(advice)
}
