//! Compares every backend of this build with the scalar one, bit by bit, over ragged random jobs.
//!
//! `cargo run` cannot choose the emulator; see the README for the command. Exit code 0 and a line
//! that says how many jobs were equal, or 1 and the first that was not.

#![no_std]
#![no_main]

#[path = "../semihosting.rs"]
#[expect(dead_code, reason = "the other image reads a command line")]
mod semihosting;

use core::fmt::Write;
use core::panic::PanicInfo;

use cortex_m_rt::{ExceptionFrame, entry, exception};
use grouse_runtime::format::{
    Multiplier, RUN, RUN_I4, TILE_DEPTH, TILE_ROWS, quad_bytes_i4, round_up,
};
use grouse_runtime::kernels::scalar::Scalar;
use grouse_runtime::kernels::{
    Activation, Attend, Backend, Column, FloatBlock, GroupFloat, GroupI8, Norm, Output, Pack,
    Panels, Quantized, Scores, Span, TILE_TOKENS, TileScales, available,
};
use grouse_runtime::view::Indices;

use crate::semihosting::{exit, fail, output};

/// A primitive run by a backend on the job of a seed; gives a hash of the results.
type Job = fn(&dyn Backend, u32) -> u32;

/// Jobs of each primitive.
const JOBS: u32 = 400;
/// Most tokens, in three tiles.
const MOST_TOKENS: usize = 40;
const TILES: usize = MOST_TOKENS.div_ceil(TILE_TOKENS);
/// Most inputs of a group, features of a tile and outputs of a group.
const MOST_DEPTH: usize = 176;
const FEATURES: usize = 190;
const MOST_OUTPUTS: usize = 28;
const CAPACITY: usize = MOST_DEPTH + TILE_DEPTH;
/// What memory holds that nobody wrote: as a value, a NaN.
const STALE: u8 = 0xff;

#[entry]
fn main() -> ! {
    let Some(mut out) = output() else { fail(&"there is no output") };
    let mut equal = 0;
    for seed in 0..JOBS {
        let jobs: [(&str, Job); 7] = [
            ("int8", int8),
            ("int4", int4),
            ("float", float),
            ("norm", norm),
            ("attend", attend),
            ("scales", scales),
            ("heads", heads),
        ];
        for (name, job) in jobs {
            let wanted = job(&Scalar, seed);
            for backend in available() {
                if job(backend, seed) != wanted {
                    fail(&format_args!("{}: {name} of seed {seed} differs", backend.name()));
                }
                equal += 1;
            }
        }
    }
    for backend in available() {
        let _ = write!(out, "{} ", backend.name());
    }
    // If this fails, the exit code still tells.
    let _ = writeln!(out, "gave the bits of scalar in {equal} jobs");
    exit(true)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(info)
}

/// Ends the emulator, which would otherwise run for ever.
#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    fail(&format_args!("hard fault at {:#010x}", frame.pc()))
}

/// A small generator; the same seed gives the same job.
struct Random(u64);

impl Random {
    fn new(seed: u32, salt: u64) -> Self {
        Self((u64::from(seed) << 8 | salt).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 40) as usize
    }

    /// A number from `low` up to and with `high`.
    fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.next() % (high + 1 - low)
    }

    /// A float as an encoder sees it.
    fn float(&mut self) -> f32 {
        (self.next() % 2001) as f32 / 250.0 - 4.0
    }

    /// Mostly such a float, sometimes one that an encoder should not see.
    fn wild(&mut self) -> f32 {
        match self.next() % 40 {
            0 => 0.0,
            1 => -0.0,
            2 => self.float() * 1e-30,
            3 => self.float() * 1e30,
            4 => f32::from_bits(self.next() as u32 & 0x7fff),
            5 => self.float() * 1e-38,
            6 => [f32::NAN, -f32::NAN, f32::INFINITY, f32::MIN_POSITIVE][self.next() % 4],
            _ => self.float(),
        }
    }

    /// Fills with floats, wild ones if so.
    fn columns(&mut self, columns: &mut [Column], wild: bool) {
        for x in columns.as_flattened_mut() {
            *x = if wild { self.wild() } else { self.float() };
        }
    }

    /// `N` ascending indices below `limit`, the first `count` of which are used.
    fn list<const N: usize>(&mut self, count: usize, limit: usize) -> [u16; N] {
        let mut list = [0; N];
        let mut chosen = 0;
        for i in 0..limit {
            if self.next() % (limit - i) < count - chosen {
                list[chosen] = i as u16;
                chosen += 1;
            }
        }
        list
    }
}

/// A running hash of the bits of values; all NaN are one.
struct Hash(u32);

impl Hash {
    fn add(&mut self, value: f32) {
        let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
        self.0 = (self.0 ^ bits).wrapping_mul(0x0100_0193).rotate_left(13);
    }

    /// The tokens that are there of tiles of `features` columns.
    fn tiles(&mut self, columns: &[Column], features: usize, tokens: usize) {
        for (tile, columns) in columns.chunks_exact(features).enumerate() {
            let live = tokens.saturating_sub(tile * TILE_TOKENS).min(TILE_TOKENS);
            columns.iter().flat_map(|c| &c[..live]).for_each(|v| self.add(*v));
        }
    }
}

/// Which of the shapes and values a job has.
fn flag(seed: u32, bit: u32) -> bool {
    seed >> bit & 1 == 1
}

#[inline(never)]
fn int8(backend: &dyn Backend, seed: u32) -> u32 {
    let mut random = Random::new(seed, 1);
    let (ranges, extreme) = (flag(seed, 0), flag(seed, 1));
    let wild = seed % 5 == 4;
    let tokens = 1 + seed as usize % MOST_TOKENS;
    let outputs = random.within(1, MOST_OUTPUTS);
    let shared = if flag(seed, 2) { TILE_DEPTH * random.within(1, 3) } else { 0 };
    let own = random.within(usize::from(shared == 0), MOST_DEPTH - shared);
    let depth = shared + own;
    let k = round_up(depth, TILE_DEPTH);

    let mut x = [[0.0; TILE_TOKENS]; TILES * FEATURES];
    random.columns(&mut x, wild);
    let mut equalize = [0.0; FEATURES];
    let tiny = seed % 7 == 6;
    equalize.iter_mut().for_each(|e| {
        *e = if tiny { random.wild().abs().min(1e30) } else { random.float().abs() };
    });
    // Subnormal activations that factors make large enough to count.
    if seed % 13 == 12 {
        x.as_flattened_mut().iter_mut().for_each(|x| *x = random.float() * 1e-39);
        equalize = [1e12; FEATURES];
    }
    let shared_list: [u16; 48] = random.list(shared, FEATURES);
    let own_list: [u16; MOST_DEPTH] = random.list(own, FEATURES);
    let own_inputs = if ranges {
        Indices::Range { first: random.within(0, FEATURES - own), count: own }
    } else {
        Indices::List(&own_list[..own])
    };

    let mut panels = [Aligned([STALE; 32 * CAPACITY]); TILES];
    let panels = bytes(&mut panels);
    let size = backend.panel_bytes(CAPACITY);
    let mut scales = [TileScales::EMPTY; TILES];
    let tiles = tokens.div_ceil(TILE_TOKENS);
    for tile in 0..tiles {
        let live = (tokens - tile * TILE_TOKENS).min(TILE_TOKENS);
        let x = &x[tile * FEATURES..][..FEATURES];
        scales[tile] = backend.scales(x, &equalize, live);
        for (inputs, at) in [(Indices::List(&shared_list[..shared]), 0), (own_inputs, shared)] {
            let job = Pack { x, equalize: &equalize, scales: &scales[tile], inputs, at, live };
            backend.pack(&job, CAPACITY, &mut panels[tile * size..][..size]);
        }
    }

    let mut block = [0_i8; MOST_OUTPUTS * MOST_DEPTH];
    let mut sum = [0_i32; MOST_OUTPUTS];
    for r in 0..outputs {
        for c in 0..depth {
            let w = if extreme {
                [-127, 127][random.next() % 2]
            } else {
                random.within(0, 254) as i32 - 127
            };
            block[r / 4 * 4 * k + c / 16 * 64 + r % 4 * 16 + c % 16] = w as i8;
            sum[r] += w;
        }
    }
    let mut bias = [0.0; MOST_OUTPUTS];
    let mut scale = [0.0; MOST_OUTPUTS];
    for (b, s) in bias.iter_mut().zip(&mut scale).take(outputs) {
        *b = if seed % 3 == 2 { random.wild() } else { random.float() };
        *s = if seed % 11 == 10 { random.wild() } else { random.float() / 50.0 };
    }
    let output_list: [u16; MOST_OUTPUTS] = random.list(outputs, FEATURES / 2);
    let padded = round_up(outputs, TILE_ROWS);
    let activation = [
        None,
        Some(Activation::GeluNear),
        None,
        Some(Activation::GeluTanh),
        Some(Activation::Relu),
    ][seed as usize % 5];
    let group = GroupI8 {
        block: &block[..padded * k],
        depth,
        outputs: if ranges {
            Indices::Range { first: random.within(0, 9), count: outputs }
        } else {
            Indices::List(&output_list[..outputs])
        },
        bias: &bias[..padded],
        scale: &scale[..padded],
        sum: &sum[..padded],
        activation,
    };
    let mut out = [[f32::MAX; TILE_TOKENS]; TILES * FEATURES / 2];
    let features = FEATURES / 2;
    let panels = Panels { bytes: &panels[..tiles * size], capacity: CAPACITY };
    let mut output = Output { columns: &mut out[..tiles * features], features, tokens };
    backend.matmul_i8(&group, &panels, &scales[..tiles], &mut output);
    let mut hash = Hash(seed);
    hash.tiles(&out[..tiles * features], features, tokens);
    hash.0
}

/// Rows of an int4 block, unpacked.
#[inline(never)]
fn int4(backend: &dyn Backend, seed: u32) -> u32 {
    let mut random = Random::new(seed, 6);
    let depth = random.within(1, MOST_DEPTH);
    let quads = random.within(1, MOST_OUTPUTS / TILE_ROWS);
    let mut packed = [0; MOST_OUTPUTS / TILE_ROWS * (MOST_DEPTH / RUN + 1) * RUN_I4];
    let packed = &mut packed[..quads * quad_bytes_i4(depth)];
    packed.iter_mut().for_each(|byte| *byte = random.next() as u8);
    for run in packed.chunks_exact_mut(quad_bytes_i4(depth)).flat_map(|q| q.chunks_mut(RUN_I4)) {
        for byte in &mut run[..TILE_ROWS] {
            while !Multiplier(*byte).is_sound() {
                *byte = random.next() as u8;
            }
        }
    }
    let mut out = [0; MOST_OUTPUTS * MOST_DEPTH];
    backend.unpack_i4(packed, depth, &mut out[..quads * TILE_ROWS * round_up(depth, TILE_DEPTH)]);
    let mut hash = Hash(seed);
    out.iter().for_each(|w| hash.add(f32::from(*w)));
    hash.0
}

#[inline(never)]
fn float(backend: &dyn Backend, seed: u32) -> u32 {
    let mut random = Random::new(seed, 2);
    let tokens = 1 + seed as usize % MOST_TOKENS;
    let tiles = tokens.div_ceil(TILE_TOKENS);
    let outputs = random.within(1, MOST_OUTPUTS);
    let depth = random.within(1, 60);
    let mut panels = [[0.0; TILE_TOKENS]; TILES * 60];
    random.columns(&mut panels, seed % 5 == 4);
    let mut block = [0.0; MOST_OUTPUTS * 60];
    block.iter_mut().for_each(|w| *w = random.float());
    let mut bias = [0.0; MOST_OUTPUTS];
    bias.iter_mut().for_each(|b| *b = random.wild());
    let group = GroupFloat {
        block: FloatBlock::F32(&block[..round_up(outputs, TILE_ROWS) * depth]),
        depth,
        outputs: Indices::Range { first: 0, count: outputs },
        bias: &bias[..round_up(outputs, TILE_ROWS)],
        activation: [None, Some(Activation::GeluNear)][seed as usize % 2],
    };
    let mut out = [[f32::MAX; TILE_TOKENS]; TILES * MOST_OUTPUTS];
    let columns = &mut out[..tiles * outputs];
    let mut output = Output { columns, features: outputs, tokens };
    backend.matmul_float(&group, &panels[..tiles * depth], &mut output);
    let mut hash = Hash(seed);
    hash.tiles(&out[..tiles * outputs], outputs, tokens);
    hash.0
}

#[inline(never)]
fn norm(backend: &dyn Backend, seed: u32) -> u32 {
    let mut random = Random::new(seed, 3);
    let live = 1 + seed as usize % TILE_TOKENS;
    // Half of them whole runs of lanes.
    let features = random.within(1, FEATURES);
    let features =
        if flag(seed, 4) { features.next_multiple_of(16).min(FEATURES) } else { features };
    let (mut x, mut add) = ([[0.0; TILE_TOKENS]; FEATURES], [[0.0; TILE_TOKENS]; FEATURES]);
    random.columns(&mut x, seed % 5 == 4);
    random.columns(&mut add, seed % 7 == 4);
    let mut gamma = [0.0; FEATURES];
    gamma.iter_mut().for_each(|g| *g = if flag(seed, 3) { random.wild() } else { random.float() });
    let norm = Norm { gamma: &gamma[..features], beta: &gamma[..features], epsilon: 1e-12 };
    let add = if flag(seed, 0) { &add[..features] } else { &[] };
    backend.norm(&mut x[..features], add, &norm, live);
    let mut hash = Hash(seed);
    hash.tiles(&x[..features], features, live);
    hash.0
}

#[inline(never)]
fn attend(backend: &dyn Backend, seed: u32) -> u32 {
    let mut random = Random::new(seed, 4);
    // Mostly such as heads have.
    let size = if seed % 4 > 0 { 8 * random.within(1, 5) } else { random.within(1, 40) };
    let (first, count) = (random.within(0, 15), random.within(1, MOST_TOKENS - 15));
    let stride = 2 * size + 3;
    let mut qkv = [[0.0; TILE_TOKENS]; TILES * 83];
    random.columns(&mut qkv, seed % 5 == 4);
    let mut query = [[0.0; TILE_TOKENS]; 40];
    random.columns(&mut query, seed % 7 == 4);
    // Tiny products, and weights that are far apart.
    let small = [1.0, 1.0, 1e-20, 30.0, 30.0][seed as usize % 5];
    query.as_flattened_mut().iter_mut().for_each(|q| *q *= small);
    // The smallest weights by the smallest values, without larger products that would hide these.
    if seed % 10 == 3 {
        for tile in qkv[..TILES * stride].chunks_exact_mut(stride) {
            for value in tile[size + 2..].as_flattened_mut() {
                *value = if random.next() % 4 == 0 { 2e-12_f32.copysign(*value) } else { 0.0 };
            }
        }
    }
    if seed % 10 == 2 {
        qkv.as_flattened_mut().iter_mut().for_each(|x| *x *= 1e-19);
    }
    let mut hash = Hash(seed);
    for tile in first / TILE_TOKENS..(first + count).div_ceil(TILE_TOKENS) {
        let start = tile * TILE_TOKENS;
        let lanes = (first.max(start) - start, (first + count - start).min(TILE_TOKENS));
        let job = Attend {
            query: &query[..size],
            qkv: &qkv[..TILES * stride],
            stride,
            key: 1,
            value: size + 2,
            first,
            count,
            factor: 0.3,
            lanes,
        };
        let mut scores = [[0.0; TILE_TOKENS]; TILES * TILE_TOKENS];
        let mut context = [[0.0; TILE_TOKENS]; 40];
        backend.attend(&job, &mut scores, &mut context[..size]);
        context[..size].iter().flat_map(|c| &c[lanes.0..lanes.1]).for_each(|v| hash.add(*v));
    }
    hash.0
}

#[inline(never)]
fn scales(backend: &dyn Backend, seed: u32) -> u32 {
    let mut random = Random::new(seed, 5);
    let live = 1 + seed as usize % TILE_TOKENS;
    let features = random.within(0, FEATURES);
    let mut x = [[0.0; TILE_TOKENS]; FEATURES];
    random.columns(&mut x, flag(seed, 0));
    // Rows of tiny values only, about where the quantizer takes them for zero.
    if flag(seed, 2) {
        x.as_flattened_mut().iter_mut().for_each(|x| *x *= 1e-31);
    }
    let mut equalize = [0.0; FEATURES];
    equalize.iter_mut().for_each(|e| {
        *e = if flag(seed, 1) { random.wild().abs().min(1e30) } else { random.float().abs() };
    });
    // Rows just above that, with subnormal lowest ends that would show if they were flushed.
    if seed % 4 == 3 {
        x.as_flattened_mut().iter_mut().for_each(|x| {
            *x = if random.next() % 8 == 0 { -1e-39 } else { random.float().abs() * 2e-35 };
        });
        equalize = [1e5; FEATURES];
    }
    let scales = backend.scales(&x[..features], &equalize[..features], live);
    let mut hash = Hash(seed);
    for t in 0..live {
        for value in [scales.scale[t], scales.inverse[t], scales.shift[t]] {
            // The sign of a zero is not defined here, and shows nowhere.
            hash.add(if value == 0.0 { 0.0 } else { value });
        }
        hash.0 = hash.0.wrapping_add(scales.zero[t] as u32);
    }
    hash.0
}

/// Keys, values and the softmax of attention in int8.
#[inline(never)]
fn heads(backend: &dyn Backend, seed: u32) -> u32 {
    let mut random = Random::new(seed, 6);
    // Mostly such as heads have.
    let size = if seed % 4 > 0 { 16 * random.within(1, 2) } else { random.within(1, 40) };
    let (lead, count) = match seed % 3 {
        0 => (0, 16 * random.within(1, 2)),
        _ => (random.within(0, 15), random.within(1, MOST_TOKENS - 15)),
    };
    let (stride, factor) = (size + 3, 0.3);
    let mut qkv = [[0.0; TILE_TOKENS]; TILES * 43];
    random.columns(&mut qkv, seed % 5 == 4);
    // Values about those that are zero for the quantizer, and subnormal ones.
    if seed % 10 == 2 {
        let small = [1e-30, 1e-38, 1e-42][seed as usize / 10 % 3];
        qkv.as_flattened_mut().iter_mut().for_each(|x| *x *= small);
    }
    let span = Span { qkv: &qkv, stride, feature: 2, size, first: lead, count };
    let positions = span.positions();
    let text = lead..lead + count;
    let mut block = [0x55_i8; TILES * TILE_TOKENS * 48];
    let (mut scale, mut sum) = ([0.0; TILES * TILE_TOKENS], [0; TILES * TILE_TOKENS]);
    let mut hash = Hash(seed);
    let depth = round_up(size, TILE_DEPTH);
    // Layout `r4k16`.
    let at = |row: usize, i: usize, depth: usize| {
        let tile = row / TILE_ROWS * depth / TILE_DEPTH + i / TILE_DEPTH;
        (tile * TILE_ROWS + row % TILE_ROWS) * TILE_DEPTH + i % TILE_DEPTH
    };
    let quantized = &mut block[..positions * depth];
    let mut keys = Quantized { block: quantized, scale: &mut scale, sum: &mut sum };
    backend.keys(&span, &mut keys);
    for j in text.clone() {
        hash.add(scale[j]);
        hash.0 = hash.0.wrapping_add(sum[j] as u32);
        (0..size).for_each(|d| hash.add(f32::from(block[at(j, d, depth)])));
    }
    let quantized = &mut block[..positions * depth];
    let mut values = Quantized { block: quantized, scale: &mut scale, sum: &mut sum };
    backend.values(&span, &mut values);
    for d in 0..size {
        hash.add(scale[d]);
        hash.0 = hash.0.wrapping_add(sum[d] as u32);
        (0..positions).for_each(|j| hash.add(f32::from(block[at(d, j, positions)])));
    }

    // What the numerators are shows in products.
    let live = 1 + seed as usize % TILE_TOKENS;
    let mut scores = [[0.0; TILE_TOKENS]; TILES * TILE_TOKENS];
    random.columns(&mut scores, seed % 5 == 4);
    let large = [1.0, 20.0, 1e-3, 1e-38][seed as usize % 4];
    scores.as_flattened_mut().iter_mut().for_each(|x| *x *= large);
    let mut panels = [Aligned([STALE; 32 * CAPACITY]); TILES];
    let panel = &mut bytes(&mut panels)[..backend.panel_bytes(positions)];
    let columns = &scores[..positions];
    let job = Scores { columns, first: lead, count, factor, live };
    let scales = backend.softmax(&job, positions, panel);
    let mut weights = [0; 4 * TILES * TILE_TOKENS];
    weights.iter_mut().for_each(|w| *w = (random.next() as i8).max(-127));
    let block = &weights[..TILE_ROWS * positions];
    let sums: [i32; TILE_ROWS] = core::array::from_fn(|r| {
        (0..positions).map(|j| i32::from(block[at(r, j, positions)])).sum()
    });
    let group = GroupI8 {
        block,
        depth: positions,
        outputs: Indices::Range { first: 0, count: TILE_ROWS },
        bias: &[0.0; TILE_ROWS],
        scale: &[0.5; TILE_ROWS],
        sum: &sums,
        activation: None,
    };
    let mut out = [[0.0; TILE_TOKENS]; TILE_ROWS];
    let panels = Panels { bytes: panel, capacity: positions };
    let mut output = Output { columns: &mut out, features: TILE_ROWS, tokens: live };
    backend.matmul_i8(&group, &panels, &[scales], &mut output);
    hash.tiles(&out, TILE_ROWS, live);
    hash.0
}

/// Panels begin where the encoder's do.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Aligned([u8; 32 * CAPACITY]);

fn bytes(panels: &mut [Aligned; TILES]) -> &mut [u8] {
    let length = size_of_val(panels);
    // SAFETY: the structs are bytes without padding, 32 × CAPACITY being a multiple of 64.
    unsafe { core::slice::from_raw_parts_mut(panels.as_mut_ptr().cast(), length) }
}
