//! What a board runs at start-up: jobs with known sums on the device, and a drill of every fault.

use core::fmt;

use super::driver::{Driver, Limits};
use super::faults::{Faulty, Injected};
use super::model::Model;
use super::{
    Accelerator, Dispatcher, ErrorCode, Fault, GroupJob, Policy, Ran, Region, TILE_DEPTH,
    TILE_ROWS, padded,
};

/// Rows, columns and tokens of the self-test's jobs: whole tiles, ragged ones, single ones.
const SIZES: [[usize; 3]; 8] = [
    [4, 16, 1],
    [1, 1, 1],
    [13, 70, 5],
    [16, 80, 4],
    [7, 33, 3],
    [2, 79, 5],
    [16, 1, 2],
    [5, 64, 1],
];

const WEIGHTS: usize = 16 * 80;
const PANEL: usize = 5 * 80;
const SUMS: usize = 5 * 16;

/// A buffer at an address that is aligned enough for most devices.
#[repr(C, align(64))]
struct Aligned<T>(T);

/// The buffers of the jobs, about 2 kB; they live on the stack of the self-test.
struct Buffers {
    weights: Aligned<[i8; WEIGHTS]>,
    panel: Aligned<[i8; PANEL]>,
    sums: Aligned<[i32; SUMS]>,
    expected: [i32; SUMS],
}

impl Buffers {
    const fn new() -> Self {
        Self {
            weights: Aligned([0; WEIGHTS]),
            panel: Aligned([0; PANEL]),
            sums: Aligned([0; SUMS]),
            expected: [0; SUMS],
        }
    }

    /// Makes job `number` of this size and calls `run` with it, a buffer for its sums (filled with
    /// what no sum can be) and the sums it should have.
    fn with_job<T>(
        &mut self,
        size: [usize; 3],
        number: u32,
        run: impl FnOnce(&GroupJob<'_>, &mut [i32], &[i32]) -> T,
    ) -> Result<T, SelfTestError> {
        let at_job = |fault| SelfTestError::Fault { job: number, fault };
        let job = fill(&mut self.weights.0, &mut self.panel.0, size, number).map_err(at_job)?;
        let sums = self.sums.0.get_mut(..job.sums_len()).unwrap_or_default();
        let expected = self.expected.get_mut(..job.sums_len()).unwrap_or_default();
        // Neither a sum that was never written nor one of the job before may pass.
        sums.fill(i32::MIN);
        job.run_plainly(expected).map_err(at_job)?;
        Ok(run(&job, sums, expected))
    }
}

/// A self-test that found nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SelfTest {
    /// Jobs run.
    pub jobs: u32,
    /// Sums compared.
    pub sums: u32,
}

/// A sum that is not the plain loop's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Mismatch {
    /// Place of the job in the self-test, from 0.
    pub job: u32,
    /// Place of the sum in the result `[tokens][padded rows]`.
    pub index: u32,
    /// The plain loop's sum.
    pub expected: i32,
    /// The device's.
    pub found: i32,
}

/// Why a device is not to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SelfTestError {
    /// A job failed.
    Fault {
        /// Place of the job in the self-test, from 0.
        job: u32,
        /// Why.
        fault: Fault,
    },
    /// A job ended well with a wrong sum.
    Mismatch(Mismatch),
    /// The drill's dispatcher did not do what it should after this fault.
    Drill(Injected),
}

impl fmt::Display for SelfTestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault { job, fault } => write!(f, "self-test job {job}: {fault}"),
            Self::Mismatch(Mismatch { job, index, expected, found }) => write!(
                f,
                "self-test job {job}: sum {index} is {found} instead of {expected}; the \
                 accelerator computes wrong, do not use it"
            ),
            Self::Drill(fault) => write!(
                f,
                "the driver did not cope with the injected fault {fault:?}; this is a bug of Grouse"
            ),
        }
    }
}

impl core::error::Error for SelfTestError {}

/// Runs a few ragged jobs on `accelerator` and compares every sum with the plain loop's.
///
/// It needs about 4 kB of stack, which the device must be able to reach.
///
/// # Errors
/// The first fault, or the first wrong sum.
pub fn self_test(accelerator: &mut dyn Accelerator) -> Result<SelfTest, SelfTestError> {
    let mut buffers = Buffers::new();
    let mut done = SelfTest { jobs: 0, sums: 0 };
    for (number, size) in (0..).zip(SIZES) {
        done.sums += buffers.with_job(size, number, |job, sums, expected| {
            accelerator
                .group_matmul(job, sums)
                .map_err(|fault| SelfTestError::Fault { job: number, fault })?;
            compare(number, sums, expected)
        })??;
        done.jobs += 1;
    }
    Ok(done)
}

/// Compares sum by sum; returns how many there are.
fn compare(job: u32, sums: &[i32], expected: &[i32]) -> Result<u32, SelfTestError> {
    let mut compared = 0;
    for (&found, &expected) in sums.iter().zip(expected) {
        if found != expected {
            let mismatch = Mismatch { job, index: compared, expected, found };
            return Err(SelfTestError::Mismatch(mismatch));
        }
        compared += 1;
    }
    Ok(compared)
}

/// A drill that found nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Drill {
    /// Faults injected, each into three jobs.
    pub faults: u32,
    /// Jobs whose sums came from the CPU, at a fault or after the model was switched off.
    pub fallbacks: u32,
    /// Jobs whose sums came from the model after it had recovered.
    pub recovered: u32,
}

/// Faults of the drill: those that leave a driver to work with.
const DRILLED: [Injected; 15] = [
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
    Injected::Error(ErrorCode::Internal(0x5a)),
];

/// Injects every fault into the software model and checks that the CPU's fall-back gives the exact
/// sums, and that the model is used again, or switched off, as the fault asks.
///
/// It shows that driver and dispatcher work on this target; it needs no device.
///
/// # Errors
/// The first thing that went otherwise than it should.
pub fn drill() -> Result<Drill, SelfTestError> {
    let mut done = Drill { faults: 0, fallbacks: 0, recovered: 0 };
    for fault in DRILLED {
        drill_one(fault, &mut done)?;
        done.faults += 1;
    }
    Ok(done)
}

/// One fault: it strikes the first two jobs of a dispatcher; the third comes out well, on the
/// model if it is still in use.
fn drill_one(injected: Injected, done: &mut Drill) -> Result<(), SelfTestError> {
    let limits = Limits { job_polls: 64, reset_polls: 64, ..Limits::default() };
    let model = Faulty::on_jobs(Model::default(), injected, 1..=2);
    let mut driver =
        Driver::open(model, limits).map_err(|fault| SelfTestError::Fault { job: 0, fault })?;
    let mut dispatcher = Dispatcher::new(&mut driver, Policy { min_macs: 0, ..Policy::default() });
    let is_lasting = matches!(injected, Injected::Deaf | Injected::Vanished);
    let mut buffers = Buffers::new();
    for (number, size) in (0..).zip([[13, 70, 5], [7, 33, 3], [16, 80, 4]]) {
        let (ran, is_exact) = buffers.with_job(size, number, |job, sums, expected| {
            let ran = dispatcher.run(job, sums, |job, sums| {
                // `sums` has the job's length, which is all that can be wrong.
                let _ = job.run_plainly(sums);
            });
            (ran, sums == expected)
        })?;
        let is_as_meant = match ran {
            Ran::OnCpuAfter(_) => number == 0 || number == 1 && !is_lasting,
            Ran::OnCpu => number > 0 && is_lasting,
            Ran::OnDevice => number == 2 && !is_lasting,
        };
        if !(is_exact && is_as_meant) {
            return Err(SelfTestError::Drill(injected));
        }
        match ran {
            Ran::OnDevice => done.recovered += 1,
            Ran::OnCpu | Ran::OnCpuAfter(_) => done.fallbacks += 1,
        }
    }
    if dispatcher.report().switched_off != is_lasting {
        return Err(SelfTestError::Drill(injected));
    }
    Ok(())
}

/// Fills the buffers with a job of this size: extreme and middling values, zero padding.
fn fill<'a>(
    weights: &'a mut [i8],
    panel: &'a mut [i8],
    [rows, depth, tokens]: [usize; 3],
    seed: u32,
) -> Result<GroupJob<'a>, Fault> {
    let mut next = generator(seed);
    let (padded_rows, padded_depth) = (padded(rows, TILE_ROWS), padded(depth, TILE_DEPTH));
    let weights = weights.get_mut(..padded_rows * padded_depth).unwrap_or_default();
    let panel = panel.get_mut(..tokens * padded_depth).unwrap_or_default();
    let chunks_of_row = padded_depth / TILE_DEPTH;
    for (at, chunk) in weights.as_chunks_mut::<TILE_DEPTH>().0.iter_mut().enumerate() {
        let row = at / TILE_ROWS / chunks_of_row * TILE_ROWS + at % TILE_ROWS;
        let first = at / TILE_ROWS % chunks_of_row * TILE_DEPTH;
        for (column, weight) in (first..).zip(chunk) {
            *weight = if row < rows && column < depth { next() } else { 0 };
        }
    }
    for (at, q) in panel.iter_mut().enumerate() {
        *q = if at % padded_depth < depth { next() } else { 0 };
    }
    GroupJob::new(weights, panel, rows, depth, tokens)
}

/// int8 values of a xorshift generator, a quarter of them −128 or 127.
fn generator(seed: u32) -> impl FnMut() -> i8 {
    let mut state = seed.wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let [value, extreme, ..] = state.to_le_bytes();
        match extreme & 7 {
            0 => i8::MIN,
            1 => i8::MAX,
            _ => value as i8,
        }
    }
}
