//! The encoder cases: one sentence from ids to embedding.

use core::hint::black_box;

use grouse_runtime::encoder::Encoder;
use grouse_runtime::format::MAX_TOKENS;
use grouse_runtime::kernels::{Backend, scalar::Scalar};
use grouse_runtime::view::Model;

use crate::report::{Line, Report, same_bits};
use crate::{Failure, Memory, Request, marks};

/// Counts one `embed` of `tokens` tokens with every requested backend.
pub(crate) fn count(
    request: &Request,
    model: &Model<'_>,
    tokens: usize,
    memory: &mut Memory<'_>,
    report: &mut Report<'_>,
) -> Result<(), Failure> {
    let mut ids = [0; MAX_TOKENS];
    let ids = sentence(&mut ids, tokens, model)?;
    let needed = model.arch().hidden_size as usize;
    let available = memory.wanted.len().min(memory.found.len());
    let too_small = Failure::Results { needed, available };
    let wanted = memory.wanted.get_mut(..needed).ok_or(too_small)?;
    let found = memory.found.get_mut(..needed).ok_or(too_small)?;
    let macs = macs(model, tokens)?;

    let mut is_known = false;
    for backend in request.backends() {
        if backend.name() != Scalar.name() && !is_known {
            embed(&Scalar, model, memory.arena, ids, wanted, |work| work())?;
            is_known = true;
        }
        embed(backend, model, memory.arena, ids, found, |work| marks::counted(work))?;
        if !is_known {
            wanted.copy_from_slice(found);
            is_known = true;
        }
        report.line(&Line {
            case: &"encoder",
            backend: backend.name(),
            tokens,
            macs,
            values: found,
            equal: same_bits(wanted, found),
        })?;
    }
    Ok(())
}

/// Runs one sentence; `around` is called with the `embed` itself.
fn embed(
    backend: &'static dyn Backend,
    model: &Model<'_>,
    arena: &mut [u8],
    ids: &[u32],
    out: &mut [f32],
    around: impl Fn(&mut dyn FnMut() -> grouse_runtime::Result<()>) -> grouse_runtime::Result<()>,
) -> Result<(), Failure> {
    let mut encoder = Encoder::new(model, backend, arena, ids.len())?;
    Ok(around(&mut || black_box(&mut encoder).embed(black_box(ids), black_box(&mut *out)))?)
}

/// A sentence that is the same on every target: ids spread over the vocabulary.
fn sentence<'i>(
    ids: &'i mut [u32; MAX_TOKENS],
    tokens: usize,
    model: &Model<'_>,
) -> Result<&'i [u32], Failure> {
    let limit = model.arch().max_tokens as usize;
    let ids =
        ids.get_mut(..tokens).ok_or(grouse_runtime::Error::TooManyTokens { tokens, limit })?;
    for (id, t) in ids.iter_mut().zip(0_u32..) {
        *id = (1997 + 379 * t) % model.arch().vocab_size;
    }
    Ok(ids)
}

/// Products of one sentence: kept weights, and attention's scores and mixing.
fn macs(model: &Model<'_>, tokens: usize) -> Result<u64, Failure> {
    let arch = model.arch();
    let (kept, _) = model.encoder_weights()?;
    let attention = 2 * u64::from(arch.layers) * u64::from(arch.hidden_size) * tokens as u64;
    Ok(tokens as u64 * (kept + attention))
}
