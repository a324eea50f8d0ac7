//! A QEMU plugin that counts the guest instructions executed between the functions
//! `grouse_count_start` and `grouse_count_stop` of the guest.
//!
//! Each pair of calls is a region; regions are numbered in the order of their starts. When the
//! guest ends, the file of the argument `out=PATH` gets one JSON line a region:
//! `{"region":0,"instructions":1234}`, and a line `{"error":"…"}` for marks that do not pair up.
//!
//! Every instruction is counted where it is executed, one by one, so that a block left early
//! counts for no more than was done. The guest must run on one processor.

mod api;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Write as _;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use api::{Block, Id, Operation, Registers};

/// Read by QEMU before anything is called.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static qemu_plugin_version: c_int = api::VERSION;

/// Guest instructions so far. QEMU's generated code adds to it, on the one processor's thread,
/// which also runs the callbacks that read it.
static EXECUTED: AtomicU64 = AtomicU64::new(0);
static OUT: OnceLock<String> = OnceLock::new();
static REGIONS: Mutex<Regions> =
    Mutex::new(Regions { started: None, text: String::new(), count: 0 });

/// What has been counted.
struct Regions {
    /// [`EXECUTED`] at the start of the open region.
    started: Option<u64>,
    /// Closed regions, as they will be written.
    text: String,
    count: usize,
}

impl Regions {
    fn start(&mut self, now: u64) {
        if self.started.replace(now).is_some() {
            self.error("grouse_count_start was called inside a region");
        }
    }

    fn stop(&mut self, now: u64) {
        let Some(start) = self.started.take() else {
            return self.error("grouse_count_stop was called outside a region");
        };
        // Writing to a string cannot fail.
        let _ =
            writeln!(self.text, "{{\"region\":{},\"instructions\":{}}}", self.count, now - start);
        self.count += 1;
    }

    fn error(&mut self, what: &str) {
        let _ = writeln!(self.text, "{{\"error\":\"{what}\"}}");
    }
}

/// Called by QEMU once, with the plugin's arguments.
///
/// # Safety
/// `argv` holds `argc` pointers to strings that end with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    for index in 0..usize::try_from(argc).unwrap_or_default() {
        // SAFETY: the caller's promise.
        let argument = unsafe { CStr::from_ptr(*argv.add(index)) }.to_string_lossy();
        match argument.strip_prefix("out=") {
            Some(path) => drop(OUT.set(path.to_owned())),
            None => {
                eprintln!("grouse-insn-plugin: unknown argument {argument}; give out=PATH");
                return 1;
            }
        }
    }
    if OUT.get().is_none() {
        eprintln!("grouse-insn-plugin: no file to write to; give out=PATH");
        return 1;
    }
    // SAFETY: QEMU's own id; the functions live as long as the plugin, which is never unloaded.
    unsafe {
        api::qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
        api::qemu_plugin_register_atexit_cb(id, on_exit, null_mut());
    }
    0
}

/// Puts the counting into a new block of code.
extern "C" fn on_translation(_: Id, block: *mut Block) {
    // SAFETY: QEMU's block and its instructions are valid during this call, and every index is
    // below their number. `EXECUTED` lives for ever.
    unsafe {
        for index in 0..api::qemu_plugin_tb_n_insns(block) {
            let instruction = api::qemu_plugin_tb_get_insn(block, index);
            let symbol = api::qemu_plugin_insn_symbol(instruction);
            // The marks are functions of one instruction each.
            let mark = (!symbol.is_null()).then(|| CStr::from_ptr(symbol).to_bytes());
            let call: Option<extern "C" fn(c_uint, *mut c_void)> = match mark {
                Some(b"grouse_count_start") => Some(on_start),
                Some(b"grouse_count_stop") => Some(on_stop),
                _ => None,
            };
            if let Some(call) = call {
                api::qemu_plugin_register_vcpu_insn_exec_cb(
                    instruction,
                    call,
                    Registers::Untouched,
                    null_mut(),
                );
            }
            api::qemu_plugin_register_vcpu_insn_exec_inline(
                instruction,
                Operation::AddU64,
                EXECUTED.as_ptr(),
                1,
            );
        }
    }
}

extern "C" fn on_start(_: c_uint, _: *mut c_void) {
    let now = EXECUTED.load(Ordering::Relaxed);
    REGIONS.lock().unwrap_or_else(PoisonError::into_inner).start(now);
}

extern "C" fn on_stop(_: c_uint, _: *mut c_void) {
    let now = EXECUTED.load(Ordering::Relaxed);
    REGIONS.lock().unwrap_or_else(PoisonError::into_inner).stop(now);
}

/// Writes what was counted.
extern "C" fn on_exit(_: Id, _: *mut c_void) {
    let mut regions = REGIONS.lock().unwrap_or_else(PoisonError::into_inner);
    if regions.started.is_some() {
        regions.error("the guest ended inside a region");
    }
    let Some(path) = OUT.get() else { return };
    if let Err(error) = std::fs::write(path, &regions.text) {
        eprintln!("grouse-insn-plugin: cannot write {path}: {error}");
    }
}
