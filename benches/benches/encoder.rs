//! Group matmul and a whole encoder: scalar and wide, dense and density 0.25.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use grouse_benches::packed;
use grouse_runtime::encoder::Encoder;
use grouse_runtime::encoder::linear::{Rows, Scratch, linear};
use grouse_runtime::format::MatrixKind;
use grouse_runtime::kernels::{BACKENDS, Backend, scalar::Scalar};
use grouse_runtime::plan::{Plan, TOKEN_TILE};
use grouse_runtime::view::Model;

/// Group counts: dense, and density 0.25.
const GROUPS: [(usize, &str); 2] = [(1, "dense"), (4, "density 0.25")];

/// Tokens of the encoder's text.
const TOKENS: usize = 32;

fn group_matmul(c: &mut Criterion) {
    let mut bench = c.benchmark_group("matmul 16x384 to 1536 i8");
    for (groups, name) in GROUPS {
        let file = packed(groups);
        let model = Model::open(file.bytes()).expect("a valid file");
        let layer = model.layer(0).expect("a layer");
        let matrix = layer.matrix(MatrixKind::FeedForwardIn);
        let plan = Plan::new(&model, TOKEN_TILE).expect("a plan");
        let x: Vec<f32> =
            (0..TOKEN_TILE * 384).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
        let run = |backend: &dyn Backend, out: &mut [f32]| {
            let mut scratch = Scratch {
                rows: &mut vec![0; plan.rows],
                panel_i8: &mut vec![0; plan.panel_i8],
                panel_f32: &mut vec![0.0; plan.panel_f32],
                depth_i8: plan.depth_i8,
                depth_f32: plan.depth_f32,
            };
            let input = Rows { data: &x, stride: 384, width: 384 };
            linear(backend, matrix, &mut scratch, input, out).expect("an opened model");
        };
        let mut want = vec![0.0; TOKEN_TILE * 1536];
        run(&Scalar, &mut want);
        bench.throughput(Throughput::Elements(u64::from(matrix.kept()) * TOKEN_TILE as u64));
        for backend in BACKENDS {
            let mut out = vec![0.0; want.len()];
            run(backend, &mut out);
            assert_eq!(out, want, "{} differs from scalar", backend.name());
            bench.bench_function(BenchmarkId::new(backend.name(), name), |b| {
                b.iter(|| run(black_box(backend), &mut out));
            });
        }
    }
}

fn encoder(c: &mut Criterion) {
    let mut bench = c.benchmark_group("one-layer encoder, 32 tokens, i8");
    for (groups, name) in GROUPS {
        let file = packed(groups);
        let model = Model::open(file.bytes()).expect("a valid file");
        let plan = Plan::new(&model, TOKENS).expect("a plan");
        let ids: Vec<u32> = (0..TOKENS as u32).map(|t| t * 13 % model.arch().vocab_size).collect();
        let run = |backend: &'static dyn Backend, out: &mut [f32]| {
            let mut arena = vec![0.0_f32; plan.arena_bytes().div_ceil(4)];
            let arena = bytemuck::must_cast_slice_mut(&mut arena);
            let mut encoder = Encoder::new(&model, backend, arena, TOKENS).expect("it fits");
            encoder.embed(&ids, out).expect("an embedding");
        };
        let mut want = vec![0.0; 384];
        run(&Scalar, &mut want);
        for backend in BACKENDS {
            let mut out = vec![0.0; 384];
            run(backend, &mut out);
            assert_eq!(out, want, "{} differs from scalar", backend.name());
            bench.bench_function(BenchmarkId::new(backend.name(), name), |b| {
                b.iter(|| run(black_box(backend), &mut out));
            });
        }
    }
}

criterion_group!(benches, group_matmul, encoder);
criterion_main!(benches);
