//! A layer's matrices as lists of groups, read in place.

use half::f16;

use crate::error::Result;
use crate::format::{
    Arch, DataType, GroupDesc, LayerHeader, MAX_DIM, MatrixDesc, MatrixKind, SHARED_UNIT,
    TILE_ROWS, block_bytes, round_up,
};

use super::bytes::Section;
use super::integers;

/// One encoder layer.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    matrices: [Matrix<'a>; 4],
    /// LayerNorm weight after attention, `[hidden_size]`.
    pub attention_gamma: &'a [f32],
    /// LayerNorm bias after attention, `[hidden_size]`.
    pub attention_beta: &'a [f32],
    /// LayerNorm weight after feed-forward, `[hidden_size]`.
    pub ffn_gamma: &'a [f32],
    /// LayerNorm bias after feed-forward, `[hidden_size]`.
    pub ffn_beta: &'a [f32],
}

impl<'a> Layer<'a> {
    pub(super) fn read(section: Section<'a>, arch: &Arch) -> Result<Self> {
        let head: &LayerHeader = section.head()?;
        let hidden = arch.hidden_size as usize;
        let inner = arch.intermediate_size as usize;
        let [qkv, output, up, down] = &head.matrices;
        Ok(Self {
            matrices: [
                Matrix::read(section, qkv, 3 * hidden, hidden)?,
                Matrix::read(section, output, hidden, hidden)?,
                Matrix::read(section, up, inner, hidden)?,
                Matrix::read(section, down, hidden, inner)?,
            ],
            attention_gamma: section.slice(head.attention_gamma, hidden)?,
            attention_beta: section.slice(head.attention_beta, hidden)?,
            ffn_gamma: section.slice(head.ffn_gamma, hidden)?,
            ffn_beta: section.slice(head.ffn_beta, hidden)?,
        })
    }

    /// The deep checks of `Model::open`: floats and index lists.
    pub(super) fn validate(&self) -> Result<()> {
        let section = self.matrices[0].section;
        let norms = [self.attention_gamma, self.attention_beta, self.ffn_gamma, self.ffn_beta];
        if norms.iter().any(|n| n.iter().any(|v| !v.is_finite())) {
            return Err(section.malformed("a LayerNorm value is not a finite number"));
        }
        self.matrices.iter().try_for_each(Matrix::validate)
    }

    /// The matrix of the given kind.
    pub fn matrix(&self, kind: MatrixKind) -> &Matrix<'a> {
        let [qkv, output, up, down] = &self.matrices;
        match kind {
            MatrixKind::Qkv => qkv,
            MatrixKind::AttentionOutput => output,
            MatrixKind::FeedForwardIn => up,
            MatrixKind::FeedForwardOut => down,
        }
    }
}

/// A weight matrix `[rows][cols]` as a list of groups; every output is in exactly one group.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    section: Section<'a>,
    desc: &'a MatrixDesc,
    weights: DataType,
    groups: &'a [GroupDesc],
    shared: &'a [u16],
    bias: &'a [f32],
    scale: &'a [f32],
    sum: &'a [i32],
    equalize: &'a [f32],
}

impl<'a> Matrix<'a> {
    fn read(section: Section<'a>, desc: &'a MatrixDesc, rows: usize, cols: usize) -> Result<Self> {
        if desc.rows as usize != rows || desc.cols as usize != cols {
            return Err(section.malformed("a matrix has not the shape that ARCH implies"));
        }
        let weights = DataType::from_u32(desc.weights)
            .ok_or_else(|| section.malformed("unknown number type of a matrix"))?;
        let padded = desc.padded_rows as usize;
        let only_integers = |count| if weights.is_integer() { count } else { 0 };
        Ok(Self {
            section,
            desc,
            weights,
            groups: section.slice(desc.groups, desc.group_count as usize)?,
            shared: section.slice(desc.shared, desc.shared_count as usize)?,
            bias: section.slice(desc.bias, padded)?,
            scale: section.slice(desc.scale, only_integers(padded))?,
            sum: section.slice(desc.sum, only_integers(padded))?,
            equalize: section.slice(desc.equalize, only_integers(cols))?,
        })
    }

    fn validate(&self) -> Result<()> {
        let malformed = |what| Err(self.section.malformed(what));
        let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        if !finite(self.bias) || !finite(self.scale) || !finite(self.equalize) {
            return malformed("a bias, scale or equalizing factor is not a finite number");
        }
        if !ascending_below(Indices::List(self.shared), self.cols()) {
            return malformed("shared inputs are not ascending inputs of the matrix");
        }
        if !self.shared.len().is_multiple_of(SHARED_UNIT) {
            return malformed("the number of shared inputs is not a multiple of 16");
        }
        // One bit per output: each must be written once, or a result would be garbage.
        let mut seen = [0_u64; MAX_DIM / 64];
        let mut outputs = 0;
        let mut padded = 0;
        let mut kept = 0_u64;
        for group in self.groups() {
            let group = group?;
            if !ascending_below(group.outputs, self.rows()) || group.outputs.len() == 0 {
                return malformed("a group's outputs are not ascending outputs of the matrix");
            }
            if !ascending_below(group.inputs, self.cols()) {
                return malformed("a group's inputs are not ascending inputs of the matrix");
            }
            for output in group.outputs.iter() {
                let (word, bit) = (output / 64, 1 << (output % 64));
                match seen.get_mut(word) {
                    Some(bits) if *bits & bit == 0 => *bits |= bit,
                    _ => return malformed("an output stands in two groups"),
                }
            }
            outputs += group.outputs.len();
            padded += round_up(group.outputs.len(), TILE_ROWS);
            kept += (group.outputs.len() * group.depth()) as u64;
            match group.block {
                Block::F32(values) if !finite(values) => {
                    return malformed("a weight is not a finite number");
                }
                Block::F16(values) if !values.iter().all(|v| v.is_finite()) => {
                    return malformed("a weight is not a finite number");
                }
                _ => {}
            }
            integers::validate(&group).map_err(|what| self.section.malformed(what))?;
        }
        if outputs != self.rows() || padded != self.desc.padded_rows as usize {
            return malformed("the groups do not cover every output once");
        }
        if kept != u64::from(self.desc.kept) {
            return malformed("the number of kept weights is wrong");
        }
        Ok(())
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.desc.rows as usize
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.desc.cols as usize
    }

    /// Weights stored, padding not counted.
    pub fn kept(&self) -> u32 {
        self.desc.kept
    }

    /// Number type of the blocks.
    pub fn weights(&self) -> DataType {
        self.weights
    }

    /// Inputs that every group with inputs reads first, ascending.
    pub fn shared(&self) -> &'a [u16] {
        self.shared
    }

    /// Factors that the inputs are multiplied with before they are quantized, `[cols]`; empty
    /// when the weights are floats.
    pub fn equalize(&self) -> &'a [f32] {
        self.equalize
    }

    /// Number of groups.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The groups in file order.
    pub fn groups(&self) -> Groups<'a> {
        Groups { matrix: *self, next: 0, base: 0 }
    }
}

fn ascending_below(indices: Indices<'_>, limit: usize) -> bool {
    match indices {
        Indices::Range { first, count } => first.checked_add(count).is_some_and(|end| end <= limit),
        Indices::List(list) => {
            list.is_sorted_by(|a, b| a < b)
                && list.last().is_none_or(|last| usize::from(*last) < limit)
        }
    }
}

/// Which outputs or inputs of a matrix belong to a group, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indices<'a> {
    /// `first`, `first + 1`, … `count` of them.
    Range {
        /// The first index.
        first: usize,
        /// How many.
        count: usize,
    },
    /// A list.
    List(&'a [u16]),
}

impl<'a> Indices<'a> {
    /// `count` of them from position `first` on, which must be there.
    #[must_use]
    #[inline(always)]
    pub fn part(self, first: usize, count: usize) -> Self {
        match self {
            Self::Range { first: start, .. } => Self::Range { first: start + first, count },
            Self::List(list) => Self::List(list.get(first..first + count).unwrap_or_default()),
        }
    }

    /// Number of indices.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            Self::Range { count, .. } => *count,
            Self::List(list) => list.len(),
        }
    }

    /// Index number `i`; `None` past the last.
    #[inline(always)]
    pub fn get(&self, i: usize) -> Option<usize> {
        match self {
            Self::Range { first, count } => (i < *count).then_some(first + i),
            Self::List(list) => list.get(i).map(|index| usize::from(*index)),
        }
    }

    /// The indices one by one.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let (range, list): (core::ops::Range<usize>, &[u16]) = match *self {
            Self::Range { first, count } => (first..first.saturating_add(count), &[]),
            Self::List(list) => (0..0, list),
        };
        range.chain(list.iter().map(|i| usize::from(*i)))
    }
}

/// Iterator over a matrix's groups.
#[derive(Debug, Clone)]
pub struct Groups<'a> {
    matrix: Matrix<'a>,
    next: usize,
    base: usize,
}

impl<'a> Iterator for Groups<'a> {
    type Item = Result<Group<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let desc = self.matrix.groups.get(self.next)?;
        self.next += 1;
        let group = Group::read(&self.matrix, desc, self.base);
        self.base += round_up(desc.outputs as usize, TILE_ROWS);
        Some(group)
    }
}

/// A dense block between some inputs and some outputs, with its per-output values.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// Outputs, in block order.
    pub outputs: Indices<'a>,
    /// Shared inputs: the first columns of the block (all of the matrix's, or none).
    pub shared: &'a [u16],
    /// Own inputs: the columns after the shared ones.
    pub inputs: Indices<'a>,
    /// Weights in layout `r4k16`.
    pub block: Block<'a>,
    /// Bias per output, padded to a multiple of 4.
    pub bias: &'a [f32],
    /// Weight scale per output, padded likewise; empty for float weights.
    pub scale: &'a [f32],
    /// Sum of the quantized weights per output, padded likewise; empty for float weights.
    pub sum: &'a [i32],
}

/// A group's weights, four rows after four rows.
#[derive(Debug, Clone, Copy)]
pub enum Block<'a> {
    /// `[rows / 4][inputs][4]`.
    F32(&'a [f32]),
    /// `[rows / 4][inputs][4]`.
    F16(&'a [f16]),
    /// `[rows / 4][inputs / 16][4][16]`, from −127 to 127.
    I8(&'a [i8]),
    /// `[rows / 4][inputs / 32]` runs: four multipliers and two tiles of codes; the last of four
    /// rows may have one.
    I4(&'a [u8]),
}

impl<'a> Group<'a> {
    fn read(matrix: &Matrix<'a>, desc: &GroupDesc, base: usize) -> Result<Self> {
        let section = matrix.section;
        let list = |offset: u32, first: u32, count: u32| -> Result<Indices<'a>> {
            if offset == 0 {
                Ok(Indices::Range { first: first as usize, count: count as usize })
            } else {
                Ok(Indices::List(section.slice(offset, count as usize)?))
            }
        };
        let shared = match desc.uses_shared {
            0 => &[],
            1 => matrix.shared,
            _ => return Err(section.malformed("a group's flags are unknown")),
        };
        if desc.outputs as usize > MAX_DIM || desc.inputs as usize > MAX_DIM {
            return Err(section.malformed("a group is too large"));
        }
        let outputs = desc.outputs as usize;
        let depth = shared.len() + desc.inputs as usize;
        let bytes = block_bytes(matrix.weights, outputs, depth);
        let block = match matrix.weights {
            DataType::F32 => Block::F32(section.slice(desc.block, bytes / size_of::<f32>())?),
            DataType::F16 => Block::F16(section.slice(desc.block, bytes / size_of::<f16>())?),
            DataType::I8 => Block::I8(section.slice(desc.block, bytes)?),
            DataType::I4 => Block::I4(section.slice(desc.block, bytes)?),
            DataType::I2 => return Err(section.malformed("a matrix cannot be int2")),
        };
        let rows = base..base + round_up(outputs, TILE_ROWS);
        let bounds = || section.malformed("the groups have more outputs than the matrix");
        let integers = if matrix.weights.is_integer() { rows.clone() } else { 0..0 };
        Ok(Self {
            outputs: list(desc.output_list, desc.first_output, desc.outputs)?,
            shared,
            inputs: list(desc.input_list, desc.first_input, desc.inputs)?,
            block,
            bias: matrix.bias.get(rows.clone()).ok_or_else(bounds)?,
            scale: matrix.scale.get(integers.clone()).ok_or_else(bounds)?,
            sum: matrix.sum.get(integers).ok_or_else(bounds)?,
        })
    }

    /// Inputs of the block, shared and own.
    pub fn depth(&self) -> usize {
        self.shared.len() + self.inputs.len()
    }
}
