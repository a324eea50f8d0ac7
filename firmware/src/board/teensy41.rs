//! Teensy 4.1 (i.MX RT1062): what the boot ROM reads, clocks, pins, and the timer.
//!
//! Pins 1 and 0 carry the protocol, pins 8 and 7 the log, both at 115,200 baud.

use imxrt_boot_gen::flexspi::opcodes::sdr::{CMD, DUMMY, RADDR, READ};
use imxrt_boot_gen::flexspi::{
    ColumnAddressWidth, Command, ConfigurationBlock, DeviceModeConfiguration, FlashPadType, Instr,
    LookupTable, Pads, ReadSampleClockSource, Sequence, SequenceBuilder, SerialClockOption,
    SerialFlashRegion, WaitTimeConfigurationCommands,
};
use imxrt_boot_gen::{Imxrt, serial_flash::nor};
use teensy4_bsp::board::{self, ARM_FREQUENCY, PERCLK_FREQUENCY};
use teensy4_bsp::hal::gpt::{ClockSource, Mode};

use super::{COUNTER_STATUS, read_register};

const CHIP: Imxrt = Imxrt::Imxrt1060;
const BAUD: u32 = 115_200;
/// Bytes of the flash: `teensy4-fcb` has those of a Teensy 4.0, and what lies above could not be
/// read.
const FLASH_BYTES: u32 = 8 << 20;
/// Peripheral clocks per step of the timer.
const STEP: u32 = 1_000;
/// The timer's count.
const GPT_COUNT: usize = 0x24;

/// Winbond W25Q64: fast read, address and data by four lines.
const QUAD_READ: u8 = 0xEB;
const READ_SEQUENCE: Sequence = SequenceBuilder::new()
    .instr(Instr::new(CMD, Pads::One, QUAD_READ))
    .instr(Instr::new(RADDR, Pads::Four, 24))
    .instr(Instr::new(DUMMY, Pads::Four, 6))
    .instr(Instr::new(READ, Pads::Four, 4))
    .build();

/// How the boot ROM is to read the flash; the linker places it at the flash's start.
#[used]
#[unsafe(link_section = ".grouse_boot_config")]
static FLASH_CONFIGURATION: nor::ConfigurationBlock = nor::ConfigurationBlock::new(
    CHIP,
    ConfigurationBlock::new(LookupTable::new().command(Command::Read, READ_SEQUENCE))
        .read_sample_clk_src(ReadSampleClockSource::LoopbackFromDQSPad)
        .cs_hold_time(1)
        .cs_setup_time(2)
        .column_address_width(ColumnAddressWidth::OtherDevices)
        .device_mode_configuration(DeviceModeConfiguration::Disabled)
        .wait_time_cfg_commands(WaitTimeConfigurationCommands::disable())
        .flash_size(SerialFlashRegion::A1, FLASH_BYTES)
        .serial_clk_freq(CHIP.serial_clock_frequency(SerialClockOption::MHz60))
        .serial_flash_pad_type(FlashPadType::Quad),
)
.page_size(256)
.sector_size(4096)
.ip_cmd_serial_clk_freq(Some(CHIP.ip_serial_clock_frequency(SerialClockOption::MHz30)));

/// Sets caches, clocks, pins and baud rates.
pub fn start() {
    super::caches::start();
    let board::Resources { pins, lpuart4, lpuart6, mut gpt1, .. } = board::t41(board::instances());
    // From here on the lines are the driver's, by their registers.
    let _ = board::lpuart(lpuart6, pins.p1, pins.p0, BAUD);
    let _ = board::lpuart(lpuart4, pins.p8, pins.p7, BAUD);
    gpt1.set_mode(Mode::FreeRunning);
    gpt1.set_reset_on_enable(true);
    gpt1.set_clock_source(ClockSource::PeripheralClock);
    gpt1.set_divider(STEP);
    gpt1.enable();
}

/// Cycles since the start, by the timer: the same crystal's.
pub fn slow_cycles() -> u64 {
    // SAFETY: the timer's register by the catalogue.
    let steps = unsafe { read_register(COUNTER_STATUS + GPT_COUNT) };
    u64::from(steps) * u64::from(ARM_FREQUENCY / PERCLK_FREQUENCY * STEP)
}
