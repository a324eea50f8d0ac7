//! Chooses the memory map of the machine named by `GROUSE_MACHINE`.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=GROUSE_MACHINE");
    println!("cargo::rerun-if-changed=memory");
    let machine = env::var("GROUSE_MACHINE")?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let map = PathBuf::from("memory").join(format!("{machine}.x"));
    let map = fs::read(&map).map_err(|e| format!("{}: {e}", map.display()))?;
    fs::write(out.join("memory.x"), map)?;
    println!("cargo::rustc-link-search={}", out.display());
    // --nmagic: sections need no page alignment where there are no pages.
    for arg in ["--nmagic", "-Tlink.x"] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
    Ok(())
}
