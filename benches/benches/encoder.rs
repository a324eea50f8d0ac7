//! Group matmul and a whole encoder: scalar and wide, dense and density 0.25.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use grouse_benches::packed;
use grouse_runtime::encoder::Encoder;
use grouse_runtime::encoder::linear::{Input, Scratch, linear};
use grouse_runtime::format::MatrixKind;
use grouse_runtime::kernels::{Backend, Column, TILE_TOKENS, available, scalar::Scalar};
use grouse_runtime::plan::Plan;
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
        let plan = Plan::new(&model, TILE_TOKENS).expect("a plan");
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 25.0;
        let x: Vec<Column> =
            (0..384).map(|f| std::array::from_fn(|t| value(f * TILE_TOKENS + t))).collect();
        let run = |backend: &dyn Backend, out: &mut [Column]| {
            let mut scratch = Scratch {
                panels: &mut vec![0; plan.linear().panels],
                columns: &mut vec![[0.0; TILE_TOKENS]; plan.linear().columns],
                unpacked: &mut vec![0; plan.linear().unpacked],
                capacity: plan.linear().capacity,
            };
            let input = Input { columns: &x, stride: 384, tokens: TILE_TOKENS };
            linear(backend, matrix, &mut scratch, input, None, out, None).expect("an opened model");
        };
        let mut want = vec![[0.0; TILE_TOKENS]; 1536];
        run(&Scalar, &mut want);
        bench.throughput(Throughput::Elements(u64::from(matrix.kept()) * TILE_TOKENS as u64));
        for backend in available() {
            let mut out = want.clone();
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
        for backend in available() {
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
