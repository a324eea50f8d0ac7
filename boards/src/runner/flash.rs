//! Flashing: the image's files, and the tool that puts them on a board.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::image::{self, Piece};
use super::{Firmware, Listener, Progress};
use crate::catalogue::{Board, ImageFormat};
use crate::error::{Error, Result};

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Firmware and model.
    Both,
    /// The firmware; the model stays as it is.
    Firmware,
    /// The model; the firmware stays as it is.
    Model,
}

/// A file of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// First address and bytes that each piece takes of the board's memory.
    pub pieces: Vec<(&'static str, u32, u64)>,
}

/// Writes the image's files to the folder `to`, each beside its name and renamed when whole.
///
/// # Errors
/// When the model is too long for the board or a file cannot be written.
pub fn write(
    board: &Board,
    firmware: &Firmware,
    model: &Path,
    what: What,
    format: ImageFormat,
    to: &Path,
) -> Result<Vec<Written>> {
    firmware.check(board)?;
    std::fs::create_dir_all(to).map_err(Error::io(format!("create {}", to.display())))?;
    let model_bytes =
        || std::fs::read(model).map_err(Error::io(format!("read the model {}", model.display())));
    let (with_firmware, with_model) = (what != What::Model, what != What::Firmware);
    if format == ImageFormat::Elf {
        let mut files = Vec::new();
        if with_firmware {
            files.push(save(&to.join("firmware.elf"), firmware.elf(), Vec::new())?);
        }
        if with_model {
            let bytes = model_bytes()?;
            let (needed, available) = (bytes.len() as u64, board.model_available());
            if needed > available {
                return Err(Error::ModelTooLong { board: board.id.clone(), needed, available });
            }
            let origin = board.regions.as_ref().map_or(0, |regions| regions.model.origin);
            let piece = ("model", origin, needed);
            files.push(save(&to.join("model.grouse"), &bytes, vec![piece])?);
        }
        return Ok(files);
    }
    let mut pieces = Vec::new();
    if with_firmware {
        pieces.push(Piece::firmware(board, firmware)?);
    }
    if with_model {
        pieces.push(Piece::model(board, model_bytes()?)?);
    }
    let name = match what {
        What::Both => "grouse",
        What::Firmware => "firmware",
        What::Model => "model",
    };
    let table = pieces.iter().map(|p| (p.what, p.address, p.bytes.len() as u64)).collect();
    let (extension, bytes) = match format {
        ImageFormat::Uf2 => ("uf2", image::uf2(&pieces, uf2_family(board)?)),
        ImageFormat::Hex => ("hex", image::hex(&pieces).into_bytes()),
        ImageFormat::Bin | ImageFormat::Elf => ("bin", image::bin(&pieces)),
    };
    Ok(vec![save(&to.join(name).with_extension(extension), &bytes, table)?])
}

fn uf2_family(board: &Board) -> Result<u32> {
    let family = board.flash.as_ref().and_then(|flash| flash.uf2_family);
    family.ok_or_else(|| Error::Missing {
        what: format!("{} has no loader that takes UF2 files", board.id),
        remedy: "choose another format: hex, bin or elf".into(),
    })
}

fn save(path: &Path, bytes: &[u8], pieces: Vec<(&'static str, u32, u64)>) -> Result<Written> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, bytes)
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(Error::io(format!("write {}", path.display())))?;
    Ok(Written { path: path.to_path_buf(), bytes: bytes.len() as u64, pieces })
}

/// A tool that writes to boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Raspberry Pi's, by USB and the boot ROM.
    Picotool,
    /// By a debug probe.
    ProbeRs,
}

impl Tool {
    /// The first that is installed and knows the board.
    ///
    /// # Errors
    /// [`Error::Missing`], with what to do by hand.
    pub fn find(board: &Board, files: &[Written]) -> Result<Self> {
        let flash = board.flash.as_ref().ok_or_else(|| emulated(board))?;
        let there = |program: &str| {
            let mut command = Command::new(program);
            command.arg("--help").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok()
        };
        if flash.format == ImageFormat::Uf2 && there("picotool") {
            return Ok(Self::Picotool);
        }
        if flash.probe_rs_chip.is_some() && there("probe-rs") {
            return Ok(Self::ProbeRs);
        }
        let names: Vec<String> = files.iter().map(|f| f.path.display().to_string()).collect();
        Err(Error::Missing {
            what: format!("neither picotool nor probe-rs is installed to flash {}", board.id),
            remedy: format!(
                "the image is written: {} ({}); or install one: `cargo install probe-rs-tools`",
                names.join(", "),
                flash.by_hand
            ),
        })
    }

    /// Writes the files to the board.
    ///
    /// # Errors
    /// [`Error::Flash`] with the tool's words.
    pub fn run(self, board: &Board, files: &[Written], listener: Listener<'_>) -> Result<()> {
        for file in files {
            listener(Progress::Step(&format!("writing {}", file.path.display())));
            let mut command = self.command(board, file);
            let output = command.stdin(Stdio::null()).output();
            let output = output.map_err(Error::io(format!("start {}", self.program())))?;
            if !output.status.success() {
                let said = [output.stderr, output.stdout].concat();
                let what = String::from_utf8_lossy(&said).trim().to_owned();
                let (board, tool) = (board.id.clone(), self.program());
                return Err(Error::Flash { board, tool, what });
            }
        }
        Ok(())
    }

    /// The tool's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Picotool => "picotool",
            Self::ProbeRs => "probe-rs",
        }
    }

    /// The command for a file.
    fn command(self, board: &Board, file: &Written) -> Command {
        let mut command = Command::new(self.program());
        match self {
            // -v verifies, -x starts the program; pages that are alike are not written.
            Self::Picotool => command.args(["load", "-u", "-v", "-x"]).arg(&file.path),
            Self::ProbeRs => {
                let chip = board.flash.as_ref().and_then(|flash| flash.probe_rs_chip.as_deref());
                let format = file.path.extension().and_then(|e| e.to_str()).unwrap_or("elf");
                command.args(["download", "--chip", chip.unwrap_or_default(), "--preverify"]);
                command.args(["--verify", "--binary-format", format]);
                if let ("bin", Some((_, address, _))) = (format, file.pieces.first()) {
                    command.args(["--base-address", &format!("{address:#x}")]);
                }
                command.arg(&file.path)
            }
        };
        command
    }
}

fn emulated(board: &Board) -> Error {
    Error::Missing {
        what: format!("{} is emulated: there is nothing to flash", board.id),
        remedy: format!("run it: `grouse run FILE --board {} TEXT`", board.id),
    }
}
