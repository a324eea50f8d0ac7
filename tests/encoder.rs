//! The runtime's encoder against candle's BERT, an independent implementation, and its backends
//! against each other.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use grouse::model::DenseModel;
use grouse_runtime::Error;
use grouse_runtime::encoder::Encoder;
use grouse_runtime::format::{DataType, MatrixKind};
use grouse_runtime::kernels::{Backend, available, scalar::Scalar};
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;
use grouse_tests::packed::{Aligned, pack, pack_mixed, pack_tables};
use grouse_tests::random_bert::{self, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Largest difference of a hidden state; both sides round in f32, in different orders.
const BOUND: f32 = 1e-5;

fn sentences(shape: &Shape, seed: u64) -> Vec<Vec<u32>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ids = |n: usize| (0..n).map(|_| random.random_range(0..shape.vocab as u32)).collect();
    (1..=shape.max_positions.min(40)).map(&mut ids).collect()
}

fn states(model: &Model<'_>, backend: &'static dyn Backend, ids: &[u32]) -> Vec<f32> {
    states_by(model, backend, ids, Plan::new(model, ids.len()).unwrap())
}

/// In an arena of just the plan's bytes, which decide between the two plans.
fn states_by(
    model: &Model<'_>,
    backend: &'static dyn Backend,
    ids: &[u32],
    plan: Plan,
) -> Vec<f32> {
    let mut arena = vec![0.0_f32; plan.arena_bytes() / 4];
    let arena = bytemuck::cast_slice_mut(&mut arena);
    let mut encoder = Encoder::new(model, backend, arena, plan.tokens).unwrap();
    assert_eq!(*encoder.plan(), plan);
    encoder.forward(&[ids]).unwrap();
    (0..ids.len()).flat_map(|t| encoder.hidden_state(t)).collect()
}

fn candle(model: &DenseModel, dir: &std::path::Path) -> BertModel {
    let out = dir.with_extension("saved");
    grouse::import::save_dir(model, dir, &out, &serde_json::json!({})).unwrap();
    let config = std::fs::read_to_string(out.join("config.json")).unwrap();
    // candle has its own name for the tanh approximation.
    let config: Config =
        serde_json::from_str(&config.replace("gelu_new", "geluapproximate")).unwrap();
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
    BertModel::load(weights, &config).unwrap()
}

/// Groups, shared inputs and kept weights of the first layer's matrices, in file order.
fn groups(model: &Model<'_>) -> [(usize, usize, u32); 4] {
    let layer = model.layer(0).unwrap();
    MatrixKind::ALL.map(|kind| {
        let matrix = layer.matrix(kind);
        (matrix.group_count(), matrix.shared().len(), matrix.kept())
    })
}

/// Every backend against the scalar one.
fn same_bits(model: &Model<'_>, texts: &[Vec<u32>]) {
    let number = model.layer(0).unwrap().matrix(MatrixKind::Qkv).weights();
    for ids in texts {
        let want = states(model, &Scalar, ids);
        for backend in available() {
            let got = states(model, backend, ids);
            let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} {number:?}, {} tokens", backend.name(), ids.len());
        }
        // In less memory, and in that of a longer text.
        let longest = texts.iter().map(Vec::len).max().unwrap_or(2);
        for tokens in [ids.len(), longest] {
            let compact = Plan::compact(model, tokens).unwrap();
            assert!(compact.arena_bytes() <= Plan::new(model, tokens).unwrap().arena_bytes());
            let got = states_by(model, &Scalar, ids, compact);
            let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{number:?}, {} of {tokens} tokens, compact plan", ids.len());
        }
    }
}

/// f32 against candle; every number type, scalar against the other backends. Returns the first
/// layer's [`groups`].
fn check(
    shape: &Shape,
    seed: u64,
    prune: impl Fn(usize, usize, usize) -> bool,
) -> [(usize, usize, u32); 4] {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    random_bert::write(&dir, shape, seed);
    let mut model = grouse::import::load_dir(&dir).unwrap();
    for layer in &mut model.layers {
        for (n, (_, linear)) in layer.linears_mut().into_iter().enumerate() {
            let cols = linear.weight.cols;
            for (i, w) in linear.weight.data.iter_mut().enumerate() {
                if prune(n, i / cols, i % cols) {
                    *w = 0.0;
                }
            }
        }
    }
    let oracle = candle(&model, &dir);
    let texts = sentences(shape, seed);
    let exact = Aligned::new(&pack(&model, DataType::F32, &texts));
    let exact = Model::open(exact.bytes()).unwrap();
    for ids in &texts {
        let tensor = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let types = tensor.zeros_like().unwrap();
        let want = oracle.forward(&tensor, &types, None).unwrap();
        let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let got = states(&exact, &Scalar, ids);
        assert_eq!(got.len(), want.len());
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= BOUND, "{shape:?}, {} tokens: {worst}", ids.len());
    }
    for weights in [DataType::F32, DataType::F16, DataType::I8, DataType::I4] {
        let file = Aligned::new(&pack(&model, weights, &texts));
        same_bits(&Model::open(file.bytes()).unwrap(), &texts);
    }
    groups(&exact)
}

/// Texts of mixed lengths in one call have the bits that each has alone.
#[test]
fn a_batch_is_its_texts() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    let shape = Shape::default();
    random_bert::write(&dir, &shape, 9);
    let texts = sentences(&shape, 9);
    let model = grouse::import::load_dir(&dir).unwrap();
    let file = Aligned::new(&pack(&model, DataType::I8, &texts));
    let model = Model::open(file.bytes()).unwrap();
    let hidden = shape.hidden;
    let embed = |backend, texts: &[&[u32]]| {
        let tokens = texts.iter().map(|t| t.len()).sum();
        let plan = Plan::for_batch(&model, tokens).unwrap();
        let mut arena = vec![0.0_f32; plan.arena_bytes() / 4];
        let arena = bytemuck::cast_slice_mut(&mut arena);
        let mut encoder = Encoder::for_batch(&model, backend, arena, tokens).unwrap();
        let mut out = vec![0.0; texts.len() * hidden];
        encoder.embed_batch(texts, &mut out).unwrap();
        out.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    };
    for backend in available() {
        for batch in texts.chunks(7) {
            let batch: Vec<&[u32]> = batch.iter().rev().map(Vec::as_slice).collect();
            let alone: Vec<u32> = batch.iter().flat_map(|text| embed(backend, &[*text])).collect();
            assert_eq!(embed(backend, &batch), alone, "{}", backend.name());
        }
    }
}

/// An int2 word table: what the file says of each row is what the packer meant, and the encoder runs
/// on it with the same bits everywhere.
#[test]
fn int2_word_tables() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    let shape = Shape { hidden: 36, heads: 3, intermediate: 50, layers: 1, ..Shape::default() };
    random_bert::write(&dir, &shape, 13);
    let texts = sentences(&shape, 13);
    let dense = grouse::import::load_dir(&dir).unwrap();
    let file = Aligned::new(&pack_tables(&dense, DataType::I8, DataType::I2, &texts));
    let model = Model::open(file.bytes()).unwrap();
    let table = model.embeddings().word;
    assert_eq!(table.data_type(), DataType::I2);
    let mut row = vec![0.0; shape.hidden];
    let (mut wrong, mut energy) = (0.0, 0.0);
    for id in 0..shape.vocab {
        assert!(table.read_row(id, &mut row));
        // At most four different values in a run of 32.
        for run in row.chunks(32) {
            let mut levels: Vec<u32> = run.iter().map(|v| v.to_bits()).collect();
            levels.sort_unstable();
            levels.dedup();
            assert!(levels.len() <= 4, "row {id}: {run:?}");
        }
        for (v, w) in row.iter().zip(dense.embeddings.word.row(id)) {
            wrong += f64::from(v - w).powi(2);
            energy += f64::from(*w).powi(2);
        }
    }
    assert!(!table.read_row(shape.vocab, &mut row));
    assert!(wrong < 0.12 * energy, "{}", wrong / energy);
    same_bits(&model, &texts);
}

/// An arena that is too small for the fast plan gets the compact one, and one too small for that is
/// refused with what is needed.
#[test]
fn the_arena_decides_the_plan() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    let shape = Shape { hidden: 128, heads: 4, intermediate: 256, ..Shape::default() };
    random_bert::write(&dir, &shape, 10);
    let model = grouse::import::load_dir(&dir).unwrap();
    let file = Aligned::new(&pack(&model, DataType::I8, &sentences(&shape, 10)));
    let model = Model::open(file.bytes()).unwrap();
    let tokens = shape.max_positions;
    let (fast, least) =
        (Plan::new(&model, tokens).unwrap(), Plan::compact(&model, tokens).unwrap());
    assert!(least.arena_bytes() < fast.arena_bytes(), "{least:?}");
    assert_eq!((fast.block, least.block), (2, 1));
    let fitting = |bytes| Plan::fitting(&model, tokens, bytes).unwrap();
    assert_eq!(fitting(fast.arena_bytes()), fast);
    assert_eq!(fitting(fast.arena_bytes() - 1), least);
    assert_eq!(fitting(0), least);
    let longest = |bytes| Plan::longest(&model, bytes).unwrap().map(|plan| plan.tokens);
    assert_eq!(longest(least.arena_bytes()), Some(tokens));
    assert_eq!(longest(fast.arena_bytes()), Some(tokens));
    assert!(longest(least.arena_bytes() - 1).unwrap() < tokens);
    assert_eq!(longest(100), None);
    let mut arena = vec![0.0_f32; least.arena_bytes() / 4 - 1];
    let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut arena);
    let available = arena.len();
    let refused = Encoder::new(&model, &Scalar, arena, tokens).unwrap_err();
    assert_eq!(refused, Error::ArenaTooSmall { needed: least.arena_bytes(), available });
}

/// Each matrix of a layer in another number type, in every order.
#[test]
fn number_types_mix() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    let shape = Shape { layers: 4, ..Shape::default() };
    random_bert::write(&dir, &shape, 12);
    let texts = sentences(&shape, 12);
    let model = grouse::import::load_dir(&dir).unwrap();
    let numbers = [DataType::I4, DataType::I8, DataType::F16, DataType::F32];
    let number = |layer: usize, kind: MatrixKind| numbers[(layer + kind as usize) % 4];
    let all = (0..4).flat_map(|l| MatrixKind::ALL.map(|k| (l, k, number(l, k)))).collect();
    let file = Aligned::new(&pack_mixed(&model, DataType::F32, all, &texts));
    let packed = Model::open(file.bytes()).unwrap();
    for layer in 0..4 {
        let view = packed.layer(layer).unwrap();
        for kind in MatrixKind::ALL {
            assert_eq!(view.matrix(kind).weights(), number(layer, kind));
        }
    }
    same_bits(&packed, &texts);
}

#[test]
fn dense_models_of_several_shapes() {
    check(&Shape::default(), 1, |_, _, _| false);
    let odd = Shape { hidden: 36, heads: 3, intermediate: 50, layers: 1, ..Shape::default() };
    check(&odd, 2, |_, _, _| false);
    let tanh = Shape { hidden: 64, heads: 2, activation: "gelu_new", ..Shape::default() };
    check(&tanh, 3, |_, _, _| false);
}

#[test]
fn disjoint_groups() {
    let shape = Shape { hidden: 128, heads: 4, intermediate: 256, layers: 1, ..Shape::default() };
    let found = check(&shape, 4, |_, row, col| row % 4 != col % 4);
    // Small groups may be merged where padding makes that free; these are not small.
    assert_eq!(found[0], (4, 0, 3 * 128 * 128 / 4));
    assert!(found.iter().all(|(count, ..)| *count > 1), "{found:?}");
}

#[test]
fn shared_inputs_beside_groups() {
    let shape = Shape { hidden: 128, heads: 4, intermediate: 256, layers: 1, ..Shape::default() };
    let found = check(&shape, 5, |_, row, col| col % 4 != 0 && row % 2 != (col / 4) % 2);
    let inputs = [128, 128, 128, 256];
    for ((count, shared, kept), (rows, cols)) in
        found.into_iter().zip([384, 128, 256, 128].into_iter().zip(inputs))
    {
        assert_eq!((count, shared, kept), (2, cols / 4, (rows * cols * 5 / 8) as u32));
    }
}

#[test]
fn empty_rows_dropped_inputs_and_an_empty_matrix() {
    let found = check(&Shape::default(), 6, |n, row, col| n == 4 || row % 3 == 0 || col % 5 == 0);
    let [(count, _, kept), _, empty, _] = found;
    assert_eq!((count, kept), (2, 63 * 25));
    assert_eq!(empty, (1, 0, 0));
}

/// Heads and neurons that are gone: zero where they are read, and of half of them where they are
/// made. Attention leaves out a head that nothing reads, whatever its queries and keys are.
#[test]
fn heads_and_neurons_that_nothing_reads() {
    let shape = Shape { hidden: 64, heads: 4, intermediate: 128, ..Shape::default() };
    let gone = |unit: usize| unit == 1 || unit == 3;
    let found = check(&shape, 7, |n, row, col| match n {
        0..3 => row / 16 == 1,
        3 => gone(col / 16),
        4 => row >= 96,
        _ => col >= 64,
    });
    assert_eq!(found.map(|(.., kept)| kept), [3 * 48 * 64, 64 * 32, 96 * 64, 64 * 64]);
}
