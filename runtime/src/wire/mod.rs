//! The protocol between a host and a board: bounded, checked frames that carry typed messages.
//!
//! [`frame`] turns a message into bytes and back, [`message`] is what can be said. Both sides use
//! these very types; `docs/boards.md` specifies the bytes.

pub mod frame;
pub mod message;

pub use frame::{Frame, FrameFault, Receiver, encode};
pub use message::{
    Crash, Difference, FaultKind, FaultReport, FirstBoot, Info, Offloaded, Refusal, Request,
    Response, RuntimeError, Tested,
};

/// Version of the protocol, the first byte of every frame.
pub const PROTOCOL: u8 = 2;
/// Most bytes of text, ids or embedding that one frame carries.
pub const CHUNK: usize = 1024;
/// Longest frame before byte stuffing: header, message and checksum.
pub const FRAME_BYTES: usize = CHUNK + 256;
/// Longest frame on the line: stuffed, with its closing zero.
pub const LINE_BYTES: usize = FRAME_BYTES + FRAME_BYTES.div_ceil(254) + 1;
