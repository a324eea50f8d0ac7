//! Building blocks of a file: aligned bytes inside a section, and sections joined into a file.

use bytemuck::{NoUninit, Zeroable};
use grouse_runtime::format::{ALIGN, Header, LAYOUT_R4K16, MAGIC, SectionEntry, VERSION, round_up};

use crate::{Error, Result};

/// A section under construction: a head struct, then aligned arrays.
#[derive(Debug, Default)]
pub struct Section {
    bytes: Vec<u8>,
}

impl Section {
    /// A section that starts with `head_bytes` to be filled by [`Section::finish`].
    pub fn with_head(head_bytes: usize) -> Self {
        Self { bytes: vec![0; head_bytes] }
    }

    /// Appends values at the next multiple of `align` and returns their offset.
    ///
    /// # Errors
    /// When the section outgrows the format's 32-bit offsets.
    pub fn push<T: NoUninit>(&mut self, values: &[T], align: usize) -> Result<u32> {
        self.bytes.resize(round_up(self.bytes.len(), align), 0);
        let offset = u32::try_from(self.bytes.len()).map_err(|_| {
            Error::input(
                "a section of the packed file would exceed 4 GiB",
                "choose a smaller number type with --weights or --embeddings",
            )
        })?;
        self.bytes.extend_from_slice(bytemuck::cast_slice(values));
        Ok(offset)
    }

    /// Appends values at a multiple of [`ALIGN`].
    ///
    /// # Errors
    /// As [`Section::push`].
    pub fn push_aligned<T: NoUninit>(&mut self, values: &[T]) -> Result<u32> {
        self.push(values, ALIGN)
    }

    /// Writes the head and returns the section's bytes.
    pub fn finish<T: NoUninit>(mut self, head: &T) -> Vec<u8> {
        let head = bytemuck::bytes_of(head);
        self.bytes[..head.len()].copy_from_slice(head);
        self.bytes
    }
}

/// Joins sections (kind, index, bytes) into a whole file.
pub fn file(sections: &[([u8; 4], u32, Vec<u8>)]) -> Vec<u8> {
    let mut entries = Vec::with_capacity(sections.len());
    let mut end = size_of::<Header>() + sections.len() * size_of::<SectionEntry>();
    for (kind, index, bytes) in sections {
        let offset = round_up(end, ALIGN);
        end = offset + bytes.len();
        entries.push(SectionEntry {
            kind: *kind,
            index: *index,
            offset: offset as u64,
            bytes: bytes.len() as u64,
            crc: crc32fast::hash(bytes),
            reserved: 0,
        });
    }
    let mut header = Header {
        magic: MAGIC,
        version: VERSION,
        header_bytes: size_of::<Header>() as u16,
        section_count: sections.len() as u32,
        file_bytes: round_up(end, ALIGN) as u64,
        layout: LAYOUT_R4K16,
        ..Header::zeroed()
    };
    let table: &[u8] = bytemuck::cast_slice(&entries);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytemuck::bytes_of(&header)[..size_of::<Header>() - size_of::<u32>()]);
    crc.update(table);
    header.crc = crc.finalize();

    let mut out = Vec::with_capacity(header.file_bytes as usize);
    out.extend_from_slice(bytemuck::bytes_of(&header));
    out.extend_from_slice(table);
    for ((_, _, bytes), entry) in sections.iter().zip(&entries) {
        out.resize(entry.offset as usize, 0);
        out.extend_from_slice(bytes);
    }
    out.resize(header.file_bytes as usize, 0);
    out
}
