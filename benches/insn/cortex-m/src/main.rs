//! Runs the counted cases on a Cortex-M without a system: the model lies in memory, the request
//! and the lines pass through semihosting.

#![no_std]
#![no_main]

mod memory;
mod semihosting;

use core::panic::PanicInfo;

use cortex_m_rt::{ExceptionFrame, entry, exception};
use grouse_insn_cases::{Request, run};

use crate::semihosting::{command_line, exit, fail, output};

/// Most bytes of a request.
const COMMAND_LINE: usize = 256;

#[entry]
fn main() -> ! {
    let mut line = [0; COMMAND_LINE];
    let Some(line) = command_line(&mut line) else { fail(&"there is no command line") };
    let Some(mut out) = output() else { fail(&"there is no output") };
    let Some(arena) = memory::arena() else { fail(&"the arena is taken") };
    let model = memory::model().unwrap_or_else(|error| fail(&error));
    let request =
        Request::parse(line.split_ascii_whitespace()).unwrap_or_else(|error| fail(&error));
    match run(&request, &model, arena, &mut out) {
        Ok(true) => exit(true),
        Ok(false) => fail(&"a backend differs from the scalar one"),
        Err(error) => fail(&error),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(info)
}

/// Ends the emulator, which would otherwise run for ever.
#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    fail(&format_args!("hard fault at {:#010x}", frame.pc()))
}
