//! One call on several threads has the bits of one thread, whatever its texts.

use grouse_runtime::encoder::Encoder;
use grouse_runtime::format::DataType;
use grouse_runtime::kernels::{Backend, available};
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;
use grouse_tests::packed::{Aligned, pack};
use grouse_tests::random_bert::{self, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const THREADS: [usize; 4] = [1, 2, 3, 8];

/// A random model of `shape` with `weights`, pruned into two groups with shared inputs.
fn packed(shape: &Shape, weights: DataType, seed: u64) -> Aligned {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    random_bert::write(&dir, shape, seed);
    let mut model = grouse::import::load_dir(&dir).unwrap();
    for layer in &mut model.layers {
        for (_, linear) in layer.linears_mut() {
            let cols = linear.weight.cols;
            for (i, w) in linear.weight.data.iter_mut().enumerate() {
                let (row, col) = (i / cols, i % cols);
                if col % 4 != 0 && row % 2 != (col / 4) % 2 {
                    *w = 0.0;
                }
            }
        }
    }
    Aligned::new(&pack(&model, weights, &[text(shape, 20, seed)]))
}

fn text(shape: &Shape, tokens: usize, seed: u64) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed + tokens as u64);
    (0..tokens).map(|_| random.random_range(0..shape.vocab as u32)).collect()
}

/// The bits of all hidden states and embeddings of one call.
fn run(
    model: &Model<'_>,
    backend: &'static dyn Backend,
    threads: usize,
    texts: &[&[u32]],
) -> Vec<u32> {
    let tokens = texts.iter().map(|text| text.len()).sum();
    let plan = Plan::for_batch(model, tokens).unwrap().with_threads(threads);
    // What an arena holds before a call must not matter.
    let mut arena = vec![f32::NAN; plan.arena_bytes() / 4];
    let arena = bytemuck::cast_slice_mut(&mut arena);
    let mut encoder = Encoder::with_plan(model, backend, arena, plan).unwrap();
    let mut out = vec![0.0; texts.len() * model.arch().hidden_size as usize];
    encoder.embed_batch(texts, &mut out).unwrap();
    let states = (0..tokens).flat_map(|token| encoder.hidden_state(token));
    states.chain(out.iter().copied()).map(f32::to_bits).collect()
}

fn check(shape: &Shape, lengths: &[&[usize]]) {
    for (seed, weights) in
        [(1, DataType::I8), (2, DataType::F16), (3, DataType::F32), (4, DataType::I4)]
    {
        let file = packed(shape, weights, seed);
        let model = Model::open(file.bytes()).unwrap();
        for lengths in lengths {
            let texts: Vec<Vec<u32>> = lengths.iter().map(|n| text(shape, *n, seed)).collect();
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            for backend in available() {
                let want = run(&model, backend, 1, &texts);
                for threads in THREADS {
                    let same = run(&model, backend, threads, &texts) == want;
                    let name = backend.name();
                    assert!(same, "{name} {weights:?}, {lengths:?} on {threads} threads");
                }
            }
        }
    }
}

fn shape() -> Shape {
    let sizes = Shape { hidden: 64, heads: 4, intermediate: 128, ..Shape::default() };
    Shape { max_positions: 160, ..sizes }
}

#[test]
fn a_text_has_the_same_bits_on_any_number_of_threads() {
    check(&shape(), &[&[2], &[16], &[17], &[32], &[33], &[80], &[128], &[150]]);
    let odd = Shape { hidden: 36, heads: 3, intermediate: 50, layers: 1, ..shape() };
    check(&odd, &[&[16], &[31], &[47], &[128]]);
}

#[test]
fn a_batch_has_the_same_bits_on_any_number_of_threads() {
    check(&shape(), &[&[3, 5, 2], &[40, 1, 30, 17], &[7; 12], &[16, 16, 64], &[130, 2, 150]]);
}

#[test]
fn a_batch_on_threads_is_its_texts() {
    let shape = shape();
    let hidden = shape.hidden;
    let file = packed(&shape, DataType::I8, 4);
    let model = Model::open(file.bytes()).unwrap();
    let texts: Vec<Vec<u32>> = [40, 1, 30, 17, 90].map(|n| text(&shape, n, 4)).into();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    for backend in available() {
        let embeddings = |texts: &[&[u32]]| {
            let all = run(&model, backend, 3, texts);
            all[all.len() - texts.len() * hidden..].to_vec()
        };
        let alone: Vec<u32> = texts.iter().flat_map(|text| embeddings(&[*text])).collect();
        assert_eq!(embeddings(&texts), alone, "{}", backend.name());
    }
}

#[test]
fn threads_take_no_more_than_there_are_tiles() {
    let file = packed(&shape(), DataType::I8, 5);
    let model = Model::open(file.bytes()).unwrap();
    let plan = |tokens, threads| Plan::new(&model, tokens).unwrap().with_threads(threads);
    assert_eq!(plan(16, 8), plan(16, 1));
    assert_eq!(plan(33, 8), plan(33, 3));
    assert_eq!(plan(33, 0), Plan::new(&model, 33).unwrap());
    assert!(plan(128, 2).arena_bytes() > plan(128, 1).arena_bytes());
}

#[test]
fn a_failing_text_fails_the_call_on_any_number_of_threads() {
    let file = packed(&shape(), DataType::I8, 6);
    let model = Model::open(file.bytes()).unwrap();
    for threads in THREADS {
        let plan = Plan::for_batch(&model, 64).unwrap().with_threads(threads);
        let mut arena = vec![0.0_f32; plan.arena_bytes() / 4];
        let arena = bytemuck::cast_slice_mut(&mut arena);
        let backend = available().next().unwrap();
        let short = &mut arena[..plan.arena_bytes() - 1];
        assert!(Encoder::with_plan(&model, backend, short, plan).is_err());
        let mut encoder = Encoder::with_plan(&model, backend, arena, plan).unwrap();
        let mut out = vec![0.0; 2 * model.arch().hidden_size as usize];
        assert!(encoder.embed_batch(&[&[1; 40], &[u32::MAX]], &mut out).is_err());
        assert!(encoder.embed_batch(&[&[1; 40], &[1; 24]], &mut out).is_ok());
    }
}
