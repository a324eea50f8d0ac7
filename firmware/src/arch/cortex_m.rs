//! Cortex-M: entry, stack and faults.

use core::panic::PanicInfo;

#[cfg(not(stack_limit))]
use cortex_m::peripheral::MPU;
use cortex_m::peripheral::SCB;
use cortex_m_rt::entry;
use grouse_runtime::wire::{Crash, FaultKind};

/// Configurable Fault Status: the stack limit was hit.
const CFSR_STACK_LIMIT: u32 = 1 << 20;
/// Configurable Fault Status: the core could not push a frame.
const CFSR_STACKING: u32 = 1 << 12 | 1 << 4;
/// Configurable Fault Status: the memory or bus fault address is valid.
const CFSR_MEMORY_ADDRESS: u32 = 1 << 7;
const CFSR_BUS_ADDRESS: u32 = 1 << 15;
/// No frame of a function is larger: an access so far below the stack has another cause.
const OVERSHOOT: usize = 64 * 1024;
/// ARMv7-M's MPU, region attributes: no access at all, so many bytes, in use.
#[cfg(not(stack_limit))]
const NO_ACCESS: u32 = 1 << 28 | (OVERSHOOT.trailing_zeros() - 1) << 1 | 1;
/// Control: on, with the usual map for the rest, and off in the fault handler.
#[cfg(not(stack_limit))]
const MPU_ON: u32 = 1 << 2 | 1;

unsafe extern "C" {
    /// The stack's lowest address and its top, from `memory.x`.
    static _grouse_stack_limit: u8;
    static _stack_start: u8;
    /// First address of the image: the vectors, or what a boot ROM wants before them.
    static _grouse_image_start: u8;
    /// Where the initial values of statics lie in flash, and where they go.
    static __sidata: u8;
    static __sdata: u8;
    static __edata: u8;
    /// End of all statics.
    static __euninit: u8;
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
pub fn stack_pointer() -> usize {
    cortex_m::register::msp::read() as usize
}

/// Bytes of code, constants and initial values, and bytes of statics.
pub fn image_bytes() -> (usize, usize) {
    let values = (&raw const __edata).addr() - (&raw const __sdata).addr();
    let end = (&raw const __sidata).addr() + values;
    let flash = end - (&raw const _grouse_image_start).addr();
    (flash, (&raw const __euninit).addr() - stack_top())
}

/// Code, constants and initial values, in words; what is left of the last one is not among them.
pub fn image_words() -> Option<&'static [u32]> {
    let (flash, _) = image_bytes();
    // SAFETY: the linker's image: initialised, aligned, and never written.
    Some(unsafe { core::slice::from_raw_parts(&raw const _grouse_image_start as _, flash / 4) })
}

/// Sees to it that what was written to memory is there after a restart.
pub fn settle(address: usize, bytes: usize) {
    if SCB::dcache_enabled() {
        // SAFETY: writing back changes nothing that a program sees; nobody else uses these registers.
        unsafe { cortex_m::Peripherals::steal() }.SCB.clean_dcache_by_address(address, bytes);
    }
}

#[entry]
fn start() -> ! {
    guard_stack();
    crate::run()
}

/// Lets the core stop the stack at its limit.
#[cfg(stack_limit)]
fn guard_stack() {
    // SAFETY: the limit lies below the current stack pointer, by `STACK_BYTES` without this frame.
    unsafe { cortex_m::register::msplim::write(stack_limit() as u32) }
}

/// Lets the core stop accesses below the stack, which begins where RAM does. What is there differs
/// from board to board, and not everywhere does it fault by itself.
#[cfg(not(stack_limit))]
fn guard_stack() {
    // SAFETY: the only user of the MPU. Nothing that the program uses lies below its RAM's start, a
    // multiple of the region's size.
    unsafe {
        let mpu = &*MPU::PTR;
        mpu.rnr.write(0);
        mpu.rbar.write((stack_limit() - OVERSHOOT) as u32);
        mpu.rasr.write(NO_ACCESS);
        mpu.ctrl.write(MPU_ON);
    }
    cortex_m::asm::dsb();
    cortex_m::asm::isb();
}

/// Sleeps for ever. The host has been told, or will see the silence.
pub fn stop() -> ! {
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::fault::panic(info)
}

/// The vector: takes the program counter from the frame, if there is one, and reports with a stack
/// of its own: all of the stack, since nothing returns to it.
///
/// # Safety
/// Only the core may enter here.
#[unsafe(naked)]
#[unsafe(export_name = "HardFault")]
unsafe extern "C" fn hard_fault() -> ! {
    #[cfg(stack_limit)]
    core::arch::naked_asm!(
        "mrs r0, MSP",
        "movw r2, #:lower16:{limit}",
        "movt r2, #:upper16:{limit}",
        "movs r1, #0",
        // At the very limit the core had no room to write a frame.
        "cmp r0, r2",
        "bls 2f",
        "ldr r1, [r0, #24]",
        "2: movs r3, #0",
        "msr MSPLIM, r3",
        "movw r2, #:lower16:{top}",
        "movt r2, #:upper16:{top}",
        "mov sp, r2",
        "b {report}",
        limit = sym _grouse_stack_limit,
        top = sym _stack_start,
        report = sym report_exception,
    );
    #[cfg(not(stack_limit))]
    core::arch::naked_asm!(
        "mrs r0, MSP",
        "movw r2, #:lower16:{limit}",
        "movt r2, #:upper16:{limit}",
        "movs r1, #0",
        // Below it there is no memory, and so no frame.
        "cmp r0, r2",
        "blo 2f",
        "ldr r1, [r0, #24]",
        "2: movw r2, #:lower16:{top}",
        "movt r2, #:upper16:{top}",
        "mov sp, r2",
        "b {report}",
        limit = sym _grouse_stack_limit,
        top = sym _stack_start,
        report = sym report_exception,
    );
}

/// `frame` is the stack pointer after exception entry, `pc` what failed, 0 when unknown.
extern "C" fn report_exception(frame: usize, pc: u32) -> ! {
    // SAFETY: reading fault status registers has no effect.
    let scb = unsafe { &*SCB::PTR };
    let cfsr = scb.cfsr.read();
    let address = if cfsr & CFSR_BUS_ADDRESS != 0 {
        scb.bfar.read()
    } else if cfsr & CFSR_MEMORY_ADDRESS != 0 {
        scb.mmfar.read()
    } else {
        0
    };
    let limit = stack_limit();
    let below = limit.saturating_sub(OVERSHOOT)..limit;
    let overflow = cfsr & (CFSR_STACK_LIMIT | CFSR_STACKING) != 0
        || frame < limit
        || below.contains(&(address as usize));
    let kind = if overflow { FaultKind::StackOverflow } else { FaultKind::Exception };
    crate::fault::report(kind, pc, cfsr, address, "")
}

/// Fails on purpose.
pub fn crash(how: Crash) -> ! {
    if how == Crash::Restart {
        SCB::sys_reset();
    }
    crate::fault::provoke(how);
    // Also what the others end with, should they not have failed. No panic: there is none in the
    // image, as a test checks.
    cortex_m::asm::udf()
}

/// A loop of exactly two instructions per turn.
pub fn spin(turns: u32) {
    // SAFETY: counts a register down to zero; touches nothing else but the flags.
    unsafe {
        core::arch::asm!(
            "2: subs {left}, {left}, #1",
            "bne 2b",
            left = inout(reg) turns => _,
            options(nomem, nostack),
        );
    }
}
