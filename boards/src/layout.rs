//! What the firmware's build takes from the catalogue: the linker's memory map and constants.

use std::fmt::Write as _;

use crate::catalogue::{Board, Boot};
use crate::error::Result;

/// The memory map that the linker scripts of the board's core include: `memory.x`.
///
/// The stack is the start of `ram` and grows down from the statics, so that it leaves its memory
/// when it overflows instead of eating them.
///
/// # Errors
/// When the board has an operating system, which lays out memory itself.
pub fn memory_x(board: &Board) -> Result<String> {
    let regions = board.bare()?;
    let (code, ram) = (regions.code, regions.ram);
    let stack = board.stack_bytes;
    let boot = board.flash.as_ref().and_then(|flash| flash.boot);
    let header = boot.map_or(0, Boot::header_bytes);
    let (header_region, sections) = match boot {
        None => (String::new(), ""),
        Some(Boot::Rp235x) => (String::new(), IMAGE_DEFINITION),
        Some(Boot::Imxrt) => (
            format!("  BOOT : ORIGIN = {:#010x}, LENGTH = {header:#x}\n", code.origin),
            IMAGE_VECTOR_TABLE,
        ),
    };
    Ok(format!(
        "/* Made from the catalogue entry {id}. */\n\
         MEMORY\n{{\n{header_region}  \
           FLASH : ORIGIN = {:#010x}, LENGTH = {:#x}\n  \
           RAM : ORIGIN = {:#010x}, LENGTH = {:#x}\n\
         }}\n\
         _grouse_image_start = {:#010x};\n\
         _grouse_stack_limit = {:#010x};\n\
         _stack_start = ORIGIN(RAM);\n\
         _stack_end = _grouse_stack_limit;\n{sections}",
        code.origin + header,
        code.length - header,
        u64::from(ram.origin) + stack,
        u64::from(ram.length) - stack,
        code.origin,
        ram.origin,
        id = board.id,
    ))
}

/// Puts the block that a boot ROM looks for right behind the vectors.
const IMAGE_DEFINITION: &str = "\
SECTIONS
{
  .start_block : ALIGN(4)
  {
    KEEP(*(.start_block));
  } > FLASH
} INSERT AFTER .vector_table;
_stext = ADDR(.start_block) + SIZEOF(.start_block);
";

/// The flash's configuration at its start, and 4 KiB later the image vector table, as
/// imxrt-boot-gen writes it: header, vectors, self, boot data (start, length, no plugin).
const IMAGE_VECTOR_TABLE: &str = "\
SECTIONS
{
  .boot ORIGIN(BOOT) :
  {
    KEEP(*(.grouse_boot_config));
    . = ORIGIN(BOOT) + 0x1000;
    LONG(0x402000D1);
    LONG(__vector_table);
    LONG(0);
    LONG(0);
    LONG(ORIGIN(BOOT) + 0x1020);
    LONG(ORIGIN(BOOT) + 0x1000);
    LONG(0);
    LONG(0);
    LONG(ORIGIN(BOOT));
    LONG(LOADADDR(.data) + SIZEOF(.data) - ORIGIN(BOOT));
    LONG(0);
    LONG(0);
  } > BOOT
} INSERT BEFORE .vector_table;
";

/// Rust constants for the firmware.
pub fn constants_rs(board: &Board) -> String {
    let mut text = format!(
        "// Made from the catalogue entry {id}.\npub const BOARD_ID: &str = {id:?};\n\
         /// The same where a reader of the image finds it.\n\
         #[used]\n#[unsafe(no_mangle)]\n\
         static GROUSE_BOARD_ID: [u8; {length}] = *b{id:?};\n",
        id = board.id,
        length = board.id.len()
    );
    let mut constant = |name: &str, doc: &str, value: u64| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "/// {doc}\npub const {name}: usize = {value:#x};");
    };
    constant("TEXT_BYTES", "Longest text in bytes.", board.text_bytes.into());
    constant("STACK_BYTES", "Bytes of the stack.", board.stack_bytes);
    constant("ARENA_BYTES", "Bytes of the arena.", board.arena_available());
    constant("COUNTER_HZ", "Ticks per second.", board.counter.hz);
    let Some(regions) = &board.regions else { return text };
    let numbers = [
        ("RAM_ORIGIN", "First address of the stack.", regions.ram.origin),
        ("ARENA_ORIGIN", "First address of the arena.", regions.arena.origin),
        ("MODEL_ORIGIN", "First address of the model region.", regions.model.origin),
        ("MODEL_BYTES", "Bytes of the model region.", regions.model.length),
        ("CLOCK_HZ", "Clock of the core.", board.clock_hz as u32),
        ("UART_CLOCK_HZ", "Clock of the serial lines.", board.uart.clock_hz),
        ("UART_WIRE", "Address of the protocol's line.", board.uart.wire),
        ("UART_LOG", "Address of the log's line.", board.uart.log),
        ("COUNTER_CONTROL", "Registers that start the counter.", board.counter.control),
        ("COUNTER_STATUS", "Registers that show the counter.", board.counter.status),
    ];
    for (name, doc, value) in numbers {
        constant(name, doc, value.into());
    }
    let _ = writeln!(
        text,
        "/// Interrupt of the protocol's receiver.\npub const UART_WIRE_INTERRUPT: u16 = {};",
        board.uart.wire_interrupt
    );
    text
}
