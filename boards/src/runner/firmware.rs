//! The firmware: finding its source, building it and measuring what came out.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object, ObjectSection, SectionFlags, SectionKind, elf};

use super::{Listener, Progress};
use crate::catalogue::Board;
use crate::error::{Error, Result};

/// Lines of a failed build that an error repeats.
const TOLD_LINES: usize = 40;

/// A firmware image and its sizes.
#[derive(Debug, Clone)]
pub struct Firmware {
    path: PathBuf,
    elf: Vec<u8>,
    flash_bytes: u64,
    static_bytes: u64,
}

impl Firmware {
    /// Reads the image at `path`.
    ///
    /// # Errors
    /// When it is missing or not an ELF file with code.
    pub fn open(path: &Path) -> Result<Self> {
        let elf = std::fs::read(path)
            .map_err(Error::io(format!("read the firmware {}", path.display())))?;
        let wrong = |what: String| Error::Elf { path: path.display().to_string(), what };
        let file = object::File::parse(&*elf).map_err(|e| wrong(e.to_string()))?;
        let (mut flash_bytes, mut static_bytes) = (0, 0);
        for section in file.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
            if sh_flags & u64::from(elf::SHF_ALLOC) == 0 {
                continue;
            }
            // Initialized statics count twice: their values lie in flash, they live in RAM.
            if section.kind() != SectionKind::UninitializedData {
                flash_bytes += section.size();
            }
            if sh_flags & u64::from(elf::SHF_WRITE) != 0 {
                static_bytes += section.size();
            }
        }
        if file.architecture() != object::Architecture::Arm || flash_bytes == 0 {
            return Err(wrong("it holds no code for an Arm core".into()));
        }
        Ok(Self { path: path.to_path_buf(), elf, flash_bytes, static_bytes })
    }

    /// Builds the firmware for `board` from source.
    ///
    /// # Errors
    /// When the source, the compiler or the target is missing, or the build fails.
    pub fn build(board: &Board, listener: Listener<'_>) -> Result<Self> {
        let source = source()?;
        ensure_target(&board.target, listener)?;
        listener(Progress::Step(&format!("building the firmware for {}", board.id)));
        let mut child = Command::new(cargo())
            .args(["build", "--release", "--message-format=json-render-diagnostics"])
            .arg("--target")
            .arg(&board.target)
            .current_dir(&source)
            .env("GROUSE_BOARD", &board.id)
            // The board's flags, not those that this program was built with.
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", board.rustflags.join("\x1f"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(no_cargo)?;
        // Messages are read aside, so that neither pipe can fill up.
        let messages = child.stdout.take().map(|mut pipe| {
            std::thread::spawn(move || {
                let mut text = String::new();
                pipe.read_to_string(&mut text).map(|_| text)
            })
        });
        let mut said = Vec::new();
        if let Some(pipe) = child.stderr.take() {
            for line in BufReader::new(pipe).lines().map_while(std::io::Result::ok) {
                if line.trim_start().starts_with("Compiling") {
                    listener(Progress::Detail(line.trim()));
                }
                said.push(line);
            }
        }
        let status = child.wait().map_err(Error::io("wait for cargo"))?;
        let messages =
            messages.and_then(|t| t.join().ok()).and_then(|r| r.ok()).unwrap_or_default();
        if !status.success() {
            let what = said[said.len().saturating_sub(TOLD_LINES)..].join("\n");
            return Err(Error::Build { board: board.id.clone(), what });
        }
        let path = executable(&messages).ok_or_else(|| Error::Build {
            board: board.id.clone(),
            what: "cargo named no executable".into(),
        })?;
        Self::open(&path)
    }

    /// Where the image is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole ELF file.
    pub fn elf(&self) -> &[u8] {
        &self.elf
    }

    /// Bytes of code, constants and initial values: what the firmware takes of flash, without the
    /// model.
    pub fn flash_bytes(&self) -> u64 {
        self.flash_bytes
    }

    /// Bytes of statics: what the firmware takes of RAM, without stack and arena.
    pub fn static_bytes(&self) -> u64 {
        self.static_bytes
    }
}

/// The cargo that runs this program, or the one on the path.
fn cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn no_cargo(source: std::io::Error) -> Error {
    Error::Missing {
        what: format!("cargo, which builds the firmware, cannot be started: {source}"),
        remedy: "install Rust (rustup), or pass a built image with --firmware".into(),
    }
}

/// The folder of the firmware's source.
fn source() -> Result<PathBuf> {
    let (folder, origin) = match env::var_os("GROUSE_FIRMWARE_DIR") {
        Some(folder) => (PathBuf::from(folder), "named by GROUSE_FIRMWARE_DIR"),
        None => {
            let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware");
            (beside, "where this program was built")
        }
    };
    if folder.join("Cargo.toml").is_file() {
        return Ok(folder);
    }
    Err(Error::Missing {
        what: format!("there is no firmware source in {} ({origin})", folder.display()),
        remedy: "set GROUSE_FIRMWARE_DIR to the folder `firmware` of the Grouse source, or pass a \
                 built image with --firmware"
            .into(),
    })
}

/// Sees to it that the compiler has the target's core library.
fn ensure_target(target: &str, listener: Listener<'_>) -> Result<()> {
    let installed = || {
        Command::new("rustc")
            .args(["--print", "target-libdir", "--target", target])
            .output()
            .ok()
            .filter(|out| out.status.success())
            .is_some_and(|out| Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir())
    };
    if installed() {
        return Ok(());
    }
    listener(Progress::Step(&format!(
        "adding the Rust target {target} (rustup target add {target})"
    )));
    let added = Command::new("rustup").args(["target", "add", target]).output();
    if added.is_ok_and(|out| out.status.success()) && installed() {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("the Rust target {target} is not installed"),
        remedy: format!("run `rustup target add {target}`"),
    })
}

/// The executable that cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    })
}
