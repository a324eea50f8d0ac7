//! The catalogue: one TOML file a board, embedded in the program.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Ids and files of all boards, made by `build.rs` from the folder `catalogue`.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/catalogue.rs"));

const NS_PER_SECOND: u128 = 1_000_000_000;

/// A board: its core, its memory, its devices and how to start it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Name on the command line.
    pub id: String,
    /// One line for people.
    pub description: String,
    /// Processor core.
    pub core: String,
    /// Rust target triple.
    pub target: String,
    /// Flags for rustc beside the target.
    pub rustflags: Vec<String>,
    /// Features of the firmware: the family of the chip.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// A linker that must be installed; without it, the compiler's own does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linker: Option<Linker>,
    /// Clock of the core.
    pub clock_hz: u64,
    /// Backend that the firmware takes when none is named.
    pub backend: String,
    /// Longest text in bytes.
    pub text_bytes: u32,
    /// Bytes of RAM kept for the stack.
    pub stack_bytes: u64,
    /// Most bytes of it that a request takes, as a test measures.
    pub stack_bound: u64,
    /// Most bytes of arena, where the operating system gives it; elsewhere it is a region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arena_bytes: Option<u32>,
    /// Memory; a board with an operating system has none to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<Regions>,
    /// Serial lines.
    pub uart: Uart,
    /// The free-running counter that measures work.
    pub counter: Counter,
    /// The emulator, for a board that is emulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<Qemu>,
    /// How the image gets onto a board that is real.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flash: Option<Flash>,
    /// What estimates of time are made from.
    pub cost: Cost,
}

/// A linker of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linker {
    /// The program, which `rustflags` names, too.
    pub program: String,
    /// The Debian packages that bring it.
    pub packages: String,
}

/// Memory by its use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regions {
    /// Code and constants of the firmware.
    pub code: Region,
    /// Statics and stack.
    pub ram: Region,
    /// The encoder's buffers.
    pub arena: Region,
    /// The packed model, executed in place.
    pub model: Region,
}

impl Regions {
    /// All regions with their names.
    pub fn all(&self) -> [(&'static str, Region); 4] {
        [("code", self.code), ("ram", self.ram), ("arena", self.arena), ("model", self.model)]
    }
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// First address.
    pub origin: u32,
    /// Bytes.
    pub length: u32,
}

impl Region {
    /// The address after the last.
    pub fn end(self) -> u64 {
        u64::from(self.origin) + u64::from(self.length)
    }
}

/// Serial lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uart {
    /// Driver in the firmware: `cmsdk`, `lpuart`, `pl011`, `stm32-usart`, or `stdio` under an operating
    /// system.
    pub driver: String,
    /// Clock of the lines' baud rate generators.
    #[serde(default)]
    pub clock_hz: u32,
    /// Address of the line that carries the protocol.
    #[serde(default)]
    pub wire: u32,
    /// Interrupt of its receiver.
    #[serde(default)]
    pub wire_interrupt: u16,
    /// Address of the line that carries the log.
    #[serde(default)]
    pub log: u32,
}

/// A free-running counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// Driver in the firmware: `sse`, `cmsdk-dual`, `generic`, `dwt` (the core's own), or `clock`
    /// under an operating system.
    pub driver: String,
    /// What its ticks are made into.
    pub unit: Unit,
    /// One line for people.
    pub description: String,
    /// Address of the registers that start it.
    #[serde(default)]
    pub control: u32,
    /// Address of the registers that show it, when those are others.
    #[serde(default)]
    pub status: u32,
    /// Ticks per second.
    pub hz: u64,
}

/// What a board's counter tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Instructions, exactly: emulated time that runs by them.
    Instructions,
    /// Cycles of the core: a counter of the core's own.
    Cycles,
    /// Time; under an emulator the host's, which says nothing.
    Nanoseconds,
}

impl Unit {
    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Cycles => "cycles",
            Self::Nanoseconds => "nanoseconds",
        }
    }
}

/// The emulator's machine, or its core for programs of an operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// The program.
    pub program: String,
    /// The Debian package that brings it.
    pub package: String,
    /// First version (major, minor) that knows the machine.
    pub since: (u32, u32),
    /// QEMU's name of the machine; without it, the program runs Linux programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Emulated time per instruction that `args` ask for.
    #[serde(default)]
    pub ns_per_instruction: u64,
}

/// How the image gets onto a real board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flash {
    /// Kind of image that the board's own loader takes.
    pub format: ImageFormat,
    /// UF2: the family that the loader expects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uf2_family: Option<u32>,
    /// What the boot ROM wants beside the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// First address of the flash that the boot ROM copies the firmware from, where it does not run
    /// in place: the firmware is then a file of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<u32>,
    /// The loader erases everything first: firmware and model are written together only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// PJRC's name of the board, for `teensy_loader_cli`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teensy_mcu: Option<String>,
    /// The loader of the external flash, for `STM32_Programmer_CLI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cube_loader: Option<String>,
    /// probe-rs's name of the chip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_rs_chip: Option<String>,
    /// What to do by hand, for people.
    pub by_hand: String,
}

/// What boot ROMs want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boot {
    /// RP2350: a block that describes the image, in its first 4 KiB.
    Rp235x,
    /// i.MX RT: a block that describes the flash, and an image vector table, before the program.
    Imxrt,
}

impl Boot {
    /// Bytes of flash before the vectors.
    pub fn header_bytes(self) -> u32 {
        match self {
            Self::Rp235x => 0,
            Self::Imxrt => 0x2000,
        }
    }
}

/// Kinds of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Microsoft's USB Flashing Format.
    Uf2,
    /// Intel HEX.
    Hex,
    /// The bytes from the first address on.
    Bin,
    /// The program's ELF file, with the model beside it.
    Elf,
}

/// What estimates are made from: instructions by kind of work, counted under QEMU on this core, and
/// an assumption about its cycles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Cycles per instruction: an assumption, not a measurement.
    pub cycles_per_instruction: f64,
    /// Instructions per multiplication with an int8 weight.
    #[serde(default)]
    pub i8_mac: f64,
    /// The same with an int4 weight.
    #[serde(default)]
    pub i4_mac: f64,
    /// The same in attention.
    #[serde(default)]
    pub attention_mac: f64,
    /// Instructions per number that a matrix puts out or takes in.
    #[serde(default)]
    pub element: f64,
}

impl Board {
    /// All boards.
    ///
    /// # Errors
    /// [`Error::Catalogue`], which a test of this crate rules out.
    pub fn all() -> Result<Vec<Self>> {
        FILES.iter().map(|(id, text)| Self::parse(id, text)).collect()
    }

    /// The board called `id`.
    ///
    /// # Errors
    /// [`Error::UnknownBoard`], which lists the known ones.
    pub fn by_id(id: &str) -> Result<Self> {
        let (id, text) = FILES.iter().find(|(known, _)| *known == id).ok_or_else(|| {
            let known = FILES.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(", ");
            Error::UnknownBoard { id: id.to_owned(), known }
        })?;
        Self::parse(id, text)
    }

    fn parse(id: &str, text: &str) -> Result<Self> {
        let wrong = |what: String| Error::Catalogue { id: id.to_owned(), what };
        toml::from_str(text).map_err(|e| wrong(e.to_string()))
    }

    /// Work in the counter's [`Unit`] that passed in so many of its ticks.
    ///
    /// For instructions, with two ticks or more to each, the rounding is exact.
    pub fn work(&self, ticks: u64) -> u64 {
        let ns = match (self.counter.unit, &self.qemu) {
            (Unit::Cycles, _) => return ticks,
            (Unit::Instructions, Some(qemu)) => qemu.ns_per_instruction,
            _ => 1,
        };
        let divisor = u128::from(self.counter.hz) * u128::from(ns);
        let rounded = (u128::from(ticks) * NS_PER_SECOND + divisor / 2) / divisor.max(1);
        u64::try_from(rounded).unwrap_or(u64::MAX)
    }

    /// The regions, for what only a board without an operating system has.
    ///
    /// # Errors
    /// [`Error::Catalogue`].
    pub fn bare(&self) -> Result<&Regions> {
        self.regions.as_ref().ok_or_else(|| Error::Catalogue {
            id: self.id.clone(),
            what: "it has an operating system, and so no memory regions".into(),
        })
    }

    /// Bytes that a model may have.
    pub fn model_available(&self) -> u64 {
        // A file's length is told in 32 bits on the line.
        self.regions.as_ref().map_or(u64::from(u32::MAX), |regions| regions.model.length.into())
    }

    /// Bytes of the arena.
    pub fn arena_available(&self) -> u64 {
        let region = self.regions.as_ref().map(|regions| regions.arena.length);
        region.or(self.arena_bytes).unwrap_or(0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_is_sound() {
        for (board, (id, _)) in Board::all().expect("parses").iter().zip(FILES) {
            assert_eq!(board.id, *id);
            let regions = board.regions.as_ref().map(Regions::all);
            let regions = regions.as_ref().map_or(&[][..], |all| all);
            for (i, (name, a)) in regions.iter().enumerate() {
                assert!(a.length > 0 && a.end() <= 1 << 32, "{id}: {name}");
                assert!(a.length <= i32::MAX as u32, "{id}: {name} is too long for a slice");
                for (other, b) in &regions[i + 1..] {
                    let apart = a.end() <= b.origin.into() || b.end() <= a.origin.into();
                    assert!(apart, "{id}: {name} and {other} overlap");
                }
            }
            assert!(board.arena_available() > 0, "{id}: no arena");
            assert_eq!(board.arena_bytes.is_some(), board.regions.is_none(), "{id}");
            assert!(board.qemu.is_some() || board.flash.is_some(), "{id}: no way to start it");
            assert!(board.text_bytes >= 1024, "{id}: text");
            // Room for the fault handler, and to spare.
            assert!(board.stack_bound + 2 * 4096 <= board.stack_bytes, "{id}: stack");
            assert!(board.stack_bytes % 8 == 0, "{id}: stack");
            if let Some(regions) = &board.regions {
                assert!(board.stack_bytes < regions.ram.length.into(), "{id}: stack");
            }
            if let (Unit::Instructions, Some(qemu)) = (board.counter.unit, &board.qemu) {
                let ticks_per_second_of_work = board.counter.hz * qemu.ns_per_instruction;
                assert!(ticks_per_second_of_work >= 2_000_000_000, "{id}: counts are not exact");
            }
            let model = board.flash.as_ref().and(board.regions.as_ref()).map(|r| r.model.origin);
            assert!(model.is_none_or(|origin| origin % 4096 == 0), "{id}: sectors of flash");
        }
    }

    #[test]
    fn the_folder_is_the_catalogue() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/catalogue");
        let files = std::fs::read_dir(folder).expect("there").count();
        assert!(files == FILES.len() && files > 5, "{files} files");
    }

    #[test]
    fn ticks_become_instructions_exactly() {
        for id in ["mps3-an547", "mps2-an386", "mps2-an505"] {
            let board = Board::by_id(id).expect("known");
            let ns = board.qemu.as_ref().expect("emulated").ns_per_instruction;
            for n in [1_u64, 2, 3, 124, 125, 1_000_003, 1 << 40] {
                // The counter shows whole ticks: up to one is missing or too many in a difference.
                let ticks = u128::from(n) * u128::from(ns * board.counter.hz) / 1_000_000_000;
                let ticks = u64::try_from(ticks).expect("small");
                assert_eq!(board.work(ticks), n);
                assert_eq!(board.work(ticks + 1), n);
            }
        }
    }

    #[test]
    fn a_build_by_hand_uses_the_same_flags() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../firmware/.cargo/config.toml");
        let config: toml::Table =
            std::fs::read_to_string(path).expect("there").parse().expect("toml");
        let id = config["env"]["GROUSE_BOARD"].as_str().expect("a board");
        let board = Board::by_id(id).expect("known");
        assert_eq!(config["build"]["target"].as_str(), Some(&*board.target));
        let flags = config["build"]["rustflags"].as_array().expect("flags");
        assert!(flags.iter().filter_map(|f| f.as_str()).eq(&board.rustflags));
    }

    #[test]
    fn an_unknown_board_names_the_known_ones() {
        let error = Board::by_id("toaster").expect_err("unknown");
        assert!(error.to_string().contains("toaster") && error.remedy().contains("mps3-an547"));
    }
}
