//! The machine's large memories, by the symbols of its memory map.

use core::sync::atomic::{AtomicBool, Ordering};

use grouse_runtime::format::Header;
use grouse_runtime::view::{Model, declared_length};
use grouse_runtime::{Error, Result};

unsafe extern "C" {
    static _arena_start: u8;
    static _arena_end: u8;
    static _model_start: u8;
    static _model_end: u8;
}

/// The model that the emulator has loaded.
pub fn model() -> Result<Model<'static>> {
    let start = &raw const _model_start;
    let available = (&raw const _model_end).addr() - start.addr();
    let region = |length: u64| {
        let fits = usize::try_from(length).ok().filter(|length| *length <= available);
        let length =
            fits.ok_or(Error::Truncated { needed: length, available: available as u64 })?;
        // SAFETY: the memory map keeps this region apart from all others; it is readable and is
        // never written while the program runs.
        Ok(unsafe { core::slice::from_raw_parts(start, length) })
    };
    // Only the header knows where the file ends; `open` checks what it says.
    Model::open(region(declared_length(region(size_of::<Header>() as u64)?)?)?)
}

/// The arena, zeroed; `None` when it is already taken.
pub fn arena() -> Option<&'static mut [u8]> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    let start = (&raw const _arena_start).cast_mut();
    let length = (&raw const _arena_end).addr() - start.addr();
    // SAFETY: the memory map keeps this region of RAM apart from all others. It is written before
    // a slice of it exists, and `TAKEN` lets only one caller come here.
    unsafe {
        start.write_bytes(0, length);
        Some(core::slice::from_raw_parts_mut(start, length))
    }
}
