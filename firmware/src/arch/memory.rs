//! The board's large memories: the model in place and the encoder's arena.

use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicBool, Ordering};

use grouse_runtime::Error;
use grouse_runtime::format::Header;
use grouse_runtime::view::{Model, declared_length};
use grouse_runtime::wire::{Refusal, RuntimeError};

use crate::board::{ARENA_BYTES, ARENA_ORIGIN, MODEL_BYTES, MODEL_ORIGIN};

/// The model in the board's model region, checked as a whole.
pub fn model() -> Result<Model<'static>, Refusal<'static>> {
    let refuse = |error| Refusal::Runtime(RuntimeError::new(&error));
    let region = |length| {
        let available = MODEL_BYTES as u64;
        let bytes = usize::try_from(length).ok().and_then(model_region);
        bytes.ok_or(refuse(Error::Truncated { needed: length, available }))
    };
    let head = region(size_of::<Header>() as u64)?;
    // Only the header knows where the file ends; `open` checks what it says.
    let length = declared_length(head).map_err(refuse)?;
    Model::open(region(length)?).map_err(refuse)
}

/// The first `length` bytes of the model region; `None` when it is shorter.
fn model_region(length: usize) -> Option<&'static [u8]> {
    if length > MODEL_BYTES {
        return None;
    }
    // SAFETY: the catalogue's model region is memory that holds `MODEL_BYTES` bytes (no more than a
    // slice may have), overlaps no other region (the linker places nothing in it) and is never
    // written while the program runs. Any byte is a valid u8.
    Some(unsafe { core::slice::from_raw_parts(with_exposed_provenance(MODEL_ORIGIN), length) })
}

/// The arena, zeroed; `None` when it is already taken.
pub fn arena() -> Option<&'static mut [u8]> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    let start = with_exposed_provenance_mut::<u8>(ARENA_ORIGIN);
    // SAFETY: the catalogue's arena region is RAM of `ARENA_BYTES` bytes that overlaps no other
    // region (the linker places nothing in it). It is written before a slice of it exists, and
    // `TAKEN` lets only one caller come here.
    unsafe {
        start.write_bytes(0, ARENA_BYTES);
        Some(core::slice::from_raw_parts_mut(start, ARENA_BYTES))
    }
}
