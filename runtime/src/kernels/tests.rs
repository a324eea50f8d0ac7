//! Every backend against the scalar one, bit for bit, over ragged sizes and awkward values.

use std::vec;
use std::vec::Vec;

use half::f16;
use proptest::prelude::*;

use crate::format::{DataType, TILE_DEPTH, TILE_ROWS, block_bytes, round_up};
use crate::view::Indices;

use super::scalar::{Scalar, quantize_row};
use super::*;

mod int4;

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

fn columns(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Column>> {
    prop::collection::vec(prop::array::uniform16(value()), count)
}

fn bits(columns: &[Column], live: usize) -> Vec<u32> {
    columns.iter().flat_map(|c| &c[..live]).map(|v| v.to_bits()).collect()
}

fn others() -> impl Iterator<Item = &'static dyn Backend> {
    available().filter(|b| b.name() != Scalar.name())
}

/// A small generator, for values that need not shrink.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        self.0 >> 33
    }

    fn weight(&mut self, extreme: bool) -> i8 {
        if extreme { [-127, 127][self.next() as usize % 2] } else { (self.next() % 255) as i8 }
            .max(-127)
    }

    fn float(&mut self) -> f32 {
        (self.next() % 2001) as f32 / 250.0 - 4.0
    }

    /// `count` of the numbers below `limit`, ascending.
    fn choose(&mut self, count: usize, limit: usize) -> Vec<u16> {
        let mut all: Vec<u16> = (0..limit as u16).collect();
        while all.len() > count {
            all.remove(self.next() as usize % all.len());
        }
        all
    }
}

/// A group with its tiles, as the packer would make it.
#[derive(Debug)]
struct Case {
    depth: usize,
    shared: Vec<u16>,
    inputs: Vec<u16>,
    outputs: Vec<u16>,
    rows: usize,
    tokens: usize,
    weights: Vec<i8>,
    bias: Vec<f32>,
    scale: Vec<f32>,
    x: Vec<Column>,
    cols: usize,
    equalize: Vec<f32>,
    ranges: bool,
}

impl Case {
    fn new(
        seed: u64,
        (shared, own): (usize, usize),
        outputs: usize,
        tokens: usize,
        ranges: bool,
        extreme: bool,
    ) -> Self {
        let mut random = Random(seed);
        let depth = shared + own;
        let cols = depth + random.next() as usize % 9;
        let rows = outputs + random.next() as usize % 5;
        let mut chosen = random.choose(depth, cols);
        let own_list = if ranges {
            chosen = (0..depth as u16).collect();
            chosen.split_off(shared)
        } else {
            let mut own_list = Vec::new();
            while own_list.len() < own {
                own_list.push(chosen.remove(random.next() as usize % chosen.len()));
            }
            own_list.sort_unstable();
            own_list
        };
        let tiles = tokens.div_ceil(TILE_TOKENS);
        Self {
            depth,
            shared: chosen,
            inputs: own_list,
            outputs: if ranges {
                (0..outputs as u16).collect()
            } else {
                random.choose(outputs, rows)
            },
            rows,
            tokens,
            weights: (0..outputs * depth).map(|_| random.weight(extreme)).collect(),
            bias: (0..round_up(outputs, TILE_ROWS)).map(|_| random.float()).collect(),
            scale: (0..round_up(outputs, TILE_ROWS)).map(|_| random.float() / 50.0).collect(),
            x: (0..tiles * cols).map(|_| core::array::from_fn(|_| random.float())).collect(),
            cols,
            equalize: (0..cols).map(|_| random.float().abs()).collect(),
            ranges,
        }
    }

    /// Weight of output `r` for the group's input `c`.
    fn weight(&self, r: usize, c: usize) -> i8 {
        self.weights[r * self.depth + c]
    }

    /// The int8 block by the formula of `docs/format.md`.
    fn block(&self) -> Vec<i8> {
        let k = round_up(self.depth, TILE_DEPTH);
        let mut block = vec![0; block_bytes(DataType::I8, self.outputs.len(), self.depth)];
        for r in 0..self.outputs.len() {
            for c in 0..self.depth {
                block[r / 4 * 4 * k + c / 16 * 64 + r % 4 * 16 + c % 16] = self.weight(r, c);
            }
        }
        block
    }

    fn sums(&self) -> Vec<i32> {
        let row = |r: usize| (0..self.depth).map(|c| i32::from(self.weight(r, c))).sum();
        let mut sums: Vec<i32> = (0..self.outputs.len()).map(row).collect();
        sums.resize(round_up(sums.len(), TILE_ROWS), 0);
        sums
    }

    fn outputs(&self) -> Indices<'_> {
        if self.ranges {
            Indices::Range { first: 0, count: self.outputs.len() }
        } else {
            Indices::List(&self.outputs)
        }
    }

    fn own(&self) -> Indices<'_> {
        if self.ranges {
            Indices::Range { first: self.shared.len(), count: self.inputs.len() }
        } else {
            Indices::List(&self.inputs)
        }
    }

    fn live(&self, tile: usize) -> usize {
        scalar::live(self.tokens, tile)
    }

    fn int8(&self, backend: &dyn Backend, activation: Option<Activation>) -> Vec<Column> {
        let block = self.block();
        self.multiply(backend, activation, &self.sums(), |group, panels, scales, out| {
            let Output { features, tokens, .. } = *out;
            let mut of_sums = out.columns.to_vec();
            backend.matmul_i8(&GroupI8 { block: &block, ..*group }, panels, scales, out);
            // Sums that were worked out elsewhere must end as the backend's own.
            let mut output = Output { columns: &mut of_sums, features, tokens };
            backend.rescale(group, &self.products(scales), scales, &mut output);
            assert_eq!(self.bits(&of_sums), self.bits(out.columns), "{}", backend.name());
        })
    }

    /// Runs a group without weights of its own on the case's inputs.
    fn multiply(
        &self,
        backend: &dyn Backend,
        activation: Option<Activation>,
        sum: &[i32],
        run: impl FnOnce(&GroupI8<'_>, &Panels<'_>, &[TileScales], &mut Output<'_>),
    ) -> Vec<Column> {
        let capacity = round_up(self.depth, 16) + 16;
        let bytes = backend.panel_bytes(capacity);
        let tiles = self.tokens.div_ceil(TILE_TOKENS);
        // Whatever an earlier group left in the padding must not matter.
        let mut panels = vec![0xa5; bytes * tiles];
        let mut scales = Vec::new();
        for (tile, panel) in panels.chunks_exact_mut(bytes).enumerate() {
            let x = &self.x[tile * self.cols..][..self.cols];
            let live = self.live(tile);
            let of_tile = backend.scales(x, &self.equalize, live);
            let equalize = &self.equalize;
            let at = self.shared.len();
            for (inputs, at) in [(Indices::List(&self.shared), 0), (self.own(), at)] {
                let job = Pack { x, equalize, scales: &of_tile, inputs, at, live };
                backend.pack(&job, capacity, panel);
            }
            scales.push(of_tile);
        }
        let mut out = vec![[0.0; TILE_TOKENS]; tiles * self.rows];
        let group = GroupI8 {
            block: &[],
            depth: self.depth,
            outputs: self.outputs(),
            bias: &self.bias,
            scale: &self.scale,
            sum,
            activation,
        };
        let panels = Panels { bytes: &panels, capacity };
        let (columns, features, tokens) = (out.as_mut_slice(), self.rows, self.tokens);
        run(&group, &panels, &scales, &mut Output { columns, features, tokens });
        out
    }

    /// Sums of products by plain loops, `[tokens][outputs rounded up to 4]`.
    fn products(&self, scales: &[TileScales]) -> Vec<i32> {
        let outputs = self.outputs.len();
        let order: Vec<usize> =
            self.shared.iter().chain(&self.inputs).map(|i| usize::from(*i)).collect();
        let mut products = Vec::new();
        for token in 0..self.tokens {
            let (tile, lane) = (token / TILE_TOKENS, token % TILE_TOKENS);
            let (inverse, shift) = (scales[tile].inverse[lane], scales[tile].shift[lane]);
            let q = order.iter().map(|i| {
                let x = self.x[tile * self.cols + i][lane] * self.equalize[*i];
                i32::from(super::scalar::quantize(x, inverse, shift))
            });
            let q: Vec<i32> = q.collect();
            products.extend((0..round_up(outputs, TILE_ROWS)).map(|r| {
                let products = q.iter().enumerate().take_while(|_| r < outputs);
                products.map(|(c, q)| i32::from(self.weight(r, c)) * q).sum::<i32>()
            }));
        }
        products
    }

    fn float(&self, backend: &dyn Backend, half: bool) -> Vec<Column> {
        let mut block = vec![0.0; block_bytes(DataType::F32, self.outputs.len(), self.depth) / 4];
        for r in 0..self.outputs.len() {
            for c in 0..self.depth {
                block[r / 4 * 4 * self.depth + c * 4 + r % 4] =
                    f32::from(self.weight(r, c)) * self.scale[r];
            }
        }
        let halves: Vec<f16> = block.iter().map(|v| f16::from_f32(*v)).collect();
        let tiles = self.tokens.div_ceil(TILE_TOKENS);
        let x: Vec<Column> = (0..tiles)
            .flat_map(|t| self.x[t * self.cols..][..self.depth].iter().copied())
            .collect();
        let mut out = vec![[0.0; TILE_TOKENS]; tiles * self.rows];
        let block = if half { FloatBlock::F16(&halves) } else { FloatBlock::F32(&block) };
        let group = GroupFloat {
            block,
            depth: self.depth,
            outputs: self.outputs(),
            bias: &self.bias,
            activation: Some(Activation::Gelu),
        };
        let (columns, features, tokens) = (out.as_mut_slice(), self.rows, self.tokens);
        backend.matmul_float(&group, &x, &mut Output { columns, features, tokens });
        out
    }

    /// The bits of the live tokens.
    fn bits(&self, out: &[Column]) -> Vec<u32> {
        let tiles = out.chunks_exact(self.rows).enumerate();
        tiles.flat_map(|(tile, out)| bits(out, self.live(tile))).collect()
    }
}

prop_compose! {
    fn case()(
        seed in any::<u64>(),
        shared in 0_usize..3,
        own in 0_usize..90,
        outputs in 1_usize..60,
        tokens in 1_usize..70,
        ranges in any::<bool>(),
        extreme in any::<bool>(),
    ) -> Case {
        let own = if shared == 0 { own.max(1) } else { own };
        Case::new(seed, (shared * 16, own), outputs, tokens, ranges, extreme)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn int8_matmul(case in case()) {
        let want = case.bits(&case.int8(&Scalar, None));
        for backend in others() {
            prop_assert_eq!(&case.bits(&case.int8(backend, None)), &want, "{}", backend.name());
        }
    }

    #[test]
    fn float_matmul(case in case(), half in any::<bool>()) {
        let want = case.bits(&case.float(&Scalar, half));
        for backend in others() {
            prop_assert_eq!(&case.bits(&case.float(backend, half)), &want, "{}", backend.name());
        }
    }

    /// The scalar backend against plain loops over the definition.
    #[test]
    fn scalar_int8_matmul_is_the_definition(case in case()) {
        let out = case.int8(&Scalar, None);
        let (block, sums) = (case.block(), case.sums());
        prop_assert_eq!(block.len() % (TILE_ROWS * TILE_DEPTH), 0);
        let order: Vec<usize> =
            case.shared.iter().chain(&case.inputs).map(|i| usize::from(*i)).collect();
        for token in 0..case.tokens {
            let (tile, lane) = (token / TILE_TOKENS, token % TILE_TOKENS);
            let x: Vec<f32> =
                case.x[tile * case.cols..][..case.cols].iter().map(|c| c[lane]).collect();
            let mut q = vec![0; case.cols];
            let row = quantize_row(&x, &case.equalize, &mut q);
            for (r, output) in case.outputs.iter().enumerate() {
                let products = order.iter().enumerate();
                let products = products.map(|(c, i)| {
                    i32::from(case.weight(r, c)) * i32::from(q[*i])
                });
                let sum: i32 = products.sum();
                let want = (sum - row.zero * sums[r]) as f32 * (row.scale * case.scale[r])
                    + case.bias[r];
                let got = out[tile * case.rows + usize::from(*output)][lane];
                prop_assert_eq!(got.to_bits(), want.to_bits());
            }
        }
    }

    #[test]
    fn a_quantized_row_is_within_half_a_step(x in prop::collection::vec(-50.0_f32..50.0, 1..100)) {
        let ones = vec![1.0; x.len()];
        let mut q = vec![0_i8; x.len()];
        let row = quantize_row(&x, &ones, &mut q);
        for (x, q) in x.iter().zip(q) {
            let back = row.scale * (i32::from(q) - row.zero) as f32;
            // The zero point is rounded too: up to one step at the ends of the range.
            prop_assert!((x - back).abs() <= 1.001 * row.scale, "{} {}", x, back);
        }
    }

    #[test]
    fn scales(x in columns(0..40), live in 1..=TILE_TOKENS, e in prop::collection::vec(0.0_f32..8.0, 40)) {
        let equalize = &e[..x.len()];
        let want = Scalar.scales(&x, equalize, live);
        let all = |s: &TileScales| [bits(&[s.scale], live), bits(&[s.inverse], live), bits(&[s.shift], live)];
        for backend in others() {
            let got = backend.scales(&x, equalize, live);
            prop_assert_eq!(all(&got), all(&want), "{}", backend.name());
            prop_assert_eq!(&got.zero[..live], &want.zero[..live]);
        }
    }

    #[test]
    fn norm(
        x in columns(1..70),
        add in columns(70..71),
        gamma in prop::collection::vec(-3.0_f32..3.0, 70),
        adds in any::<bool>(),
        live in 1..=TILE_TOKENS,
    ) {
        let add = if adds { &add[..x.len()] } else { &[] };
        let norm = Norm { gamma: &gamma, beta: &gamma, epsilon: 1e-12 };
        let run = |backend: &dyn Backend| {
            let mut y = x.clone();
            backend.norm(&mut y, add, &norm, live);
            bits(&y, live)
        };
        let want = run(&Scalar);
        for backend in others() {
            prop_assert_eq!(run(backend), want.clone(), "{}", backend.name());
        }
    }

    #[test]
    fn attention(
        size in 1_usize..40,
        first in 0_usize..40,
        count in 1_usize..70,
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let stride = 3 * size + 2;
        let tiles = (first + count).div_ceil(TILE_TOKENS);
        let mut column = || core::array::from_fn(|_| random.float());
        let qkv: Vec<Column> = (0..tiles * stride).map(|_| column()).collect();
        let query: Vec<Column> = (0..size).map(|_| column()).collect();
        for tile in first / TILE_TOKENS..tiles {
            let start = tile * TILE_TOKENS;
            let lanes = (first.max(start) - start, (first + count - start).min(TILE_TOKENS));
            let (key, value) = (size, 2 * size + 2);
            let job = Attend {
                query: &query, qkv: &qkv, stride, key, value, first, count, factor: 0.3, lanes,
            };
            let run = |backend: &dyn Backend| {
                let mut scores = vec![[0.0; TILE_TOKENS]; tiles * TILE_TOKENS];
                let mut context = vec![[0.0; TILE_TOKENS]; size];
                backend.attend(&job, &mut scores, &mut context);
                let context: Vec<u32> =
                    context.iter().flat_map(|c| &c[lanes.0..lanes.1]).map(|v| v.to_bits()).collect();
                context
            };
            let want = run(&Scalar);
            for backend in others() {
                prop_assert_eq!(run(backend), want.clone(), "{}", backend.name());
            }
        }
    }
}

proptest! {
    #[test]
    fn keys_and_values(
        size in 1_usize..40,
        first in 0_usize..40,
        count in 1_usize..70,
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let stride = size + 3;
        let tiles = (first + count).div_ceil(TILE_TOKENS);
        let qkv: Vec<Column> =
            (0..tiles * stride).map(|_| core::array::from_fn(|_| random.float())).collect();
        let span = Span { qkv: &qkv, stride, feature: 2, size, first, count };
        let (positions, depth) = (span.positions(), round_up(size, TILE_DEPTH));
        let rows = positions.max(depth);
        let run = |backend: &dyn Backend, values: bool| {
            let mut block = vec![0x55; positions * depth];
            let (mut scale, mut sum) = (vec![0.0; rows], vec![0; rows]);
            let mut out = Quantized { block: &mut block, scale: &mut scale, sum: &mut sum };
            if values { backend.values(&span, &mut out) } else { backend.keys(&span, &mut out) }
            let (rows, used) = if values {
                (0..size, round_up(size, TILE_ROWS) * positions)
            } else {
                (span.lead()..span.lead() + count, 0)
            };
            // Rows of other texts hold anything, so keys are compared row by row.
            let mut weights = block[..used].to_vec();
            if !values {
                for j in rows.clone() {
                    weights.extend((0..depth).map(|d| {
                        block[j / 4 * 4 * depth + d / 16 * 64 + j % 4 * 16 + d % 16]
                    }));
                }
            }
            let scale: Vec<u32> = scale[rows.clone()].iter().map(|v| v.to_bits()).collect();
            // The sums of values may be left out: the test of softmax goes through them.
            (weights, scale, if values { Vec::new() } else { sum[rows].to_vec() })
        };
        for values in [false, true] {
            let want = run(&Scalar, values);
            for backend in others() {
                prop_assert_eq!(&run(backend, values), &want, "{}", backend.name());
            }
        }
    }

    /// The panel is each backend's own: it is seen through a matmul.
    #[test]
    fn softmax(
        columns in columns(1..80),
        first in 0_usize..16,
        live in 1..=TILE_TOKENS,
        factor in 0.01_f32..3.0,
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let count = columns.len();
        let capacity = (first + count).next_multiple_of(TILE_TOKENS);
        let mut scores = vec![[f32::NAN; TILE_TOKENS]; capacity];
        scores[first..first + count].copy_from_slice(&columns);
        let job = Scores { columns: &scores, first, count, factor, live };
        let block: Vec<i8> = (0..4 * capacity).map(|_| random.weight(false)).collect();
        let sums: [i32; 4] = core::array::from_fn(|r| {
            let row = (0..capacity).map(|c| block[c / 16 * 64 + r * 16 + c % 16]);
            row.map(i32::from).sum()
        });
        let group = GroupI8 {
            block: &block,
            depth: capacity,
            outputs: Indices::Range { first: 0, count: 4 },
            bias: &[0.0; 4],
            scale: &[0.5; 4],
            sum: &sums,
            activation: None,
        };
        let run = |backend: &dyn Backend| {
            let mut panel = vec![0x77; backend.panel_bytes(capacity)];
            let scales = backend.softmax(&job, capacity, &mut panel);
            let mut out = [[0.0; TILE_TOKENS]; 4];
            let panels = Panels { bytes: &panel, capacity };
            let mut output = Output { columns: &mut out, features: 4, tokens: live };
            backend.matmul_i8(&group, &panels, &[scales], &mut output);
            bits(&out, live)
        };
        let want = run(&Scalar);
        for backend in others() {
            prop_assert_eq!(run(backend), want.clone(), "{}", backend.name());
        }
    }
}

/// Every length of a text up to 256 tokens, and both ends of the value range.
#[test]
fn every_number_of_tokens() {
    for tokens in 1..=256 {
        let case = Case::new(tokens as u64, (16, 30), 21, tokens, false, tokens % 2 == 0);
        let want = case.bits(&case.int8(&Scalar, None));
        for backend in others() {
            assert_eq!(case.bits(&case.int8(backend, None)), want, "{}", backend.name());
        }
    }
}

#[test]
fn activations_after_a_matmul() {
    for activation in
        [Activation::Gelu, Activation::GeluNear, Activation::GeluTanh, Activation::Relu]
    {
        let case = Case::new(7, (0, 50), 40, 40, true, false);
        let want = case.bits(&case.int8(&Scalar, Some(activation)));
        for backend in others() {
            let got = case.bits(&case.int8(backend, Some(activation)));
            assert_eq!(got, want, "{} {activation:?}", backend.name());
        }
    }
}

#[test]
fn an_overflowing_row_is_passed_on_as_nan() {
    for backend in available() {
        let mut x = [[0.0; TILE_TOKENS]; 4];
        x[0][0] = f32::MAX;
        x[1][0] = -f32::MAX;
        x[2][0] = 1.0;
        let scales = backend.scales(&x, &[1.0; 4], 2);
        assert!(scales.scale[0].is_nan(), "{}", backend.name());
        assert_eq!((scales.scale[1], scales.zero[1]), (0.0, 0));
    }
}

#[test]
fn names_are_those_of_the_registry() {
    for entry in entries() {
        if let Some(backend) = (entry.detect)() {
            assert_eq!(backend.name(), entry.name);
            assert!(by_name(entry.name).is_some());
        }
    }
    assert!(by_name("abacus").is_none());
}

/// Shows the backends of this processor, for scripts: `--nocapture`.
#[test]
fn available_backends() {
    let names: Vec<&str> = available().map(|backend| backend.name()).collect();
    assert_eq!(names.first(), Some(&"scalar"));
    std::println!("available: {}", names.join(" "));
}
