//! The embedding tables of a packed model.

use half::f16;

use crate::error::Result;
use crate::format::{
    Arch, DataType, EmbeddingHeader, Multiplier, RUN, table_row_i2, table_row_i4, value_i2,
};
use crate::math;

use super::bytes::Section;

/// A table of vectors, `[rows][hidden_size]`, in one of the file's number types.
#[derive(Debug, Clone, Copy)]
pub enum Table<'a> {
    /// f32 values.
    F32(&'a [f32]),
    /// f16 values.
    F16(&'a [f16]),
    /// int8 values and one scale per row.
    I8(&'a [i8], &'a [f32]),
    /// int4 rows, each run a multiplier and its codes, and one scale per row.
    I4(&'a [u8], &'a [f32]),
    /// The same in int2.
    I2(&'a [u8], &'a [f32]),
}

impl<'a> Table<'a> {
    /// Number type of the table.
    pub fn data_type(&self) -> DataType {
        match self {
            Self::F32(_) => DataType::F32,
            Self::F16(_) => DataType::F16,
            Self::I8(..) => DataType::I8,
            Self::I4(..) => DataType::I4,
            Self::I2(..) => DataType::I2,
        }
    }

    /// Writes row `index` as f32 into `out`; `false` when there is no such row.
    pub fn read_row(&self, index: usize, out: &mut [f32]) -> bool {
        let hidden = out.len();
        let start = index * hidden;
        match self {
            Self::F32(data) => match data.get(start..start + hidden) {
                Some(row) => out.copy_from_slice(row),
                None => return false,
            },
            Self::F16(data) => match data.get(start..start + hidden) {
                Some(row) => out.iter_mut().zip(row).for_each(|(o, v)| *o = math::widen(*v)),
                None => return false,
            },
            Self::I8(data, scales) => match (data.get(start..start + hidden), scales.get(index)) {
                (Some(row), Some(scale)) => {
                    out.iter_mut().zip(row).for_each(|(o, v)| *o = f32::from(*v) * scale);
                }
                _ => return false,
            },
            Self::I4(data, scales) => {
                let bytes = table_row_i4(hidden);
                let row = data.get(index * bytes..).and_then(|rest| rest.get(..bytes));
                let (Some(row), Some(scale)) = (row, scales.get(index)) else { return false };
                read_row_i4(row, *scale, out);
            }
            Self::I2(data, scales) => {
                let bytes = table_row_i2(hidden);
                let row = data.get(index * bytes..).and_then(|rest| rest.get(..bytes));
                let (Some(row), Some(scale)) = (row, scales.get(index)) else { return false };
                read_row_i2(row, *scale, out);
            }
        }
        true
    }

    fn open(
        section: Section<'a>,
        data_type: u32,
        offset: u32,
        scale_offset: u32,
        rows: usize,
        hidden: usize,
    ) -> Result<Self> {
        let count =
            rows.checked_mul(hidden).ok_or_else(|| section.malformed("a table is too large"))?;
        match DataType::from_u32(data_type) {
            Some(DataType::F32) => Ok(Self::F32(section.floats(offset, count)?)),
            Some(DataType::F16) => {
                let data: &[f16] = section.slice(offset, count)?;
                if !data.iter().all(|v| v.is_finite()) {
                    return Err(section.malformed("a value is not a finite number"));
                }
                Ok(Self::F16(data))
            }
            Some(DataType::I8) => {
                Ok(Self::I8(section.slice(offset, count)?, section.floats(scale_offset, rows)?))
            }
            Some(DataType::I4) => {
                let bytes = rows
                    .checked_mul(table_row_i4(hidden))
                    .ok_or_else(|| section.malformed("a table is too large"))?;
                Ok(Self::I4(section.slice(offset, bytes)?, section.floats(scale_offset, rows)?))
            }
            Some(DataType::I2) => {
                let bytes = rows
                    .checked_mul(table_row_i2(hidden))
                    .ok_or_else(|| section.malformed("a table is too large"))?;
                Ok(Self::I2(section.slice(offset, bytes)?, section.floats(scale_offset, rows)?))
            }
            None => Err(section.malformed("unknown number type of a table")),
        }
    }
}

/// Writes an int4 row of `out.len()` numbers as f32.
fn read_row_i4(row: &[u8], scale: f32, out: &mut [f32]) {
    for (run, out) in row.chunks(1 + RUN / 2).zip(out.chunks_mut(RUN)) {
        let Some((multiplier, codes)) = run.split_first() else { return };
        let multiplier = Multiplier(*multiplier);
        for (pair, byte) in out.chunks_mut(2).zip(codes) {
            for (o, code) in pair.iter_mut().zip([byte & 15, byte >> 4]) {
                *o = multiplier.value(code) as f32 * scale;
            }
        }
    }
}

/// Writes an int2 row of `out.len()` numbers as f32.
fn read_row_i2(row: &[u8], scale: f32, out: &mut [f32]) {
    for (run, out) in row.chunks(1 + RUN / 4).zip(out.chunks_mut(RUN)) {
        let Some((multiplier, codes)) = run.split_first() else { return };
        let multiplier = Multiplier(*multiplier);
        for (four, byte) in out.chunks_mut(4).zip(codes) {
            for (o, shift) in four.iter_mut().zip([0, 2, 4, 6]) {
                *o = value_i2(multiplier, byte >> shift & 3) as f32 * scale;
            }
        }
    }
}

/// Word, position and token type tables and their LayerNorm.
#[derive(Debug, Clone, Copy)]
pub struct Embeddings<'a> {
    /// `[vocab_size][hidden_size]`.
    pub word: Table<'a>,
    /// `[max_tokens][hidden_size]`.
    pub position: Table<'a>,
    /// `[token_types][hidden_size]`.
    pub token_type: &'a [f32],
    /// LayerNorm weight, `[hidden_size]`.
    pub gamma: &'a [f32],
    /// LayerNorm bias, `[hidden_size]`.
    pub beta: &'a [f32],
}

impl<'a> Embeddings<'a> {
    pub(super) fn open(section: Section<'a>, arch: &Arch) -> Result<Self> {
        let head: &EmbeddingHeader = section.head()?;
        let hidden = arch.hidden_size as usize;
        let types = (arch.token_types as usize)
            .checked_mul(hidden)
            .ok_or_else(|| section.malformed("a table is too large"))?;
        if DataType::from_u32(head.position_type) == Some(DataType::I8) {
            return Err(section.malformed("the position table cannot be int8"));
        }
        Ok(Self {
            word: Table::open(
                section,
                head.word_type,
                head.word,
                head.word_scale,
                arch.vocab_size as usize,
                hidden,
            )?,
            position: Table::open(
                section,
                head.position_type,
                head.position,
                head.position_scale,
                arch.max_tokens as usize,
                hidden,
            )?,
            token_type: section.floats(head.token_type, types)?,
            gamma: section.floats(head.norm_gamma, hidden)?,
            beta: section.floats(head.norm_beta, hidden)?,
        })
    }
}
