//! Block layout `r4k16`: how a group's weights lie in the file.

use grouse_runtime::format::{TILE_DEPTH, TILE_ROWS, round_up};

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
    fn float_tiles_hold_one_input_of_four_rows() {
        let block = float(2, 3, |r, c| (r * 3 + c) as f32);
        assert_eq!(block.len(), 12);
        assert_eq!(&block[..3], [0.0, 3.0, 0.0]);
        assert_eq!(&block[4..7], [1.0, 4.0, 0.0]);
    }
}
