//! Whether skipping a matrix's zeros pays: both forms are timed on this machine's kernel.

use std::time::Instant;

use grouse_runtime::format::{DataType, TILE_DEPTH, TILE_ROWS, block_bytes, round_up};
use grouse_runtime::kernels::{
    self, Backend, Column, GroupI8, Output, Pack, Panels, TILE_TOKENS, TileScales, int4,
};
use grouse_runtime::view::Indices;

use crate::model::Matrix;

use super::discover::{GroupPattern, Pattern};

/// Tokens of the timed inputs: a short sentence or two.
const TOKENS: usize = 32;

/// Repetitions; the fastest counts.
const REPETITIONS: usize = 9;

/// Dense must be faster by this factor before zeros are stored: a tie must not hang on noise.
const MARGIN: f64 = 0.95;

/// Codes and multipliers of the timed blocks.
const ANY_CODE: u8 = 0x71;

/// What was decided for a matrix that has zeros to skip, and why.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Decision {
    /// Whether the groups are stored, or the whole matrix.
    pub skips: bool,
    /// Time of the groups, in microseconds.
    pub groups_us: f64,
    /// Time of the whole matrix, in microseconds.
    pub dense_us: f64,
    /// The kernel that was timed.
    pub kernel: &'static str,
    /// Tokens that it worked on.
    pub tokens: usize,
}

/// Keeps `pattern`, or replaces it by the dense one where that is faster.
pub fn choose(weight: &Matrix, pattern: Pattern, weights: DataType) -> (Pattern, Option<Decision>) {
    let dense = Pattern::dense(weight.rows, weight.cols);
    if pattern == dense {
        return (pattern, None);
    }
    let backend = kernels::default();
    let forms = [&pattern, &dense].map(|p| Form::new(backend, weight, p, weights));
    let [groups, whole] = time(backend, forms);
    let skips = groups * MARGIN <= whole;
    let decision = Decision {
        skips,
        groups_us: groups,
        dense_us: whole,
        kernel: backend.name(),
        tokens: TOKENS,
    };
    (if skips { pattern } else { dense }, Some(decision))
}

/// Microseconds of each form, taken in turns.
fn time(backend: &dyn Backend, mut forms: [Form<'_>; 2]) -> [f64; 2] {
    let mut best = [f64::INFINITY; 2];
    for _ in 0..REPETITIONS {
        for (form, best) in forms.iter_mut().zip(&mut best) {
            let start = Instant::now();
            form.run(backend);
            *best = best.min(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    best
}

/// A matrix of a pattern with inputs; what its weights are does not matter to the kernel.
struct Form<'a> {
    pattern: &'a Pattern,
    rows: usize,
    cols: usize,
    x: Vec<Column>,
    out: Vec<Column>,
    scales: Vec<TileScales>,
    equalize: Vec<f32>,
    block: Vec<i8>,
    /// The block in int4, where that is what the file will have.
    packed: Vec<u8>,
    unpacked: Vec<i8>,
    floats: Vec<f32>,
    sums: Vec<i32>,
    panels: Vec<u8>,
    capacity: usize,
}

impl<'a> Form<'a> {
    fn new(
        backend: &dyn Backend,
        weight: &Matrix,
        pattern: &'a Pattern,
        weights: DataType,
    ) -> Self {
        let (rows, cols) = (weight.rows, weight.cols);
        let tiles = TOKENS / TILE_TOKENS;
        let depth = |g: &GroupPattern| pattern.inputs(g).count();
        let capacity =
            round_up(pattern.groups.iter().map(depth).max().unwrap_or_default(), TILE_DEPTH);
        let largest = |number: DataType| {
            let bytes = |g: &GroupPattern| block_bytes(number, g.outputs.len(), depth(g));
            let blocks = pattern.groups.iter().map(bytes);
            if weights == number { blocks.max().unwrap_or_default() } else { 0 }
        };
        let column = |f: usize| -> Column {
            core::array::from_fn(|t| ((f * 31 + t * 17) % 97) as f32 / 48.0 - 1.0)
        };
        Self {
            pattern,
            rows,
            cols,
            x: (0..tiles * cols).map(column).collect(),
            out: vec![[0.0; TILE_TOKENS]; tiles * rows],
            scales: vec![TileScales::EMPTY; tiles],
            equalize: vec![1.0; cols],
            block: vec![1; largest(DataType::I8)],
            packed: vec![ANY_CODE; largest(DataType::I4)],
            unpacked: vec![0; int4::ROWS * capacity],
            floats: vec![0.01; round_up(rows, TILE_ROWS)],
            sums: vec![1; round_up(rows, TILE_ROWS)],
            panels: vec![0; tiles * backend.panel_bytes(capacity)],
            capacity,
        }
    }

    fn pack(&mut self, backend: &dyn Backend, inputs: &[u16], at: usize) {
        let bytes = backend.panel_bytes(self.capacity).max(1);
        let tiles = self.x.chunks_exact(self.cols).zip(&self.scales);
        for ((x, scales), panel) in tiles.zip(self.panels.chunks_exact_mut(bytes)) {
            let inputs = list(inputs);
            let equalize = &self.equalize;
            let job = Pack { x, equalize, scales, inputs, at, live: TILE_TOKENS };
            backend.pack(&job, self.capacity, panel);
        }
    }

    fn run(&mut self, backend: &dyn Backend) {
        for (x, scales) in self.x.chunks_exact(self.cols).zip(&mut self.scales) {
            *scales = backend.scales(x, &self.equalize, TILE_TOKENS);
        }
        self.pack(backend, &self.pattern.shared, 0);
        for group in &self.pattern.groups {
            let depth = self.pattern.inputs(group).count();
            if depth == 0 {
                continue;
            }
            self.pack(backend, &group.inputs, depth - group.inputs.len());
            let job = GroupI8 {
                block: &self.block,
                depth,
                outputs: list(&group.outputs),
                bias: &self.floats,
                scale: &self.floats,
                sum: &self.sums,
                activation: None,
            };
            let panels = Panels { bytes: &self.panels, capacity: self.capacity };
            let out = &mut Output { columns: &mut self.out, features: self.rows, tokens: TOKENS };
            if self.packed.is_empty() {
                backend.matmul_i8(&job, &panels, &self.scales, out);
            } else {
                let Self { packed, unpacked, scales, .. } = self;
                int4::matmul(backend, packed, &job, unpacked, &panels, scales, out);
            }
        }
    }
}

/// A list as the file would have it: a range where it is one.
fn list(indices: &[u16]) -> Indices<'_> {
    match indices {
        [first, .., last] if usize::from(last - first) + 1 == indices.len() => {
            Indices::Range { first: usize::from(*first), count: indices.len() }
        }
        _ => Indices::List(indices),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::discover::discover;

    fn weight(keep: impl Fn(usize, usize) -> bool) -> Matrix {
        let mut weight = Matrix::zeros(256, 256);
        for r in 0..256 {
            for c in 0..256 {
                weight.row_mut(r)[c] = f32::from(keep(r, c));
            }
        }
        weight
    }

    #[test]
    fn few_large_groups_are_kept() {
        let weight = weight(|r, c| r % 4 == c % 4);
        let (pattern, decision) = choose(&weight, discover(&weight, DataType::I8), DataType::I8);
        let decision = decision.expect("something to decide");
        assert!(decision.skips, "{decision:?}");
        assert_eq!(pattern.groups.len(), 4);
    }

    #[test]
    fn groups_that_cost_more_than_they_skip_are_not() {
        // Every output reads nearly everything, in a list of its own.
        let outputs = (0..256_u16).map(|r| GroupPattern {
            outputs: vec![r],
            uses_shared: false,
            inputs: (0..256).filter(|c| *c != r).collect(),
        });
        let pattern = Pattern { shared: Vec::new(), groups: outputs.collect() };
        let (pattern, decision) = choose(&weight(|r, c| r != c), pattern, DataType::I8);
        assert!(!decision.expect("something to decide").skips);
        assert_eq!(pattern, Pattern::dense(256, 256));
    }

    #[test]
    fn a_dense_matrix_needs_no_decision() {
        let weight = weight(|_, _| true);
        assert!(choose(&weight, discover(&weight, DataType::I8), DataType::I8).1.is_none());
    }
}
