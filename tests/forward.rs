//! Our f32 forward pass against candle's BERT, an independent implementation.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use grouse::forward::{self, Batch};
use grouse_tests::random_bert::{self, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Largest difference of a hidden state; both sides round in f32, in different orders.
const BOUND: f32 = 1e-4;

fn candle(dir: &Path) -> BertModel {
    let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
    // candle has its own name for the tanh approximation.
    let config = config.replace("gelu_new", "geluapproximate");
    let config: Config = serde_json::from_str(&config).unwrap();
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
    BertModel::load(weights, &config).unwrap()
}

fn check(shape: Shape, seed: u64) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    random_bert::write(&dir, &shape, seed);
    let oracle = candle(&dir);
    let model = grouse::import::load_dir(&dir).unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let sentences: Vec<Vec<u32>> = [1, 2, 7, shape.max_positions]
        .iter()
        .map(|length| (0..*length).map(|_| random.random_range(0..shape.vocab as u32)).collect())
        .collect();
    let batch = Batch::new(&model.config, &sentences).unwrap();
    let ours = forward::run(&model, &batch, |_, _, _| {});
    for (sentence, start) in sentences.iter().zip(&batch.starts) {
        let ids = Tensor::new(sentence.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let types = ids.zeros_like().unwrap();
        let states = oracle.forward(&ids, &types, None).unwrap();
        let states = states.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mine = &ours.data[start * shape.hidden..][..states.len()];
        let worst = mine.iter().zip(&states).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= BOUND, "{shape:?}, {} tokens: {worst}", sentence.len());
        // Alone or among others, a sentence has the same states but for rounding.
        let alone = Batch::new(&model.config, &[sentence]).unwrap();
        let alone = forward::run(&model, &alone, |_, _, _| {});
        let worst = mine.iter().zip(&alone.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= BOUND / 10.0, "alone: {worst}");
    }
}

#[test]
fn small_model() {
    check(Shape::default(), 1);
}

#[test]
fn odd_sizes() {
    let shape = Shape { hidden: 45, heads: 3, intermediate: 101, ..Shape::default() };
    check(shape, 2);
}

#[test]
fn deeper_with_relu() {
    let shape = Shape { layers: 5, activation: "relu", ..Shape::default() };
    check(shape, 3);
}

#[test]
fn wide_with_tanh_gelu() {
    let shape = Shape {
        hidden: 192,
        heads: 6,
        intermediate: 768,
        activation: "gelu_new",
        ..Shape::default()
    };
    check(shape, 4);
}

#[test]
fn embedding_is_the_normalised_mean() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    random_bert::write(&dir, &Shape::default(), 5);
    let model = grouse::import::load_dir(&dir).unwrap();
    let ids = [2, 40, 41, 42, 3];
    let batch = Batch::new(&model.config, &[ids]).unwrap();
    let states = forward::run(&model, &batch, |_, _, _| {});
    let mut mean = vec![0.0f32; states.cols];
    for row in states.data.chunks_exact(states.cols) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / 5.0);
    }
    let length = mean.iter().map(|v| v * v).sum::<f32>().sqrt();
    let embedding = forward::embed(&model, &ids).unwrap();
    for (value, mean) in embedding.iter().zip(&mean) {
        assert!((value - mean / length).abs() < 1e-6);
    }
}

/// The hidden states do not depend on the number of threads, to the bit.
#[test]
fn any_number_of_threads() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    random_bert::write(&dir, &Shape::default(), 6);
    let model = grouse::import::load_dir(&dir).unwrap();
    let sentences: Vec<Vec<u32>> =
        (0..60).map(|n| (0..5 + n % 11).map(|t| (n * 7 + t) as u32 % 100).collect()).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| forward::embed_all(&model, &sentences).unwrap())
    };
    assert_eq!(run(1), run(3));
}
