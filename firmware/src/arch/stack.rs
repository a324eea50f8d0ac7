//! How deep the stack goes: what is free of it is painted, and looked at later.

use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use super::{stack_limit, stack_pointer, stack_top};

/// What a word of free stack holds after [`paint`].
const PAINT: u32 = 0x7061_696e;
const WORD: usize = size_of::<u32>();
/// Bytes under the stack pointer that [`paint`] leaves alone: the compiler may read the pointer
/// before it saves the registers of this very function below it.
const FRAME_BYTES: usize = 256;

/// Paints what of the stack is free now, for [`deepest`] to see.
#[inline(never)]
pub fn paint() {
    let end = stack_pointer().saturating_sub(FRAME_BYTES);
    for word in (stack_limit()..end).step_by(WORD) {
        // SAFETY: memory of the stack below this frame: nobody owns it. A handler of an interrupt
        // or signal that strikes meanwhile is gone before the loop goes on. This loop calls nothing.
        unsafe { with_exposed_provenance_mut::<u32>(word).write_volatile(PAINT) }
    }
}

/// Bytes of stack in use at the deepest since [`paint`], from the stack's top.
pub fn deepest() -> usize {
    let (limit, top) = (stack_limit(), stack_top());
    let is_free = |word: &usize| {
        // SAFETY: memory of the stack; any bits are a `u32`.
        unsafe { with_exposed_provenance::<u32>(*word).read_volatile() == PAINT }
    };
    let free = (limit..top).step_by(WORD).take_while(is_free).count();
    top - limit - free * WORD
}
