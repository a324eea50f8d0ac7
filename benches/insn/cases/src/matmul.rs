//! The bare matmul cases: int8 and int4 groups whose inputs were quantized and packed before.

use core::hint::black_box;

use grouse_runtime::Error;
use grouse_runtime::format::{MatrixKind, TILE_DEPTH, round_up};
use grouse_runtime::kernels::{
    Backend, Column, GroupI8, Output, PANEL_BYTES, Pack, Panels, TILE_TOKENS, TileScales, int4,
    scalar::Scalar,
};
use grouse_runtime::plan::BLOCK_TILES;
use grouse_runtime::view::{Block, Group, Indices, Matrix, Model};

use crate::memory::Cut;
use crate::report::{Line, Report};
use crate::{Failure, Request, linear, marks};

/// Most tiles of a text, 512 tokens.
const MOST_TILES: usize = 32;

/// Counts the groups of every int8 or int4 matrix of the first layer, from packed inputs to float outputs
/// with scale and bias.
pub(crate) fn count(
    request: &Request<'_>,
    model: &Model<'_>,
    tokens: usize,
    memory: &mut [u8],
    report: &mut Report<'_>,
) -> Result<(), Failure> {
    let layer = model.layer(0)?;
    for kind in MatrixKind::ALL {
        let matrix = layer.matrix(kind);
        if !matrix.weights().is_integer() {
            continue;
        }
        let mut case = Case::new(matrix, tokens, memory)?;
        case.pack(&Scalar)?;
        case.multiply(&Scalar)?;
        let wanted = linear::crc_of_tiles(case.out, matrix.rows(), tokens);
        for backend in request.backends() {
            case.pack(backend)?;
            marks::counted(|| black_box(&mut case).multiply(black_box(backend)))?;
            let crc = linear::crc_of_tiles(case.out, matrix.rows(), tokens);
            report.line(&Line {
                case: &format_args!("{} {}x{} packed", kind.name(), matrix.rows(), matrix.cols()),
                backend: backend.name(),
                tokens,
                macs: u64::from(matrix.kept()) * tokens as u64,
                crc,
                equal: crc == wanted,
            })?;
        }
    }
    Ok(())
}

/// A matrix with its input, output and the packed inputs of all groups.
struct Case<'a, 'm> {
    matrix: &'a Matrix<'m>,
    tokens: usize,
    input: &'a [Column],
    scales: [TileScales; MOST_TILES],
    /// Block by block of tiles, group by group, tile by tile.
    panels: &'a mut [u8],
    unpacked: &'a mut [i8],
    out: &'a mut [Column],
}

impl<'a, 'm> Case<'a, 'm> {
    fn new(matrix: &'a Matrix<'m>, tokens: usize, memory: &'a mut [u8]) -> Result<Self, Failure> {
        let tiles = tokens.div_ceil(TILE_TOKENS);
        if tiles > MOST_TILES {
            let limit = MOST_TILES * TILE_TOKENS;
            return Err(Error::TooManyTokens { tokens, limit }.into());
        }
        let (mut inputs, mut deepest) = (0, 0);
        for group in matrix.groups() {
            let capacity = capacity(&group?);
            inputs += capacity;
            deepest = deepest.max(capacity);
        }
        let mut cut = Cut::new(memory);
        let input = linear::input(&mut cut, tiles * matrix.cols())?;
        let panels = cut.take(tiles * inputs * PANEL_BYTES)?;
        let out = cut.take(tiles * matrix.rows())?;
        let unpacked = cut.take(int4::ROWS * deepest)?;
        let scales = [TileScales::EMPTY; MOST_TILES];
        Ok(Self { matrix, tokens, input, scales, panels, unpacked, out })
    }

    /// Quantizes and packs the inputs as `backend` wants them, and clears the outputs.
    fn pack(&mut self, backend: &dyn Backend) -> Result<(), Failure> {
        let equalize = self.matrix.equalize();
        let shared = Indices::List(self.matrix.shared());
        let mut panels = &mut *self.panels;
        let blocks = self.input.chunks(BLOCK_TILES * self.matrix.cols());
        for ((b, block), scales) in blocks.enumerate().zip(self.scales.chunks_mut(BLOCK_TILES)) {
            let live =
                |t: usize| (self.tokens - (b * BLOCK_TILES + t) * TILE_TOKENS).min(TILE_TOKENS);
            let tiles = || block.chunks_exact(self.matrix.cols()).enumerate();
            for ((t, x), scales) in tiles().zip(scales.iter_mut()) {
                *scales = backend.scales(x, equalize, live(t));
            }
            for group in self.matrix.groups() {
                let group = group?;
                let capacity = capacity(&group);
                for ((t, x), scales) in tiles().zip(scales.iter()) {
                    let panel;
                    (panel, panels) = panels.split_at_mut(backend.panel_bytes(capacity));
                    let live = live(t);
                    let at = group.shared.len();
                    let mut put = |inputs: Indices<'_>, at: usize| {
                        let job = Pack { x, equalize, scales, inputs, at, live };
                        backend.pack(&job, capacity, panel);
                    };
                    if at > 0 {
                        put(shared, 0);
                    }
                    put(group.inputs, at);
                }
            }
        }
        self.out.fill([0.0; TILE_TOKENS]);
        Ok(())
    }

    /// Multiplies all groups, in blocks of tiles as the encoder does.
    fn multiply(&mut self, backend: &dyn Backend) -> Result<(), Failure> {
        let features = self.matrix.rows();
        let mut panels = &*self.panels;
        let blocks = self.out.chunks_mut(BLOCK_TILES * features);
        for ((b, columns), scales) in blocks.enumerate().zip(self.scales.chunks(BLOCK_TILES)) {
            let tokens = self.tokens - b * BLOCK_TILES * TILE_TOKENS;
            let tokens = tokens.min(BLOCK_TILES * TILE_TOKENS);
            let mut out = Output { columns, features, tokens };
            for group in self.matrix.groups() {
                let group = group?;
                let (depth, capacity) = (group.depth(), capacity(&group));
                let bytes;
                let length = tokens.div_ceil(TILE_TOKENS) * backend.panel_bytes(capacity);
                (bytes, panels) = panels.split_at(length);
                let Group { outputs, bias, scale, sum, .. } = group;
                if depth == 0 {
                    continue;
                }
                let panels = Panels { bytes, capacity };
                let job =
                    GroupI8 { block: &[], depth, outputs, bias, scale, sum, activation: None };
                match group.block {
                    Block::I8(block) => {
                        backend.matmul_i8(&GroupI8 { block, ..job }, &panels, scales, &mut out);
                    }
                    Block::I4(packed) => {
                        let unpacked = &mut *self.unpacked;
                        int4::matmul(backend, packed, &job, unpacked, &panels, scales, &mut out);
                    }
                    Block::F16(_) | Block::F32(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// Inputs that a group's panel has room for.
fn capacity(group: &Group<'_>) -> usize {
    round_up(group.depth(), TILE_DEPTH)
}
