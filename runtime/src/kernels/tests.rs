//! Every backend against the scalar one, bit for bit, over ragged sizes and awkward values.

use half::f16;
use proptest::prelude::*;

use crate::format::{TILE_DEPTH, TILE_ROWS};

use super::{Activation, BACKENDS, Backend, TOKENS_PER_CALL, TileSums, scalar::Scalar};

/// Floats as an encoder sees them, and some that it should not.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        20 => -4.0_f32..4.0,
        4 => -100.0_f32..100.0,
        2 => Just(0.0_f32),
        1 => Just(-0.0_f32),
        1 => -1e-30_f32..1e-30,
        1 => -1e30_f32..1e30,
    ]
}

fn row(most: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(value(), 0..most)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn others() -> impl Iterator<Item = &'static dyn Backend> {
    BACKENDS.into_iter().filter(|b| b.name() != Scalar.name())
}

/// Runs an in-place primitive on every backend and compares with scalar.
fn in_place(x: &[f32], f: impl Fn(&dyn Backend, &mut [f32])) {
    let mut want = x.to_vec();
    f(&Scalar, &mut want);
    for backend in others() {
        let mut got = x.to_vec();
        f(backend, &mut got);
        assert_eq!(bits(&got), bits(&want), "{} on {x:?}", backend.name());
    }
}

proptest! {
    #[test]
    fn quantize_row(x in row(100), e in prop::collection::vec(0.0_f32..8.0, 100)) {
        let equalize = &e[..x.len()];
        let mut want = vec![0_i8; x.len()];
        let scale = Scalar.quantize_row(&x, equalize, &mut want);
        for backend in others() {
            let mut got = vec![0_i8; x.len()];
            let other = backend.quantize_row(&x, equalize, &mut got);
            prop_assert_eq!((other.scale.to_bits(), other.zero), (scale.scale.to_bits(), scale.zero));
            prop_assert_eq!(&got, &want);
        }
    }

    #[test]
    fn a_quantized_row_is_within_half_a_step(x in prop::collection::vec(-50.0_f32..50.0, 1..100)) {
        let ones = vec![1.0; x.len()];
        let mut q = vec![0_i8; x.len()];
        let row = Scalar.quantize_row(&x, &ones, &mut q);
        for (x, q) in x.iter().zip(q) {
            let back = row.scale * (i32::from(q) - row.zero) as f32;
            // The zero point is rounded too: up to one step at the ends of the range.
            prop_assert!((x - back).abs() <= 1.001 * row.scale, "{} {}", x, back);
        }
    }

    #[test]
    fn tile_i8(
        (steps, stride) in (0_usize..40).prop_flat_map(|s| (Just(s), s * TILE_DEPTH..s * TILE_DEPTH + 9)),
        tokens in 1..=TOKENS_PER_CALL,
        seed in any::<u64>(),
        extreme in any::<bool>(),
    ) {
        let mut state = seed | 1;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if extreme { [-128, 127][(state >> 63) as usize] } else { (state >> 56) as i8 }
        };
        let tile: Vec<i8> = (0..steps * TILE_ROWS * TILE_DEPTH).map(|_| byte()).collect();
        let panel: Vec<i8> = (0..tokens * stride).map(|_| byte()).collect();
        let mut want: TileSums<i32> = Default::default();
        Scalar.tile_i8(&tile, &panel, stride, &mut want);
        // The definition itself, from the layout's documentation.
        for (t, row) in want.iter().enumerate().take(tokens) {
            for (r, got) in row.iter().enumerate() {
                let sum: i32 = (0..steps * TILE_DEPTH)
                    .map(|k| {
                        let (step, lane) = (k / TILE_DEPTH, k % TILE_DEPTH);
                        let at = (step * TILE_ROWS + r) * TILE_DEPTH + lane;
                        i32::from(tile[at]) * i32::from(panel[t * stride + k])
                    })
                    .sum();
                prop_assert_eq!(*got, sum);
            }
        }
        for backend in others() {
            let mut got: TileSums<i32> = Default::default();
            backend.tile_i8(&tile, &panel, stride, &mut got);
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn float_tiles(
        (steps, stride) in (0_usize..40).prop_flat_map(|s| (Just(s), s..s + 5)),
        tokens in 1..=TOKENS_PER_CALL,
        values in prop::collection::vec(value(), 40 * TILE_ROWS + 4 * 45),
    ) {
        let (tile, rest) = values.split_at(steps * TILE_ROWS);
        let panel = &rest[..tokens * stride];
        let half: Vec<f16> = tile.iter().map(|v| f16::from_f32(v.clamp(-6e4, 6e4))).collect();
        let mut want: [TileSums<f32>; 2] = Default::default();
        Scalar.tile_f32(tile, panel, stride, &mut want[0]);
        Scalar.tile_f16(&half, panel, stride, &mut want[1]);
        for backend in others() {
            let mut got: [TileSums<f32>; 2] = Default::default();
            backend.tile_f32(tile, panel, stride, &mut got[0]);
            backend.tile_f16(&half, panel, stride, &mut got[1]);
            prop_assert_eq!(bits(got.as_flattened().as_flattened()), bits(want.as_flattened().as_flattened()));
        }
    }

    #[test]
    fn vector_matrix(
        (a, n, stride, m) in (0_usize..20, 0_usize..50, 0_usize..5).prop_flat_map(|(k, n, more)| {
            let stride = (n + more).max(1);
            (prop::collection::vec(value(), k), Just(n), Just(stride),
             prop::collection::vec(value(), k * stride))
        })
    ) {
        let mut want = vec![f32::NAN; n];
        Scalar.vector_matrix(&a, &m, stride, &mut want);
        for backend in others() {
            let mut got = vec![f32::NAN; n];
            backend.vector_matrix(&a, &m, stride, &mut got);
            prop_assert_eq!(bits(&got), bits(&want));
        }
    }

    #[test]
    fn layer_norm(x in row(70), gamma in prop::collection::vec(value(), 70), beta in prop::collection::vec(value(), 70)) {
        let n = x.len();
        in_place(&x, |b, x| b.layer_norm(x, &gamma[..n], &beta[..n], 1e-12));
    }

    #[test]
    fn softmax(x in prop::collection::vec(-200.0_f32..200.0, 1..70), factor in 0.01_f32..2.0) {
        in_place(&x, |b, x| b.softmax(x, factor));
        let mut p = x.clone();
        Scalar.softmax(&mut p, factor);
        prop_assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn activations(x in row(70)) {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            in_place(&x, |b, x| b.activate(x, activation));
        }
    }

    #[test]
    fn sum_of_squares(x in row(70)) {
        for backend in others() {
            prop_assert_eq!(backend.sum_of_squares(&x).to_bits(), Scalar.sum_of_squares(&x).to_bits());
        }
    }
}

#[test]
fn an_overflowing_row_is_passed_on_as_nan() {
    for backend in BACKENDS {
        let mut q = [0_i8; 4];
        let row = backend.quantize_row(&[f32::MAX, -f32::MAX, 1.0, 0.0], &[1.0; 4], &mut q);
        assert!(row.scale.is_nan(), "{}", backend.name());
        let row = backend.quantize_row(&[0.0; 4], &[1.0; 4], &mut q);
        assert_eq!((row.scale, row.zero), (0.0, 0));
    }
}
