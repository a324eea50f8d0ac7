//! The lines that a guest writes.

use core::fmt::{Display, Write};

use crate::Failure;

/// One counted run.
pub(crate) struct Line<'a> {
    /// What was run.
    pub case: &'a dyn Display,
    /// Backend.
    pub backend: &'a str,
    /// Tokens.
    pub tokens: usize,
    /// Products that the case needs.
    pub macs: u64,
    /// CRC-32 of the result; see [`crc`].
    pub crc: u32,
    /// Whether the result has the scalar backend's bits.
    pub equal: bool,
}

/// Writes lines and numbers the regions.
pub(crate) struct Report<'a> {
    out: &'a mut dyn Write,
    regions: usize,
    all_equal: bool,
}

impl<'a> Report<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, regions: 0, all_equal: true }
    }

    /// Writes the line of the region that was just counted.
    pub(crate) fn line(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        let Line { case, backend, tokens, macs, crc, equal } = line;
        writeln!(
            self.out,
            "{{\"region\":{},\"case\":\"{case}\",\"backend\":\"{backend}\",\"tokens\":{tokens},\
             \"macs\":{macs},\"crc\":\"{crc:08x}\",\"equal\":{equal}}}",
            self.regions,
        )?;
        self.regions += 1;
        self.all_equal &= equal;
        Ok(())
    }

    /// Writes the line of a loop of two instructions a turn, which shows that the count is exact.
    pub(crate) fn turns(&mut self, turns: usize) -> Result<(), Failure> {
        writeln!(self.out, "{{\"region\":{},\"turns\":{turns}}}", self.regions)?;
        self.regions += 1;
        Ok(())
    }

    /// Says that the requested backend is not there. No region belongs to this.
    pub(crate) fn absent(&mut self, backend: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{{\"absent\":\"{backend}\"}}")?)
    }

    pub(crate) fn all_equal(&self) -> bool {
        self.all_equal
    }
}

/// CRC-32 of the values' bits, little-endian.
pub(crate) fn crc(values: impl Iterator<Item = f32>) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    values.for_each(|value| hash.update(&value.to_bits().to_le_bytes()));
    hash.finalize()
}
