//! What STM32 boards share, by their family's HAL: serial lines that stay open, and the timer.

use embassy_stm32::Peri;
use embassy_stm32::usart::{Config, Instance, RxPin, TxPin, Uart};

use super::{COUNTER_STATUS, read_register, write_register};

/// Timer clocks per step.
const STEP: u32 = 1 << 16;
/// The timer's registers: its switch, its take-over of settings, its count, and its prescaler, less
/// one. Not every chip's HAL has the timer.
const TIM_CONTROL: usize = 0x00;
const TIM_EVENT: usize = 0x14;
const TIM_COUNT: usize = 0x24;
const TIM_PRESCALER: usize = 0x28;

/// Sets a line's pins, its format and its baud rate: 115,200. From then on it is the driver's, by
/// its registers. A configuration that is refused leaves it dead.
pub fn open<T: Instance>(
    line: Peri<'static, T>,
    receive: Peri<'static, impl RxPin<T>>,
    transmit: Peri<'static, impl TxPin<T>>,
) {
    // Dropped, it would be switched off.
    core::mem::forget(Uart::new_blocking(line, receive, transmit, Config::default()));
}

/// Starts the slow counter, a timer of 32 bits whose clock is on.
pub fn count() {
    for (register, value) in [(TIM_PRESCALER, STEP - 1), (TIM_EVENT, 1), (TIM_CONTROL, 1)] {
        // SAFETY: the timer's registers by the catalogue; nobody else uses it.
        unsafe { write_register(COUNTER_STATUS + register, value) }
    }
}

/// Cycles since the start, by the slow counter, whose clock is a `divisor`th of the core's.
pub fn slow_cycles(divisor: u64) -> u64 {
    // SAFETY: the timer's register by the catalogue.
    let steps = unsafe { read_register(COUNTER_STATUS + TIM_COUNT) };
    u64::from(steps) * u64::from(STEP) * divisor
}
