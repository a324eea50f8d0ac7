//! The deep checks of int8 and int4 blocks: what the kernels rely on.

use crate::format::{Multiplier, RUN_I4, TILE_DEPTH, TILE_I4, TILE_ROWS, quad_bytes_i4, round_up};
use crate::kernels::int4::unpack_tile;

use super::matrix::{Block, Group};

/// Four rows' sixteen weights.
const TILE: usize = TILE_ROWS * TILE_DEPTH;

/// Checks a group's weights; floats have nothing to check here.
///
/// # Errors
/// What is wrong.
pub(super) fn validate(group: &Group<'_>) -> Result<(), &'static str> {
    match group.block {
        Block::F32(_) | Block::F16(_) => return Ok(()),
        // Kernels add two products in 16 bits: -128 x -128 twice would overflow.
        Block::I8(values) if values.contains(&i8::MIN) => return Err("an int8 weight is -128"),
        Block::I4(bytes) if !multipliers(bytes, group.depth()).all(Multiplier::is_sound) => {
            return Err("an int4 multiplier makes weights outside -127 to 127");
        }
        Block::I8(_) | Block::I4(_) => {}
    }
    if sums_match(group) {
        Ok(())
    } else {
        Err("the sum of a row's weights is wrong, or its padding not 0")
    }
}

/// All multipliers of an int4 block with `depth` columns, those of padding rows too.
fn multipliers(block: &[u8], depth: usize) -> impl Iterator<Item = Multiplier> {
    let quads = block.chunks_exact(quad_bytes_i4(depth).max(1));
    let runs = quads.flat_map(|quad| quad.chunks(RUN_I4));
    runs.flat_map(|run| run.iter().take(TILE_ROWS)).map(|byte| Multiplier(*byte))
}

/// Whether every row's sum is that of its weights and the weights of padding columns are 0:
/// otherwise backends would differ, which use both in their own ways.
fn sums_match(group: &Group<'_>) -> bool {
    let (rows, depth) = (group.outputs.len(), group.depth());
    let tiles = depth.div_ceil(TILE_DEPTH);
    let padding = tiles * TILE_DEPTH - depth;
    group.sum.chunks(TILE_ROWS).enumerate().all(|(quad, wanted)| {
        let mut sums = [0; TILE_ROWS];
        let mut last = [0; TILE];
        for t in 0..tiles {
            last = tile(group, quad, t);
            for (sum, row) in sums.iter_mut().zip(last.as_chunks::<TILE_DEPTH>().0) {
                *sum += row.iter().map(|w| i32::from(*w)).sum::<i32>();
            }
        }
        let padded = last.as_chunks::<TILE_DEPTH>().0.iter();
        let clean = padded.map(|row| row.iter().rev().take(padding).all(|w| *w == 0));
        // What stands in rows that are padding is never shown.
        let live = rows.saturating_sub(quad * TILE_ROWS);
        sums.iter()
            .zip(wanted)
            .zip(clean)
            .take(live)
            .all(|((sum, want), clean)| sum == want && clean)
    })
}

/// Tile `t` of the four rows from `4 quad` on, as int8.
fn tile(group: &Group<'_>, quad: usize, t: usize) -> [i8; TILE] {
    let depth = group.depth();
    match group.block {
        Block::I8(block) => {
            let at = quad * TILE_ROWS * round_up(depth, TILE_DEPTH) + t * TILE;
            block.get(at..).and_then(|b| b.first_chunk().copied()).unwrap_or([0; TILE])
        }
        Block::I4(block) => {
            let at = quad * quad_bytes_i4(depth) + t / 2 * RUN_I4;
            let run = block.get(at..).unwrap_or_default();
            let codes = run.get(TILE_ROWS + t % 2 * TILE_I4..).unwrap_or_default();
            let mut out = [0; TILE];
            if let (Some(multipliers), Some(codes)) = (run.first_chunk(), codes.first_chunk()) {
                unpack_tile(multipliers, codes, &mut out);
            }
            out
        }
        Block::F32(_) | Block::F16(_) => [0; TILE],
    }
}
