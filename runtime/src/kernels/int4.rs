//! Int4 groups: some rows at a time become int8 in a scratch and are multiplied there.
//!
//! The int8 numbers are exactly those that the codes stand for, so the int8 kernels need not know,
//! and every backend gives the same bits. A code is unpacked once per call, for all its tiles.

use crate::format::{Multiplier, RUN_I4, TILE_DEPTH, TILE_I4, TILE_ROWS, quad_bytes_i4, round_up};

use super::{Backend, GroupI8, Output, Panels, TileScales};

/// Four rows' sixteen weights.
const TILE: usize = TILE_ROWS * TILE_DEPTH;

/// Fewest rows that the scratch has room for: as many as the widest kernel likes at once.
pub const ROWS: usize = 12;

/// Most rows unpacked at once: so few that they stay near until they are multiplied.
const MOST_ROWS: usize = 48;

/// A group's outputs for all tiles of `panels`, from int4 weights.
///
/// `packed` is `[outputs / 4]` times four rows' runs; the block of `group` itself is not read.
/// `scratch` has room for [`ROWS`] rows of the group's depth, padded to 16.
pub fn matmul(
    backend: &dyn Backend,
    packed: &[u8],
    group: &GroupI8<'_>,
    scratch: &mut [i8],
    panels: &Panels<'_>,
    scales: &[TileScales],
    out: &mut Output<'_>,
) {
    let depth = round_up(group.depth, TILE_DEPTH);
    let quad_bytes = quad_bytes_i4(group.depth);
    let room = scratch.len() / depth.max(1) / ROWS * ROWS;
    let outputs = group.outputs.len();
    for first in (0..outputs).step_by(room.clamp(ROWS, MOST_ROWS)) {
        let rows = (outputs - first).min(room.min(MOST_ROWS));
        let padded = round_up(rows, TILE_ROWS);
        let at = first / TILE_ROWS * quad_bytes;
        let (Some(packed), Some(block), Some(bias), Some(scale), Some(sum)) = (
            packed.get(at..at + padded / TILE_ROWS * quad_bytes),
            scratch.get_mut(..padded * depth),
            group.bias.get(first..first + padded),
            group.scale.get(first..first + padded),
            group.sum.get(first..first + padded),
        ) else {
            return;
        };
        backend.unpack_i4(packed, group.depth, block);
        let outputs = group.outputs.part(first, rows);
        let part = GroupI8 { block, outputs, bias, scale, sum, ..*group };
        backend.matmul_i8(&part, panels, scales, out);
    }
}

/// One tile: the definition that [`Backend::unpack_i4`] follows.
///
/// Byte j of the codes has the code of row `j / 16` and input `j % 16` in its low half, and that
/// of row `2 + j / 16` in its high half.
// Once in the program: it is not for speed.
#[inline(never)]
pub fn unpack_tile(multipliers: &[u8; TILE_ROWS], codes: &[u8; TILE_I4], out: &mut [i8; TILE]) {
    let rows = out.as_chunks_mut::<TILE_DEPTH>().0.iter_mut().zip(multipliers);
    for (r, (row, multiplier)) in rows.enumerate() {
        let codes = codes.iter().skip(r % 2 * TILE_DEPTH);
        for (weight, byte) in row.iter_mut().zip(codes) {
            let code = if r < 2 { byte & 15 } else { byte >> 4 };
            *weight = Multiplier(*multiplier).value(code) as i8;
        }
    }
}

/// Rows of a block with `depth` columns, four by four; see [`Backend::unpack_i4`].
pub(super) fn unpack(packed: &[u8], depth: usize, out: &mut [i8]) {
    let quads = packed.chunks_exact(quad_bytes_i4(depth).max(1));
    let places = out.chunks_exact_mut((TILE_ROWS * round_up(depth, TILE_DEPTH)).max(1));
    for (quad, places) in quads.zip(places) {
        let (places, _) = places.as_chunks_mut::<{ TILE }>();
        for (run, places) in quad.chunks(RUN_I4).zip(places.chunks_mut(2)) {
            let Some((multipliers, codes)) = run.split_first_chunk() else { return };
            for (codes, place) in codes.as_chunks().0.iter().zip(places) {
                unpack_tile(multipliers, codes, place);
            }
        }
    }
}
