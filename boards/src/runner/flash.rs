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

impl Written {
    fn has(&self, piece: &str) -> bool {
        self.pieces.iter().any(|(what, ..)| *what == piece)
    }

    fn extension(&self) -> &str {
        self.path.extension().and_then(|e| e.to_str()).unwrap_or("elf")
    }
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
    let flash = board.flash.as_ref();
    if flash.is_some_and(|flash| flash.whole) && what != What::Both {
        return Err(Error::Missing {
            what: format!("the loader of {} erases all of its flash before it writes", board.id),
            remedy: "write firmware and model together".into(),
        });
    }
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
    let mut files = Vec::new();
    if with_firmware {
        let mut firmware = Piece::firmware(board, firmware)?;
        match flash.and_then(|flash| flash.copied_from) {
            None => pieces.push(firmware),
            // What the maker's tool puts a header before, and where that goes.
            Some(address) => {
                firmware.address = address;
                files.push(combine(board, &[firmware], ImageFormat::Bin, to)?);
            }
        }
    }
    if with_model {
        pieces.push(Piece::model(board, model_bytes()?)?);
    }
    if !pieces.is_empty() {
        files.push(combine(board, &pieces, format, to)?);
    }
    Ok(files)
}

/// Writes a file of these pieces.
fn combine(board: &Board, pieces: &[Piece], format: ImageFormat, to: &Path) -> Result<Written> {
    let name = if let [piece] = pieces { piece.what } else { "grouse" };
    let table = pieces.iter().map(|p| (p.what, p.address, p.bytes.len() as u64)).collect();
    let (extension, bytes) = match format {
        ImageFormat::Uf2 => ("uf2", image::uf2(pieces, uf2_family(board)?)),
        ImageFormat::Hex => ("hex", image::hex(pieces).into_bytes()),
        ImageFormat::Bin | ImageFormat::Elf => ("bin", image::bin(pieces)),
    };
    save(&to.join(name).with_extension(extension), &bytes, table)
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
    /// PJRC's, by USB and the board's loader.
    TeensyLoader,
    /// ST's, by a debug probe, also to flash outside of the chip.
    CubeProgrammer,
}

impl Tool {
    /// The first that is installed and can write these files to the board.
    ///
    /// # Errors
    /// [`Error::Missing`], with what to do by hand.
    pub fn find(board: &Board, files: &[Written]) -> Result<Self> {
        let flash = board.flash.as_ref().ok_or_else(|| emulated(board))?;
        let there = |tool: &&Self| {
            let mut command = Command::new(tool.program());
            command.arg("--help").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok()
        };
        let tools = Self::of(board, files);
        tools.iter().find(there).copied().ok_or_else(|| {
            let names: Vec<String> = files.iter().map(|f| f.path.display().to_string()).collect();
            let programs: Vec<&str> = tools.iter().map(|tool| tool.program()).collect();
            let install = tools.first().map(|tool| format!("; or install {}", tool.source()));
            Error::Missing {
                what: match programs.as_slice() {
                    [] => format!("no tool writes this to {} by itself", board.id),
                    _ => {
                        format!("{} is not installed to flash {}", programs.join(" or "), board.id)
                    }
                },
                remedy: format!(
                    "the image is written: {} ({}){}",
                    names.join(", "),
                    flash.by_hand,
                    install.unwrap_or_default()
                ),
            }
        })
    }

    /// Those that can write these files to the board, the best first.
    pub fn of(board: &Board, files: &[Written]) -> Vec<Self> {
        let Some(flash) = &board.flash else { return Vec::new() };
        let mut tools = Vec::new();
        if flash.copied_from.is_some() && files.iter().any(|file| file.has("firmware")) {
            // It has to be signed first.
            return tools;
        }
        if flash.format == ImageFormat::Uf2 {
            tools.push(Self::Picotool);
        }
        if flash.teensy_mcu.is_some() {
            tools.push(Self::TeensyLoader);
        }
        if flash.cube_loader.is_some() {
            tools.push(Self::CubeProgrammer);
        }
        // It knows the flash inside the chip only.
        let outside = flash.cube_loader.is_some() && files.iter().any(|file| file.has("model"));
        if flash.probe_rs_chip.is_some() && !outside {
            tools.push(Self::ProbeRs);
        }
        tools
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
                return Err(self.failed(board, [output.stderr, output.stdout]));
            }
        }
        Ok(())
    }

    /// What the tool said, when it failed.
    fn failed(self, board: &Board, said: [Vec<u8>; 2]) -> Error {
        let what = String::from_utf8_lossy(&said.concat()).trim().to_owned();
        Error::Flash { board: board.id.clone(), tool: self.program(), what }
    }

    /// The tool's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Picotool => "picotool",
            Self::ProbeRs => "probe-rs",
            Self::TeensyLoader => "teensy_loader_cli",
            Self::CubeProgrammer => "STM32_Programmer_CLI",
        }
    }

    /// Where to get it.
    fn source(self) -> &'static str {
        match self {
            Self::Picotool => "picotool (github.com/raspberrypi/picotool)",
            Self::ProbeRs => "probe-rs: `cargo install probe-rs-tools`",
            Self::TeensyLoader => "teensy_loader_cli: `sudo apt-get install teensy-loader-cli`",
            Self::CubeProgrammer => "STM32CubeProgrammer (st.com)",
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
                let format = file.extension();
                command.args(["download", "--chip", chip.unwrap_or_default(), "--preverify"]);
                command.args(["--verify", "--binary-format", format]);
                if let ("bin", Some((_, address, _))) = (format, file.pieces.first()) {
                    command.args(["--base-address", &format!("{address:#x}")]);
                }
                command.arg(&file.path)
            }
            // -w waits for the board's button.
            Self::TeensyLoader => {
                let mcu = board.flash.as_ref().and_then(|flash| flash.teensy_mcu.as_deref());
                command.arg(format!("--mcu={}", mcu.unwrap_or_default()));
                command.args(["-w", "-v"]).arg(&file.path)
            }
            Self::CubeProgrammer => {
                let loader = board.flash.as_ref().and_then(|flash| flash.cube_loader.as_deref());
                command.args(["-c", "port=SWD", "-el", loader.unwrap_or_default(), "-w"]);
                command.arg(&file.path);
                if let ("bin", Some((_, address, _))) = (file.extension(), file.pieces.first()) {
                    command.arg(format!("{address:#x}"));
                }
                command.args(["-v", "-rst"])
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

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, pieces: &[(&'static str, u32, u64)]) -> Written {
        Written { path: name.into(), bytes: 1, pieces: pieces.to_vec() }
    }

    #[test]
    fn each_tool_is_called_as_it_wants() {
        let call = |tool: Tool, id, file: &Written| {
            let command = tool.command(&Board::by_id(id).unwrap(), file);
            let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
            args.collect::<Vec<_>>().join(" ")
        };
        let both = written("grouse.hex", &[("firmware", 0, 1), ("model", 1, 1)]);
        assert_eq!(call(Tool::TeensyLoader, "teensy41", &both), "--mcu=TEENSY41 -w -v grouse.hex");
        assert_eq!(
            call(Tool::CubeProgrammer, "weact-h743", &both),
            "-c port=SWD -el WeAct-STM32H7xx-QSPI.stldr -w grouse.hex -v -rst"
        );
        let bin = written("model.bin", &[("model", 0x9000_0000, 1)]);
        assert!(call(Tool::CubeProgrammer, "weact-h743", &bin).contains("model.bin 0x90000000"));
        assert_eq!(
            call(Tool::ProbeRs, "pico2", &bin),
            "download --chip RP235x --preverify --verify --binary-format bin --base-address \
             0x90000000 model.bin"
        );
        let uf2 = written("grouse.uf2", &[("firmware", 0, 1)]);
        assert_eq!(call(Tool::Picotool, "pico2", &uf2), "load -u -v -x grouse.uf2");
    }

    /// No probe, or another chip than was named: the tool's words and what to do about them.
    #[test]
    fn a_tool_that_fails_is_repeated() {
        let board = Board::by_id("pico2").unwrap();
        for (tool, said, remedy) in [
            (Tool::ProbeRs, "No connected probes were found.", "probe-rs list"),
            (Tool::Picotool, "No accessible RP2350 devices in BOOTSEL mode", "BOOTSEL"),
            (Tool::TeensyLoader, "Unable to open device", "press its button"),
            (Tool::CubeProgrammer, "Error: No STM32 target found!", "ExternalLoader"),
        ] {
            let error = tool.failed(&board, [said.into(), Vec::new()]);
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.remedy().contains(remedy), "{}", error.remedy());
        }
        let files = [written("grouse.uf2", &[])];
        if let Err(error) = Tool::find(&board, &files) {
            let words = format!("{error} {}", error.remedy());
            assert!(words.contains("picotool or probe-rs is not installed"), "{words}");
            assert!(words.contains("grouse.uf2") && words.contains("BOOTSEL"), "{words}");
        }
    }
}
