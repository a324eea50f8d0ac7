//! A linear layer on a block of tiles: quantize, then for every group pack, multiply and write.

use crate::error::Result;
use crate::format::DataType;
use crate::kernels::scalar::activate;
use crate::kernels::{
    Activation, Backend, Column, FloatBlock, GroupFloat, GroupI8, Output, Pack, Panels,
    TILE_TOKENS, TileScales, int4,
};
use crate::plan::BLOCK_TILES;
use crate::view::{Block, Group, Indices, Matrix};

use super::offload::{Inputs, Offload};

/// Buffers of a linear layer, from the arena; see [`crate::plan::Plan`] for their sizes.
#[derive(Debug)]
pub struct Scratch<'a> {
    /// `[BLOCK_TILES]` panels for `capacity` inputs.
    pub panels: &'a mut [u8],
    /// Inputs of the deepest int8 or int4 group, a multiple of 16.
    pub capacity: usize,
    /// Weights `[int4::ROWS][deepest int4 group]`: rows of an int4 group as int8.
    pub unpacked: &'a mut [i8],
    /// Columns `[BLOCK_TILES][deepest float group]`.
    pub columns: &'a mut [Column],
}

/// The tiles that go in: tile `t` is `columns[t × stride..][..matrix.cols()]`.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The tiles and what lies between them.
    pub columns: &'a [Column],
    /// Columns from one tile to the next.
    pub stride: usize,
    /// Tokens in all, up to [`BLOCK_TILES`] × 16.
    pub tokens: usize,
}

impl<'a> Input<'a> {
    pub(super) fn tiles(self, width: usize) -> impl Iterator<Item = (&'a [Column], usize)> {
        let tokens = self.tokens;
        let tiles = self.columns.chunks(self.stride.max(1)).enumerate();
        tiles.take(tokens.div_ceil(TILE_TOKENS)).filter_map(move |(t, tile)| {
            Some((tile.get(..width)?, (tokens - t * TILE_TOKENS).min(TILE_TOKENS)))
        })
    }
}

/// `out = activation(W input + b)`, tiles of `matrix.rows()` columns; int8 groups by way of
/// `offload`, if there is one.
///
/// # Errors
/// None for a matrix of an opened model.
pub fn linear(
    backend: &dyn Backend,
    matrix: &Matrix<'_>,
    scratch: &mut Scratch<'_>,
    input: Input<'_>,
    activation: Option<Activation>,
    out: &mut [Column],
    offload: Option<&mut Offload<'_>>,
) -> Result<()> {
    let mut out = Output { columns: out, features: matrix.rows(), tokens: input.tokens };
    match matrix.weights() {
        DataType::I8 | DataType::I4 | DataType::I2 => {
            linear_integer(backend, matrix, scratch, input, activation, &mut out, offload)
        }
        DataType::F16 | DataType::F32 => {
            linear_float(backend, matrix, scratch, input, activation, &mut out)
        }
    }
}

/// As [`linear`], for int8 and int4 weights.
fn linear_integer(
    backend: &dyn Backend,
    matrix: &Matrix<'_>,
    scratch: &mut Scratch<'_>,
    input: Input<'_>,
    activation: Option<Activation>,
    out: &mut Output<'_>,
    mut offload: Option<&mut Offload<'_>>,
) -> Result<()> {
    let equalize = matrix.equalize();
    let capacity = scratch.capacity;
    let panel_bytes = backend.panel_bytes(capacity);
    let mut scales = [TileScales::EMPTY; BLOCK_TILES];
    for (s, (x, live)) in scales.iter_mut().zip(input.tiles(matrix.cols())) {
        *s = backend.scales(x, equalize, live);
    }
    // Packs the inputs of all tiles from position `at`.
    let pack = |panels: &mut [u8], inputs: Indices<'_>, at: usize| {
        let tiles = input.tiles(matrix.cols()).zip(&scales);
        let panels = panels.chunks_exact_mut(panel_bytes.max(1));
        for (((x, live), scales), panel) in tiles.zip(panels) {
            backend.pack(&Pack { x, equalize, scales, inputs, at, live }, capacity, panel);
        }
    };
    // The shared inputs stay at the panels' start for every group.
    pack(scratch.panels, Indices::List(matrix.shared()), 0);
    for group in matrix.groups() {
        let group = group?;
        let depth = group.depth();
        if depth == 0 {
            fill_bias(&group, activation, out);
            continue;
        }
        let Group { outputs, bias, scale, sum, .. } = group;
        let job = GroupI8 { block: &[], depth, outputs, bias, scale, sum, activation };
        if let (Some(offload), Block::I8(block)) = (offload.as_deref_mut(), group.block) {
            let (shared, own, width) = (group.shared, group.inputs, matrix.cols());
            let inputs = Inputs { input, width, equalize, scales: &scales, shared, own };
            if offload.run(backend, &GroupI8 { block, ..job }, &inputs, out) {
                continue;
            }
        }
        pack(scratch.panels, group.inputs, group.shared.len());
        let panels = Panels { bytes: scratch.panels, capacity };
        match group.block {
            Block::I8(block) => {
                backend.matmul_i8(&GroupI8 { block, ..job }, &panels, &scales, out);
            }
            Block::I4(packed) => {
                int4::matmul(backend, packed, &job, scratch.unpacked, &panels, &scales, out);
            }
            Block::F16(_) | Block::F32(_) => {}
        }
    }
    Ok(())
}

fn linear_float(
    backend: &dyn Backend,
    matrix: &Matrix<'_>,
    scratch: &mut Scratch<'_>,
    input: Input<'_>,
    activation: Option<Activation>,
    out: &mut Output<'_>,
) -> Result<()> {
    for group in matrix.groups() {
        let group = group?;
        let depth = group.depth();
        let block = match group.block {
            Block::F32(block) => FloatBlock::F32(block),
            Block::F16(block) => FloatBlock::F16(block),
            Block::I8(_) | Block::I4(_) => continue,
        };
        if depth == 0 {
            fill_bias(&group, activation, out);
            continue;
        }
        // A dense matrix reads the tiles where they are.
        let whole = Indices::Range { first: 0, count: input.stride };
        let panels = if group.shared.is_empty() && group.inputs == whole {
            input.columns
        } else {
            let panels = scratch.columns.chunks_exact_mut(depth);
            for ((x, _), panel) in input.tiles(matrix.cols()).zip(panels) {
                let shared = Indices::List(group.shared);
                for (p, i) in panel.iter_mut().zip(shared.iter().chain(group.inputs.iter())) {
                    *p = x.get(i).copied().unwrap_or_default();
                }
            }
            &*scratch.columns
        };
        let Group { outputs, bias, .. } = group;
        backend.matmul_float(&GroupFloat { block, depth, outputs, bias, activation }, panels, out);
    }
    Ok(())
}

/// The outputs of a group without inputs.
fn fill_bias(group: &Group<'_>, activation: Option<Activation>, out: &mut Output<'_>) {
    let tiles = out.tokens.div_ceil(TILE_TOKENS);
    for (output, bias) in group.outputs.iter().zip(group.bias) {
        // As the sum of no products: 0 + b.
        let column = [activate(0.0 + bias, activation); TILE_TOKENS];
        for tile in out.columns.chunks_exact_mut(out.features.max(1)).take(tiles) {
            if let Some(to) = tile.get_mut(output) {
                *to = column;
            }
        }
    }
}
