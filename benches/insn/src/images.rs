//! Builds the plugin and the guests, after checking that all they need is installed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object, ObjectSymbol};
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::targets::{Runner, Target};

/// This package's folder.
const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

/// Says what is missing for `targets` and what to type.
pub(crate) fn check_tools(targets: &[&Target]) -> Result<()> {
    let mut missing = BTreeSet::new();
    for target in targets {
        for (program, package) in target.runner.program().into_iter().chain(target.linker) {
            if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
                missing.insert(format!("{program}: sudo apt-get install {package}"));
            }
        }
        if let Some(triple) = target.triple
            && !has_core_library(triple)
        {
            missing.insert(format!("Rust for {triple}: rustup target add {triple}"));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::Missing(missing.into_iter().collect())) }
}

fn has_core_library(triple: &str) -> bool {
    Command::new("rustc")
        .args(["--print", "target-libdir", "--target", triple])
        .output()
        .ok()
        .filter(|out| out.status.success())
        .is_some_and(|out| Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir())
}

/// The built plugin and guests, in a folder of their own: the next build of the same package for
/// another core would overwrite them where cargo puts them.
pub(crate) struct Images {
    folder: TempDir,
}

impl Images {
    /// Builds what `targets` need.
    pub(crate) fn build(targets: &[&Target]) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("grouse-insn-")
            .tempdir()
            .map_err(Error::io("create", std::env::temp_dir()))?;
        let images = Self { folder };
        if targets.iter().any(|target| target.runner.program().is_some()) {
            let plugin = cargo(Path::new(FOLDER), &["-p", "grouse-insn-plugin"], &[], None)?;
            images.keep(&plugin, &images.plugin())?;
        }
        for target in targets {
            images.keep(&guest(target)?, &images.guest(target))?;
        }
        Ok(images)
    }

    /// The plugin.
    pub(crate) fn plugin(&self) -> PathBuf {
        self.folder.path().join("plugin.so")
    }

    /// The guest for a target.
    pub(crate) fn guest(&self, target: &Target) -> PathBuf {
        self.folder.path().join(target.name)
    }

    /// A file name for the counts of a target.
    pub(crate) fn counts(&self, target: &Target) -> PathBuf {
        self.folder.path().join(format!("{}.counts", target.name))
    }

    fn keep(&self, built: &Path, kept: &Path) -> Result<()> {
        std::fs::copy(built, kept).map(drop).map_err(Error::io("copy", built))
    }
}

/// The address range that a machine's guest expects its model in.
pub(crate) fn model_region(guest: &Path) -> Result<std::ops::Range<u64>> {
    let bytes = std::fs::read(guest).map_err(Error::io("read", guest))?;
    let wrong = |what: String| Error::Input(format!("{}: {what}", guest.display()));
    let file = object::File::parse(&*bytes).map_err(|e| wrong(e.to_string()))?;
    let address = |name: &str| {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
        symbol.map(|s| s.address()).ok_or_else(|| wrong(format!("it has no symbol {name}")))
    };
    Ok(address("_model_start")?..address("_model_end")?)
}

fn guest(target: &Target) -> Result<PathBuf> {
    let triple = target.triple.map(|triple| ["--target", triple]);
    let triple = triple.as_ref().map_or(&[][..], |words| &words[..]);
    match target.runner {
        Runner::Machine(machine) => {
            let words = [&["--bin", "grouse-insn-cortex-m"], triple].concat();
            cargo(&Path::new(FOLDER).join("cortex-m"), &words, target.rustflags, Some(machine))
        }
        Runner::Native | Runner::User { .. } => {
            let words = [&["-p", "grouse-insn-guest"], triple].concat();
            cargo(Path::new(FOLDER), &words, target.rustflags, None)
        }
    }
}

/// Builds a package in `folder` and returns the program or library that came out.
fn cargo(
    folder: &Path,
    words: &[&str],
    rustflags: &[&str],
    machine: Option<&str>,
) -> Result<PathBuf> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&program);
    command
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(words)
        .current_dir(folder)
        // The target's flags, not those that this program was built with.
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"))
        .envs(machine.map(|machine| ("GROUSE_MACHINE", machine)))
        .stderr(Stdio::inherit());
    let output = command.output().map_err(Error::io("start", PathBuf::from(program)))?;
    let what = || format!("{} {}", folder.display(), words.join(" "));
    let built = String::from_utf8_lossy(&output.stdout).lines().rev().find_map(artifact);
    built.filter(|_| output.status.success()).ok_or_else(|| Error::Build(what()))
}

/// The program or the dynamic library of one of cargo's messages.
fn artifact(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let kinds = message.get("target")?.get("kind")?.as_array()?;
    if kinds.iter().any(|kind| kind == "cdylib") {
        return Some(message.get("filenames")?.get(0)?.as_str()?.into());
    }
    Some(message.get("executable")?.as_str()?.into())
}
