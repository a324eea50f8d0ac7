//! A packed file, validated once and read in place.
//!
//! [`Model::open`] checks everything that a later read relies on: lengths, offsets, checksums,
//! index lists, floats. What the accessors return afterwards borrows the file's bytes.

mod bytes;
mod embeddings;
mod integers;
mod matrix;
mod tests;

pub use embeddings::{Embeddings, Table};
pub use matrix::{Block, Group, Groups, Indices, Layer, Matrix};
pub use tests::{Test, Tests};

use crate::error::{Error, Result, SectionName};
use crate::format::{self, Arch, Header, MatrixKind, SectionEntry};
use crate::tokenizer::Tokenizer;

use bytes::Section;

/// Sections before the first layer: `ARCH`, `TOKN`, `EMBD`.
const FIXED_SECTIONS: usize = 3;
/// What the section `HEAD` of an error means: the header and the section table.
const HEAD: SectionName = SectionName(*b"HEAD");

/// A valid packed model, borrowed from the file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    bytes: &'a [u8],
    header: &'a Header,
    sections: &'a [SectionEntry],
    arch: &'a Arch,
    tokenizer: Tokenizer<'a>,
    embeddings: Embeddings<'a>,
    tests: Tests<'a>,
}

/// Length of the whole file as its header says, for a reader that does not know where it ends.
///
/// `prefix` must hold at least the header (64 bytes). The result is a claim: pass exactly that
/// many bytes to [`Model::open`], which checks it.
///
/// # Errors
/// [`Error::Truncated`], [`Error::NotGrouse`], [`Error::Version`].
pub fn declared_length(prefix: &[u8]) -> Result<u64> {
    Ok(read_header(prefix)?.file_bytes)
}

fn read_header(file: &[u8]) -> Result<&Header> {
    let size = size_of::<Header>();
    let magic = file.get(..format::MAGIC.len());
    if magic.is_some_and(|m| m != format::MAGIC) {
        return Err(Error::NotGrouse);
    }
    let head = file
        .get(..size)
        .ok_or(Error::Truncated { needed: size as u64, available: file.len() as u64 })?;
    let header: &Header = bytemuck::try_from_bytes(head)
        .map_err(|_| Error::Misaligned { needed: format::BASE_ALIGN })?;
    if header.version != format::VERSION {
        return Err(Error::Version { found: header.version, supported: format::VERSION });
    }
    if usize::from(header.header_bytes) != size {
        return Err(Error::Malformed { section: HEAD, what: "header size is not 64" });
    }
    Ok(header)
}

impl<'a> Model<'a> {
    /// The checksum of the header and of all sections' checksums: it tells one file from another.
    pub fn checksum(&self) -> u32 {
        self.header.crc
    }

    /// Validates `file` from end to end and returns a view of it.
    ///
    /// The first byte must lie at a multiple of [`format::BASE_ALIGN`]. Every byte is read once
    /// (checksums); nothing is copied.
    ///
    /// # Errors
    /// Any of [`Error`]'s file variants, naming what is wrong and what to do.
    pub fn open(file: &'a [u8]) -> Result<Self> {
        if !(file.as_ptr() as usize).is_multiple_of(format::BASE_ALIGN) {
            return Err(Error::Misaligned { needed: format::BASE_ALIGN });
        }
        let header = read_header(file)?;
        let length = file.len() as u64;
        if header.file_bytes > length {
            return Err(Error::Truncated { needed: header.file_bytes, available: length });
        }
        let sections = section_table(file, header)?;
        if header.file_bytes < length {
            return Err(Error::Malformed {
                section: HEAD,
                what: "bytes follow the end of the file",
            });
        }
        if header.layout != format::LAYOUT_R4K16 {
            return Err(Error::Unsupported { what: "the file's block layout" });
        }
        check_sections(file, header, sections)?;

        let section = |i: usize, kind: [u8; 4], index: u32| -> Result<Section<'a>> {
            let name = SectionName(kind);
            let entry = sections.get(i).filter(|e| e.kind == kind && e.index == index).ok_or(
                Error::Malformed { section: name, what: "the section is missing or out of order" },
            )?;
            entry_bytes(file, entry).map(|bytes| Section { name, bytes })
        };
        let arch = arch(section(0, format::SECTION_ARCH, 0)?)?;
        let tokenizer = Tokenizer::open(section(1, format::SECTION_TOKENIZER, 0)?.bytes)?;
        if tokenizer.vocab_size() > arch.vocab_size as usize {
            return Err(Error::Malformed {
                section: SectionName(format::SECTION_TOKENIZER),
                what: "the vocabulary is larger than the embedding table",
            });
        }
        let embeddings = Embeddings::open(section(2, format::SECTION_EMBEDDINGS, 0)?, arch)?;
        let layers = arch.layers as usize;
        for i in 0..layers {
            let layer = section(FIXED_SECTIONS + i, format::SECTION_LAYER, i as u32)?;
            Layer::read(layer, arch)?.validate()?;
        }
        let mut rest = sections.get(FIXED_SECTIONS + layers..).unwrap_or_default();
        let mut tests = Tests::NONE;
        if let [first, others @ ..] = rest
            && first.kind == format::SECTION_TEST
        {
            tests = Tests::open(section(FIXED_SECTIONS + layers, first.kind, 0)?, arch)?;
            rest = others;
        }
        match rest {
            [] => {}
            [meta] if meta.kind == format::SECTION_META => {}
            _ => {
                return Err(Error::Malformed {
                    section: HEAD,
                    what: "unknown sections at the end",
                });
            }
        }
        Ok(Self { bytes: file, header, sections, arch, tokenizer, embeddings, tests })
    }

    /// The whole file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The header.
    pub fn header(&self) -> &'a Header {
        self.header
    }

    /// The section table, in file order.
    pub fn sections(&self) -> &'a [SectionEntry] {
        self.sections
    }

    /// Shapes and rules of the encoder.
    pub fn arch(&self) -> &'a Arch {
        self.arch
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Tokenizer<'a> {
        self.tokenizer
    }

    /// The embedding tables.
    pub fn embeddings(&self) -> Embeddings<'a> {
        self.embeddings
    }

    /// The texts of the self-test; see [`Model::self_test`].
    pub fn tests(&self) -> Tests<'a> {
        self.tests
    }

    /// Encoder layer `index`, counted from the bottom.
    ///
    /// # Errors
    /// [`Error::Malformed`] when there is no such layer.
    pub fn layer(&self, index: usize) -> Result<Layer<'a>> {
        let name = SectionName(format::SECTION_LAYER);
        let entry = self
            .sections
            .get(FIXED_SECTIONS + index)
            .filter(|e| e.kind == format::SECTION_LAYER)
            .ok_or(Error::Malformed { section: name, what: "no layer of this number" })?;
        let bytes = entry_bytes(self.bytes, entry)?;
        Layer::read(Section { name, bytes }, self.arch)
    }

    /// The JSON of section `META`, empty when there is none. Its text is not validated.
    pub fn meta(&self) -> &'a [u8] {
        self.sections
            .last()
            .filter(|e| e.kind == format::SECTION_META)
            .and_then(|e| entry_bytes(self.bytes, e).ok())
            .unwrap_or_default()
    }

    /// Kept weights and all weights of the encoder's matrices.
    ///
    /// # Errors
    /// As [`Model::layer`].
    pub fn encoder_weights(&self) -> Result<(u64, u64)> {
        let mut kept = 0;
        let mut all = 0;
        for i in 0..self.arch.layers as usize {
            let layer = self.layer(i)?;
            for kind in MatrixKind::ALL {
                let matrix = layer.matrix(kind);
                kept += u64::from(matrix.kept());
                all += (matrix.rows() * matrix.cols()) as u64;
            }
        }
        Ok((kept, all))
    }
}

fn section_table<'a>(file: &'a [u8], header: &Header) -> Result<&'a [SectionEntry]> {
    let head = size_of::<Header>();
    let too_short = Error::Truncated {
        needed: head as u64 + u64::from(header.section_count) * size_of::<SectionEntry>() as u64,
        available: file.len() as u64,
    };
    let size =
        (header.section_count as usize).checked_mul(size_of::<SectionEntry>()).ok_or(too_short)?;
    let table = file.get(head..).and_then(|rest| rest.get(..size)).ok_or(too_short)?;
    let mut crc = crate::crc::Hasher::new();
    crc.update(file.get(..head - size_of::<u32>()).unwrap_or_default());
    crc.update(table);
    if crc.finalize() != header.crc {
        return Err(Error::Checksum { section: HEAD, index: 0 });
    }
    bytemuck::try_cast_slice(table).map_err(|_| Error::Misaligned { needed: format::BASE_ALIGN })
}

/// Sections follow one another, padded with zeros, up to the end of the file; all checksums match.
fn check_sections(file: &[u8], header: &Header, sections: &[SectionEntry]) -> Result<()> {
    let malformed = |what| Error::Malformed { section: HEAD, what };
    let table_end = size_of::<Header>() + size_of_val(sections);
    let mut end = table_end as u64;
    let zero_padding = |from: u64, to: u64| {
        file.get(from as usize..to as usize).is_some_and(|gap| gap.iter().all(|b| *b == 0))
    };
    for entry in sections {
        let start = end.checked_next_multiple_of(format::ALIGN as u64);
        if start != Some(entry.offset) || !zero_padding(end, entry.offset) {
            return Err(malformed("a section does not follow the one before it"));
        }
        let bytes = entry_bytes(file, entry)?;
        if crate::crc::hash(bytes) != entry.crc {
            return Err(Error::Checksum { section: SectionName(entry.kind), index: entry.index });
        }
        end = entry.offset + entry.bytes;
    }
    let padded = end.checked_next_multiple_of(format::ALIGN as u64);
    if padded != Some(header.file_bytes) || !zero_padding(end, header.file_bytes) {
        return Err(malformed("the file does not end after its last section"));
    }
    Ok(())
}

fn entry_bytes<'a>(file: &'a [u8], entry: &SectionEntry) -> Result<&'a [u8]> {
    let truncated = Error::Truncated {
        needed: entry.offset.saturating_add(entry.bytes),
        available: file.len() as u64,
    };
    let start = usize::try_from(entry.offset).map_err(|_| truncated)?;
    let size = usize::try_from(entry.bytes).map_err(|_| truncated)?;
    file.get(start..).and_then(|rest| rest.get(..size)).ok_or(truncated)
}

fn arch(section: Section<'_>) -> Result<&Arch> {
    let malformed = |what| Error::Malformed { section: section.name, what };
    let arch: &Arch = bytemuck::try_from_bytes(section.bytes)
        .map_err(|_| malformed("it is not 64 bytes long"))?;
    let dim = |value: u32| (1..=format::MAX_DIM as u32).contains(&value);
    if arch.family != format::FAMILY_BERT {
        return Err(Error::Unsupported { what: "the model's architecture" });
    }
    if !dim(arch.hidden_size)
        || !dim(arch.hidden_size.saturating_mul(3))
        || !dim(arch.intermediate_size)
    {
        return Err(malformed("hidden or intermediate size out of range"));
    }
    if !(1..=256).contains(&arch.layers) {
        return Err(malformed("number of layers out of range"));
    }
    if arch.heads == 0 || !arch.hidden_size.is_multiple_of(arch.heads) {
        return Err(malformed("the heads do not divide the hidden size"));
    }
    if !(2..=format::MAX_TOKENS as u32).contains(&arch.max_tokens) {
        return Err(malformed("maximum number of tokens out of range"));
    }
    if arch.vocab_size == 0 || arch.token_types == 0 {
        return Err(malformed("an embedding table is empty"));
    }
    if !(1..=3).contains(&arch.activation) {
        return Err(Error::Unsupported { what: "the activation function" });
    }
    if !(1..=2).contains(&arch.pooling) || arch.normalize > 1 {
        return Err(Error::Unsupported { what: "the pooling" });
    }
    if !(arch.layer_norm_eps > 0.0 && arch.layer_norm_eps < 1.0) {
        return Err(malformed("LayerNorm epsilon out of range"));
    }
    Ok(arch)
}
