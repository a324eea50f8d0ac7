//! The backends of this firmware.

use grouse_runtime::kernels::Backend;

/// Those that this processor runs, slowest first.
#[cfg(not(feature = "rp235x"))]
pub use grouse_runtime::kernels::available;

/// The specification and the fast one: `wide` would take 100 KB of a flash that is short, and no
/// model is faster by it here.
#[cfg(feature = "rp235x")]
pub fn available() -> impl DoubleEndedIterator<Item = &'static dyn Backend> {
    use grouse_runtime::kernels::{cortex_m::dsp::Dsp, scalar::Scalar};
    const BACKENDS: [&dyn Backend; 2] = [&Scalar, &Dsp];
    BACKENDS.into_iter()
}

/// The backend called `name`; the empty name is the last one's.
pub fn by_name(name: &str) -> Option<&'static dyn Backend> {
    available().rev().find(|backend| name.is_empty() || backend.name() == name)
}
