//! Driver, model, faults and dispatcher against a plain triple loop and against the documentation.

mod dispatch;
mod documentation;
mod hardware;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Fewer cases and smaller jobs where an interpreter runs the tests.
const CASES: u32 = if cfg!(miri) { 4 } else { 200 };

/// A buffer that is aligned for the model: a whole number of 64-byte blocks.
#[derive(Debug, Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Block([u8; 64]);

/// Zeroed memory for `bytes` bytes.
fn aligned(bytes: usize) -> Vec<Block> {
    vec![Block([0; 64]); bytes.div_ceil(64)]
}

/// A job in dense form, its packed buffers and the sums it should have.
#[derive(Debug)]
struct Case {
    rows: usize,
    depth: usize,
    tokens: usize,
    weights: Vec<Block>,
    panel: Vec<Block>,
    sums: Vec<Block>,
    /// `[tokens][padded rows]`, by a triple loop over the dense matrices.
    expected: Vec<i32>,
}

impl Case {
    /// Packs `weights` `[rows][depth]` and `inputs` `[tokens][depth]`, drawn from `values` in turn.
    fn new(rows: usize, depth: usize, tokens: usize, mut value: impl FnMut() -> i8) -> Self {
        let (padded_rows, k) = (rows.next_multiple_of(4), depth.next_multiple_of(16));
        let dense: Vec<Vec<i8>> =
            (0..rows).map(|_| (0..depth).map(|_| value()).collect()).collect();
        let inputs: Vec<Vec<i8>> =
            (0..tokens).map(|_| (0..depth).map(|_| value()).collect()).collect();
        let mut weights = aligned(padded_rows * k);
        let mut panel = aligned(tokens * k);
        let packed: &mut [i8] = bytemuck::cast_slice_mut(&mut weights);
        for (r, row) in dense.iter().enumerate() {
            for (c, &w) in row.iter().enumerate() {
                packed[(r / 4) * (4 * k) + (c / 16) * 64 + (r % 4) * 16 + c % 16] = w;
            }
        }
        let packed: &mut [i8] = bytemuck::cast_slice_mut(&mut panel);
        let mut expected = vec![0; tokens * padded_rows];
        for (t, row) in inputs.iter().enumerate() {
            packed[t * k..][..depth].copy_from_slice(row);
            for (r, weights) in dense.iter().enumerate() {
                for c in 0..depth {
                    expected[t * padded_rows + r] += i32::from(weights[c]) * i32::from(row[c]);
                }
            }
        }
        let sums = aligned(expected.len() * 4);
        Self { rows, depth, tokens, weights, panel, sums, expected }
    }

    /// A case of fixed, middling size with all kinds of values.
    fn ragged() -> Self {
        let mut state = 1u32;
        Self::new(13, 70, 5, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 as i8
        })
    }

    /// Calls `run` with the job and its sums, which are filled with what no sum can be.
    fn run<T>(&mut self, run: impl FnOnce(&GroupJob<'_>, &mut [i32]) -> T) -> T {
        let (padded_rows, k) = (self.rows.next_multiple_of(4), self.depth.next_multiple_of(16));
        let weights = &bytemuck::cast_slice(&self.weights)[..padded_rows * k];
        let panel = &bytemuck::cast_slice(&self.panel)[..self.tokens * k];
        let sums = &mut bytemuck::cast_slice_mut(&mut self.sums)[..self.expected.len()];
        sums.fill(i32::MIN);
        let job = GroupJob::new(weights, panel, self.rows, self.depth, self.tokens)
            .expect("the case has the right sizes");
        run(&job, sums)
    }

    fn sums(&self) -> &[i32] {
        &bytemuck::cast_slice(&self.sums)[..self.expected.len()]
    }
}

/// A few polls are plenty for the small cases, and keep a job that never ends short.
const LIMITS: Limits = Limits { job_polls: 64, reset_polls: 64, check_unknown_weights: true };

fn faulty(fault: Injected) -> Driver<Faulty> {
    Driver::open(Faulty::new(Model::default(), fault), LIMITS).expect("the model answers")
}

fn eager() -> Policy {
    Policy { min_macs: 0, ..Policy::default() }
}

/// The CPU's kernel of these tests.
fn plain(job: &GroupJob<'_>, sums: &mut [i32]) {
    job.run_plainly(sums).expect("the sums have the job's length");
}

fn cases() -> impl Strategy<Value = Case> {
    let (rows, depth, tokens) =
        if cfg!(miri) { (1..9usize, 1..34usize, 1..4usize) } else { (1..40, 1..200, 1..20) };
    let values = prop::collection::vec(
        prop_oneof![4 => any::<i8>(), 1 => Just(i8::MIN), 1 => Just(i8::MAX)],
        1..97,
    );
    (rows, depth, tokens, values).prop_map(|(rows, depth, tokens, values)| {
        let mut values = values.into_iter().cycle();
        Case::new(rows, depth, tokens, || values.next().expect("it has at least one"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn ragged_jobs_have_the_sums_of_a_plain_loop(mut case in cases(), max_tokens in 1..6u32) {
        let mut whole = Driver::open(Model::default(), LIMITS).unwrap();
        case.run(|job, sums| whole.group_matmul(job, sums)).unwrap();
        prop_assert_eq!(case.sums(), &case.expected);

        // A device that takes few tokens at once gets the job in parts.
        let small = Capability { max_tokens, ..Model::CAPABILITY };
        let mut parts = Driver::open(Model::new(small), LIMITS).unwrap();
        case.run(|job, sums| parts.group_matmul(job, sums)).unwrap();
        prop_assert_eq!(case.sums(), &case.expected);
        let jobs = case.tokens.div_ceil(max_tokens as usize) as u32;
        prop_assert_eq!(parts.bus_mut().read(Register::Completions), jobs);

        case.run(plain);
        prop_assert_eq!(case.sums(), &case.expected);
    }

    #[test]
    fn descriptors_survive_their_bytes(
        weights: u64, panel: u64, sums: u64, sizes: [u32; 4], checksums: [Option<u32>; 2],
        flipped in 0..512usize,
    ) {
        let [rows, depth, tokens, job] = sizes;
        let [weights_checksum, panel_checksum] = checksums;
        let descriptor = Descriptor {
            weights, panel, sums, rows, depth, tokens, job, weights_checksum, panel_checksum,
        };
        let mut bytes = descriptor.to_bytes();
        prop_assert_eq!(Descriptor::from_bytes(&bytes), Ok(descriptor));
        bytes[flipped / 8] ^= 1 << (flipped % 8);
        prop_assert!(Descriptor::from_bytes(&bytes).is_err());
    }

    #[test]
    fn any_register_traffic_leaves_the_model_sound(
        traffic in prop::collection::vec((0..Register::ALL.len(), any::<u32>(), 0..4u8), 0..60),
    ) {
        let mut device = Device::new(Model::CAPABILITY);
        for (register, value, steps) in traffic {
            device.write(Register::ALL[register].0, value);
            for _ in 0..steps {
                device.step(&mut NoMemory);
            }
            prop_assert!(Status::from_bits(device.read(Register::Status)).is_some());
        }
        device.write(Register::Control, 1);
        device.step(&mut NoMemory);
        prop_assert_eq!(device.read(Register::Control), 0);
        prop_assert_eq!(device.read(Register::Status), Status::of(State::Idle).to_bits());
    }
}

/// A bus with nothing on it.
struct NoMemory;

impl Memory for NoMemory {
    fn read(&mut self, address: u64, _bytes: &mut [u8]) -> Result<(), BusError> {
        Err(BusError { address })
    }

    fn write(&mut self, address: u64, _word: u32) -> Result<(), BusError> {
        Err(BusError { address })
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many products for an interpreter")]
fn the_largest_sums_are_exact() {
    for (w, q) in [(i8::MIN, i8::MIN), (i8::MIN, i8::MAX)] {
        let weights_end = 3 * MAX_DEPTH;
        let mut drawn = 0;
        let mut case = Case::new(3, MAX_DEPTH, 2, || {
            drawn += 1;
            if drawn <= weights_end { w } else { q }
        });
        let mut driver = Driver::open(Model::default(), LIMITS).unwrap();
        case.run(|job, sums| driver.group_matmul(job, sums)).unwrap();
        assert_eq!(case.sums(), case.expected);
        assert_eq!(case.sums()[0], MAX_DEPTH as i32 * i32::from(w) * i32::from(q));
        assert_eq!(case.sums()[3], 0, "the padded row is zero");
    }
}

/// What the driver says to each injected fault, in the middle of a job that is otherwise well.
fn expected_fault(injected: Injected, fault: Fault) -> bool {
    let region_of = |address: u64| Region::ALL.get((address >> 32) as usize - 1).copied();
    match (injected, fault) {
        (Injected::BusyForEver | Injected::LostDoorbell, Fault::TimeOut { polls: 64 })
        | (Injected::Deaf | Injected::Vanished, Fault::Stuck { polls: 64 })
        | (Injected::StaleJob, Fault::WrongJob { expected: 1, found: 0 }) => true,
        (Injected::BusError(region), Fault::BusError { address }) => {
            region_of(address) == Some(region)
        }
        (Injected::FlippedInput(flipped), Fault::InputChecksum { region, expected, found }) => {
            flipped == region && expected != found
        }
        (Injected::FlippedSum, Fault::ResultChecksum { expected, found }) => expected != found,
        (Injected::WrongChecksum, Fault::ResultChecksum { expected, found }) => expected == !found,
        (Injected::Error(code), Fault::Device { code: found }) => code == found,
        _ => false,
    }
}

const STRIKES: [Injected; 16] = [
    Injected::BusyForEver,
    Injected::Deaf,
    Injected::LostDoorbell,
    Injected::Vanished,
    Injected::BusError(Region::Descriptor),
    Injected::BusError(Region::Weights),
    Injected::BusError(Region::Panel),
    Injected::BusError(Region::Sums),
    Injected::FlippedInput(Region::Descriptor),
    Injected::FlippedInput(Region::Weights),
    Injected::FlippedInput(Region::Panel),
    Injected::FlippedSum,
    Injected::WrongChecksum,
    Injected::StaleJob,
    Injected::Error(ErrorCode::Size),
    Injected::Error(ErrorCode::Internal(200)),
];

#[test]
fn every_injected_fault_is_named_and_the_cpu_gives_the_exact_sums() {
    for injected in STRIKES {
        let mut case = Case::ragged();
        let mut driver = faulty(injected);
        let result = case.run(|job, sums| driver.group_matmul(job, sums));
        let fault = result.expect_err("the fault strikes");
        assert!(expected_fault(injected, fault), "{injected:?} came out as {fault:?}");

        let mut driver = faulty(injected);
        let mut dispatcher = Dispatcher::new(&mut driver, eager());
        let ran = case.run(|job, sums| dispatcher.run(job, sums, plain));
        assert_eq!(ran, Ran::OnCpuAfter(fault), "{injected:?}");
        assert_eq!(case.sums(), case.expected, "{injected:?}");
        let expected = Report {
            on_cpu: 1,
            faults: 1,
            by_kind: core::array::from_fn(|kind| u32::from(kind == fault.kind())),
            last_fault: Some(fault),
            switched_off: fault.severity() == Severity::Lasting,
            ..Report::default()
        };
        assert_eq!(*dispatcher.report(), expected, "{injected:?}");
    }
}

#[test]
fn a_device_that_passed_a_fault_does_the_next_job() {
    for injected in STRIKES {
        let mut case = Case::ragged();
        let bus = Faulty::on_jobs(Model::default(), injected, 1..=1);
        let mut driver = Driver::open(bus, LIMITS).unwrap();
        let fault = case.run(|job, sums| driver.group_matmul(job, sums)).unwrap_err();
        let again = case.run(|job, sums| driver.group_matmul(job, sums));
        if fault.severity() == Severity::Lasting {
            assert_eq!(again, Err(fault), "{injected:?}");
            assert!(driver.bus_mut().model().is_isolated());
            assert_eq!(driver.bus_mut().jobs(), 1, "a dead device gets no more jobs");
            assert!(case.sums().iter().all(|&sum| sum == i32::MIN), "nor memory");
        } else {
            assert_eq!(again, Ok(()), "{injected:?}");
            assert_eq!(case.sums(), case.expected, "{injected:?}");
        }
    }
}

#[test]
fn another_device_is_refused() {
    let open = |fault| Driver::open(Faulty::new(Model::default(), fault), LIMITS).map(|_| ());
    assert_eq!(open(Injected::AnotherDevice), Err(Fault::NoDevice { found: !ID }));
    let version = Fault::Version { found: 2, supported: 1 };
    assert_eq!(open(Injected::AnotherVersion), Err(version));
    let register = Register::MaxTokens.offset();
    assert_eq!(open(Injected::NoCapability), Err(Fault::Capability { register, found: 0 }));
}

#[test]
fn a_known_checksum_of_the_weights_is_the_one_that_is_checked() {
    let mut case = Case::ragged();
    let mut driver = Driver::open(Model::default(), LIMITS).unwrap();
    case.run(|job, sums| {
        let right = crc32fast::hash(bytemuck::cast_slice(job.weights()));
        let job = job.with_weights_checksum(right);
        assert_eq!(driver.group_matmul(&job, sums), Ok(()));
        let job = job.with_weights_checksum(!right);
        let region = Region::Weights;
        let fault = Fault::InputChecksum { region, expected: !right, found: right };
        assert_eq!(driver.group_matmul(&job, sums), Err(fault));
    });
}

#[test]
fn a_device_may_claim_any_size() {
    let max = u32::MAX;
    let most = Capability {
        max_rows: max,
        max_depth: max,
        max_tokens: max,
        panel_bytes: max,
        ..Model::CAPABILITY
    };
    let mut case = Case::ragged();
    let mut driver = Driver::open(Model::new(most), LIMITS).unwrap();
    assert_eq!(case.run(|job, sums| driver.group_matmul(job, sums)), Ok(()));
    assert_eq!(case.sums(), case.expected);
}

#[test]
fn memory_that_is_not_aligned_is_refused() {
    let buffer = aligned(64 + 16 + 16);
    let bytes: &[i8] = bytemuck::cast_slice(&buffer);
    let mut sums = aligned(16);
    let sums: &mut [i32] = &mut bytemuck::cast_slice_mut(&mut sums)[..4];
    let mut driver = Driver::open(Model::default(), LIMITS).unwrap();
    let job = GroupJob::new(&bytes[..64], &bytes[65..81], 4, 16, 1).unwrap();
    let fault = driver.group_matmul(&job, sums).unwrap_err();
    let Fault::Misaligned { region: Region::Panel, address, needed: 16 } = fault else {
        panic!("{fault:?}")
    };
    assert_eq!(address % 64, 1);
}

#[test]
fn a_job_with_wrong_sizes_is_none() {
    let bytes = [0i8; 128];
    let size = |rows, depth, tokens| Fault::JobSize { rows, depth, tokens };
    for [r, d, t] in [
        [0, 16, 1],
        [4, 0, 1],
        [4, 16, 0],
        [MAX_ROWS + 1, 1, 1],
        [1, MAX_DEPTH + 1, 1],
        [1, 1, 513],
    ] {
        assert_eq!(GroupJob::new(&bytes, &bytes, r, d, t).unwrap_err(), size(r, d, t));
    }
    let length = |region, needed, given| Fault::JobLength { region, needed, given };
    let wrong = GroupJob::new(&bytes[..63], &bytes[..16], 3, 9, 1).unwrap_err();
    assert_eq!(wrong, length(Region::Weights, 64, 63));
    let wrong = GroupJob::new(&bytes[..64], &bytes[..33], 3, 9, 2).unwrap_err();
    assert_eq!(wrong, length(Region::Panel, 32, 33));
    let job = GroupJob::new(&bytes[..64], &bytes[..32], 3, 9, 2).unwrap();
    let wrong = length(Region::Sums, 8, 7);
    let mut driver = Driver::open(Model::default(), LIMITS).unwrap();
    assert_eq!(driver.group_matmul(&job, &mut [0; 7]), Err(wrong));
    assert_eq!(job.run_plainly(&mut [0; 7]), Err(wrong));
}

#[test]
fn the_self_test_passes_on_the_model_and_fails_on_a_faulty_one() {
    let mut driver = Driver::open(Model::default(), LIMITS).unwrap();
    assert_eq!(self_test(&mut driver), Ok(SelfTest { jobs: 8, sums: 236 }));
    for injected in STRIKES {
        let error = self_test(&mut faulty(injected)).unwrap_err();
        let SelfTestError::Fault { job: 0, fault } = error else { panic!("{error}") };
        assert!(expected_fault(injected, fault), "{injected:?}: {fault:?}");
    }
    let limits = Limits { check_unknown_weights: false, ..LIMITS };
    let bus = Faulty::new(Model::default(), Injected::FlippedInput(Region::Weights));
    let error = self_test(&mut Driver::open(bus, limits).unwrap()).unwrap_err();
    assert!(matches!(error, SelfTestError::Mismatch(Mismatch { job: 0, .. })), "{error}");
}

#[test]
#[cfg_attr(miri, ignore = "it takes an interpreter many minutes")]
fn the_drill_passes() {
    // Two of the fifteen faults last, so their three jobs are all the CPU's.
    assert_eq!(drill(), Ok(Drill { faults: 15, fallbacks: 13 * 2 + 2 * 3, recovered: 13 }));
}
