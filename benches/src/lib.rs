//! What the benches measure on: seeded random models of MiniLM's shape, and this core's limits.

pub mod peak;

use grouse::pack::Options;
use grouse::{calibrate, import, pack};
use grouse_runtime::format::{BASE_ALIGN, DataType};
use grouse_tests::random_bert::{self, Shape};

/// A packed file in memory, aligned as the runtime needs it.
#[derive(Debug)]
pub struct File {
    words: Vec<u128>,
    length: usize,
}

impl File {
    /// The file's bytes, at a multiple of [`BASE_ALIGN`].
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::must_cast_slice(&self.words)[..self.length]
    }
}

/// Packs a model of MiniLM's width with `layers` layers and the given `weights`, its matrices cut
/// into `groups` disjoint groups each (1 = dense), so that the density is `1 / groups`.
///
/// # Panics
/// When the temporary model cannot be written or packed.
pub fn packed(layers: usize, groups: usize, weights: DataType) -> File {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("model");
    let (hidden, intermediate, max_positions) = (384, 1536, 128);
    let shape =
        Shape { hidden, layers, heads: 12, intermediate, max_positions, ..Shape::default() };
    let vocab = shape.vocab as u32;
    random_bert::write(&path, &shape, 7);
    let mut model = import::load_dir(&path).expect("the random model loads");
    for (_, linear) in model.layers.iter_mut().flat_map(|l| l.linears_mut()) {
        let cols = linear.weight.cols;
        for (i, w) in linear.weight.data.iter_mut().enumerate() {
            // Interleaved rows and columns: the groups need real gathers and scatters.
            if (i / cols) % groups != (i % cols) % groups {
                *w = 0.0;
            }
        }
    }
    let sentences: Vec<Vec<u32>> =
        (0..64_u32).map(|s| (0..16).map(|t| (s * 31 + t * 7) % vocab).collect()).collect();
    let stats = calibrate::collect(&model, &sentences).expect("calibration");
    let options = Options {
        weights,
        exceptions: Vec::new(),
        embeddings: DataType::I8,
        max_tokens: None,
        calibration: "random".into(),
        vocabulary: None,
        measure: false,
    };
    let bytes = pack::pack(&model, Some(&stats), &options).expect("packing").bytes;
    let mut words = vec![0_u128; bytes.len().div_ceil(BASE_ALIGN)];
    bytemuck::must_cast_slice_mut::<u128, u8>(&mut words)[..bytes.len()].copy_from_slice(&bytes);
    File { words, length: bytes.len() }
}

/// Measures the calls of `run` for Criterion, and keeps the least seconds that one took.
pub fn timed(bencher: &mut criterion::Bencher<'_>, least: &mut f64, mut run: impl FnMut()) {
    bencher.iter_custom(|count| {
        let start = std::time::Instant::now();
        for _ in 0..count {
            run();
        }
        let elapsed = start.elapsed();
        *least = least.min(elapsed.as_secs_f64() / count as f64);
        elapsed
    });
}

/// Criterion with short measurements: there are many.
pub fn short() -> criterion::Criterion {
    criterion::Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600))
}
