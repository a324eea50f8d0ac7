//! Requests and their answers.

use grouse_runtime::Error;
use grouse_runtime::encoder::Stages;
use grouse_runtime::format::MAX_TOKENS;
use grouse_runtime::view::Model;
use grouse_runtime::wire::{CHUNK, FirstBoot, Info, Refusal, Request, Response, RuntimeError};
use heapless::String;
use static_cell::ConstStaticCell;

use crate::board::{Counter, TEXT_BYTES, Uart};
use crate::engine::{Engine, Hello, MAX_HIDDEN, Run};
use crate::first_boot::{self, Report};
use crate::link::{Input, Output};
use crate::{accelerator, arch, backends};

static TEXT: ConstStaticCell<[u8; TEXT_BYTES]> = ConstStaticCell::new([0; TEXT_BYTES]);
static IDS: ConstStaticCell<[u32; MAX_TOKENS]> = ConstStaticCell::new([0; MAX_TOKENS]);
static VALUES: ConstStaticCell<[f32; MAX_HIDDEN]> = ConstStaticCell::new([0.0; MAX_HIDDEN]);

/// What a host wants of a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Its ids.
    Ids,
    /// Its embedding, too.
    Embedding,
    /// And what the stages took.
    Stages,
}

/// The serving side of the protocol.
pub struct Server {
    input: Input<Uart>,
    output: Output<Uart>,
    text: Text,
    ids: &'static mut [u32],
    values: &'static mut [f32],
    /// How the self-test at first boot went.
    first_boot: Report,
}

impl Server {
    /// The one server; `None` when it is already taken.
    pub fn take() -> Option<Self> {
        Some(Self {
            input: Input::take(Uart::wire())?,
            output: Output::take(Uart::wire())?,
            text: Text { bytes: TEXT.try_take()?, length: 0 },
            ids: IDS.try_take()?,
            values: VALUES.try_take()?,
            first_boot: Report::NotRun("no usable model"),
        })
    }

    /// Runs the self-test if the board meets this model for the first time.
    pub fn test_once(&mut self, model: &Model<'static>, arena: &mut [u8]) {
        self.first_boot = first_boot::run(model, arena, self.ids, self.values);
    }

    /// Answers requests until a host wants something else prepared.
    pub fn serve(&mut self, mut engine: Option<&mut Engine<'_, '_>>) -> Hello {
        loop {
            let frame = self.input.receive();
            let id = frame.id;
            let request = match frame.message {
                Ok(request) => request,
                Err(fault) => {
                    defmt::warn!("dropped a frame: {}", fault);
                    self.output.send(id, &Response::Refused(Refusal::Frame(fault)));
                    continue;
                }
            };
            match request {
                Request::Hello { max_tokens, backend, accelerator } => {
                    let backend = backends::by_name(backend);
                    let accelerator = accelerator::by_name(accelerator);
                    return Hello { id, max_tokens: max_tokens as usize, backend, accelerator };
                }
                Request::Ping { nonce } => self.output.send(id, &Response::Pong { nonce }),
                Request::Text { offset, bytes } => {
                    let answer = match self.text.append(offset, bytes) {
                        Ok(bytes) => Response::Received { bytes },
                        Err(refusal) => Response::Refused(refusal),
                    };
                    self.output.send(id, &answer);
                }
                Request::Tokenize => self.run(id, engine.as_deref_mut(), Wanted::Ids),
                Request::Embed => self.run(id, engine.as_deref_mut(), Wanted::Embedding),
                Request::Bench => self.run(id, engine.as_deref_mut(), Wanted::Stages),
                Request::SelfTest => self.self_test(id, engine.as_deref_mut()),
                Request::FirstBoot => self.tell_first_boot(id),
                Request::Count { loops } => {
                    self.output.send(id, &Response::Counted { ticks: count(loops) });
                }
                Request::Crash(how) => arch::crash(how),
            }
        }
    }

    /// Says that the model is ready.
    pub fn welcome(&mut self, id: u16, info: &Info<'_>) {
        defmt::info!(
            "ready: {=str}, {=u32} tokens, {=u32} of {=u32} arena bytes",
            info.backend,
            info.max_tokens,
            info.arena_bytes,
            info.arena_available
        );
        self.output.send(id, &Response::Info(*info));
    }

    /// Says why the model is not ready.
    pub fn refuse(&mut self, id: u16, refusal: Refusal<'_>) {
        let names = names(u32::MAX);
        let refusal = match refusal {
            Refusal::UnknownBackend { .. } => Refusal::UnknownBackend { known: &names },
            refusal => refusal,
        };
        defmt::warn!("refused: {}", refusal);
        self.output.send(id, &Response::Refused(refusal));
    }

    fn run(&mut self, id: u16, engine: Option<&mut Engine<'_, '_>>, wanted: Wanted) {
        let embed = wanted != Wanted::Ids;
        let text = self.text.take();
        let Some(engine) = engine else { return self.refuse(id, Refusal::NotReady) };
        let width = if embed { engine.hidden_size() } else { 0 };
        let values = self.values.get_mut(..width).unwrap_or_default();
        let run = match engine.run(text, self.ids, embed.then_some(&mut *values)) {
            Ok(run) => run,
            Err(error) => return self.refuse_error(id, &error),
        };
        defmt::info!("{=usize} tokens, {=u64} ticks", run.tokens, run.ticks);
        let ids = self.ids.get(..run.tokens).unwrap_or_default();
        send_pieces(&mut self.output, id, ids, u32::to_le_bytes, |offset, total, bytes| {
            Response::Ids { offset, total, bytes }
        });
        let values = self.values.get(..width).unwrap_or_default();
        send_pieces(&mut self.output, id, values, f32::to_le_bytes, |offset, total, bytes| {
            Response::Values { offset, total, bytes }
        });
        if let Some(report) = engine.offloaded().filter(|_| embed) {
            self.output.send(id, &Response::Offloaded(report));
        }
        if wanted == Wanted::Stages {
            let Stages { embed, attention, feed_forward, pool } = engine.stages();
            self.output.send(id, &Response::Stages { embed, attention, feed_forward, pool });
        }
        let Run { truncated, tokenize_ticks, ticks, stack_bytes, .. } = run;
        let stack_bytes = stack_bytes as u32;
        self.output.send(id, &Response::Done { truncated, tokenize_ticks, ticks, stack_bytes });
    }

    fn self_test(&mut self, id: u16, engine: Option<&mut Engine<'_, '_>>) {
        let Some(engine) = engine else { return self.refuse(id, Refusal::NotReady) };
        let values = self.values.get_mut(..engine.hidden_size()).unwrap_or_default();
        let Some(tested) = engine.self_test(self.ids, values) else {
            return self.refuse(id, Refusal::NoSelfTest);
        };
        defmt::info!("self-test: {=u32} passed, {=u32} failed", tested.passed, tested.failed);
        self.output.send(id, &Response::Tested(tested));
    }

    fn tell_first_boot(&mut self, id: u16) {
        let failed = match self.first_boot {
            Report::Ran { failed, .. } => names(failed),
            Report::NotRun(_) => String::new(),
        };
        let answer = match self.first_boot {
            Report::NotRun(why) => FirstBoot::NotRun { why },
            Report::Ran { now, passed, .. } => FirstBoot::Ran { now, passed, failed: &failed },
        };
        self.output.send(id, &Response::FirstBoot(answer));
    }

    fn refuse_error(&mut self, id: u16, error: &Error) {
        self.refuse(id, Refusal::Runtime(RuntimeError::new(error)));
    }
}

/// Names of the backends whose bits are set, separated by spaces.
fn names(bits: u32) -> String<64> {
    let mut names = String::new();
    for (_, backend) in backends::available().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1) {
        let gap = if names.is_empty() { "" } else { " " };
        // A list that is too long lacks the names that do not fit. By hand, since formatting takes
        // 2 KiB of flash.
        let _ = names.push_str(gap).and_then(|()| names.push_str(backend.name()));
    }
    names
}

/// Sends four-byte values in as many frames as they need.
fn send_pieces<T: Copy>(
    output: &mut Output<Uart>,
    id: u16,
    values: &[T],
    bytes_of: impl Fn(T) -> [u8; 4],
    response: impl for<'b> Fn(u32, u32, &'b [u8]) -> Response<'b>,
) {
    let (mut offset, total) = (0, values.len() as u32);
    for values in values.chunks(CHUNK / 4) {
        let mut bytes = [0; CHUNK];
        for (place, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *place = bytes_of(*value);
        }
        let piece = bytes.get(..values.len() * 4).unwrap_or_default();
        output.send(id, &response(offset, total, piece));
        offset += values.len() as u32;
    }
}

/// The text that is being received.
struct Text {
    bytes: &'static mut [u8],
    length: usize,
}

impl Text {
    /// Adds a piece and returns the length so far; after an error the text is empty again.
    fn append(&mut self, offset: u32, piece: &[u8]) -> Result<u32, Refusal<'static>> {
        let length = if offset == 0 { 0 } else { core::mem::take(&mut self.length) };
        self.length = 0;
        if offset as usize != length {
            return Err(Refusal::TextOrder { expected: length as u32, found: offset });
        }
        let needed = length + piece.len();
        let limit = self.bytes.len() as u32;
        self.bytes
            .get_mut(length..needed)
            .ok_or(Refusal::TextTooLong { needed: needed as u64, limit })?
            .copy_from_slice(piece);
        self.length = needed;
        Ok(needed as u32)
    }

    /// The whole text; the next one starts from nothing.
    fn take(&mut self) -> &[u8] {
        let length = core::mem::take(&mut self.length);
        self.bytes.get(..length).unwrap_or_default()
    }
}

/// Ticks around a loop of exactly two instructions per turn.
fn count(loops: u32) -> u64 {
    let start = Counter::ticks();
    arch::spin(loops.max(1));
    Counter::ticks() - start
}
