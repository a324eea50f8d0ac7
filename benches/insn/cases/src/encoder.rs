//! The encoder cases: one sentence from ids to embedding.

use core::hint::black_box;

use grouse_runtime::encoder::Encoder;
use grouse_runtime::format::MAX_TOKENS;
use grouse_runtime::kernels::scalar::Scalar;
use grouse_runtime::view::Model;

use crate::memory::Cut;
use crate::report::{Line, Report, crc};
use crate::{Failure, Request, marks};

/// Counts one `embed` of `tokens` tokens with every requested backend.
pub(crate) fn count(
    request: &Request<'_>,
    model: &Model<'_>,
    tokens: usize,
    memory: &mut [u8],
    report: &mut Report<'_>,
) -> Result<(), Failure> {
    let mut ids = [0; MAX_TOKENS];
    let ids = sentence(&mut ids, tokens, model)?;
    let mut cut = Cut::new(memory);
    let out = cut.take::<f32>(model.arch().hidden_size as usize)?;
    let arena = cut.rest();
    let macs = macs(model, tokens)?;

    // The specification's bits; counted below, where it was asked for.
    let mut encoder = Encoder::new(model, &Scalar, arena, tokens)?;
    encoder.embed(ids, out)?;
    let wanted = crc(out.iter().copied());
    for backend in request.backends() {
        let mut encoder = Encoder::new(model, backend, arena, tokens)?;
        marks::counted(|| black_box(&mut encoder).embed(black_box(ids), black_box(&mut *out)))?;
        let crc = crc(out.iter().copied());
        let (backend, equal) = (backend.name(), crc == wanted);
        report.line(&Line { case: &"encoder", backend, tokens, macs, crc, equal })?;
    }
    Ok(())
}

/// A sentence that is the same on every target: ids spread over the vocabulary.
fn sentence<'i>(
    ids: &'i mut [u32; MAX_TOKENS],
    tokens: usize,
    model: &Model<'_>,
) -> Result<&'i [u32], Failure> {
    let limit = model.arch().max_tokens as usize;
    let too_many = grouse_runtime::Error::TooManyTokens { tokens, limit };
    let ids = ids.get_mut(..tokens).ok_or(too_many)?;
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
