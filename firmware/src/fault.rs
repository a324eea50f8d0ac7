//! When the firmware fails: it says so over the protocol's line and stops.

use core::fmt::{Display, Write as _};

#[cfg(target_os = "none")]
use grouse_runtime::wire::Crash;
use grouse_runtime::wire::{FaultKind, FaultReport, Response};
use heapless::String;

use crate::board::Uart;
use crate::{arch, link, log};

/// Sends the report and stops.
pub fn report(kind: FaultKind, pc: u32, cfsr: u32, address: u32, what: &str) -> ! {
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
    arch::stop()
}

/// Reports a panic's words and place.
pub fn panic(info: &impl Display) -> ! {
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

/// Fails as a test asks for on bare metal; an undefined instruction is left to the caller.
#[cfg(target_os = "none")]
pub fn provoke(how: Crash) {
    match how {
        Crash::Undefined | Crash::Restart => {}
        Crash::BusFault => {
            // SAFETY: no board has anything at this address, so the read faults and never returns.
            let _ =
                unsafe { core::ptr::with_exposed_provenance::<u32>(0xF800_0000).read_volatile() };
        }
        Crash::StackOverflow => {
            core::hint::black_box(endless(1));
        }
    }
}

/// A recursion that only the end of the stack ends.
#[inline(never)]
pub fn endless(depth: u32) -> u32 {
    let block = core::hint::black_box([depth; 64]);
    if depth == 0 { 0 } else { endless(depth.wrapping_add(1)).wrapping_add(block.iter().sum()) }
}
