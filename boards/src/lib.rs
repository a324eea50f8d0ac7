//! Boards: the catalogue (the only place where a memory map is written) and, with feature
//! `runner`, building their firmware, booting them and talking to them.
//!
//! The path of a text: [`Session::boot`] → [`Session::embed`] → an [`Answer`] that equals the
//! host's own, bit for bit.

#![forbid(unsafe_code)]

pub mod catalogue;
pub mod error;
pub mod layout;
#[cfg(feature = "runner")]
pub mod runner;

pub use catalogue::Board;
pub use error::{Error, Result};
#[cfg(feature = "runner")]
pub use runner::{
    Answer, Firmware, FirstBoot, Info, Offloaded, Options, Progress, Session, Stages, Tested,
    Variant,
};
