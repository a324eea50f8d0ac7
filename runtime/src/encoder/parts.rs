//! Work on the parts of a call: with `std` on as many threads, otherwise one after the other.

use crate::error::Result;

/// Calls `work` with each part; the error is that of the first part that fails.
#[cfg(feature = "std")]
pub(super) fn each<T: Send>(
    mut parts: impl ExactSizeIterator<Item = T> + Send,
    work: &(impl Fn(T) -> Result<()> + Sync),
) -> Result<()> {
    let Some(part) = parts.next() else { return Ok(()) };
    if parts.len() == 0 {
        return work(part);
    }
    let (first, rest) = rayon::join(|| work(part), || each(parts, work));
    first.and(rest)
}

/// Calls `work` with each part up to the first that fails.
#[cfg(not(feature = "std"))]
pub(super) fn each<T>(
    mut parts: impl ExactSizeIterator<Item = T>,
    work: &impl Fn(T) -> Result<()>,
) -> Result<()> {
    parts.try_for_each(work)
}
