//! What is counted: the cases that every guest runs, with or without an operating system.
//!
//! A guest opens a model, gives memory and calls [`run`]; each case becomes one JSON line. The
//! work between the marks of [`marks`] is a region for the counting plugin; the line's `region`
//! says which.

#![no_std]
#![deny(unsafe_code)]

mod encoder;
mod failure;
pub mod marks;
mod report;
mod request;

pub use failure::Failure;
pub use request::Request;

use core::fmt::Write;

use grouse_runtime::view::Model;

use report::Report;

/// Memory of a guest for the cases. The arena starts at a multiple of 64 bytes.
#[derive(Debug)]
pub struct Memory<'a> {
    /// The encoder's arena.
    pub arena: &'a mut [u8],
    /// Room for the scalar backend's result.
    pub wanted: &'a mut [f32],
    /// Room for another backend's result.
    pub found: &'a mut [f32],
}

/// Runs two loops of known length and the requested cases, and writes a JSON line for each to
/// `out`. The result says whether
/// every backend gave the scalar backend's bits.
///
/// # Errors
/// When the runtime refuses a case, the memory is too small or `out` fails.
pub fn run(
    request: &Request,
    model: &Model<'_>,
    memory: &mut Memory<'_>,
    out: &mut dyn Write,
) -> Result<bool, Failure> {
    let mut report = Report::new(out);
    for turns in [1000, 2000] {
        marks::counted(|| marks::turn(turns));
        report.turns(turns)?;
    }
    for tokens in &request.tokens {
        encoder::count(request, model, *tokens, memory, &mut report)?;
    }
    Ok(report.all_equal())
}
