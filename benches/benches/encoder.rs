//! Whole encoders of MiniLM's shape with this processor's backend: lengths, densities, number types
//! and threads. Weights are random: time does not depend on them.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use grouse_benches::{packed, short};
use grouse_runtime::encoder::Encoder;
use grouse_runtime::format::{BASE_ALIGN, DataType};
use grouse_runtime::kernels::{Backend, default, scalar::Scalar};
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;

/// Layers of all-MiniLM-L6-v2.
const LAYERS: usize = 6;

/// Number types and group counts.
const CASES: [(DataType, usize, &str); 9] = [
    (DataType::I8, 1, "i8 dense"),
    (DataType::I8, 2, "i8 density 0.5"),
    (DataType::I8, 4, "i8 density 0.25"),
    (DataType::I8, 8, "i8 density 0.125"),
    (DataType::I4, 1, "i4 dense"),
    (DataType::I4, 2, "i4 density 0.5"),
    (DataType::I4, 4, "i4 density 0.25"),
    (DataType::I4, 8, "i4 density 0.125"),
    (DataType::F32, 1, "f32 dense"),
];

fn encoder(c: &mut Criterion) {
    for (weights, groups, name) in CASES {
        let file = packed(LAYERS, groups, weights);
        let model = Model::open(file.bytes()).expect("a valid file");
        for tokens in [16, 32, 128] {
            let ids: Vec<u32> =
                (0..tokens as u32).map(|t| t * 13 % model.arch().vocab_size).collect();
            let mut group = c.benchmark_group(format!("{name}, {tokens} tokens"));
            let mut want = vec![0.0; 384];
            with_encoder(&model, &Scalar, tokens, 1, |encoder| {
                encoder.embed(&ids, &mut want).expect("an embedding");
            });
            for threads in [1, 2] {
                let name = format!("{}, threads: {threads}", default().name());
                with_encoder(&model, default(), tokens, threads, |encoder| {
                    let mut out = vec![0.0; 384];
                    encoder.embed(&ids, &mut out).expect("an embedding");
                    assert_eq!(out, want, "{name} differs from scalar");
                    group.bench_function(BenchmarkId::from_parameter(&name), |b| {
                        b.iter(|| encoder.embed(black_box(&ids), &mut out));
                    });
                });
            }
        }
    }
}

/// Calls `run` with an encoder for `tokens` tokens in memory of its own.
fn with_encoder(
    model: &Model<'_>,
    backend: &'static dyn Backend,
    tokens: usize,
    threads: usize,
    run: impl FnOnce(&mut Encoder<'_, '_>),
) {
    let plan = Plan::new(model, tokens).expect("a plan").with_threads(threads);
    let mut words = vec![0_u128; plan.arena_bytes().div_ceil(BASE_ALIGN)];
    let arena = bytemuck::must_cast_slice_mut(&mut words);
    run(&mut Encoder::with_plan(model, backend, arena, plan).expect("it fits"));
}

criterion_group! {
    name = benches;
    config = short();
    targets = encoder
}
criterion_main!(benches);
