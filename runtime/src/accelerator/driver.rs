//! The driver: one job after another through registers and a descriptor, never waiting for ever.

use core::cell::Cell;

use super::registers::{CONTROL_ENABLE, CONTROL_RESET, LAYOUT_R4K16, State, halves, joined};
use super::{
    Accelerator, Capability, Descriptor, ErrorCode, Fault, GroupJob, ID, Region, Register, Status,
    VERSION, check_length,
};

/// The memory that a device uses during one job; the CPU leaves it alone meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Lent<'m> {
    /// The descriptor. The device reads it.
    pub descriptor: &'m AlignedDescriptor,
    /// The weights. The device reads them.
    pub weights: &'m [i8],
    /// The panel. The device reads it.
    pub panel: &'m [i8],
    /// The sums. The device writes them behind the compiler's back: hence cells.
    pub sums: &'m [Cell<i32>],
}

/// What a device is lent when it has no job.
const NOTHING: Lent<'static> = Lent {
    descriptor: &AlignedDescriptor([0; Descriptor::BYTES]),
    weights: &[],
    panel: &[],
    sums: &[],
};

impl Lent<'_> {
    /// Bytes of a region.
    pub fn bytes(&self, region: Region) -> usize {
        match region {
            Region::Descriptor => Descriptor::BYTES,
            Region::Weights => self.weights.len(),
            Region::Panel => self.panel.len(),
            Region::Sums => size_of_val(self.sums),
        }
    }
}

/// A descriptor's bytes at an address that the protocol allows.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct AlignedDescriptor(pub [u8; Descriptor::BYTES]);

/// The way to a device's registers, and its way to memory.
///
/// A register access cannot fail: a bus without a device reads all ones, or traps.
pub trait Bus {
    /// What the device is called in logs and reports.
    fn name(&self) -> &str;

    /// Reads a register. Accesses to registers stay in program order.
    fn read(&mut self, register: Register) -> u32;

    /// Writes a register.
    fn write(&mut self, register: Register, value: u32);

    /// The address by which the device knows this memory; `None` when it cannot reach it.
    fn address(&mut self, region: Region, lent: &Lent<'_>) -> Option<u64>;

    /// Makes what the CPU wrote visible to the device, before the next register access. From here
    /// to [`Bus::take_back`] the device owns the memory.
    fn hand_over(&mut self, lent: &Lent<'_>);

    /// Makes what the device wrote visible to the CPU, after the last register access.
    fn take_back(&mut self, lent: &Lent<'_>);

    /// Lets some time pass between two polls. A time limit is this time × the number of polls.
    fn pause(&mut self, lent: &Lent<'_>);

    /// Cuts off a device that does not answer a reset; it cannot use memory afterwards.
    fn isolate(&mut self);
}

/// How long the driver waits and what it checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Limits {
    /// Polls of the status, one [`Bus::pause`] each, before a job is given up.
    pub job_polls: u32,
    /// Polls before a reset is given up.
    pub reset_polls: u32,
    /// Checksum the weights of every job whose checksum the caller does not know. It costs the CPU
    /// one pass over them.
    pub check_unknown_weights: bool,
}

impl Default for Limits {
    /// A million polls for a job, ten thousand for a reset, all weights checked.
    fn default() -> Self {
        Self { job_polls: 1_000_000, reset_polls: 10_000, check_unknown_weights: true }
    }
}

/// A device behind a [`Bus`].
#[derive(Debug)]
pub struct Driver<B> {
    bus: B,
    limits: Limits,
    capability: Capability,
    descriptor: AlignedDescriptor,
    job: u32,
    /// Why the device must not be used any more.
    dead: Option<Fault>,
}

impl<B: Bus> Driver<B> {
    /// Identifies the device, resets it and reads what it can do.
    ///
    /// # Errors
    /// [`Fault::NoDevice`], [`Fault::Version`], [`Fault::Capability`], [`Fault::Stuck`].
    pub fn open(mut bus: B, limits: Limits) -> Result<Self, Fault> {
        let found = bus.read(Register::Id);
        if found != ID {
            return Err(Fault::NoDevice { found });
        }
        let (found, supported) = (bus.read(Register::Version) >> 16, VERSION >> 16);
        if found != supported {
            let [found, supported] = [found as u16, supported as u16];
            return Err(Fault::Version { found, supported });
        }
        reset(&mut bus, limits, &NOTHING)?;
        let capability = read_capability(&mut bus)?;
        let descriptor = NOTHING.descriptor.clone();
        Ok(Self { bus, limits, capability, descriptor, job: 0, dead: None })
    }

    /// What the device can do.
    pub fn capability(&self) -> &Capability {
        &self.capability
    }

    /// The way to the device.
    pub fn bus_mut(&mut self) -> &mut B {
        &mut self.bus
    }

    /// Runs a job that the device can do at once.
    fn run(
        &mut self,
        job: &GroupJob<'_>,
        weights_checksum: Option<u32>,
        sums: &mut [i32],
    ) -> Result<(), Fault> {
        // 0 is what JOB reads after a reset, so no job has it.
        self.job = self.job.wrapping_add(1).max(1);
        let Self { bus, limits, capability, job: number, .. } = self;
        let (number, limits) = (*number, *limits);

        let cells = Cell::from_mut(&mut *sums).as_slice_of_cells();
        let lent = Lent { weights: job.weights, panel: job.panel, sums: cells, ..NOTHING };
        let mut address = |region, lent: &Lent<'_>| address(bus, capability, region, lent);
        let descriptor = Descriptor {
            weights: address(Region::Weights, &lent)?,
            panel: address(Region::Panel, &lent)?,
            sums: address(Region::Sums, &lent)?,
            rows: job.padded_rows() as u32,
            depth: job.padded_depth() as u32,
            tokens: job.tokens as u32,
            job: number,
            weights_checksum,
            panel_checksum: Some(crate::crc::hash(bytemuck::must_cast_slice(job.panel))),
        };
        self.descriptor.0 = descriptor.to_bytes();
        let lent = Lent { descriptor: &self.descriptor, ..lent };
        let [low, high] = halves(address(Region::Descriptor, &lent)?);

        bus.hand_over(&lent);
        bus.write(Register::DescriptorLow, low);
        bus.write(Register::DescriptorHigh, high);
        bus.write(Register::Doorbell, number);
        let ended = wait(bus, limits.job_polls, &lent).and_then(|()| finish(bus, number));
        // Whatever went wrong, the device must not write to memory after this call.
        let stopped = if ended.is_err() { reset(bus, limits, &lent) } else { Ok(()) };
        bus.take_back(&lent);
        let ended = stopped.and(ended).and_then(|expected| {
            let found = crate::crc::hash(bytemuck::must_cast_slice(sums));
            if found == expected {
                return Ok(());
            }
            // The device is done, but what damaged its sums may have damaged more.
            reset(bus, limits, &NOTHING)?;
            Err(Fault::ResultChecksum { expected, found })
        });
        if let Err(stuck @ Fault::Stuck { .. }) = ended {
            self.dead = Some(stuck);
        }
        ended
    }
}

impl<B: Bus> Accelerator for Driver<B> {
    fn name(&self) -> &str {
        self.bus.name()
    }

    fn group_matmul(&mut self, job: &GroupJob<'_>, sums: &mut [i32]) -> Result<(), Fault> {
        if let Some(fault) = self.dead {
            return Err(fault);
        }
        check_length(Region::Sums, job.sums_len(), sums.len())?;
        let (rows, depth) = (job.padded_rows(), job.padded_depth());
        let Capability { max_rows, max_depth, .. } = self.capability;
        // A device may claim any number; one job's tokens keep the products below in range.
        let at_once = self.capability.tokens_at_once(depth).min(job.tokens);
        if rows > max_rows as usize || depth > max_depth as usize || at_once == 0 {
            return Err(Fault::TooLarge { rows, depth, max_rows, max_depth });
        }
        let checksum = job.weights_checksum.or_else(|| {
            let bytes = bytemuck::must_cast_slice(job.weights);
            self.limits.check_unknown_weights.then(|| crate::crc::hash(bytes))
        });
        // Tokens never mix, so a part of them is a job of its own.
        let mut first = 0;
        for sums in sums.chunks_mut((at_once * rows).max(1)) {
            let Some(part) = job.part(first, at_once) else { break };
            self.run(&part, checksum, sums)?;
            first += at_once;
        }
        Ok(())
    }
}

/// The device's address of a region, checked against what the device can reach.
fn address<B: Bus>(
    bus: &mut B,
    capability: &Capability,
    region: Region,
    lent: &Lent<'_>,
) -> Result<u64, Fault> {
    let address = bus.address(region, lent).ok_or(Fault::Unreachable { region })?;
    if !capability.reaches(address, lent.bytes(region)) {
        return Err(Fault::Unreachable { region });
    }
    let needed = match region {
        Region::Descriptor => Descriptor::ALIGNMENT,
        _ => capability.alignment(),
    };
    if !address.is_multiple_of(needed) {
        return Err(Fault::Misaligned { region, address, needed });
    }
    Ok(address)
}

/// Polls until the job is done; an error of the device as the fault it stands for.
fn wait<B: Bus>(bus: &mut B, polls: u32, lent: &Lent<'_>) -> Result<(), Fault> {
    for _ in 0..polls {
        bus.pause(lent);
        let found = bus.read(Register::Status);
        let status = Status::from_bits(found).ok_or(Fault::Status { found })?;
        match status.state {
            // A doorbell may take a while to arrive, so idle is as good as busy.
            State::Idle | State::Busy => {}
            State::Done => return Ok(()),
            State::Error => return Err(device_fault(bus, status.error)),
        }
    }
    Err(Fault::TimeOut { polls })
}

/// Takes the device from done to idle; returns its checksum of the sums.
fn finish<B: Bus>(bus: &mut B, number: u32) -> Result<u32, Fault> {
    let found = bus.read(Register::Job);
    if found != number {
        return Err(Fault::WrongJob { expected: number, found });
    }
    let checksum = bus.read(Register::SumsChecksum);
    bus.write(Register::Acknowledge, 1);
    Ok(checksum)
}

fn device_fault<B: Bus>(bus: &mut B, code: ErrorCode) -> Fault {
    let region = match code {
        ErrorCode::Descriptor => Region::Descriptor,
        ErrorCode::Weights => Region::Weights,
        ErrorCode::Panel => Region::Panel,
        ErrorCode::Bus => {
            let low = bus.read(Register::ErrorAddressLow);
            let high = bus.read(Register::ErrorAddressHigh);
            return Fault::BusError { address: joined(low, high) };
        }
        _ => return Fault::Device { code },
    };
    let expected = bus.read(Register::ErrorExpected);
    Fault::InputChecksum { region, expected, found: bus.read(Register::ErrorFound) }
}

/// Stops the device and makes it ready for a job. Once this returns, with or without an error, the
/// device does not touch the memory of an earlier job.
fn reset<B: Bus>(bus: &mut B, limits: Limits, lent: &Lent<'_>) -> Result<(), Fault> {
    bus.write(Register::Control, CONTROL_RESET);
    for _ in 0..limits.reset_polls {
        bus.pause(lent);
        // A device that vanished reads all ones here, and so ends as stuck.
        if bus.read(Register::Control) == 0 {
            bus.write(Register::Control, CONTROL_ENABLE);
            return Ok(());
        }
    }
    bus.isolate();
    Err(Fault::Stuck { polls: limits.reset_polls })
}

fn read_capability<B: Bus>(bus: &mut B) -> Result<Capability, Fault> {
    let mut sound = |register: Register, is_sound: fn(u32) -> bool| {
        let found = bus.read(register);
        let fault = Fault::Capability { register: register.offset(), found };
        if is_sound(found) { Ok(found) } else { Err(fault) }
    };
    sound(Register::Layouts, |bits| bits & LAYOUT_R4K16 != 0)?;
    let [alignment_log2, address_bits, ..] = sound(Register::Dma, |bits| {
        let [alignment, address, rest @ ..] = bits.to_le_bytes();
        alignment <= 12 && (1..=64).contains(&address) && rest == [0, 0]
    })?
    .to_le_bytes();
    Ok(Capability {
        max_rows: sound(Register::MaxRows, |n| n >= super::TILE_ROWS as u32)?,
        max_depth: sound(Register::MaxDepth, |n| n >= super::TILE_DEPTH as u32)?,
        max_tokens: sound(Register::MaxTokens, |n| n > 0)?,
        panel_bytes: sound(Register::PanelBytes, |n| n >= super::TILE_DEPTH as u32)?,
        alignment_log2,
        address_bits,
    })
}
