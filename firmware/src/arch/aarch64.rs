//! A bare aarch64 core at EL1: entry, memory map, stack and faults.

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

use grouse_runtime::wire::{Crash, FaultKind};

/// No frame of a function is larger than the hole under the stack.
const BLOCK: u64 = 2 << 20;
/// The GiB that all regions lie in; the one below is devices'.
const MEMORY: u64 = 1 << 30;
/// A block of memory: read and written, cached, shared, accessed before. Attributes 1 of MAIR.
const CACHED: u64 = 1 << 10 | 3 << 8 | 1 << 2 | 1;
/// A block of devices: never executed. Attributes 0.
const DEVICE: u64 = 3 << 53 | 1 << 10 | 1;
/// Entry of the level above: another table.
const TABLE: u64 = 3;

unsafe extern "C" {
    static _grouse_stack_limit: u8;
    static _stack_start: u8;
    static __image_start: u8;
    static __sidata: u8;
    static __sdata: u8;
    static __edata: u8;
    static __euninit: u8;
}

/// A translation table. The core reads it; nobody writes.
#[repr(C, align(4096))]
struct Table([u64; 512]);

/// 2 MiB blocks of [`MEMORY`], each at its own address, but for the one under the stack.
#[used]
#[unsafe(no_mangle)]
#[expect(clippy::indexing_slicing, reason = "the compiler works this out, and checks it")]
static GROUSE_BLOCKS: Table = {
    let hole = crate::board::RAM_ORIGIN as u64 - BLOCK;
    let (mut table, mut i) = ([0; 512], 0);
    while i < 512 {
        let address = MEMORY + i as u64 * BLOCK;
        table[i] = if address == hole { 0 } else { address | CACHED };
        i += 1;
    }
    Table(table)
};

global_asm!(
    // The table of GiB, which the code below writes before anything else runs.
    ".section .bss.grouse_top, \"aw\", %nobits",
    ".balign 4096",
    "grouse_top:",
    ".skip 4096",
    ".section .vectors, \"ax\"",
    ".balign 2048",
    "grouse_vectors:",
    ".rept 16",
    ".balign 128",
    "mrs x0, elr_el1",
    "mrs x1, esr_el1",
    "mrs x2, far_el1",
    // Nothing returns: the whole stack is free.
    "adrp x3, _stack_start",
    "add x3, x3, :lo12:_stack_start",
    "mov sp, x3",
    "b {report}",
    ".endr",
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    // Floats and vectors.
    "mov x0, #(3 << 20)",
    "msr cpacr_el1, x0",
    "adrp x0, _stack_start",
    "add x0, x0, :lo12:_stack_start",
    "mov sp, x0",
    "adrp x0, grouse_vectors",
    "add x0, x0, :lo12:grouse_vectors",
    "msr vbar_el1, x0",
    // Statics: cleared, or copied from behind the constants.
    "adrp x0, __sbss",
    "add x0, x0, :lo12:__sbss",
    "adrp x1, __ebss",
    "add x1, x1, :lo12:__ebss",
    "2: cmp x0, x1",
    "b.hs 3f",
    "stp xzr, xzr, [x0], #16",
    "b 2b",
    "3: adrp x0, __sidata",
    "add x0, x0, :lo12:__sidata",
    "adrp x1, __sdata",
    "add x1, x1, :lo12:__sdata",
    "adrp x2, __edata",
    "add x2, x2, :lo12:__edata",
    "4: cmp x1, x2",
    "b.hs 5f",
    "ldp x3, x4, [x0], #16",
    "stp x3, x4, [x1], #16",
    "b 4b",
    // The first four GiB: devices, memory by blocks, nothing, nothing.
    "5: adrp x0, grouse_top",
    "add x0, x0, :lo12:grouse_top",
    "ldr x1, ={device}",
    "str x1, [x0]",
    "adrp x1, GROUSE_BLOCKS",
    "orr x1, x1, #{table}",
    "str x1, [x0, #8]",
    "msr ttbr0_el1, x0",
    // Memory of kind 0: devices; of kind 1: written back.
    "mov x0, #0xff00",
    "msr mair_el1, x0",
    // 32 bits of addresses by TTBR0 only, 4 KiB granules, cached and shared walks.
    "ldr x0, =0x803520",
    "msr tcr_el1, x0",
    "dsb sy",
    "tlbi vmalle1",
    "dsb sy",
    "isb",
    "mrs x0, sctlr_el1",
    // MMU, data and instruction caches.
    "ldr x1, =0x1005",
    "orr x0, x0, x1",
    "msr sctlr_el1, x0",
    "isb",
    "b {start}",
    report = sym report_exception,
    start = sym start,
    device = const DEVICE,
    table = const TABLE,
);

extern "C" fn start() -> ! {
    crate::run()
}

/// The lowest address that the stack may reach.
pub fn stack_limit() -> usize {
    (&raw const _grouse_stack_limit).addr()
}

/// Where the stack starts from.
pub fn stack_top() -> usize {
    (&raw const _stack_start).addr()
}

/// Where the stack is now.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let pointer;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack)) };
    pointer
}

/// Bytes of code, constants and initial values, and bytes of statics.
pub fn image_bytes() -> (usize, usize) {
    let values = (&raw const __edata).addr() - (&raw const __sdata).addr();
    let end = (&raw const __sidata).addr() + values;
    let flash = end - (&raw const __image_start).addr();
    (flash, (&raw const __euninit).addr() - stack_top())
}

/// Code, constants and initial values, in words.
pub fn image_words() -> Option<&'static [u32]> {
    let (flash, _) = image_bytes();
    // SAFETY: the linker's image: initialised, aligned, and never written.
    Some(unsafe { core::slice::from_raw_parts(&raw const __image_start as _, flash / 4) })
}

/// Nothing: a restart of the emulator loses no cache.
pub fn settle(_: usize, _: usize) {}

/// Sleeps for ever. The host has been told, or will see the silence.
pub fn stop() -> ! {
    loop {
        // SAFETY: waits for an interrupt; none is enabled.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::fault::panic(info)
}

/// Program counter, syndrome and address of an exception, in whose words 32 bits are enough here.
extern "C" fn report_exception(pc: u64, syndrome: u64, address: u64) -> ! {
    let limit = stack_limit() as u64;
    let overflow = (limit - BLOCK..limit).contains(&address);
    let kind = if overflow { FaultKind::StackOverflow } else { FaultKind::Exception };
    crate::fault::report(kind, pc as u32, syndrome as u32, address as u32, "")
}

/// Fails on purpose.
pub fn crash(how: Crash) -> ! {
    if how == Crash::Restart {
        // SAFETY: PSCI's SYSTEM_RESET, which never returns.
        unsafe { asm!("hvc #0", in("x0") 0x8400_0009_u64, options(noreturn)) }
    }
    crate::fault::provoke(how);
    // SAFETY: an undefined instruction: an exception that never returns.
    unsafe { asm!("udf #0", options(noreturn)) }
}

/// A loop of exactly two instructions per turn.
pub fn spin(turns: u32) {
    // SAFETY: counts a register down to zero; touches nothing else but the flags.
    unsafe {
        asm!(
            "2: subs {left:w}, {left:w}, #1",
            "b.ne 2b",
            left = inout(reg) turns => _,
            options(nomem, nostack),
        );
    }
}
