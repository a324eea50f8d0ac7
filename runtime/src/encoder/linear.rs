//! A linear layer on a tile of tokens: quantize, then for every group gather, multiply, scatter.

use crate::error::Result;
use crate::format::{DataType, TILE_DEPTH, TILE_ROWS, round_up};
use crate::kernels::{Backend, RowScale, TOKENS_PER_CALL, TileSums};
use crate::plan::TOKEN_TILE;
use crate::view::{Block, Group, Indices, Matrix};

/// Buffers of a linear layer, from the arena; see [`crate::plan::Plan`] for their sizes.
#[derive(Debug)]
pub struct Scratch<'a> {
    /// int8 `[TOKEN_TILE][cols]`.
    pub rows: &'a mut [i8],
    /// int8 `[TOKEN_TILE][depth_i8]`.
    pub panel_i8: &'a mut [i8],
    /// f32 `[TOKEN_TILE][depth_f32]`.
    pub panel_f32: &'a mut [f32],
    /// Row length of `panel_i8`.
    pub depth_i8: usize,
    /// Row length of `panel_f32`.
    pub depth_f32: usize,
}

/// Token vectors at a fixed distance: row `t` is `data[t × stride..][..width]`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The vectors and what lies between them.
    pub data: &'a [f32],
    /// Distance from one row to the next, in elements.
    pub stride: usize,
    /// Length of a row, in elements.
    pub width: usize,
}

impl<'a> Rows<'a> {
    fn iter(self) -> impl Iterator<Item = &'a [f32]> {
        self.data.chunks(self.stride.max(1)).filter_map(move |row| row.get(..self.width))
    }
}

/// `out[t] = W input[t] + b` for up to [`TOKEN_TILE`] tokens; `out` rows are `matrix.rows()` long.
///
/// # Errors
/// None for a matrix of an opened model.
pub fn linear(
    backend: &dyn Backend,
    matrix: &Matrix<'_>,
    scratch: &mut Scratch<'_>,
    input: Rows<'_>,
    out: &mut [f32],
) -> Result<()> {
    match matrix.weights() {
        DataType::I8 => linear_i8(backend, matrix, scratch, input, out),
        DataType::F16 | DataType::F32 => linear_float(backend, matrix, scratch, input, out),
    }
}

fn linear_i8(
    backend: &dyn Backend,
    matrix: &Matrix<'_>,
    scratch: &mut Scratch<'_>,
    input: Rows<'_>,
    out: &mut [f32],
) -> Result<()> {
    let cols = matrix.cols();
    let mut scales = [RowScale::default(); TOKEN_TILE];
    let rows = scratch.rows.chunks_exact_mut(cols);
    for ((x, q), scale) in input.iter().zip(rows).zip(&mut scales) {
        *scale = backend.quantize_row(x, matrix.equalize(), q);
    }
    let stride = scratch.depth_i8.max(1);
    gather(Indices::List(matrix.shared()), scratch.rows, cols, scratch.panel_i8, stride, 0);
    for group in matrix.groups() {
        let group = group?;
        let Block::I8(block) = group.block else { continue };
        // A dense matrix reads the quantized rows as they are.
        let whole = Indices::Range { first: 0, count: cols };
        let direct =
            group.inputs == whole && group.shared.is_empty() && cols.is_multiple_of(TILE_DEPTH);
        let (panel, stride): (&[i8], usize) = if direct {
            (scratch.rows, cols)
        } else {
            let after = group.shared.len();
            gather(group.inputs, scratch.rows, cols, scratch.panel_i8, stride, after);
            (scratch.panel_i8, stride)
        };
        let tile_len = TILE_ROWS * round_up(group.depth(), TILE_DEPTH);
        for (index, tile) in tiles(block, tile_len, &group).enumerate() {
            let values = TileValues::of(&group, index);
            let calls = panel
                .chunks(TOKENS_PER_CALL * stride)
                .zip(out.chunks_mut(TOKENS_PER_CALL * matrix.rows()))
                .zip(scales.chunks(TOKENS_PER_CALL));
            for ((panel, out), scales) in calls {
                let mut sums: TileSums<i32> = Default::default();
                backend.tile_i8(tile, panel, stride, &mut sums);
                for ((sums, row), out) in
                    sums.iter().zip(scales).zip(out.chunks_exact_mut(matrix.rows()))
                {
                    values.store(out, &values.rescale(sums, *row));
                }
            }
        }
    }
    Ok(())
}

fn linear_float(
    backend: &dyn Backend,
    matrix: &Matrix<'_>,
    scratch: &mut Scratch<'_>,
    input: Rows<'_>,
    out: &mut [f32],
) -> Result<()> {
    let stride = scratch.depth_f32.max(1);
    for group in matrix.groups() {
        let group = group?;
        for (x, panel) in input.iter().zip(scratch.panel_f32.chunks_exact_mut(stride)) {
            let indices = Indices::List(group.shared);
            let inputs = indices.iter().chain(group.inputs.iter());
            for (p, i) in panel.iter_mut().zip(inputs) {
                *p = x.get(i).copied().unwrap_or_default();
            }
        }
        let tile_len = TILE_ROWS * group.depth();
        let tile_count = group.outputs.len().div_ceil(TILE_ROWS);
        for index in 0..tile_count {
            let values = TileValues::of(&group, index);
            let calls = scratch
                .panel_f32
                .chunks(TOKENS_PER_CALL * stride)
                .zip(out.chunks_mut(TOKENS_PER_CALL * matrix.rows()));
            for (panel, out) in calls {
                let mut sums: TileSums<f32> = Default::default();
                match group.block {
                    Block::F32(block) => {
                        backend.tile_f32(tile(block, tile_len, index), panel, stride, &mut sums);
                    }
                    Block::F16(block) => {
                        backend.tile_f16(tile(block, tile_len, index), panel, stride, &mut sums);
                    }
                    Block::I8(_) => {}
                }
                for (sums, out) in sums.iter().zip(out.chunks_exact_mut(matrix.rows())) {
                    values.store(out, &values.add_bias(sums));
                }
            }
        }
    }
    Ok(())
}

/// Copies `indices` of each row in `rows` to its panel row, from position `at`.
fn gather(
    indices: Indices<'_>,
    rows: &[i8],
    cols: usize,
    panel: &mut [i8],
    stride: usize,
    at: usize,
) {
    if indices.len() == 0 {
        return;
    }
    for (row, panel) in rows.chunks_exact(cols).zip(panel.chunks_exact_mut(stride)) {
        let target = panel.get_mut(at..).unwrap_or_default();
        match indices {
            Indices::Range { first, count } => {
                let source = row.get(first..).unwrap_or_default();
                target.iter_mut().zip(source).take(count).for_each(|(t, s)| *t = *s);
            }
            Indices::List(list) => {
                for (t, i) in target.iter_mut().zip(list) {
                    *t = row.get(usize::from(*i)).copied().unwrap_or_default();
                }
            }
        }
    }
}

/// Tile `index` of a block; empty when the group has no inputs.
fn tile<T>(block: &[T], tile_len: usize, index: usize) -> &[T] {
    block.get(index * tile_len..).and_then(|rest| rest.get(..tile_len)).unwrap_or_default()
}

fn tiles<'a>(
    block: &'a [i8],
    tile_len: usize,
    group: &Group<'_>,
) -> impl Iterator<Item = &'a [i8]> {
    (0..group.outputs.len().div_ceil(TILE_ROWS)).map(move |index| tile(block, tile_len, index))
}

/// Bias, scale, sum and target outputs of one tile.
struct TileValues<'a> {
    outputs: Indices<'a>,
    bias: &'a [f32],
    scale: &'a [f32],
    sum: &'a [i32],
}

impl<'a> TileValues<'a> {
    fn of(group: &Group<'a>, index: usize) -> Self {
        let start = index * TILE_ROWS;
        let outputs = match group.outputs {
            Indices::Range { first, count } => {
                Indices::Range { first: first + start, count: (count - start).min(TILE_ROWS) }
            }
            Indices::List(list) => {
                let rest = list.get(start..).unwrap_or_default();
                Indices::List(rest.get(..TILE_ROWS).unwrap_or(rest))
            }
        };
        Self {
            outputs,
            bias: group.bias.get(start..).unwrap_or_default(),
            scale: group.scale.get(start..).unwrap_or_default(),
            sum: group.sum.get(start..).unwrap_or_default(),
        }
    }

    /// `(sum of products − zero × sum of weights) × (row scale × weight scale) + bias`.
    #[inline(always)]
    fn rescale(&self, sums: &[i32; TILE_ROWS], row: RowScale) -> [f32; TILE_ROWS] {
        let mut y = [0.0; TILE_ROWS];
        let values = self.bias.iter().zip(self.scale).zip(self.sum);
        for ((y, s), ((bias, scale), sum)) in y.iter_mut().zip(sums).zip(values) {
            let exact = s.wrapping_sub(row.zero.wrapping_mul(*sum));
            *y = exact as f32 * (row.scale * scale) + bias;
        }
        y
    }

    #[inline(always)]
    fn add_bias(&self, sums: &[f32; TILE_ROWS]) -> [f32; TILE_ROWS] {
        let mut y = [0.0; TILE_ROWS];
        for ((y, s), bias) in y.iter_mut().zip(sums).zip(self.bias) {
            *y = s + bias;
        }
        y
    }

    /// Writes the tile's outputs to their places in a token's row.
    #[inline(always)]
    fn store(&self, out: &mut [f32], y: &[f32; TILE_ROWS]) {
        match self.outputs {
            Indices::Range { first, count } => {
                let target = out.get_mut(first..).unwrap_or_default();
                target.iter_mut().zip(y).take(count).for_each(|(o, v)| *o = *v);
            }
            Indices::List(list) => {
                for (v, i) in y.iter().zip(list) {
                    if let Some(o) = out.get_mut(usize::from(*i)) {
                        *o = *v;
                    }
                }
            }
        }
    }
}
