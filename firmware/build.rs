//! Makes the memory map and the board's constants from the catalogue, and tells the source which
//! drivers the board has.

use std::{env, error::Error, fs, path::PathBuf};

use grouse_boards::{Board, layout};

fn main() -> Result<(), Box<dyn Error>> {
    let id = env::var("GROUSE_BOARD").unwrap_or_else(|_| "mps3-an547".into());
    let board = Board::by_id(&id).map_err(|e| format!("{e}; {}", e.remedy()))?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("constants.rs"), layout::constants_rs(&board))?;
    println!("cargo::rerun-if-env-changed=GROUSE_BOARD");
    println!("cargo::rustc-cfg=uart={:?}", board.uart.driver);
    println!("cargo::rustc-cfg=counter={:?}", board.counter.driver);
    if board.target.starts_with("thumbv8m.main") {
        println!("cargo::rustc-cfg=stack_limit");
    }
    if board.regions.is_none() {
        // rust-lld takes the option itself, a C compiler hands it on.
        let lld = board.rustflags.iter().any(|flag| flag.ends_with("lld"));
        let prefix = if lld { "" } else { "-Wl," };
        let folder = env::var("CARGO_MANIFEST_DIR")?;
        println!("cargo::rerun-if-changed=linux.x");
        println!("cargo::rustc-link-arg-bins={prefix}-T{folder}/linux.x");
        return Ok(());
    }
    fs::write(out.join("memory.x"), layout::memory_x(&board)?)?;
    println!("cargo::rustc-link-search={}", out.display());
    if board.target.starts_with("aarch64") {
        let folder = env::var("CARGO_MANIFEST_DIR")?;
        println!("cargo::rerun-if-changed=aarch64.x");
        println!("cargo::rustc-link-arg-bins=-T{folder}/aarch64.x");
        println!("cargo::rustc-link-arg-bins=-Tdefmt.x");
        return Ok(());
    }
    // --nmagic: sections need no page alignment where there are no pages.
    for arg in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
    Ok(())
}
