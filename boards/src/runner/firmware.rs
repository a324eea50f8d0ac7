//! The firmware: finding its source, building it and measuring what came out.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::elf::{PF_W, PT_LOAD};
use object::read::elf::{ElfFile, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol};

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
    board: String,
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
        let wrong = |what: &str| Error::Elf { path: path.display().to_string(), what: what.into() };
        let file = object::File::parse(&*elf).map_err(|e| wrong(&e.to_string()))?;
        let sizes = match &file {
            object::File::Elf32(file) => sizes(file),
            object::File::Elf64(file) => sizes(file),
            _ => None,
        };
        let arm = [object::Architecture::Arm, object::Architecture::Aarch64];
        let Some((flash_bytes, static_bytes)) =
            sizes.filter(|_| arm.contains(&file.architecture()))
        else {
            return Err(wrong("it holds no code for an Arm core"));
        };
        let board = file.symbol_by_name("GROUSE_BOARD_ID").and_then(|symbol| {
            let section = file.section_by_index(symbol.section_index()?).ok()?;
            let id = section.data_range(symbol.address(), symbol.size()).ok()??;
            Some(String::from_utf8_lossy(id).into_owned())
        });
        let board = board.ok_or_else(|| wrong("it does not say which board it is for"))?;
        Ok(Self { path: path.to_path_buf(), elf, board, flash_bytes, static_bytes })
    }

    /// Builds the firmware for `board` from source, as it is flashed.
    ///
    /// # Errors
    /// When the source, the compiler or the target is missing, or the build fails.
    pub fn build(board: &Board, listener: Listener<'_>) -> Result<Self> {
        Self::build_with(board, Variant::Shipped, listener)
    }

    /// Builds a variant of the firmware for `board`.
    ///
    /// # Errors
    /// As [`Firmware::build`].
    pub fn build_with(board: &Board, variant: Variant, listener: Listener<'_>) -> Result<Self> {
        let source = source()?;
        ensure_target(&board.target, listener)?;
        ensure_linker(board)?;
        // Named, since images of all boards are kept beside it.
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => env::current_dir().map_err(Error::io("find the folder"))?.join(folder),
            None => source.join("target"),
        };
        let images = target.join("grouse-boards");
        std::fs::create_dir_all(&images)
            .map_err(Error::io(format!("create {}", images.display())))?;
        // Boards share what is compiled for the same core, and so the place of cargo's output.
        let lock = std::fs::File::create(images.join("lock"))
            .and_then(|file| file.lock().map(|()| file))
            .map_err(Error::io(format!("lock {}", images.display())))?;
        listener(Progress::Step(&format!("building the firmware for {}", board.id)));
        let built = cargo_build(board, variant, &source, &target, listener)?;
        let kept = images.join(format!("{}{}.elf", board.id, variant.suffix()));
        // An emulator that runs the last one keeps it.
        let fresh = kept.with_extension("new");
        std::fs::copy(&built, &fresh)
            .and_then(|_| std::fs::rename(&fresh, &kept))
            .map_err(Error::io(format!("write {}", kept.display())))?;
        drop(lock);
        let firmware = Self::open(&kept)?;
        firmware.check(board)?;
        Ok(firmware)
    }

    /// Makes sure that the image is for `board`.
    ///
    /// # Errors
    /// [`Error::WrongFirmware`].
    pub fn check(&self, board: &Board) -> Result<()> {
        if self.board == board.id {
            return Ok(());
        }
        let (found, board) = (self.board.clone(), board.id.clone());
        Err(Error::WrongFirmware { board, found })
    }

    /// Where the image is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole ELF file.
    pub fn elf(&self) -> &[u8] {
        &self.elf
    }

    /// Address of the record by which a board knows a first boot; `None` where nothing outlives one.
    pub(super) fn tested_address(&self) -> Option<u64> {
        let elf = object::File::parse(&*self.elf).ok()?;
        elf.symbol_by_name("GROUSE_TESTED").map(|symbol| symbol.address())
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

/// Builds of the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// As it is flashed.
    Shipped,
    /// With the software model of an accelerator, which stands for a device that is not there.
    AcceleratorModel,
}

impl Variant {
    fn feature(self) -> Option<&'static str> {
        match self {
            Self::Shipped => None,
            Self::AcceleratorModel => Some("accelerator-model"),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Shipped => "",
            Self::AcceleratorModel => "-accelerator-model",
        }
    }
}

/// Bytes of flash from the first to the last that is loaded, and bytes of RAM from the first to the
/// last of what is written to, by the linker's segments.
fn sizes<'d, H: FileHeader<Endian = Endianness>>(file: &ElfFile<'d, H>) -> Option<(u64, u64)> {
    let endian = file.endian();
    let loaded = || file.elf_program_headers().iter().filter(|h| h.p_type(endian) == PT_LOAD);
    let flash = loaded().filter(|h| h.p_filesz(endian).into() > 0);
    let flash = flash.map(|h| (h.p_paddr(endian).into(), h.p_filesz(endian).into()));
    let ram = loaded().filter(|h| h.p_flags(endian) & PF_W != 0);
    let ram = ram.map(|h| (h.p_vaddr(endian).into(), h.p_memsz(endian).into()));
    Some((span(flash)?, span(ram).unwrap_or(0)))
}

/// Bytes from the start of the first to the end of the last; `None` without any.
fn span(pieces: impl Iterator<Item = (u64, u64)>) -> Option<u64> {
    let ends = pieces.map(|(start, bytes)| (start, start + bytes));
    let (start, end) = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
    Some(end - start)
}

/// Runs cargo and returns the program that came out.
fn cargo_build(
    board: &Board,
    variant: Variant,
    source: &Path,
    target: &Path,
    listener: Listener<'_>,
) -> Result<PathBuf> {
    let mut features: Vec<&str> = board.features.iter().map(String::as_str).collect();
    features.extend(variant.feature());
    let mut child = Command::new(cargo())
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(["--features", &features.join(","), "--target", &board.target, "--target-dir"])
        .arg(target)
        .current_dir(source)
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
    let messages = messages.and_then(|t| t.join().ok()).and_then(|r| r.ok()).unwrap_or_default();
    if !status.success() {
        let what = said[said.len().saturating_sub(TOLD_LINES)..].join("\n");
        return Err(Error::Build { board: board.id.clone(), what });
    }
    executable(&messages).ok_or_else(|| Error::Build {
        board: board.id.clone(),
        what: "cargo named no executable".into(),
    })
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

/// Sees to it that the linker of the board's target is there, where the compiler brings none.
fn ensure_linker(board: &Board) -> Result<()> {
    let Some(linker) = &board.linker else { return Ok(()) };
    let found = Command::new(&linker.program).arg("--version").output();
    found.map(drop).map_err(|error| Error::Missing {
        what: format!(
            "{}, which links programs for {}, cannot be started: {error}",
            linker.program, board.id
        ),
        remedy: format!("run `sudo apt-get install {}`", linker.packages),
    })
}

/// The executable that cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    })
}
