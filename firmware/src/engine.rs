//! The model made ready: tokenizer, encoder and what the host is told about them.

use grouse_runtime::encoder::{Encoder, Stages};
use grouse_runtime::format::MAX_TOKENS;
use grouse_runtime::kernels::Backend;
use grouse_runtime::plan::Plan;
use grouse_runtime::self_test::{Outcome, Summary};
use grouse_runtime::tokenizer::Tokenizer;
use grouse_runtime::view::Model;
use grouse_runtime::wire::{Difference, Info, Offloaded, Refusal, RuntimeError, Tested};
use grouse_runtime::{Error, Result};

use crate::accelerator::{Attached, Choice, Device};
use crate::arch::{self, stack};
use crate::board::{ARENA_BYTES, BOARD_ID, Counter, STACK_BYTES, TEXT_BYTES};

/// Widest embedding that this firmware has room for.
pub const MAX_HIDDEN: usize = 4096;

/// What a host wants prepared.
pub struct Hello {
    /// Id of the request, for the answer.
    pub id: u16,
    /// Most tokens of one text; 0 = as many as the model knows.
    pub max_tokens: usize,
    /// The backend; `None` when the name is unknown.
    pub backend: Option<&'static dyn Backend>,
    /// The accelerator; `None` when the name is unknown.
    pub accelerator: Option<Choice>,
}

/// A model ready to run.
pub struct Engine<'m, 'a> {
    model: &'m Model<'static>,
    tokenizer: Tokenizer<'static>,
    encoder: Encoder<'static, 'a>,
    /// The accelerator, if one was asked for.
    offload: Option<Attached<'a>>,
    max_tokens: usize,
}

/// How a text went.
pub struct Run {
    /// Number of ids.
    pub tokens: usize,
    /// The text was cut.
    pub truncated: bool,
    /// Ticks from text to ids.
    pub tokenize_ticks: u64,
    /// Ticks from text to the end.
    pub ticks: u64,
    /// Bytes of stack in use at the deepest.
    pub stack_bytes: usize,
}

impl<'m, 'a> Engine<'m, 'a> {
    /// Prepares `model` as `hello` asks; `device` is the accelerator, if it is there.
    pub fn new(
        model: &'m Model<'static>,
        hello: &Hello,
        arena: &'a mut [u8],
        device: Option<&'a mut Device<'_>>,
    ) -> core::result::Result<Self, Refusal<'static>> {
        let refuse = |error| Refusal::Runtime(RuntimeError::new(&error));
        let backend = hello.backend.ok_or(Refusal::UnknownBackend { known: "" })?;
        let choice = hello.accelerator.ok_or(Refusal::UnknownAccelerator)?;
        let hidden = model.arch().hidden_size as usize;
        if hidden > MAX_HIDDEN {
            return Err(refuse(Error::OutputLength { needed: hidden, available: MAX_HIDDEN }));
        }
        let most = (model.arch().max_tokens as usize).min(MAX_TOKENS);
        let max_tokens = if hello.max_tokens == 0 { most } else { hello.max_tokens };
        let memory = Attached::bytes(choice, model).map_err(refuse)?.next_multiple_of(16);
        let (needed, available) = (memory, arena.len());
        let too_small = refuse(Error::ArenaTooSmall { needed, available });
        // The device's memory is the end of the arena.
        let (arena, memory) = available
            .checked_sub(memory)
            .and_then(|encoder| arena.split_at_mut_checked(encoder))
            .ok_or(too_small)?;
        let plan = Plan::fitting(model, max_tokens, arena.len()).map_err(refuse)?;
        if plan.arena_bytes() > arena.len() {
            let longest = Plan::longest(model, arena.len()).map_err(refuse)?;
            return Err(Refusal::Arena {
                tokens: max_tokens as u32,
                needed: plan.arena_bytes() as u32,
                available: arena.len() as u32,
                longest: longest.map_or(0, |plan| plan.tokens as u32),
            });
        }
        let tokenizer = model.tokenizer();
        let encoder = Encoder::new(model, backend, arena, max_tokens).map_err(refuse)?;
        let encoder = encoder.with_clock(Counter::ticks);
        let offload = Attached::new(choice, model, device, memory).map_err(refuse)?;
        Ok(Self { model, tokenizer, encoder, offload, max_tokens })
    }

    /// What the host is told.
    pub fn info(&self) -> Info<'static> {
        let arch = self.model.arch();
        let (flash, statics) = arch::image_bytes();
        Info {
            board: BOARD_ID,
            firmware: env!("CARGO_PKG_VERSION"),
            backend: self.encoder.backend().name(),
            model_bytes: self.model.bytes().len() as u32,
            hidden_size: arch.hidden_size,
            layers: arch.layers,
            vocab_size: arch.vocab_size,
            model_tokens: arch.max_tokens,
            max_tokens: self.max_tokens as u32,
            arena_bytes: self.encoder.plan().arena_bytes() as u32,
            arena_available: ARENA_BYTES as u32,
            text_limit: TEXT_BYTES as u32,
            flash_bytes: flash as u32,
            static_bytes: statics as u32,
            stack_bytes: STACK_BYTES as u32,
            model_checksum: self.model.checksum(),
        }
    }

    /// What the accelerator did, if one was asked for.
    pub fn offloaded(&self) -> Option<Offloaded<'static>> {
        self.offload.as_ref().map(Attached::report)
    }

    /// What the encoder's stages took in the last run.
    pub fn stages(&self) -> Stages {
        self.encoder.stages()
    }

    /// Values of an embedding.
    pub fn hidden_size(&self) -> usize {
        self.model.arch().hidden_size as usize
    }

    /// Turns a text into ids and, when `values` are given, into an embedding of
    /// [`Engine::hidden_size`].
    ///
    /// # Errors
    /// The runtime's.
    pub fn run(&mut self, text: &[u8], ids: &mut [u32], values: Option<&mut [f32]>) -> Result<Run> {
        let most = self.max_tokens.min(ids.len());
        let ids = ids.get_mut(..most).unwrap_or_default();
        stack::paint();
        let start = Counter::ticks();
        let text = core::str::from_utf8(text)
            .map_err(|e| Error::InvalidUtf8 { offset: e.valid_up_to() })?;
        let encoded = self.tokenizer.encode(text, ids)?;
        let tokenize_ticks = Counter::ticks() - start;
        let (tokens, truncated) = (encoded.tokens, encoded.truncated);
        if let Some(values) = values {
            let ids = ids.get(..tokens).unwrap_or_default();
            match &mut self.offload {
                None => self.encoder.embed(ids, values)?,
                Some(offload) => offload.embed(&mut self.encoder, ids, values)?,
            }
        }
        let ticks = Counter::ticks() - start;
        Ok(Run { tokens, truncated, tokenize_ticks, ticks, stack_bytes: stack::deepest() })
    }

    /// Runs the texts that the model file carries, without the accelerator; `None` when it carries
    /// none. `values` is room for an embedding of [`Engine::hidden_size`].
    pub fn self_test(&mut self, ids: &mut [u32], values: &mut [f32]) -> Option<Tested<'static>> {
        if self.model.tests().is_empty() {
            return None;
        }
        stack::paint();
        let mut first = None;
        let Summary { passed, failed, skipped } =
            self.model.self_test(&mut self.encoder, ids, values, |number, _, outcome| {
                if let Outcome::Failed(failure) = outcome {
                    let kind = failure.map(|error| RuntimeError::new(&error));
                    first = first.or(Some(Difference { text: number as u32, kind }));
                }
            });
        Some(Tested { passed, failed, skipped, stack_bytes: stack::deepest() as u32, first })
    }
}
