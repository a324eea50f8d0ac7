//! The defmt logger: frames to the board's second serial line.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use embedded_io::Write;

use crate::board::{Counter, Uart};

#[defmt::global_logger]
struct Logger;

/// Set while a frame is being written.
static BUSY: AtomicBool = AtomicBool::new(false);

/// The frame encoder, used only between `acquire` and `release`.
struct Shared(UnsafeCell<defmt::Encoder>);

// SAFETY: there is one core and no interrupt handler logs (that of USB on the Pico 2 is the only one;
// elsewhere they are masked, see `Uart::start`). A fault handler does not log while `BUSY` is set and never returns, so it never meets a live borrow.
unsafe impl Sync for Shared {}

static ENCODER: Shared = Shared(UnsafeCell::new(defmt::Encoder::new()));

/// Whether a log frame was under way when a fault struck; logging then would break it.
pub fn is_busy() -> bool {
    BUSY.load(Ordering::Relaxed)
}

// SAFETY: calls come from one core in the order acquire, write…, release, as defmt promises; see
// `Shared` for the only code that could come between.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        BUSY.store(true, Ordering::Relaxed);
        // SAFETY: no other borrow of the encoder is alive, see `Shared`.
        unsafe { (*ENCODER.0.get()).start_frame(put) }
    }

    unsafe fn flush() {
        let _ = Uart::log().flush();
    }

    unsafe fn release() {
        // SAFETY: as in `acquire`.
        unsafe { (*ENCODER.0.get()).end_frame(put) }
        BUSY.store(false, Ordering::Relaxed);
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: as in `acquire`.
        unsafe { (*ENCODER.0.get()).write(bytes, put) }
    }
}

fn put(bytes: &[u8]) {
    let _ = Uart::log().write_all(bytes);
}

defmt::timestamp!("{=u64}", Counter::ticks());
