//! Block layout `r16k4`: how a group's weights lie in the file.

use grouse_runtime::format::{TILE_DEPTH, TILE_ROWS, round_up};

/// Orders a block `[outputs][inputs]` (given by `weight(output, input)`) as tiles of 16 outputs,
/// each a run of steps of `depth` inputs for all 16, padded with zeros.
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

/// An int8 block: steps of 4 inputs.
pub fn int8(outputs: usize, inputs: usize, weight: impl Fn(usize, usize) -> i8) -> Vec<i8> {
    tiles(outputs, inputs, TILE_DEPTH, weight)
}

/// A float block: steps of one input.
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
    fn int8_steps_hold_four_inputs_of_sixteen_rows() {
        let block = int8(17, 5, |r, c| (r * 5 + c) as i8);
        assert_eq!(block.len(), 32 * 8);
        assert_eq!(&block[..8], [0, 1, 2, 3, 5, 6, 7, 8]);
        // Second step: input 4 and three zeros of padding.
        assert_eq!(&block[64..72], [4, 0, 0, 0, 9, 0, 0, 0]);
        // Second tile: row 16, then padding rows.
        assert_eq!(&block[128..136], [80, 81, 82, 83, 0, 0, 0, 0]);
    }

    #[test]
    fn float_steps_hold_one_input_of_sixteen_rows() {
        let block = float(2, 3, |r, c| (r * 3 + c) as f32);
        assert_eq!(block.len(), 48);
        assert_eq!(&block[..3], [0.0, 3.0, 0.0]);
        assert_eq!(&block[16..19], [1.0, 4.0, 0.0]);
    }
}
