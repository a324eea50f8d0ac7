//! Packed files in memory.

use grouse::model::DenseModel;
use grouse::pack::{self, Options};
use grouse_runtime::format::{BASE_ALIGN, DataType, MatrixKind};

/// A file's bytes at a multiple of [`BASE_ALIGN`].
#[derive(Debug, Clone)]
pub struct Aligned {
    words: Vec<u128>,
    length: usize,
}

impl Aligned {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0_u128; bytes.len().div_ceil(BASE_ALIGN)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self { words, length: bytes.len() }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.length]
    }

    /// The bytes, to damage.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.length]
    }
}

/// Packs `model` with `weights`, calibrated on `sentences`; embeddings in the same number type, but
/// in int8 beside f16.
///
/// # Panics
/// When the packer refuses.
pub fn pack(model: &DenseModel, weights: DataType, sentences: &[Vec<u32>]) -> Vec<u8> {
    pack_mixed(model, weights, Vec::new(), sentences)
}

/// The same with matrices, by layer and kind, in number types of their own.
///
/// # Panics
/// When the packer refuses.
pub fn pack_mixed(
    model: &DenseModel,
    weights: DataType,
    exceptions: Vec<(usize, MatrixKind, DataType)>,
    sentences: &[Vec<u32>],
) -> Vec<u8> {
    let embeddings = if weights == DataType::F16 { DataType::I8 } else { weights };
    pack_all(model, (weights, embeddings), exceptions, sentences)
}

/// The same with word embeddings in a number type of their own.
///
/// # Panics
/// When the packer refuses.
pub fn pack_tables(
    model: &DenseModel,
    weights: DataType,
    embeddings: DataType,
    sentences: &[Vec<u32>],
) -> Vec<u8> {
    pack_all(model, (weights, embeddings), Vec::new(), sentences)
}

fn pack_all(
    model: &DenseModel,
    (weights, embeddings): (DataType, DataType),
    exceptions: Vec<(usize, MatrixKind, DataType)>,
    sentences: &[Vec<u32>],
) -> Vec<u8> {
    let stats = grouse::calibrate::collect(model, sentences).unwrap();
    let options = Options {
        weights,
        exceptions,
        embeddings,
        max_tokens: None,
        calibration: "the test's own".into(),
        vocabulary: None,
        measure: false,
    };
    pack::pack(model, Some(&stats), &options).unwrap().bytes
}
