//! Asks the compiler which of the 32-bit Arm kernels this build's flags allow: stable Rust does not
//! tell a crate about the features `dsp`, `mve` and `neon`.

use std::process::{Command, Stdio};
use std::{env, error::Error, fs, path::PathBuf};

/// A cfg, and instructions that it stands for. `primask` is there on M-profile cores only.
const PROBES: [(&str, &str); 3] = [
    ("armv7_neon", r#""vmull.s8 q0, d0, d0""#),
    ("cortex_m_dsp", r#""mrs r0, primask", "smlad r0, r0, r0, r0", "vcvt.f32.s32 s0, s0""#),
    ("cortex_m_mve", r#""mrs r0, primask", "vmladava.s8 r0, q0, q1""#),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    for (name, _) in PROBES {
        println!("cargo::rustc-check-cfg=cfg({name})");
    }
    let variable = |name: &str| env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_ARCH") != "arm" {
        return Ok(());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    for (name, instructions) in PROBES {
        let source = out.join(name).with_extension("rs");
        fs::write(&source, format!("#![no_std]\ncore::arch::global_asm!({instructions});\n"))?;
        let assembled = Command::new(env::var("RUSTC")?)
            .args(["--edition=2024", "--crate-type=rlib", "--emit=obj", "--target"])
            .arg(env::var("TARGET")?)
            .args(flags.split('\x1f').filter(|flag| !flag.is_empty()))
            .arg("-o")
            .args([out.join(name).with_extension("o"), source])
            .stderr(Stdio::null())
            .status()?;
        if assembled.success() {
            println!("cargo::rustc-cfg={name}");
        }
    }
    Ok(())
}
