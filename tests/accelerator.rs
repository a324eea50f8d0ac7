//! The encoder with its group products on an accelerator: the CPU's bits, whatever the device does.

use std::num::NonZeroU32;

use grouse_runtime::accelerator::{
    Accelerator, Capability, Dispatcher, Driver, Faulty, Injected, Limits, Mmio, Model as Device,
    Policy, Report, Window, Windowed,
};
use grouse_runtime::encoder::{Encoder, Offload};
use grouse_runtime::format::DataType;
use grouse_runtime::kernels::{Backend, available};
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;
use grouse_tests::packed::{Aligned, pack};
use grouse_tests::random_bert::{self, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Enough for the model, which works a token off at each poll.
const LIMITS: Limits = Limits { job_polls: 64, reset_polls: 64, check_unknown_weights: true };

/// Every job is tried.
fn eager() -> Policy {
    Policy { min_macs: 0, ..Policy::default() }
}

/// all-MiniLM-L6-v2's shape, with fewer layers and a small vocabulary.
fn mini() -> Shape {
    let sizes = Shape { hidden: 384, heads: 12, intermediate: 1536, ..Shape::default() };
    Shape { layers: 2, ..sizes }
}

/// A random model, in groups that share every fourth input unless `dense`.
fn packed(shape: &Shape, weights: DataType, dense: bool) -> Aligned {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    random_bert::write(&dir, shape, 11);
    let mut model = grouse::import::load_dir(&dir).unwrap();
    for layer in model.layers.iter_mut().filter(|_| !dense) {
        for (_, linear) in layer.linears_mut() {
            let cols = linear.weight.cols;
            for (i, w) in linear.weight.data.iter_mut().enumerate() {
                let (row, col) = (i / cols, i % cols);
                if col % 4 != 0 && row % 3 != (col / 4) % 3 {
                    *w = 0.0;
                }
            }
        }
    }
    Aligned::new(&pack(&model, weights, &[text(shape.vocab, 20)]))
}

fn text(vocab: usize, tokens: usize) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(tokens as u64);
    (0..tokens).map(|_| random.random_range(0..vocab as u32)).collect()
}

/// The bits of an embedding of each text, by an encoder on a device or, without one, on the CPU.
fn run(
    model: &Model<'_>,
    backend: &'static dyn Backend,
    texts: &[Vec<u32>],
    device: Option<(&mut dyn Accelerator, Policy)>,
) -> (Vec<u32>, Report) {
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let tokens = texts.iter().map(|text| text.len()).sum();
    // More threads than one must not matter.
    let plan = Plan::for_batch(model, tokens).unwrap().with_threads(3);
    let mut arena = vec![f32::NAN; plan.arena_bytes() / 4];
    let arena = bytemuck::cast_slice_mut(&mut arena);
    let mut encoder = Encoder::with_plan(model, backend, arena, plan).unwrap();
    let mut out = vec![0.0; texts.len() * model.arch().hidden_size as usize];
    let mut report = Report::default();
    match device {
        None => encoder.embed_batch(&texts, &mut out).unwrap(),
        Some((device, policy)) => {
            let bytes = Offload::bytes(model).unwrap();
            // What the device's memory holds before a call must not matter either.
            let mut memory = vec![u128::MAX; bytes.div_ceil(16)];
            let memory = &mut bytemuck::cast_slice_mut(&mut memory)[..bytes];
            let dispatcher = Dispatcher::new(device, policy);
            let mut offload = Offload::new(model, dispatcher, memory).unwrap();
            encoder.embed_offloaded(&texts, &mut out, &mut offload).unwrap();
            report = *offload.report();
        }
    }
    (out.iter().map(|v| v.to_bits()).collect(), report)
}

/// Every int8 group that has inputs, by the number of blocks that the texts make.
fn groups(model: &Model<'_>) -> u32 {
    let layers = (0..model.arch().layers as usize).map(|i| model.layer(i).unwrap());
    let of_layer = |layer: grouse_runtime::view::Layer<'_>| {
        let matrices = grouse_runtime::format::MatrixKind::ALL.map(|kind| {
            let groups = layer.matrix(kind).groups();
            groups.filter(|group| group.as_ref().unwrap().depth() > 0).count()
        });
        matrices.iter().sum::<usize>()
    };
    layers.map(of_layer).sum::<usize>() as u32
}

#[test]
fn the_devices_bits_are_the_cpus_with_every_backend() {
    for dense in [true, false] {
        let file = packed(&mini(), DataType::I8, dense);
        let model = Model::open(file.bytes()).unwrap();
        // A block of two tiles, then one of a tile with five tokens.
        let texts = [text(mini().vocab, 30), text(mini().vocab, 7)];
        for backend in available() {
            let (want, _) = run(&model, backend, &texts, None);
            let mut driver = Driver::open(Device::default(), LIMITS).unwrap();
            let (found, report) = run(&model, backend, &texts, Some((&mut driver, eager())));
            assert!(found == want, "{}, dense: {dense}", backend.name());
            // Three parts of one tile each.
            let expected = Report { on_device: 3 * groups(&model), ..Report::default() };
            assert_eq!(report, expected);
            assert!(groups(&model) >= 8);
        }
    }
}

#[test]
fn every_fault_falls_back_to_the_cpus_bits() {
    let file = packed(&mini(), DataType::I8, false);
    let model = Model::open(file.bytes()).unwrap();
    let backend = grouse_runtime::kernels::default();
    let texts = [text(mini().vocab, 12)];
    let (want, _) = run(&model, backend, &texts, None);
    for (name, fault) in Injected::NAMED {
        // Four jobs come out well, five meet the fault.
        let bus = Faulty::on_jobs(Device::default(), fault, 5..=9);
        let Ok(mut driver) = Driver::open(bus, LIMITS) else {
            // Nothing to drive: such a device is never attached.
            assert!(["another-device", "another-version", "no-capability"].contains(&name));
            continue;
        };
        let policy = Policy { faults_to_switch_off: NonZeroU32::new(6).unwrap(), ..eager() };
        let (found, report) = run(&model, backend, &texts, Some((&mut driver, policy)));
        assert!(found == want, "{name}");
        let lasting = ["deaf", "vanished"].contains(&name);
        let faults = if lasting { 1 } else { 5 };
        let on_cpu = if lasting { groups(&model) - 4 } else { 5 };
        assert_eq!((report.faults, report.switched_off), (faults, lasting), "{name}");
        let done = (report.on_cpu, report.on_device);
        assert_eq!(done, (on_cpu, groups(&model) - on_cpu), "{name}");
        assert_eq!(report.by_kind.iter().sum::<u32>(), faults, "{name}");
        assert_eq!(report.by_kind[report.last_fault.unwrap().kind()], faults, "{name}");
    }
}

#[test]
fn a_device_behind_registers_and_addresses_has_the_cpus_bits() {
    let file = packed(&mini(), DataType::I8, false);
    let model = Model::open(file.bytes()).unwrap();
    let backend = grouse_runtime::kernels::default();
    let texts = [text(mini().vocab, 19)];
    let (want, _) = run(&model, backend, &texts, None);
    let capability = Capability { address_bits: 64, ..Device::CAPABILITY };
    for (fault, faults) in [(None, 0), (Some(Injected::FlippedSum), 3)] {
        let window = Window::filled(0);
        // SAFETY: the driver made here is the only one that writes to the window.
        let device = unsafe { Windowed::new(&window, capability, fault, 2) };
        // SAFETY: the window outlives the driver; the device keeps to the protocol.
        let bus = unsafe { Mmio::new(window.base(), device, "window") };
        let mut driver = Driver::open(bus, LIMITS).unwrap();
        let (found, report) = run(&model, backend, &texts, Some((&mut driver, eager())));
        assert!(found == want, "{fault:?}");
        assert_eq!((report.faults, report.switched_off), (faults, faults > 0));
    }
}

#[test]
fn small_and_large_jobs_stay_on_the_cpu() {
    let file = packed(&mini(), DataType::I8, true);
    let model = Model::open(file.bytes()).unwrap();
    let backend = grouse_runtime::kernels::default();
    let texts = [text(mini().vocab, 9)];
    let (want, _) = run(&model, backend, &texts, None);
    let layers = mini().layers as u32;
    // The second feed-forward matrix has too many columns.
    let capability = Capability { max_depth: 384, ..Device::CAPABILITY };
    let mut driver = Driver::open(Device::new(capability), LIMITS).unwrap();
    let (found, report) = run(&model, backend, &texts, Some((&mut driver, eager())));
    assert!(found == want);
    assert_eq!((report.on_device, report.refused), (3 * layers, layers));
    // Only the feed-forward matrices are large enough.
    let policy = Policy { min_macs: 1536 * 384 * 9, ..Policy::default() };
    let mut driver = Driver::open(Device::default(), LIMITS).unwrap();
    let (found, report) = run(&model, backend, &texts, Some((&mut driver, policy)));
    assert!(found == want);
    assert_eq!((report.on_device, report.too_small), (2 * layers, 2 * layers));
}

#[test]
fn float_weights_send_nothing() {
    let file = packed(&Shape::default(), DataType::F16, true);
    let model = Model::open(file.bytes()).unwrap();
    let backend = grouse_runtime::kernels::default();
    let texts = [text(64, 9)];
    let (want, _) = run(&model, backend, &texts, None);
    let mut driver = Driver::open(Device::default(), LIMITS).unwrap();
    let (found, report) = run(&model, backend, &texts, Some((&mut driver, eager())));
    assert!(found == want);
    assert_eq!(report, Report::default());
}

#[test]
fn too_little_or_misaligned_memory_is_refused() {
    let file = packed(&Shape::default(), DataType::I8, true);
    let model = Model::open(file.bytes()).unwrap();
    let bytes = Offload::bytes(&model).unwrap();
    let mut memory = vec![0_u128; bytes.div_ceil(16) + 1];
    let memory: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
    let refused = |memory: &mut [u8]| {
        Offload::new(&model, Dispatcher::without_device(), memory).map(|_| ()).unwrap_err()
    };
    let short = refused(&mut memory[..bytes - 1]);
    assert!(short.to_string().contains(&bytes.to_string()), "{short}");
    assert!(refused(&mut memory[4..bytes + 4]).to_string().contains("16"));
}

#[test]
fn the_real_models_bits_are_the_cpus() {
    let Some(dir) = grouse_tests::real_model() else { return };
    let model = grouse::import::load_dir(&dir).unwrap();
    let sentences = vec![text(3000, 24)];
    let file = Aligned::new(&pack(&model, DataType::I8, &sentences));
    let model = Model::open(file.bytes()).unwrap();
    let backend = grouse_runtime::kernels::default();
    let texts = [text(30_000, 21)];
    let (want, _) = run(&model, backend, &texts, None);
    let mut driver = Driver::open(Device::default(), LIMITS).unwrap();
    let (found, report) = run(&model, backend, &texts, Some((&mut driver, eager())));
    assert!(found == want);
    // Two parts of one tile each.
    assert_eq!((report.on_device, report.on_cpu), (2 * groups(&model), 0));
    for fault in
        [Injected::BusyForEver, Injected::BusError(grouse_runtime::accelerator::Region::Sums)]
    {
        let bus = Faulty::on_jobs(Device::default(), fault, 3..=4);
        let mut driver = Driver::open(bus, LIMITS).unwrap();
        let (found, report) = run(&model, backend, &texts, Some((&mut driver, eager())));
        assert!(found == want, "{fault:?}");
        assert_eq!((report.faults, report.on_cpu, report.switched_off), (2, 2, false));
    }
}
