//! Work on the parts of a call: with `std` on as many threads, otherwise one after the other.

use crate::error::Result;

use super::offload::Offload;

/// Calls `work` with each part; the error is that of the first part that fails. With an
/// accelerator, of which there is one, the parts follow one another.
#[cfg(feature = "std")]
pub(super) fn each<T: Send>(
    mut parts: impl ExactSizeIterator<Item = T> + Send,
    offload: Option<&mut Offload<'_>>,
    work: &(impl Fn(T, Option<&mut Offload<'_>>) -> Result<()> + Sync),
) -> Result<()> {
    match offload {
        Some(offload) => parts.try_for_each(|part| work(part, Some(&mut *offload))),
        None => on_threads(parts, &|part| work(part, None)),
    }
}

#[cfg(feature = "std")]
fn on_threads<T: Send>(
    mut parts: impl ExactSizeIterator<Item = T> + Send,
    work: &(impl Fn(T) -> Result<()> + Sync),
) -> Result<()> {
    let Some(part) = parts.next() else { return Ok(()) };
    if parts.len() == 0 {
        return work(part);
    }
    let (first, rest) = rayon::join(|| work(part), || on_threads(parts, work));
    first.and(rest)
}

/// Calls `work` with each part up to the first that fails.
#[cfg(not(feature = "std"))]
pub(super) fn each<T>(
    mut parts: impl ExactSizeIterator<Item = T>,
    mut offload: Option<&mut Offload<'_>>,
    work: &impl Fn(T, Option<&mut Offload<'_>>) -> Result<()>,
) -> Result<()> {
    parts.try_for_each(|part| work(part, offload.as_deref_mut()))
}
