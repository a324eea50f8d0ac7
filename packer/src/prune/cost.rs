//! What a pattern costs: kept weights, multiply-accumulates as the kernels run them, bytes in the
//! packed file.

use grouse_runtime::format::{SHARED_UNIT, TILE_ROWS, quad_bytes_i4};

use super::groups::Sizes;

/// What the budget of a pruned model counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Weights kept.
    Weights,
    /// Multiply-accumulates per token, with what the blocks are padded to.
    Macs,
    /// Bytes of the packed int8 file's matrices.
    Bytes,
    /// The same in int4.
    Int4Bytes,
}

/// Bytes beside the weights for each output: bias, scale, sum of the row, index.
const OUTPUT_BYTES: usize = 14;
/// Bytes for each input of a group: its index.
const INPUT_BYTES: usize = 2;

impl Measure {
    /// What a matrix of these sizes costs. Dense and dropped matrices are the ends: one group with
    /// all inputs, and one with none.
    pub fn of(self, sizes: &Sizes) -> u64 {
        let unit = SHARED_UNIT;
        let total: usize = match self {
            Self::Weights => sizes.kept(),
            Self::Macs | Self::Bytes | Self::Int4Bytes => {
                let blocks = sizes.rows.iter().zip(&sizes.own);
                blocks
                    .map(|(rows, own)| {
                        let depth = (sizes.shared + own).next_multiple_of(unit);
                        let padded = rows.next_multiple_of(TILE_ROWS);
                        let beside = rows * OUTPUT_BYTES + own * INPUT_BYTES;
                        match self {
                            Self::Bytes => padded * depth + beside,
                            Self::Int4Bytes if depth > 0 => {
                                padded / TILE_ROWS * quad_bytes_i4(depth) + beside
                            }
                            Self::Int4Bytes => beside,
                            _ => padded * depth,
                        }
                    })
                    .sum()
            }
        };
        total as u64
    }

    /// What `outputs` cost that are not there any more: the file says even of these that they are
    /// their bias.
    pub fn of_gone(self, outputs: usize) -> u64 {
        match self {
            Self::Weights | Self::Macs => 0,
            Self::Bytes | Self::Int4Bytes => (outputs * OUTPUT_BYTES) as u64,
        }
    }
}
