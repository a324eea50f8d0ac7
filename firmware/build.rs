//! Makes the memory map and the board's constants from the catalogue.

use std::{env, error::Error, fs, path::PathBuf};

use grouse_boards::{Board, layout};

fn main() -> Result<(), Box<dyn Error>> {
    let id = env::var("GROUSE_BOARD").unwrap_or_else(|_| "mps3-an547".into());
    let board = Board::by_id(&id).map_err(|e| format!("{e}; {}", e.remedy()))?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("memory.x"), layout::memory_x(&board))?;
    fs::write(out.join("constants.rs"), layout::constants_rs(&board))?;
    println!("cargo::rerun-if-env-changed=GROUSE_BOARD");
    println!("cargo::rustc-link-search={}", out.display());
    println!("cargo::rustc-cfg=uart={:?}", board.uart.driver);
    println!("cargo::rustc-cfg=counter={:?}", board.counter.driver);
    // --nmagic: sections need no page alignment where there are no pages.
    for arg in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
    Ok(())
}
