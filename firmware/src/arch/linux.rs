//! A Linux program, `grouse-firmware MODEL LOG`: the line is its standard input and output.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use grouse_runtime::mapped::MappedFile;
use grouse_runtime::view::Model;
use grouse_runtime::wire::{Crash, Refusal, RuntimeError};
use memmap2::MmapMut;

use crate::board::{ARENA_BYTES, STACK_BYTES, Uart};

/// Where the stack was when the program began.
static TOP: AtomicUsize = AtomicUsize::new(0);

/// Starts the program; `main` calls it.
pub fn start() -> ! {
    TOP.store(stack_pointer(), Ordering::Relaxed);
    std::panic::set_hook(Box::new(|info| crate::fault::panic(info)));
    if let Some(log) = std::env::args_os().nth(2) {
        match File::create(&log) {
            Ok(file) => Uart::log_to(file),
            Err(error) => fail(&format!("cannot write the log {}: {error}", log.display())),
        }
    }
    crate::run()
}

fn fail(words: &str) -> ! {
    eprintln!("error: {words}");
    std::process::exit(1)
}

/// The lowest address that the stack should reach: the system gives more.
pub fn stack_limit() -> usize {
    stack_top() - STACK_BYTES
}

/// Where the stack starts from.
pub fn stack_top() -> usize {
    TOP.load(Ordering::Relaxed)
}

/// Where the stack is now.
#[inline(always)]
pub fn stack_pointer() -> usize {
    let pointer;
    // SAFETY: copies a register.
    unsafe { core::arch::asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack)) };
    pointer
}

/// Zeros: the host knows the program's file.
pub fn image_bytes() -> (usize, usize) {
    (0, 0)
}

/// None: nothing tells the first start of a program from others.
pub fn image_words() -> Option<&'static [u32]> {
    None
}

/// Nothing outlives a program.
pub fn settle(_: usize, _: usize) {}

/// The model, mapped and checked as a whole.
pub fn model() -> Result<Model<'static>, Refusal<'static>> {
    let Some(path) = std::env::args_os().nth(1) else {
        fail("say which model: grouse-firmware MODEL [LOG]")
    };
    let file = MappedFile::open(Path::new(&path))
        .unwrap_or_else(|error| fail(&format!("cannot map {}: {error}", path.display())));
    // It stays until the program ends.
    let file: &'static MappedFile = Box::leak(Box::new(file));
    Model::open(file.bytes()).map_err(|error| Refusal::Runtime(RuntimeError::new(&error)))
}

/// The arena, zeroed by the system as it is used; `None` when it is already taken.
pub fn arena() -> Option<&'static mut [u8]> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    let memory = MmapMut::map_anon(ARENA_BYTES)
        .unwrap_or_else(|error| fail(&format!("no memory for the arena: {error}")));
    let memory: &'static mut MmapMut = Box::leak(Box::new(memory));
    Some(memory)
}

/// Ends the program, as a fault ends it.
pub fn stop() -> ! {
    std::process::exit(101)
}

/// Fails on purpose.
pub fn crash(how: Crash) -> ! {
    match how {
        Crash::Undefined => {}
        Crash::Restart => std::process::exit(0),
        Crash::BusFault => {
            // SAFETY: nothing is mapped there, so the read ends the program.
            let _ = unsafe { core::ptr::with_exposed_provenance::<u32>(64).read_volatile() };
        }
        Crash::StackOverflow => {
            core::hint::black_box(crate::fault::endless(1));
        }
    }
    std::process::abort()
}

/// A loop of exactly two instructions per turn.
pub fn spin(turns: u32) {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: counts a register down to zero; touches nothing else but the flags.
    unsafe {
        core::arch::asm!(
            "2: subs {left:w}, {left:w}, #1",
            "b.ne 2b",
            left = inout(reg) turns => _,
            options(nomem, nostack),
        );
    }
    #[cfg(target_arch = "arm")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "2: subs {left}, {left}, #1",
            "bne 2b",
            left = inout(reg) turns => _,
            options(nomem, nostack),
        );
    }
}
