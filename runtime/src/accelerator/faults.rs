//! Faults on purpose, to show that the driver and the dispatcher cope, and a model that has them.

use core::ops::RangeInclusive;

use super::driver::{Bus, Lent};
use super::model::{BusError, LentMemory, Memory, Model};
use super::registers::{CONTROL_RESET, State};
use super::{ErrorCode, Region, Register, Status};

/// A fault to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Injected {
    /// Another identification, as when nothing or something else is there.
    AnotherDevice,
    /// The next major version of the protocol.
    AnotherVersion,
    /// A capability of no tokens.
    NoCapability,
    /// The job never ends; a reset ends it.
    BusyForEver,
    /// The job never ends, nor does a reset.
    Deaf,
    /// The doorbell does not arrive.
    LostDoorbell,
    /// All registers read as ones once the job is started.
    Vanished,
    /// A bus error in the middle of this memory.
    BusError(Region),
    /// The device reads the first bit of this memory wrong.
    FlippedInput(Region),
    /// The first bit of the sums is wrong in memory; the device's checksum is of the right ones.
    FlippedSum,
    /// The sums are right; the device's checksum of them is wrong.
    WrongChecksum,
    /// The device reports the end of the job before.
    StaleJob,
    /// The device reports this error.
    Error(ErrorCode),
}

impl Injected {
    /// All faults by the names that commands and the boards' protocol know.
    pub const NAMED: [(&'static str, Self); 18] = [
        ("another-device", Self::AnotherDevice),
        ("another-version", Self::AnotherVersion),
        ("no-capability", Self::NoCapability),
        ("busy-for-ever", Self::BusyForEver),
        ("deaf", Self::Deaf),
        ("lost-doorbell", Self::LostDoorbell),
        ("vanished", Self::Vanished),
        ("bus-error-descriptor", Self::BusError(Region::Descriptor)),
        ("bus-error-weights", Self::BusError(Region::Weights)),
        ("bus-error-panel", Self::BusError(Region::Panel)),
        ("bus-error-sums", Self::BusError(Region::Sums)),
        ("flipped-descriptor", Self::FlippedInput(Region::Descriptor)),
        ("flipped-weights", Self::FlippedInput(Region::Weights)),
        ("flipped-panel", Self::FlippedInput(Region::Panel)),
        ("flipped-sum", Self::FlippedSum),
        ("wrong-checksum", Self::WrongChecksum),
        ("stale-job", Self::StaleJob),
        ("internal-error", Self::Error(ErrorCode::Internal(0x5a))),
    ];

    /// The fault called `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, fault)| *fault)
    }

    /// What a read of `register` gives instead of `value`; `strikes` when the job at hand is to
    /// meet the fault. Those of identification are there all the time.
    #[inline(never)]
    pub(super) fn distort(self, strikes: bool, register: Register, value: u32) -> u32 {
        match (self, register) {
            (Self::AnotherDevice, Register::Id) => !value,
            (Self::AnotherVersion, Register::Version) => value.wrapping_add(0x1_0000),
            (Self::NoCapability, Register::MaxTokens) => 0,
            _ if !strikes => value,
            (Self::Vanished, _) => u32::MAX,
            (Self::WrongChecksum, Register::SumsChecksum) => !value,
            (Self::StaleJob, Register::Job) => value.wrapping_sub(1),
            (Self::Error(error), Register::Status) => {
                Status { state: State::Error, error }.to_bits()
            }
            _ => value,
        }
    }

    /// Whether a device that is struck stands still, with this in its control register.
    pub(super) fn halts(self, control: u32) -> bool {
        match self {
            Self::Deaf | Self::Vanished => true,
            Self::BusyForEver => control & CONTROL_RESET == 0,
            _ => false,
        }
    }
}

/// The software model with a fault that strikes some of its jobs.
#[derive(Debug, Clone)]
pub struct Faulty {
    model: Model,
    fault: Injected,
    /// The jobs that the fault strikes, by their place since the start, from 1.
    strikes: RangeInclusive<u32>,
    jobs: u32,
}

impl Faulty {
    /// A model whose every job meets `fault`.
    pub fn new(model: Model, fault: Injected) -> Self {
        Self::on_jobs(model, fault, 1..=u32::MAX)
    }

    /// A model whose jobs in `strikes`, counted from 1, meet `fault`. The faults of identification
    /// and capability are there from the start.
    pub fn on_jobs(model: Model, fault: Injected, strikes: RangeInclusive<u32>) -> Self {
        Self { model, fault, strikes, jobs: 0 }
    }

    /// The model underneath.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Jobs rung at the doorbell so far.
    pub fn jobs(&self) -> u32 {
        self.jobs
    }

    /// Whether the fault strikes the job at hand.
    fn is_struck(&self) -> bool {
        self.strikes.contains(&self.jobs)
    }
}

impl Bus for Faulty {
    fn name(&self) -> &str {
        "faulty model"
    }

    fn read(&mut self, register: Register) -> u32 {
        let value = self.model.read(register);
        self.fault.distort(self.is_struck(), register, value)
    }

    fn write(&mut self, register: Register, value: u32) {
        if register == Register::Doorbell {
            self.jobs = self.jobs.saturating_add(1);
            if self.is_struck() && self.fault == Injected::LostDoorbell {
                return;
            }
        }
        self.model.write(register, value);
    }

    fn address(&mut self, region: Region, lent: &Lent<'_>) -> Option<u64> {
        self.model.address(region, lent)
    }

    fn hand_over(&mut self, lent: &Lent<'_>) {
        self.model.hand_over(lent);
    }

    fn take_back(&mut self, lent: &Lent<'_>) {
        self.model.take_back(lent);
    }

    fn pause(&mut self, lent: &Lent<'_>) {
        let fault = self.is_struck().then_some(self.fault);
        let control = self.model.read(Register::Control);
        if !fault.is_some_and(|fault| fault.halts(control)) {
            self.model.step(&mut FaultyMemory { memory: LentMemory(lent), fault });
        }
    }

    fn isolate(&mut self) {
        self.model.isolate();
    }
}

/// Memory of which it is known what a job uses it for.
pub(super) trait Regions: Memory {
    /// The region at `address`, how far in, and the region's bytes.
    fn find(&self, address: u64) -> Option<(Region, usize, usize)>;
}

/// Memory that the fault reaches into.
pub(super) struct FaultyMemory<M> {
    pub(super) memory: M,
    pub(super) fault: Option<Injected>,
}

impl<M: Regions> FaultyMemory<M> {
    /// A bus error if the access reaches into the second half of the region that is to have one.
    fn strike(&self, address: u64, length: usize) -> Result<(), BusError> {
        match (self.fault, self.memory.find(address)) {
            (Some(Injected::BusError(struck)), Some((region, offset, bytes)))
                if struck == region && 2 * (offset + length) > bytes =>
            {
                Err(BusError { address })
            }
            _ => Ok(()),
        }
    }
}

impl<M: Regions> Memory for FaultyMemory<M> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), BusError> {
        self.strike(address, bytes.len())?;
        self.memory.read(address, bytes)?;
        if let (Some(Injected::FlippedInput(struck)), Some((region, 0, _)), Some(first)) =
            (self.fault, self.memory.find(address), bytes.first_mut())
            && struck == region
        {
            *first ^= 1;
        }
        Ok(())
    }

    fn write(&mut self, address: u64, word: u32) -> Result<(), BusError> {
        self.strike(address, size_of_val(&word))?;
        let is_first = matches!(self.memory.find(address), Some((Region::Sums, 0, _)));
        let is_struck = is_first && self.fault == Some(Injected::FlippedSum);
        self.memory.write(address, word ^ u32::from(is_struck))
    }
}
