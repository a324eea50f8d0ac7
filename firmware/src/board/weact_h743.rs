//! WeAct STM32H743VI: clocks, pins, the flash on its quad lines, and the timer.
//!
//! PA9 and PA10 carry the protocol, PA2 and PA3 the log, both at 115,200 baud. The 8 MiB flash
//! (Winbond W25Q64) is read by four lines at 50 MHz.

use cortex_m::peripheral::MPU;
use embassy_stm32::mode::Blocking;
use embassy_stm32::peripherals::{QUADSPI, TIM2};
use embassy_stm32::qspi::enums::{
    ChipSelectHighTime, DummyCycles, FIFOThresholdLevel, MemorySize, QspiWidth, SampleShifting,
};
use embassy_stm32::qspi::{self, Qspi, TransferConfig};
use embassy_stm32::rcc::{
    self, AHBPrescaler, APBPrescaler, Hse, HseMode, Pll, PllDiv, PllMul, PllPreDiv, PllSource,
    Sysclk, VoltageScale,
};
use embassy_stm32::time::Hertz;

use super::{MODEL_ORIGIN, caches, stm32};

/// Fast read, data by four lines. (0xEB, which has the address so, too, takes bits of a mode with it
/// that this controller leaves floating.)
const QUAD_READ: u8 = 0x6B;
/// Commands that bring the flash back to its start, from wherever a debugger left it.
const RESET: [u8; 2] = [0x66, 0x99];
/// The second status register: reading and writing it, and its quad bit.
const READ_REGISTER: u8 = 0x35;
const WRITE_ENABLE: u8 = 0x06;
const WRITE_REGISTER: u8 = 0x31;
const QUAD_BIT: u8 = 2;
/// The core at 400 MHz has two cycles to one of the timer's.
const TIMER_DIVISOR: u64 = 2;
/// ARMv7-M's MPU, region attributes: no access at all, 256 MiB, in use.
const FORBIDDEN: u32 = 1 << 28 | 27 << 1 | 1;
/// Reading, never executing, cached, written through; 8 MiB, in use.
const READABLE: u32 = 1 << 28 | 6 << 24 | 1 << 17 | 22 << 1 | 1;

/// Sets caches, clocks, pins, baud rates and the way to the flash.
pub fn start() {
    let mut config = embassy_stm32::Config::default();
    let rcc = &mut config.rcc;
    rcc.hse = Some(Hse { freq: Hertz(25_000_000), mode: HseMode::Oscillator });
    rcc.pll1 = Some(Pll {
        source: PllSource::HSE,
        prediv: PllPreDiv::DIV5,
        mul: PllMul::MUL160,
        fracn: None,
        divp: Some(PllDiv::DIV2),
        divq: None,
        divr: None,
    });
    rcc.sys = Sysclk::PLL1_P;
    rcc.ahb_pre = AHBPrescaler::DIV2;
    rcc.apb1_pre = APBPrescaler::DIV2;
    rcc.apb2_pre = APBPrescaler::DIV2;
    rcc.apb3_pre = APBPrescaler::DIV2;
    rcc.apb4_pre = APBPrescaler::DIV2;
    rcc.voltage_scale = VoltageScale::Scale1;
    let chip = embassy_stm32::init(config);
    stm32::open(chip.USART1, chip.PA10, chip.PA9);
    stm32::open(chip.USART2, chip.PA3, chip.PA2);
    rcc::enable_and_reset::<TIM2>();
    stm32::count();

    let mut settings = qspi::Config::default();
    settings.memory_size = MemorySize::_8MiB;
    settings.prescaler = 3;
    settings.cs_high_time = ChipSelectHighTime::_5Cycle;
    settings.fifo_threshold = FIFOThresholdLevel::_4Bytes;
    settings.sample_shifting = SampleShifting::HalfCycle;
    let lines = (chip.PD11, chip.PD12, chip.PE2, chip.PD13);
    let (peripheral, clock, select) = (chip.QUADSPI, chip.PB2, chip.PB6);
    let (d0, d1, d2, d3) = lines;
    let mut flash = Qspi::new_blocking_bank1(peripheral, d0, d1, d2, d3, clock, select, settings);
    for instruction in RESET {
        let iwidth = QspiWidth::SING;
        flash.blocking_command(TransferConfig { iwidth, instruction, ..Default::default() });
    }
    // The flash is back after 30 µs.
    cortex_m::asm::delay(40_000);
    allow_quad(&mut flash);
    flash.enable_memory_map(&TransferConfig {
        iwidth: QspiWidth::SING,
        awidth: QspiWidth::SING,
        dwidth: QspiWidth::QUAD,
        instruction: QUAD_READ,
        dummy: DummyCycles::_8,
        ..Default::default()
    });
    core::mem::forget(flash);
    guard_flash();
    caches::start();
}

/// Sets the flash's quad bit, should it be another make's whose factory has not.
fn allow_quad(flash: &mut Qspi<'_, QUADSPI, Blocking>) {
    let (iwidth, mut register) = (QspiWidth::SING, [0]);
    let command = |instruction| TransferConfig { iwidth, instruction, ..Default::default() };
    let data = |instruction| TransferConfig { dwidth: iwidth, ..command(instruction) };
    flash.blocking_read(&mut register, data(READ_REGISTER));
    let [bits] = register;
    if bits & QUAD_BIT == 0 {
        flash.blocking_command(command(WRITE_ENABLE));
        flash.blocking_write(&[bits | QUAD_BIT], data(WRITE_REGISTER));
        // The longest that the write takes: 15 ms.
        cortex_m::asm::delay(8_000_000);
    }
}

/// Keeps the core from reading ahead beyond the flash's end, which would hang the bus.
fn guard_flash() {
    // SAFETY: regions 1 and 2 are used by nobody else; the flash is only read. `guard_stack` has
    // switched the unit on, and the later region goes before the earlier.
    unsafe {
        let mpu = &*MPU::PTR;
        for (region, attributes) in [(1, FORBIDDEN & !(7 << 24)), (2, READABLE)] {
            mpu.rnr.write(region);
            mpu.rbar.write(MODEL_ORIGIN as u32);
            mpu.rasr.write(attributes);
        }
    }
    cortex_m::asm::dsb();
    cortex_m::asm::isb();
}

/// Cycles since the start, by the timer.
pub fn slow_cycles() -> u64 {
    stm32::slow_cycles(TIMER_DIVISOR)
}
