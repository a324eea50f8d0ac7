//! Group matmul with quantization and rescaling inside, every backend of this processor: MiniLM's
//! matrices, dense and cut into four groups, in 10⁹ operations a second and as a share of what this
//! core's int8 or f32 instructions reach in registers, measured in the same run.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use grouse_benches::{packed, peak, short, timed};
use grouse_runtime::encoder::linear::{Input, Scratch, linear};
use grouse_runtime::format::{DataType, MatrixKind};
use grouse_runtime::kernels::{Backend, Column, TILE_TOKENS, available, scalar::Scalar};
use grouse_runtime::plan::Plan;
use grouse_runtime::view::{Matrix, Model};

/// Number types and group counts: what is compared.
const CASES: [(DataType, usize, &str); 4] = [
    (DataType::I8, 1, "i8 dense"),
    (DataType::I8, 4, "i8 density 0.25"),
    (DataType::I4, 1, "i4 dense"),
    (DataType::F32, 1, "f32 dense"),
];

/// Matrices, by their place in a layer.
const MATRICES: [(MatrixKind, &str); 3] = [
    (MatrixKind::AttentionOutput, "384 to 384"),
    (MatrixKind::FeedForwardIn, "384 to 1536"),
    (MatrixKind::FeedForwardOut, "1536 to 384"),
];

/// `matrix` on `tokens` tokens, as the encoder does it: some tiles after the other.
struct Case<'a> {
    matrix: &'a Matrix<'a>,
    plan: &'a Plan,
    tokens: usize,
    x: Vec<Column>,
}

impl Case<'_> {
    fn run(&self, backend: &dyn Backend, buffers: &mut Buffers) {
        let (cols, rows) = (self.matrix.cols(), self.matrix.rows());
        let (plan, high) = (&self.plan.feed_forward_linear, self.plan.block);
        let x = self.x.chunks(high * cols);
        for (i, (x, out)) in x.zip(buffers.out.chunks_mut(high * rows)).enumerate() {
            let mut scratch = Scratch {
                panels: &mut buffers.panels,
                columns: &mut buffers.columns,
                unpacked: &mut buffers.unpacked,
                capacity: plan.capacity,
            };
            let tokens = (self.tokens - i * high * TILE_TOKENS).min(high * TILE_TOKENS);
            let input = Input { columns: x, stride: cols, tokens };
            linear(backend, self.matrix, &mut scratch, input, None, out, None)
                .expect("an opened model");
        }
    }
}

/// What a matrix needs and gives.
#[derive(Clone)]
struct Buffers {
    panels: Vec<u8>,
    columns: Vec<Column>,
    unpacked: Vec<i8>,
    out: Vec<Column>,
}

fn matmul(c: &mut Criterion) {
    let limits = [peak::f32(), peak::int8()];
    for (weights, groups, name) in CASES {
        let file = packed(1, groups, weights);
        let model = Model::open(file.bytes()).expect("a valid file");
        let layer = model.layer(0).expect("a layer");
        let limit = limits[usize::from(weights.is_integer())];
        for (kind, shape) in MATRICES {
            for tokens in [16, 128] {
                let matrix = layer.matrix(kind);
                let plan = Plan::new(&model, tokens).expect("a plan");
                let tiles = tokens.div_ceil(TILE_TOKENS);
                let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 25.0;
                let x = (0..tiles * matrix.cols())
                    .map(|f| std::array::from_fn(|t| value(f * TILE_TOKENS + t)))
                    .collect();
                let case = Case { matrix, plan: &plan, tokens, x };
                let mut want = Buffers {
                    panels: vec![0; plan.feed_forward_linear.panels],
                    columns: vec![[0.0; TILE_TOKENS]; plan.feed_forward_linear.columns],
                    unpacked: vec![0; plan.feed_forward_linear.unpacked],
                    out: vec![[0.0; TILE_TOKENS]; tiles * matrix.rows()],
                };
                case.run(&Scalar, &mut want);
                let macs = f64::from(matrix.kept()) * tokens as f64;
                let mut group = c.benchmark_group(format!("{name}, {tokens} x {shape}"));
                group.throughput(Throughput::Elements(2 * macs as u64));
                for backend in available() {
                    let mut got = want.clone();
                    got.out.fill([0.0; TILE_TOKENS]);
                    case.run(backend, &mut got);
                    assert_eq!(got.out, want.out, "{} differs from scalar", backend.name());
                    let mut least = f64::INFINITY;
                    group.bench_function(BenchmarkId::from_parameter(backend.name()), |b| {
                        timed(b, &mut least, || case.run(black_box(backend), &mut got));
                    });
                    let rate = 2.0 * macs / least / 1e9;
                    match limit {
                        _ if least.is_infinite() => {}
                        Some(limit) => println!(
                            "  at best {rate:.0} GOP/s, {:.0} % of this core's {limit:.0}\n",
                            100.0 * rate / limit
                        ),
                        None => println!("  at best {rate:.0} GOP/s\n"),
                    }
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = short();
    targets = matmul
}
criterion_main!(benches);
