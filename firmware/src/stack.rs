//! The stack: its guard, and how deep it goes.

use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

/// Bytes under the stack limit that are kept for the fault handlers.
const HANDLER_BYTES: usize = 4096;
/// What a word of free stack holds after [`paint`].
const PAINT: u32 = 0x7061_696e;
const WORD: usize = size_of::<u32>();
/// Bytes under the stack pointer that [`paint`] leaves alone: the compiler may read the pointer
/// before it saves the registers of this very function below it.
const FRAME_BYTES: usize = 256;

unsafe extern "C" {
    /// The stack's lowest address, from `memory.x`.
    static _grouse_stack_limit: u8;
    /// Its end, where it starts from, by cortex-m-rt.
    static _stack_start: u8;
}

/// The lowest address that the stack may reach.
fn limit() -> usize {
    (&raw const _grouse_stack_limit).addr() + HANDLER_BYTES
}

/// Lets the core stop the stack before it reaches the statics.
pub fn guard() {
    // SAFETY: the limit lies below the current stack pointer: the linker keeps `stack_bytes` of the
    // catalogue free, far more than `HANDLER_BYTES` and this frame.
    unsafe { cortex_m::register::msplim::write(limit() as u32) }
}

/// Paints what of the stack is free now, for [`deepest`] to see.
#[inline(never)]
pub fn paint() {
    let end = (cortex_m::register::msp::read() as usize).saturating_sub(FRAME_BYTES);
    for word in (limit()..end).step_by(WORD) {
        // SAFETY: RAM of the stack below this frame: nobody owns it, and no interrupt handler runs
        // (they are masked, see `Uart::start`). This loop calls nothing.
        unsafe { with_exposed_provenance_mut::<u32>(word).write_volatile(PAINT) }
    }
}

/// Bytes of stack in use at the deepest since [`paint`], from the stack's top.
pub fn deepest() -> usize {
    let top = (&raw const _stack_start).addr();
    let is_free = |word: &usize| {
        // SAFETY: RAM of the stack; any bits are a `u32`.
        unsafe { with_exposed_provenance::<u32>(*word).read_volatile() == PAINT }
    };
    let free = (limit()..top).step_by(WORD).take_while(is_free).count();
    top - limit() - free * WORD
}
