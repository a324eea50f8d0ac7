//! Bounds-checked, typed reads inside one section.

use bytemuck::Pod;

use crate::error::{Error, Result, SectionName};

/// A section's name and bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) name: SectionName,
    pub(super) bytes: &'a [u8],
}

impl<'a> Section<'a> {
    pub(super) fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed { section: self.name, what }
    }

    /// `count` values of `T` at `offset`.
    pub(super) fn slice<T: Pod>(&self, offset: u32, count: usize) -> Result<&'a [T]> {
        let bounds = || self.malformed("an offset or length is out of bounds");
        let size = count.checked_mul(size_of::<T>()).ok_or_else(bounds)?;
        let bytes = self
            .bytes
            .get(offset as usize..)
            .and_then(|rest| rest.get(..size))
            .ok_or_else(bounds)?;
        bytemuck::try_cast_slice(bytes).map_err(|_| self.malformed("an offset is not aligned"))
    }

    /// The struct at the start of the section.
    pub(super) fn head<T: Pod>(&self) -> Result<&'a T> {
        self.slice(0, 1)?.first().ok_or_else(|| self.malformed("it is empty"))
    }

    /// `count` floats at `offset`, all finite.
    pub(super) fn floats(&self, offset: u32, count: usize) -> Result<&'a [f32]> {
        let values: &[f32] = self.slice(offset, count)?;
        if values.iter().all(|v| v.is_finite()) {
            Ok(values)
        } else {
            Err(self.malformed("a value is not a finite number"))
        }
    }
}
