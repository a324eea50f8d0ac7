//! STM32N6570-DK (STM32N657X0): clocks, power, RAM, pins, the flash on XSPI 2, and the timer.
//!
//! The boot ROM has copied the firmware to RAM. PE5 and PE6 (the ST-LINK's virtual port) carry the
//! protocol, PD5 and PF6 the log, both at 115,200 baud. The 128 MiB flash (Macronix MX66UW1G45G) is
//! read by one line, as it wakes up; eight lines would need its registers set.

use embassy_stm32::pac::RCC;
use embassy_stm32::rcc::{CpuClk, IcConfig, Icint, Icsel, Pll, Plldivm, Pllpdiv, Pllsel, SysClk};
use embassy_stm32::xspi::{
    self, AddressSize, ChipSelectHighTime, DummyCycles, FIFOThresholdLevel, MemorySize, MemoryType,
    TransferConfig, WrapSize, Xspi, XspiWidth,
};

use super::{caches, stm32};

/// Fast read and page program with addresses of four bytes; the latter is never used.
const READ: u32 = 0x0C;
const PROGRAM: u32 = 0x12;
/// Commands that bring the flash back to its start, from wherever the boot ROM left it.
const RESET: [u32; 2] = [0x66, 0x99];
/// The core at 600 MHz has two cycles to one of the timer's.
const TIMER_DIVISOR: u64 = 2;

/// Sets caches, clocks, RAM, pins, baud rates and the way to the flash. A flash that cannot be
/// reached is a model that is none, and the line says so.
pub fn start() {
    let mut config = embassy_stm32::Config::default();
    let rcc = &mut config.rcc;
    // 64 MHz / 4 × 75 = 1.2 GHz.
    rcc.pll1 = Some(Pll::Oscillator {
        source: Pllsel::HSI,
        divm: Plldivm::DIV4,
        fractional: 0,
        divn: 75,
        divp1: Pllpdiv::DIV1,
        divp2: Pllpdiv::DIV1,
    });
    let by = |divisor: u8| {
        Some(IcConfig { source: Icsel::PLL1, divider: Icint::from_bits(divisor - 1) })
    };
    rcc.ic1 = by(2);
    rcc.cpu = CpuClk::Ic1;
    (rcc.ic2, rcc.ic6, rcc.ic11) = (by(4), by(4), by(4));
    rcc.sys = SysClk::Ic2;
    rcc.vddio3_1v8 = true;
    let chip = embassy_stm32::init(config);
    // The arena begins in this one, which is off after a reset.
    RCC.memenr().modify(|bits| bits.set_axisram1en(true));
    stm32::open(chip.USART1, chip.PE6, chip.PE5);
    stm32::open(chip.USART2, chip.PF6, chip.PD5);
    // The HAL does not know this timer yet.
    RCC.apb1lenr().modify(|bits| bits.set_tim2en(true));
    stm32::count();

    let settings = xspi::Config {
        fifo_threshold: FIFOThresholdLevel::_4Bytes,
        memory_type: MemoryType::Macronix,
        delay_hold_quarter_cycle: true,
        device_size: MemorySize::_128MiB,
        chip_select_high_time: ChipSelectHighTime::_2Cycle,
        free_running_clock: false,
        clock_mode: false,
        wrap_size: WrapSize::None,
        clock_prescaler: 1,
        sample_shifting: true,
        chip_select_boundary: 0,
        max_transfer: 0,
        refresh: 0,
    };
    let mut flash = Xspi::new_blocking_xspi(
        chip.XSPI2, chip.PN6, chip.PN2, chip.PN3, chip.PN4, chip.PN5, chip.PN8, chip.PN9,
        chip.PN10, chip.PN11, chip.PN1, settings,
    );
    for instruction in RESET {
        let iwidth = XspiWidth::SING;
        let command =
            TransferConfig { iwidth, instruction: Some(instruction), ..Default::default() };
        let _ = flash.blocking_command(&command);
    }
    // The flash is back after 100 ms at most, if it was being written to.
    cortex_m::asm::delay(60_000_000);
    let access = |instruction, dummy| TransferConfig {
        iwidth: XspiWidth::SING,
        isize: AddressSize::_8bit,
        adwidth: XspiWidth::SING,
        adsize: AddressSize::_32bit,
        dwidth: XspiWidth::SING,
        instruction: Some(instruction),
        dummy,
        ..Default::default()
    };
    let read = access(READ, DummyCycles::_8);
    let _ = flash.enable_memory_mapped_mode(read, access(PROGRAM, DummyCycles::_0));
    core::mem::forget(flash);
    caches::start();
}

/// Cycles since the start, by the timer.
pub fn slow_cycles() -> u64 {
    stm32::slow_cycles(TIMER_DIVISOR)
}
