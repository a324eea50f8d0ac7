//! Block layout `r4k16`: how a group's weights lie in the file.

use grouse_runtime::format::{
    Multiplier, RUN, TILE_DEPTH, TILE_I4, TILE_ROWS, quad_bytes_i4, round_up,
};

/// Orders a block `[outputs][inputs]` (given by `weight(output, input)`) four outputs at a
/// time, each four a run of tiles of `depth` inputs, padded with zeros.
fn tiles<T: Copy + Default>(
    outputs: usize,
    inputs: usize,
    depth: usize,
    weight: impl Fn(usize, usize) -> T,
) -> Vec<T> {
    let mut block =
        Vec::with_capacity(round_up(outputs, TILE_ROWS) * inputs.next_multiple_of(depth));
    for tile in (0..outputs).step_by(TILE_ROWS) {
        for step in (0..inputs).step_by(depth) {
            for row in tile..tile + TILE_ROWS {
                for input in step..step + depth {
                    let inside = row < outputs && input < inputs;
                    block.push(if inside { weight(row, input) } else { T::default() });
                }
            }
        }
    }
    block
}

/// An int8 block: tiles of 4 outputs by 16 inputs.
pub fn int8(outputs: usize, inputs: usize, weight: impl Fn(usize, usize) -> i8) -> Vec<i8> {
    tiles(outputs, inputs, TILE_DEPTH, weight)
}

/// An int4 block: the int8 weights' codes, and the multipliers of each output's runs.
///
/// Padding has the code of 0; rows of padding have `PADDING` as their multiplier.
pub fn int4<'a>(
    outputs: usize,
    inputs: usize,
    runs: impl Fn(usize) -> &'a [Multiplier],
    weight: impl Fn(usize, usize) -> i8,
) -> Vec<u8> {
    let multiplier = |r: usize, c: usize| {
        if r < outputs { runs(r)[c / RUN] } else { PADDING }
    };
    let code = |r: usize, c: usize| {
        let run = multiplier(r, c);
        let is_there = r < outputs && c < inputs;
        let value = if is_there { i32::from(weight(r, c)) } else { 0 };
        (value / i32::from(run.step()) + i32::from(run.zero())) as u8
    };
    let mut block = Vec::with_capacity(outputs.div_ceil(TILE_ROWS) * quad_bytes_i4(inputs));
    for quad in (0..outputs).step_by(TILE_ROWS) {
        for tile in (0..inputs).step_by(TILE_DEPTH) {
            if tile % RUN == 0 {
                block.extend((quad..quad + TILE_ROWS).map(|r| multiplier(r, tile).0));
            }
            block.extend((0..TILE_I4).map(|j| {
                let (r, c) = (quad + j / TILE_DEPTH, tile + j % TILE_DEPTH);
                code(r, c) | code(r + TILE_ROWS / 2, c) << 4
            }));
        }
    }
    block
}

/// The multiplier of rows that are not there.
const PADDING: Multiplier = Multiplier::new(1, 7);

/// A float block: tiles of 4 outputs by one input.
pub fn float<T: Copy + Default>(
    outputs: usize,
    inputs: usize,
    weight: impl Fn(usize, usize) -> T,
) -> Vec<T> {
    tiles(outputs, inputs, 1, weight)
}

#[cfg(test)]
mod tests {
    use grouse_runtime::format::{DataType, block_bytes};
    use grouse_runtime::kernels::{Backend, scalar::Scalar};

    use super::*;

    #[test]
    fn int8_tiles_hold_sixteen_inputs_of_four_rows() {
        let block = int8(5, 18, |r, c| (r * 18 + c) as i8);
        assert_eq!(block.len(), 8 * 32);
        assert_eq!(&block[14..18], [14, 15, 18, 19]);
        // Second tile: inputs 16 and 17 and fourteen zeros of padding.
        assert_eq!(&block[64..67], [16, 17, 0]);
        assert_eq!(&block[80..83], [34, 35, 0]);
        // Second four rows: row 4, then padding rows.
        assert_eq!(&block[128..130], [72, 73]);
        assert_eq!(block[144..192], [0; 48]);
    }

    #[test]
    fn int4_tiles_unpack_to_int8_tiles() {
        let runs: Vec<Vec<Multiplier>> = (0..6_u8)
            .map(|r| (0..2).map(|k| Multiplier::new(2 * r / 3 + k + 1, 5 + r)).collect())
            .collect();
        for (outputs, inputs) in [(1, 1), (6, 16), (5, 18), (6, 32), (3, 40), (4, 64)] {
            let weight =
                |r: usize, c: usize| runs[r][c / RUN].value(((r * 7 + c * 5) % 16) as u8) as i8;
            let block = int4(outputs, inputs, |r| &runs[r], weight);
            assert_eq!(block.len(), block_bytes(DataType::I4, outputs, inputs));
            let want = int8(outputs, inputs, weight);
            let mut got = vec![0x55; want.len()];
            Scalar.unpack_i4(&block, inputs, &mut got);
            assert_eq!(got, want, "{outputs}x{inputs}");
        }
    }

    #[test]
    fn float_tiles_hold_one_input_of_four_rows() {
        let block = float(2, 3, |r, c| (r * 3 + c) as f32);
        assert_eq!(block.len(), 12);
        assert_eq!(&block[..3], [0.0, 3.0, 0.0]);
        assert_eq!(&block[4..7], [1.0, 4.0, 0.0]);
    }
}
