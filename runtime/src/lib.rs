//! The Grouse runtime: a `no_std`, no-alloc library that executes a packed group-sparse BERT
//! encoder in place.
//!
//! The path of a text: [`tokenizer`] → [`encoder`] (embedding, layers, pooling) → an embedding.
//! The path of the weights: a file's bytes → [`view`] (validated once, cast in place) →
//! [`kernels`]. Memory is a caller-given arena whose size [`plan`] computes from the header.

#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

pub mod accelerator;
mod crc;
pub mod encoder;
pub mod error;
pub mod format;
pub mod kernels;
#[cfg(feature = "std")]
pub mod mapped;
pub mod math;
pub mod plan;
pub mod self_test;
pub mod tokenizer;
pub mod view;
pub mod wire;

pub use error::{Error, Result};
