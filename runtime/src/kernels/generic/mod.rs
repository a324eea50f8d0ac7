//! Each algorithm once, over vectors of tokens; an instruction set supplies the vectors.

pub(in crate::kernels) mod attention;
pub(in crate::kernels) mod attention8;
pub(in crate::kernels) mod float;
pub(in crate::kernels) mod matmul;
mod rescale;
mod simd;
mod unpack;

pub use matmul::Inputs;
pub use simd::{Acc, Dot, Isa, Operation, Simd, Sink, Steps, Weights, settle};
pub use unpack::TILE;

use crate::view::Indices;

use super::scalar::ZERO;
use super::{
    Activation, Attend, Backend, Column, FloatBlock, GroupFloat, GroupI8, Norm, Output, Pack,
    Panels, Quantized, Scores, Span, TILE_TOKENS, TileScales,
};

/// Rows of a group that are multiplied before the activation is applied to them: so few that their
/// columns are still near.
pub(in crate::kernels) const ROWS: usize = 96;

/// A backend made of an instruction set's vectors.
#[derive(Debug, Clone, Copy)]
pub struct Vectorized<S> {
    name: &'static str,
    isa: S,
}

impl<S: Isa> Vectorized<S> {
    /// The backend called `name`; holding `isa` proves that the instructions are there.
    pub const fn new(name: &'static str, isa: S) -> Self {
        Self { name, isa }
    }
}

/// Makes a job an [`Operation`], so that it runs as a whole with the instructions of the set.
macro_rules! operation {
    ($isa:expr, |$simd:ident| $body:expr, $($arg:ident: $type:ty),*; $out:ty) => {{
        struct Job<'a, 'b> { $($arg: $type,)* life: core::marker::PhantomData<(&'a (), &'b ())> }
        impl<'a, 'b> Operation for Job<'a, 'b> {
            type Output = $out;
            #[inline(always)]
            fn run<S: Dot>(self, $simd: S) -> $out {
                let Self { $($arg,)* .. } = self;
                $body
            }
        }
        $isa.run(Job { $($arg,)* life: core::marker::PhantomData })
    }};
}

impl<S: Isa> Backend for Vectorized<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn scales(&self, x: &[Column], equalize: &[f32], live: usize) -> TileScales {
        operation!(self.isa, |simd| float::scales(simd, x, equalize, live),
            x: &'a [Column], equalize: &'b [f32], live: usize; TileScales)
    }

    fn panel_bytes(&self, capacity: usize) -> usize {
        capacity / 4 * S::STEP
    }

    fn pack(&self, job: &Pack<'_>, _capacity: usize, panel: &mut [u8]) {
        operation!(self.isa, |simd| matmul::pack(simd, job, panel),
            job: &'a Pack<'a>, panel: &'b mut [u8]; ())
    }

    fn matmul_i8(
        &self,
        group: &GroupI8<'_>,
        panels: &Panels<'_>,
        scales: &[TileScales],
        out: &mut Output<'_>,
    ) {
        let outputs = group.outputs.len();
        for first in (0..outputs).step_by(ROWS) {
            let count = (outputs - first).min(ROWS);
            operation!(self.isa,
                |simd| matmul::int8(simd, group, (first, count), panels, scales, out),
                group: &'a GroupI8<'a>, first: usize, count: usize, panels: &'a Panels<'a>,
                scales: &'a [TileScales], out: &'a mut Output<'b>; ());
            // An own operation, so that its many constants find registers.
            if let Some(activation) = group.activation {
                let outputs = group.outputs.part(first, count);
                operation!(self.isa, |simd| rescale::activate(simd, outputs, activation, out),
                    outputs: Indices<'a>, activation: Activation, out: &'a mut Output<'b>; ());
            }
        }
    }

    fn unpack_i4(&self, packed: &[u8], depth: usize, out: &mut [i8]) {
        operation!(self.isa, |simd| unpack::unpack_i4(simd, packed, depth, out),
            packed: &'a [u8], depth: usize, out: &'b mut [i8]; ())
    }

    fn matmul_float(&self, group: &GroupFloat<'_>, panels: &[Column], out: &mut Output<'_>) {
        match group.block {
            FloatBlock::F32(block) => {
                operation!(self.isa, |simd| matmul::float(simd, group, block, panels, out),
                    group: &'a GroupFloat<'a>, block: &'a [f32], panels: &'a [Column],
                    out: &'a mut Output<'b>; ());
            }
            FloatBlock::F16(block) => {
                operation!(self.isa, |simd| matmul::float(simd, group, block, panels, out),
                    group: &'a GroupFloat<'a>, block: &'a [half::f16], panels: &'a [Column],
                    out: &'a mut Output<'b>; ());
            }
        }
    }

    fn norm(&self, x: &mut [Column], add: &[Column], norm: &Norm<'_>, live: usize) {
        operation!(self.isa, |simd| float::norm(simd, x, add, norm, live),
            x: &'a mut [Column], add: &'b [Column], norm: &'b Norm<'b>, live: usize; ())
    }

    fn keys(&self, span: &Span<'_>, out: &mut Quantized<'_>) {
        operation!(self.isa, |simd| attention8::keys(simd, span, out),
            span: &'a Span<'a>, out: &'a mut Quantized<'b>; ())
    }

    fn values(&self, span: &Span<'_>, out: &mut Quantized<'_>) {
        operation!(self.isa, |simd| attention8::values(simd, span, S::OFFSET != -ZERO, out),
            span: &'a Span<'a>, out: &'a mut Quantized<'b>; ())
    }

    fn softmax(&self, scores: &Scores<'_>, _capacity: usize, panel: &mut [u8]) -> TileScales {
        operation!(self.isa, |simd| attention8::softmax(simd, scores, &mut attention8::Words(panel)),
            scores: &'a Scores<'a>, panel: &'b mut [u8]; TileScales)
    }

    fn attend(&self, job: &Attend<'_>, scores: &mut [Column], context: &mut [Column]) {
        operation!(self.isa, |simd| attention::attend(simd, job, scores, context),
            job: &'a Attend<'a>, scores: &'b mut [Column], context: &'b mut [Column]; ())
    }
}

/// Vectors that hold the first `live` tokens of a tile.
#[inline(always)]
fn parts<S: Simd>(live: usize) -> usize {
    live.div_ceil(S::LANES).min(TILE_TOKENS / S::LANES)
}
