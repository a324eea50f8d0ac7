//! When the firmware fails: it says so over the protocol's line and stops.

use core::fmt::Write as _;
use core::panic::PanicInfo;

use cortex_m::peripheral::SCB;
use grouse_runtime::wire::{Crash, FaultKind, FaultReport, Response};
use heapless::String;

use crate::board::Uart;
use crate::{link, log};

/// Configurable Fault Status: the stack limit was hit.
const CFSR_STACK_OVERFLOW: u32 = 1 << 20;
/// Configurable Fault Status: the memory or bus fault address is valid.
const CFSR_MEMORY_ADDRESS: u32 = 1 << 7;
const CFSR_BUS_ADDRESS: u32 = 1 << 15;

/// Sleeps for ever. The host has been told, or will see the silence.
pub fn stop() -> ! {
    loop {
        cortex_m::asm::wfi();
    }
}

fn report(kind: FaultKind, pc: u32, cfsr: u32, address: u32, what: &str) -> ! {
    let mut port = Uart::wire();
    // An interrupted frame ends here; the host drops it and reads on.
    let _ = embedded_io::Write::write_all(&mut port, &[0]);
    let mut line = [0; 512];
    let fault = FaultReport { kind, pc, cfsr, address, what };
    // Every report fits: the words are bounded.
    let _ = link::send(&mut port, 0, &Response::Fault(fault), &mut line);
    if !log::is_busy() {
        defmt::error!("stopped: {}", fault);
    }
    stop()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut what = String::<200>::new();
    // Words that do not fit are cut.
    let _ = write!(Cut(&mut what), "{info}");
    report(FaultKind::Panic, 0, 0, 0, &what)
}

/// Writes as much as fits.
struct Cut<'a>(&'a mut String<200>);

impl core::fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        text.chars().try_for_each(|c| self.0.push(c)).map_err(|_| core::fmt::Error)
    }
}

/// The vector: frees the stack's reserve, then reports with the stack pointer at the fault.
///
/// # Safety
/// Only the core may enter here.
#[unsafe(naked)]
#[unsafe(export_name = "HardFault")]
unsafe extern "C" fn hard_fault() -> ! {
    core::arch::naked_asm!(
        "movs r1, #0",
        "mrs r0, MSP",
        "mrs r2, MSPLIM",
        "msr MSPLIM, r1",
        "subs r1, r0, r2",
        "b {report}",
        report = sym report_exception,
    )
}

/// `frame` is the stack pointer after exception entry, `above_limit` how far from the limit.
extern "C" fn report_exception(frame: usize, above_limit: u32) -> ! {
    const PC: usize = 6 * 4;
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
    // At the very limit the core had no room to write a frame.
    let pc = if above_limit == 0 {
        0
    } else {
        // SAFETY: the core stacked eight words here, in RAM, the program counter as the seventh.
        unsafe { core::ptr::with_exposed_provenance::<u32>(frame + PC).read_volatile() }
    };
    let overflow = cfsr & CFSR_STACK_OVERFLOW != 0;
    let kind = if overflow { FaultKind::StackOverflow } else { FaultKind::Exception };
    report(kind, pc, cfsr, address, "")
}

/// Fails on purpose.
pub fn crash(how: Crash) -> ! {
    match how {
        Crash::Undefined => {}
        Crash::BusFault => {
            // SAFETY: nothing answers at this address, so the read faults and never returns.
            let _ =
                unsafe { core::ptr::with_exposed_provenance::<u32>(0xF800_0000).read_volatile() };
        }
        Crash::StackOverflow => {
            core::hint::black_box(endless(1));
        }
    }
    // Also what the others end with, should they not have failed. No panic: there is none in the
    // image, as a test checks.
    cortex_m::asm::udf()
}

#[inline(never)]
fn endless(depth: u32) -> u32 {
    let block = core::hint::black_box([depth; 64]);
    if depth == 0 { 0 } else { endless(depth.wrapping_add(1)).wrapping_add(block.iter().sum()) }
}
