//! RP2350 (Raspberry Pi Pico 2): the boot ROM's image definition, clocks, pins, and the timer.
//!
//! GPIO 0 and 1 carry the protocol, GPIO 4 and 5 the log, both at 115,200 baud.

use rp235x_hal as hal;

use hal::block::ImageDef;
use hal::clocks::{Clock, init_clocks_and_plls};
use hal::fugit::RateExtU32;
use hal::uart::{DataBits, StopBits, UartConfig, UartPeripheral};

use super::{COUNTER_HZ, COUNTER_STATUS, read_register};

/// What the boot ROM looks for in the first 4 KiB of flash: an Arm program, secure.
#[used]
#[unsafe(link_section = ".start_block")]
static IMAGE_DEFINITION: ImageDef = ImageDef::secure_exe();

/// The crystal of the Pico 2.
const CRYSTAL_HZ: u32 = 12_000_000;
/// The 64-bit microsecond timer's raw words: they latch nothing.
const TIMER_RAW_HIGH: usize = 0x24;
const TIMER_RAW_LOW: usize = 0x28;

/// Sets clocks, pins and baud rates. After a failure nobody can be told: the lines stay dead.
pub fn start() {
    let Some(mut chip) = hal::pac::Peripherals::take() else { return };
    let clocks = init_clocks_and_plls(
        CRYSTAL_HZ,
        chip.XOSC,
        chip.CLOCKS,
        chip.PLL_SYS,
        chip.PLL_USB,
        &mut chip.RESETS,
        &mut hal::Watchdog::new(chip.WATCHDOG),
    );
    let Ok(clocks) = clocks else { return };
    let sio = hal::Sio::new(chip.SIO);
    let bank = sio.gpio_bank0;
    let pins = hal::gpio::Pins::new(chip.IO_BANK0, chip.PADS_BANK0, bank, &mut chip.RESETS);
    let settings = || UartConfig::new(115_200.Hz(), DataBits::Eight, None, StopBits::One);
    let peripheral = clocks.peripheral_clock.freq();
    let wire = (pins.gpio0.into_function(), pins.gpio1.into_function());
    let wire = UartPeripheral::new(chip.UART0, wire, &mut chip.RESETS);
    let log = (pins.gpio4.into_function(), pins.gpio5.into_function());
    let log = UartPeripheral::new(chip.UART1, log, &mut chip.RESETS);
    // From here on the lines are the driver's, by their registers. The timer runs by now.
    let lines = (wire.enable(settings(), peripheral), log.enable(settings(), peripheral));
    let (Ok(_), Ok(_)) = lines else { return };
    let _ = hal::Timer::new_timer0(chip.TIMER0, &mut chip.RESETS, &clocks);
    let (usb, memory) = (chip.USB, chip.USB_DPRAM);
    super::usb::start(hal::usb::UsbBus::new(usb, memory, clocks.usb_clock, true, &mut chip.RESETS));
}

/// Cycles since the start, by the timer that counts microseconds.
pub fn slow_cycles() -> u64 {
    let microseconds = loop {
        // SAFETY: the timer's registers by the catalogue.
        let read = |offset| unsafe { read_register(COUNTER_STATUS + offset) };
        let high = read(TIMER_RAW_HIGH);
        let low = read(TIMER_RAW_LOW);
        if read(TIMER_RAW_HIGH) == high {
            break u64::from(high) << 32 | u64::from(low);
        }
    };
    microseconds.wrapping_mul(COUNTER_HZ as u64 / 1_000_000)
}
