//! The catalogue: one TOML file a board, embedded in the program.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Ids and files of all boards.
const FILES: &[(&str, &str)] = &[("mps3-an547", include_str!("../catalogue/mps3-an547.toml"))];

/// A board: its core, its memory, its devices and how to start it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Clock of the core.
    pub clock_hz: u64,
    /// Bytes of RAM kept for the stack.
    pub stack_bytes: u64,
    /// Most bytes of it that a request takes, as a test measures.
    pub stack_bound: u64,
    /// Memory.
    pub regions: Regions,
    /// Serial lines.
    pub uart: Uart,
    /// The free-running counter that measures work.
    pub counter: Counter,
    /// The emulator.
    pub qemu: Qemu,
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

/// Serial lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uart {
    /// Driver in the firmware.
    pub driver: String,
    /// Clock of the lines' baud rate generators.
    pub clock_hz: u32,
    /// Address of the line that carries the protocol.
    pub wire: u32,
    /// Interrupt of its receiver.
    pub wire_interrupt: u16,
    /// Address of the line that carries the log.
    pub log: u32,
}

/// A free-running counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// Driver in the firmware.
    pub driver: String,
    /// One line for people.
    pub description: String,
    /// Address of the frame that starts it.
    pub control: u32,
    /// Address of the frame that shows it.
    pub status: u32,
    /// Ticks per second.
    pub hz: u64,
}

/// The emulator's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// The program.
    pub program: String,
    /// The Debian package that brings it.
    pub package: String,
    /// First version (major, minor) that knows the machine.
    pub since: (u32, u32),
    /// QEMU's name of the machine.
    pub machine: String,
    /// Further arguments.
    pub args: Vec<String>,
    /// Emulated time per instruction that `args` ask for.
    pub ns_per_instruction: u64,
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

    /// Instructions that passed in so many ticks of the counter.
    ///
    /// With two ticks or more per instruction the rounding is exact.
    pub fn instructions(&self, ticks: u64) -> u64 {
        let ns_per_second = 1_000_000_000_u128;
        let divisor = u128::from(self.counter.hz) * u128::from(self.qemu.ns_per_instruction);
        let rounded = (u128::from(ticks) * ns_per_second + divisor / 2) / divisor.max(1);
        u64::try_from(rounded).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_is_sound() {
        for (board, (id, _)) in Board::all().expect("parses").iter().zip(FILES) {
            assert_eq!(board.id, *id);
            let regions = board.regions.all();
            for (i, (name, a)) in regions.iter().enumerate() {
                let end = u64::from(a.origin) + u64::from(a.length);
                assert!(a.length > 0 && end <= 1 << 32, "{id}: {name}");
                assert!(a.length <= i32::MAX as u32, "{id}: {name} is too long for a slice");
                for (other, b) in &regions[i + 1..] {
                    let apart = end <= b.origin.into()
                        || u64::from(b.origin) + u64::from(b.length) <= a.origin.into();
                    assert!(apart, "{id}: {name} and {other} overlap");
                }
            }
            // The fault handlers' 4 KiB, and as much again to spare.
            assert!(board.stack_bound + 2 * 4096 <= board.stack_bytes, "{id}: stack");
            assert!(
                board.stack_bytes % 8 == 0 && board.stack_bytes < board.regions.ram.length.into()
            );
            let ticks_per_second_of_work = board.counter.hz * board.qemu.ns_per_instruction;
            assert!(ticks_per_second_of_work >= 2_000_000_000, "{id}: counts would not be exact");
        }
    }

    #[test]
    fn ticks_become_instructions_exactly() {
        let board = Board::by_id("mps3-an547").expect("known");
        for n in [1_u64, 2, 3, 124, 125, 1_000_003, 1 << 40] {
            // The counter shows whole ticks: up to one is missing or too many in a difference.
            let ticks = n * 64 * 32 / 1000;
            assert_eq!(board.instructions(ticks), n);
            assert_eq!(board.instructions(ticks + 1), n);
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
