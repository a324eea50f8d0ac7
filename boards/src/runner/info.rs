//! What a board says of itself, its model and its memory.

use grouse_runtime::wire;

/// The board, the model and the memory between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// The board's id.
    pub board: String,
    /// Version of the firmware.
    pub firmware: String,
    /// Backend in use.
    pub backend: String,
    /// Length of the model file.
    pub model_bytes: u64,
    /// Width of an embedding.
    pub hidden_size: u32,
    /// Encoder layers.
    pub layers: u32,
    /// Entries of the vocabulary.
    pub vocab_size: u32,
    /// Most tokens that the model knows.
    pub model_tokens: u32,
    /// Most tokens now in force.
    pub max_tokens: u32,
    /// Arena bytes used for that many.
    pub arena_bytes: u64,
    /// Arena bytes that the board has.
    pub arena_available: u64,
    /// Longest text in bytes.
    pub text_limit: u32,
    /// Flash bytes of the firmware: code, constants and initial values, without the model.
    pub flash_bytes: u64,
    /// RAM bytes in use: statics, stack and the arena's used part.
    pub ram_bytes: u64,
    /// Tells one model file from another.
    pub model_checksum: u32,
}

impl From<wire::Info<'_>> for Info {
    fn from(info: wire::Info<'_>) -> Self {
        Self {
            board: info.board.into(),
            firmware: info.firmware.into(),
            backend: info.backend.into(),
            model_bytes: info.model_bytes.into(),
            hidden_size: info.hidden_size,
            layers: info.layers,
            vocab_size: info.vocab_size,
            model_tokens: info.model_tokens,
            max_tokens: info.max_tokens,
            arena_bytes: info.arena_bytes.into(),
            arena_available: info.arena_available.into(),
            text_limit: info.text_limit,
            flash_bytes: info.flash_bytes.into(),
            ram_bytes: u64::from(info.static_bytes)
                + u64::from(info.stack_bytes)
                + u64::from(info.arena_bytes),
            model_checksum: info.model_checksum,
        }
    }
}
