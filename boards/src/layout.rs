//! What the firmware's build takes from the catalogue: the linker's memory map and constants.

use std::fmt::Write as _;

use crate::catalogue::Board;

/// The file `memory.x` that cortex-m-rt's linker script includes.
pub fn memory_x(board: &Board) -> String {
    let (code, ram) = (board.regions.code, board.regions.ram);
    format!(
        "/* Made from the catalogue entry {id}. */\n\
         MEMORY\n{{\n  \
           FLASH : ORIGIN = {:#010x}, LENGTH = {:#x}\n  \
           RAM : ORIGIN = {:#010x}, LENGTH = {:#x}\n\
         }}\n\
         /* The stack grows down from the end of RAM to here; the rest is for statics. */\n\
         _grouse_stack_limit = ORIGIN(RAM) + LENGTH(RAM) - {stack};\n\
         ASSERT(__euninit <= _grouse_stack_limit, \"statics reach into the stack's {stack} bytes\");\n",
        code.origin,
        code.length,
        ram.origin,
        ram.length,
        id = board.id,
        stack = board.stack_bytes,
    )
}

/// Rust constants for the firmware.
pub fn constants_rs(board: &Board) -> String {
    let mut text = format!(
        "// Made from the catalogue entry {id}.\npub const BOARD_ID: &str = {id:?};\n",
        id = board.id
    );
    let numbers = [
        ("ARENA_ORIGIN", "First address of the arena.", board.regions.arena.origin),
        ("ARENA_BYTES", "Bytes of the arena.", board.regions.arena.length),
        ("MODEL_ORIGIN", "First address of the model region.", board.regions.model.origin),
        ("MODEL_BYTES", "Bytes of the model region.", board.regions.model.length),
        ("UART_CLOCK_HZ", "Clock of the serial lines.", board.uart.clock_hz),
        ("UART_WIRE", "Address of the protocol's line.", board.uart.wire),
        ("UART_LOG", "Address of the log's line.", board.uart.log),
        ("COUNTER_CONTROL", "Frame that starts the counter.", board.counter.control),
        ("COUNTER_STATUS", "Frame that shows the counter.", board.counter.status),
    ];
    for (name, doc, value) in numbers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "/// {doc}\npub const {name}: usize = {value:#x};");
    }
    let _ = writeln!(
        text,
        "/// Interrupt of the protocol's receiver.\npub const UART_WIRE_INTERRUPT: u16 = {};",
        board.uart.wire_interrupt
    );
    text
}
