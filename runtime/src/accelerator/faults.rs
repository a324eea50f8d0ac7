//! A model that misbehaves on purpose, to show that the driver and the dispatcher cope.

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

    /// The fault that strikes the job at hand.
    fn striking(&self) -> Option<Injected> {
        self.strikes.contains(&self.jobs).then_some(self.fault)
    }
}

impl Bus for Faulty {
    fn name(&self) -> &str {
        "faulty model"
    }

    fn read(&mut self, register: Register) -> u32 {
        let value = self.model.read(register);
        match (self.fault, register) {
            (Injected::AnotherDevice, Register::Id) => return !value,
            (Injected::AnotherVersion, Register::Version) => return value + 0x1_0000,
            (Injected::NoCapability, Register::MaxTokens) => return 0,
            _ => {}
        }
        match (self.striking(), register) {
            (Some(Injected::Vanished), _) => u32::MAX,
            (Some(Injected::WrongChecksum), Register::SumsChecksum) => !value,
            (Some(Injected::StaleJob), Register::Job) => value.wrapping_sub(1),
            (Some(Injected::Error(error)), Register::Status) => {
                Status { state: State::Error, error }.to_bits()
            }
            _ => value,
        }
    }

    fn write(&mut self, register: Register, value: u32) {
        if register == Register::Doorbell {
            self.jobs = self.jobs.saturating_add(1);
            if self.striking() == Some(Injected::LostDoorbell) {
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
        let fault = self.striking();
        let is_reset = self.model.read(Register::Control) & CONTROL_RESET != 0;
        match fault {
            Some(Injected::Deaf | Injected::Vanished) => {}
            Some(Injected::BusyForEver) if !is_reset => {}
            _ => self.model.step(&mut FaultyMemory { memory: LentMemory(lent), fault }),
        }
    }

    fn isolate(&mut self) {
        self.model.isolate();
    }
}

/// Memory that the fault reaches into.
struct FaultyMemory<'a, 'm> {
    memory: LentMemory<'a, 'm>,
    fault: Option<Injected>,
}

impl FaultyMemory<'_, '_> {
    /// A bus error if the access reaches into the second half of the region that is to have one.
    fn strike(&self, address: u64, length: usize) -> Result<(), BusError> {
        match (self.fault, self.memory.find(address)) {
            (Some(Injected::BusError(struck)), Some((region, offset)))
                if struck == region && 2 * (offset + length) > self.memory.0.bytes(region) =>
            {
                Err(BusError { address })
            }
            _ => Ok(()),
        }
    }
}

impl Memory for FaultyMemory<'_, '_> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), BusError> {
        self.strike(address, bytes.len())?;
        self.memory.read(address, bytes)?;
        if let (Some(Injected::FlippedInput(struck)), Some((region, 0)), Some(first)) =
            (self.fault, self.memory.find(address), bytes.first_mut())
            && struck == region
        {
            *first ^= 1;
        }
        Ok(())
    }

    fn write(&mut self, address: u64, word: u32) -> Result<(), BusError> {
        self.strike(address, size_of_val(&word))?;
        let is_first = matches!(self.memory.find(address), Some((Region::Sums, 0)));
        let is_struck = is_first && self.fault == Some(Injected::FlippedSum);
        self.memory.write(address, word ^ u32::from(is_struck))
    }
}
