//! Pruning of small random models.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::model::{Activation, Config, Embeddings, LayerNorm, Matrix, Pooling};

fn model(hidden: usize, wide: usize, seed: u64) -> DenseModel {
    let mut random = StdRng::seed_from_u64(seed);
    let mut matrix = |rows: usize, cols: usize| Matrix {
        rows,
        cols,
        data: (0..rows * cols).map(|_| random.random::<f32>() - 0.5).collect(),
    };
    let norm = || LayerNorm { gamma: vec![1.0; hidden], beta: vec![0.1; hidden] };
    let embeddings = Embeddings {
        word: matrix(50, hidden),
        position: matrix(16, hidden),
        token_type: matrix(2, hidden),
        norm: norm(),
    };
    let mut linear = |rows, cols| Linear { weight: matrix(rows, cols), bias: vec![0.1; rows] };
    let layer = Layer {
        query: linear(hidden, hidden),
        key: linear(hidden, hidden),
        value: linear(hidden, hidden),
        attention_output: linear(hidden, hidden),
        attention_norm: norm(),
        ffn_in: linear(wide, hidden),
        ffn_out: linear(hidden, wide),
        ffn_norm: norm(),
    };
    DenseModel {
        name: "random".into(),
        config: Config {
            hidden_size: hidden,
            layers: 1,
            heads: 2,
            intermediate_size: wide,
            vocab_size: 50,
            max_positions: 16,
            token_types: 2,
            layer_norm_eps: 1e-12,
            activation: Activation::Gelu,
        },
        embeddings,
        layers: vec![layer],
        pooling: Pooling::Mean,
        normalize: true,
        max_tokens: 16,
        tokenizer: Vec::new(),
    }
}

fn sentences() -> Vec<Vec<u32>> {
    let mut random = StdRng::seed_from_u64(9);
    (0..60).map(|n| (0..3 + n % 12).map(|_| random.random_range(0..50)).collect()).collect()
}

fn options(density: f64, groups: usize) -> Options {
    Options { density, groups: Some(groups), ..Options::default() }
}

#[test]
fn any_number_of_threads_gives_the_same_weights() {
    let dense = model(32, 64, 1);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut model = dense.clone();
            prune(&mut model, &sentences(), &options(0.5, 4)).unwrap();
            model.layers
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn the_density_is_met_and_full_density_changes_nothing() {
    let dense = model(32, 64, 2);
    let text = sentences();
    for (density, groups) in [(0.5, 4), (0.25, 2), (0.1, 8), (1.0, 1), (1.0, 4)] {
        for method in [Method::Groups, Method::Auto] {
            let mut model = dense.clone();
            let options = Options { method, ..options(density, groups) };
            let report = prune(&mut model, &text, &options).unwrap();
            // Not overspent; steps of matrices this small are coarse, and neurons that are not
            // read any more are gone too.
            let off = density - report.density;
            let most = 0.3 * density;
            assert!((-0.02..=most).contains(&off), "{method:?} {density}: {}", report.density);
            let (kept, all) = model.encoder_weights();
            assert_eq!(report.density, kept as f64 / all as f64);
            if density == 1.0 {
                let pairs = model.layers[0].linears().into_iter().zip(dense.layers[0].linears());
                for (a, b) in
                    pairs.flat_map(|(new, old)| new.1.weight.data.iter().zip(&old.1.weight.data))
                {
                    assert!((a - b).abs() < 1e-4);
                }
            }
        }
    }
}

#[test]
fn baselines_meet_the_density() {
    let dense = model(32, 64, 5);
    for method in [Method::Rows, Method::Magnitude, Method::Wanda] {
        let mut model = dense.clone();
        let options = Options { method, density: 0.5, ..Options::default() };
        let report = prune(&mut model, &sentences(), &options).unwrap();
        assert!((report.density - 0.5).abs() < 0.02, "{method:?}: {}", report.density);
    }
}

#[test]
fn a_search_reports_its_candidates_and_repeats() {
    let dense = model(32, 64, 6);
    let options = Options { search: 8, ..options(0.4, 4) };
    let run = || {
        let mut model = dense.clone();
        let report = prune(&mut model, &sentences(), &options).unwrap();
        (model.layers, report)
    };
    let (layers, report) = run();
    let search = report.search.as_ref().unwrap();
    assert!(search.best_score >= search.seed_score);
    assert!(!search.frontier.is_empty());
    assert_eq!((layers, report), run());
}

/// Of two neurons of each pair one says what the other says: half of them can go for nothing, and
/// the automatic method finds that.
#[test]
fn neurons_that_say_nothing_new_go_first() {
    let (hidden, wide) = (32, 256);
    let mut dense = model(hidden, wide, 7);
    let up = &mut dense.layers[0].ffn_in;
    for neuron in 0..wide / 2 {
        let row = up.weight.row(neuron).to_vec();
        up.weight.row_mut(neuron + wide / 2).copy_from_slice(&row);
        up.bias[neuron + wide / 2] = up.bias[neuron];
    }
    let options = Options { density: 0.6, ..Options::default() };
    let report = prune(&mut dense.clone(), &sentences(), &options).unwrap();
    let [_, _, up, down] = &report.matrices[..] else { panic!("one layer") };
    assert!(up.gone >= wide / 4, "{up:?}");
    assert!(down.error < 0.05, "{down:?}");
    let without = Options { steps: Steps { units: false, ..Steps::default() }, ..options };
    let report = prune(&mut dense.clone(), &sentences(), &without).unwrap();
    assert!(report.matrices.iter().all(|m| m.gone == 0));
}

/// A budget of bytes or multiply-accumulates is kept and, where the steps are fine, spent.
#[test]
fn budgets_are_met_and_spent() {
    use super::cost::Measure;
    use super::options::dense_cost;
    let dense = model(64, 512, 8);
    for measure in [Measure::Weights, Measure::Macs, Measure::Bytes, Measure::Int4Bytes] {
        for density in [0.3, 0.6] {
            let options = Options { measure, density, ..Options::default() };
            let (levels, units, _) = auto::choose(&dense, &sentences(), &options).unwrap();
            let (steps, units) = (options.steps, units.as_slice());
            let source = Source { model: &dense, stats: &[], held_out: None, steps, units };
            let all = Level { density: 1.0, groups: 1, shared: None, units: 1.0 };
            let cost = |(at, level): ((usize, MatrixKind), &Option<Level>)| {
                source.cost(at, &level.unwrap_or(all), &options)
            };
            let spent: u64 = places(&dense).zip(&levels).map(cost).sum();
            let part = spent as f64 / dense_cost(&dense, measure) as f64;
            assert!(part <= density + 1e-9, "{measure:?} {density}: {part}");
            assert!(part >= 0.95 * density, "{measure:?} {density}: {part}");
        }
    }
}

#[test]
fn tiny_matrices_can_be_pruned() {
    let dense = model(2, 3, 3);
    let text = sentences();
    for groups in [1, 2] {
        for density in [0.01, 0.5, 1.0] {
            prune(&mut dense.clone(), &text, &options(density, groups)).unwrap();
        }
    }
}

#[test]
fn impossible_options_are_refused() {
    let dense = model(4, 8, 4);
    let text = sentences();
    let shared = Options { shared: Some(0.9), ..options(0.5, 2) };
    for bad in [
        options(0.0, 2),
        options(1.5, 2),
        options(f64::NAN, 2),
        options(0.5, 0),
        options(0.5, 5),
        shared,
    ] {
        assert!(prune(&mut dense.clone(), &text, &bad).is_err(), "{bad:?}");
    }
    assert!(prune(&mut dense.clone(), &[], &options(0.5, 2)).is_err());
}
