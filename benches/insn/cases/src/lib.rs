//! What is counted: the cases that every guest runs, with or without an operating system.
//!
//! A guest opens a model, gives memory and calls [`run`]; each case becomes one JSON line. The
//! work between the marks of [`marks`] is a region for the counting plugin; the line's `region`
//! says which.

#![no_std]
#![deny(unsafe_code)]

mod encoder;
mod failure;
mod linear;
pub mod marks;
mod matmul;
mod memory;
mod report;
mod request;

pub use failure::Failure;
pub use request::Request;

use core::fmt::Write;

use grouse_runtime::view::Model;

use report::Report;

/// Runs two loops of known length and the requested cases, and writes a JSON line for each to
/// `out`. The result says whether every backend gave the scalar backend's bits. `memory` starts at
/// a multiple of 64 bytes.
///
/// # Errors
/// When the runtime refuses a case, the memory is too small or `out` fails.
pub fn run(
    request: &Request<'_>,
    model: &Model<'_>,
    memory: &mut [u8],
    out: &mut dyn Write,
) -> Result<bool, Failure> {
    let mut report = Report::new(out);
    for turns in [1000, 2000] {
        marks::counted(|| marks::turn(turns));
        report.turns(turns)?;
    }
    if let Some(name) = request.backend
        && request.backends().next().is_none()
    {
        report.absent(name)?;
        return Ok(true);
    }
    for tokens in &request.tokens {
        if request.encoder {
            encoder::count(request, model, *tokens, memory, &mut report)?;
        }
        if request.kernels {
            linear::count(request, model, *tokens, memory, &mut report)?;
            matmul::count(request, model, *tokens, memory, &mut report)?;
        }
    }
    Ok(report.all_equal())
}
