//! What is written to a board's memory, in the formats that its tools take.

use std::fmt::Write as _;

use object::elf::PT_LOAD;
use object::read::elf::{ElfFile, FileHeader, ProgramHeader};
use object::{Endianness, File};

use super::Firmware;
use crate::catalogue::Board;
use crate::error::{Error, Result};

/// Bytes of data in a UF2 block, and of the whole block.
const UF2_DATA: usize = 256;
const UF2_BLOCK: usize = 512;
/// Where a UF2 block's data begins.
const UF2_HEADER: usize = 32;
const UF2_MAGIC: [u32; 3] = [0x0A32_4655, 0x9E5D_5157, 0x0AB1_6F30];
/// A family is given.
const UF2_FAMILY: u32 = 0x2000;
/// Bytes of a line of Intel HEX.
const HEX_DATA: usize = 16;

/// Bytes for a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// `firmware` or `model`.
    pub what: &'static str,
    /// First address.
    pub address: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// The firmware as its ELF file loads it, gaps filled as erased flash is.
    ///
    /// # Errors
    /// [`Error::Elf`] when nothing is loaded within the board's code region.
    pub fn firmware(board: &Board, firmware: &Firmware) -> Result<Self> {
        let path = || firmware.path().display().to_string();
        let wrong = |what: String| Error::Elf { path: path(), what };
        let file = File::parse(firmware.elf()).map_err(|e| wrong(e.to_string()))?;
        let segments = match &file {
            File::Elf32(file) => segments(file),
            File::Elf64(file) => segments(file),
            _ => Vec::new(),
        };
        let region = board.bare()?.code;
        let outside = |(start, bytes): &(u64, &[u8])| {
            *start < region.origin.into() || start + bytes.len() as u64 > region.end()
        };
        if segments.is_empty() || segments.iter().any(outside) {
            return Err(wrong("it loads something outside of the board's code region".into()));
        }
        let start = segments.iter().map(|(start, _)| *start).min().unwrap_or_default();
        let mut bytes = Vec::new();
        for (address, data) in segments {
            let at = (address - start) as usize;
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0xFF);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Ok(Self { what: "firmware", address: start as u32, bytes })
    }

    /// The packed file in the board's model region.
    ///
    /// # Errors
    /// [`Error::ModelTooLong`].
    pub fn model(board: &Board, bytes: Vec<u8>) -> Result<Self> {
        let region = board.bare()?.model;
        let (needed, available) = (bytes.len() as u64, u64::from(region.length));
        if needed > available {
            return Err(Error::ModelTooLong { board: board.id.clone(), needed, available });
        }
        Ok(Self { what: "model", address: region.origin, bytes })
    }
}

/// What the file loads, by load address.
fn segments<'d, H: FileHeader<Endian = Endianness>>(file: &ElfFile<'d, H>) -> Vec<(u64, &'d [u8])> {
    let endian = file.endian();
    let headers = file.elf_program_headers().iter();
    let loaded = headers.filter(|h| h.p_type(endian) == PT_LOAD && h.p_filesz(endian).into() > 0);
    loaded
        .filter_map(|h| Some((h.p_paddr(endian).into(), h.data(endian, file.data()).ok()?)))
        .collect()
}

/// The pieces as a UF2 file for chips of `family`: blocks of 256 bytes at multiples of 256, in order,
/// the last of each piece filled up as erased flash is.
pub fn uf2(pieces: &[Piece], family: u32) -> Vec<u8> {
    let blocks = |piece: &Piece| piece.bytes.len().div_ceil(UF2_DATA);
    let count: usize = pieces.iter().map(blocks).sum();
    let mut file = Vec::with_capacity(count * UF2_BLOCK);
    for piece in pieces {
        for (number, data) in piece.bytes.chunks(UF2_DATA).enumerate() {
            let start = file.len();
            let address = piece.address + (number * UF2_DATA) as u32;
            let index = (start / UF2_BLOCK) as u32;
            let [first, second, last] = UF2_MAGIC;
            let size = UF2_DATA as u32;
            for word in [first, second, UF2_FAMILY, address, size, index, count as u32, family] {
                file.extend(word.to_le_bytes());
            }
            file.extend(data);
            file.resize(start + UF2_HEADER + UF2_DATA, 0xFF);
            file.resize(start + UF2_BLOCK - 4, 0);
            file.extend(last.to_le_bytes());
        }
    }
    file
}

/// The pieces as Intel HEX with 32-bit addresses.
pub fn hex(pieces: &[Piece]) -> String {
    let mut text = String::new();
    let mut upper = None;
    for piece in pieces {
        // No line crosses 64 KiB: pieces begin at multiples of a line.
        for (number, data) in piece.bytes.chunks(HEX_DATA).enumerate() {
            let [high, low, ..] = split(piece.address + (number * HEX_DATA) as u32);
            if upper.replace(high) != Some(high) {
                record(&mut text, 0, 4, &high.to_be_bytes());
            }
            record(&mut text, low, 0, data);
        }
    }
    record(&mut text, 0, 1, &[]);
    text
}

/// Upper and lower half.
fn split(address: u32) -> [u16; 2] {
    [(address >> 16) as u16, address as u16]
}

/// A line: length, address, kind, data, and what makes the sum zero.
fn record(text: &mut String, address: u16, kind: u8, data: &[u8]) {
    let [high, low] = address.to_be_bytes();
    let line = [&[data.len() as u8, high, low, kind], data].concat();
    let sum = line.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    text.push(':');
    for byte in line.iter().chain([&sum.wrapping_neg()]) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02X}");
    }
    text.push('\n');
}

/// The pieces as bytes from the first address on, gaps filled as erased flash is.
pub fn bin(pieces: &[Piece]) -> Vec<u8> {
    let start = pieces.iter().map(|piece| piece.address).min().unwrap_or(0);
    let mut bytes = Vec::new();
    for piece in pieces {
        let at = (piece.address - start) as usize;
        if bytes.len() < at + piece.bytes.len() {
            bytes.resize(at + piece.bytes.len(), 0xFF);
        }
        bytes[at..at + piece.bytes.len()].copy_from_slice(&piece.bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces() -> [Piece; 2] {
        let bytes = |n: usize| (0..n).map(|i| (i * 7 + n) as u8).collect();
        [
            Piece { what: "firmware", address: 0x1000_0000, bytes: bytes(1000) },
            Piece { what: "model", address: 0x1000_FF00, bytes: bytes(600) },
        ]
    }

    /// Independent of the writer: by the format's page (github.com/microsoft/uf2).
    #[test]
    fn uf2_blocks_cover_the_pieces_and_nothing_else() {
        let file = uf2(&pieces(), 0xE48B_FF59);
        let count = 4 + 3;
        assert_eq!(file.len(), 512 * count);
        let mut seen = Vec::new();
        for (i, block) in file.chunks(512).enumerate() {
            let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
            assert_eq!(block[..4], *b"UF2\n");
            assert_eq!([word(4), word(508)], [0x9E5D_5157, 0x0AB1_6F30]);
            assert_eq!([word(8), word(16), word(28)], [0x2000, 256, 0xE48B_FF59]);
            assert_eq!([word(20) as usize, word(24) as usize], [i, count]);
            assert_eq!(word(12) % 256, 0);
            seen.push((word(12), &block[32..288]));
        }
        for piece in pieces() {
            let end = piece.address + piece.bytes.len().next_multiple_of(256) as u32;
            let within = seen.iter().filter(|(at, _)| (piece.address..end).contains(at));
            let bytes: Vec<u8> = within.flat_map(|(_, data)| data.iter().copied()).collect();
            assert_eq!(bytes[..piece.bytes.len()], piece.bytes);
            assert!(bytes[piece.bytes.len()..].iter().all(|b| *b == 0xFF));
            assert_eq!(bytes.len() as u32, end - piece.address);
        }
    }

    #[test]
    fn hex_lines_are_as_intel_has_them() {
        let text = hex(&pieces());
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(":020000041000EA"));
        assert_eq!(text.lines().last(), Some(":00000001FF"));
        let mut upper = 0_u32;
        let mut memory = std::collections::BTreeMap::new();
        for line in text.lines() {
            let bytes: Vec<u8> = (1..line.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&line[i..i + 2], 16).unwrap())
                .collect();
            assert_eq!(bytes.iter().fold(0_u8, |s, b| s.wrapping_add(*b)), 0, "{line}");
            assert_eq!(usize::from(bytes[0]) + 5, bytes.len());
            let low = u32::from(u16::from_be_bytes([bytes[1], bytes[2]]));
            match bytes[3] {
                4 => upper = u32::from(u16::from_be_bytes([bytes[4], bytes[5]])) << 16,
                0 => {
                    for (i, byte) in bytes[4..bytes.len() - 1].iter().enumerate() {
                        memory.insert(upper + low + i as u32, *byte);
                    }
                }
                _ => {}
            }
        }
        let expected: std::collections::BTreeMap<u32, u8> = pieces()
            .iter()
            .flat_map(|p| (p.address..).zip(p.bytes.clone()).collect::<Vec<_>>())
            .collect();
        assert_eq!(memory, expected);
    }

    #[test]
    fn bin_has_each_byte_at_its_place() {
        let bytes = bin(&pieces());
        let [firmware, model] = pieces();
        assert_eq!(bytes[..1000], firmware.bytes);
        assert_eq!(bytes[0xFF00..], model.bytes);
        assert!(bytes[1000..0xFF00].iter().all(|b| *b == 0xFF));
    }
}
