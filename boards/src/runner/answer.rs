//! What a board answers to a text.

use grouse_runtime::wire;

/// What a board makes of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The text had more tokens than fit and was cut.
    pub truncated: bool,
    /// The embedding, bit for bit as the board has it; empty when only ids were asked for.
    pub embedding: Vec<f32>,
    /// Work from text to ids, in the unit of the board's counter.
    pub tokenize_work: u64,
    /// Work from text to the end.
    pub work: u64,
    /// Bytes of stack in use at the deepest.
    pub stack_bytes: u32,
    /// Work of the encoder's stages, by [`Session::bench`](super::Session::bench).
    pub stages: Option<Stages>,
    /// What the accelerator did since [`Session::prepare`](super::Session::prepare); `None` unless one was asked for.
    pub offloaded: Option<Offloaded>,
}

/// Work of the encoder's stages, in the unit of the board's counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Stages {
    /// From text to ids.
    pub tokenize: u64,
    /// Looking up words and positions, and their LayerNorm.
    pub embed: u64,
    /// All layers' attention, with its matrices.
    pub attention: u64,
    /// All layers' feed-forward parts.
    pub feed_forward: u64,
    /// Pooling and normalisation.
    pub pool: u64,
}

/// What an accelerator did; see the protocol's message of this name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Offloaded {
    /// Groups' products by the device.
    pub on_device: u32,
    /// By the CPU, for any reason.
    pub on_cpu: u32,
    /// Too small for the device.
    pub too_small: u32,
    /// That the device could not take.
    pub refused: u32,
    /// That failed on the device.
    pub faults: u32,
    /// The device is not in use any more.
    pub switched_off: bool,
    /// Kind of the last refusal or fault; empty when there was none.
    pub last: String,
}

impl From<wire::Offloaded<'_>> for Offloaded {
    fn from(report: wire::Offloaded<'_>) -> Self {
        let wire::Offloaded { on_device, on_cpu, too_small, refused, faults, switched_off, last } =
            report;
        let last = last.to_owned();
        Self { on_device, on_cpu, too_small, refused, faults, switched_off, last }
    }
}
