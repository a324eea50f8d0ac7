//! The host side of Grouse: a Hugging Face BERT directory becomes a pruned, quantized, packed
//! file.
//!
//! Data flows one way: [`import`] → [`model`] → [`calibrate`] → [`prune`] → [`heal`] →
//! [`quantize`] → [`pack`]. [`eval`] measures what came out,
//! [`agreement`] how far it is from the dense model; the program `grouse` is [`cli`].

#![forbid(unsafe_code)]

pub mod agreement;
pub mod bench;
pub mod calibrate;
pub mod cli;
pub mod cpu;
pub mod engine;
pub mod error;
pub mod eval;
pub mod forward;
pub mod heal;
pub mod import;
pub mod inspect;
mod lanes;
pub mod model;
pub mod pack;
pub mod progress;
pub mod prune;
pub mod pull;
pub mod quantize;
pub mod report;
pub mod self_test;
pub mod shrink;

pub use error::{Error, Result};
