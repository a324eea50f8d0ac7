//! The kernel cases: the first layer's matrices, one by one.

use core::hint::black_box;

use grouse_runtime::encoder::linear::{Input, Scratch, linear};
use grouse_runtime::format::MatrixKind;
use grouse_runtime::kernels::{Backend, Column, TILE_TOKENS, scalar::Scalar};
use grouse_runtime::plan::{BLOCK_TILES, Plan};
use grouse_runtime::view::{Matrix, Model};

use crate::memory::Cut;
use crate::report::{Line, Report, crc};
use crate::{Failure, Request, marks};

/// Counts every matrix of the first layer with `tokens` tokens and every requested backend: from
/// float activations to float outputs with bias, quantization and rescaling inside.
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
        let mut case = Case::new(model, matrix, tokens, memory)?;
        case.run(&Scalar)?;
        let wanted = crc_of_tiles(case.out, matrix.rows(), tokens);
        for backend in request.backends() {
            marks::counted(|| black_box(&mut case).run(black_box(backend)))?;
            let crc = crc_of_tiles(case.out, matrix.rows(), tokens);
            report.line(&Line {
                case: &format_args!("{} {}x{}", kind.name(), matrix.rows(), matrix.cols()),
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

/// A matrix with its input, output and scratch.
struct Case<'a, 'm> {
    matrix: &'a Matrix<'m>,
    tokens: usize,
    scratch: Scratch<'a>,
    input: &'a [Column],
    out: &'a mut [Column],
}

impl<'a, 'm> Case<'a, 'm> {
    fn new(
        model: &Model<'_>,
        matrix: &'a Matrix<'m>,
        tokens: usize,
        memory: &'a mut [u8],
    ) -> Result<Self, Failure> {
        let tiles = tokens.div_ceil(TILE_TOKENS);
        let plan = Plan::for_batch(model, tokens)?.linear();
        let mut cut = Cut::new(memory);
        let input = input(&mut cut, tiles * matrix.cols())?;
        let out = cut.take(tiles * matrix.rows())?;
        let (panels, columns) = (cut.take(plan.panels)?, cut.take(plan.columns)?);
        let unpacked = cut.take(plan.unpacked)?;
        let scratch = Scratch { panels, capacity: plan.capacity, columns, unpacked };
        Ok(Self { matrix, tokens, scratch, input, out })
    }

    /// Runs the matrix, block by block as the encoder does.
    fn run(&mut self, backend: &dyn Backend) -> Result<(), Failure> {
        let Self { matrix, tokens, scratch, input, out } = self;
        let stride = matrix.cols();
        let inputs = input.chunks(BLOCK_TILES * stride);
        let outs = out.chunks_mut(BLOCK_TILES * matrix.rows());
        for (block, (columns, out)) in inputs.zip(outs).enumerate() {
            let tokens = *tokens - block * BLOCK_TILES * TILE_TOKENS;
            let tokens = tokens.min(BLOCK_TILES * TILE_TOKENS);
            let input = Input { columns, stride, tokens };
            linear(backend, matrix, scratch, input, None, out, None)?;
        }
        Ok(())
    }
}

/// Activations that are the same on every target.
pub(crate) fn input<'a>(cut: &mut Cut<'a>, columns: usize) -> Result<&'a [Column], Failure> {
    let input = cut.take::<Column>(columns)?;
    for (i, value) in input.as_flattened_mut().iter_mut().enumerate() {
        // A whole number that a float holds, and one division.
        *value = ((i * 37 % 101) as f32 - 50.0) / 25.0;
    }
    Ok(input)
}

/// CRC-32 of the values of all tokens in tiles of `features` columns. Lanes without a token hold
/// anything and are left out.
pub(crate) fn crc_of_tiles(tiles: &[Column], features: usize, tokens: usize) -> u32 {
    crc(tiles.chunks_exact(features).enumerate().flat_map(|(tile, columns)| {
        let live = (tokens - tile * TILE_TOKENS).min(TILE_TOKENS);
        columns.iter().flat_map(move |column| column.iter().take(live).copied())
    }))
}
