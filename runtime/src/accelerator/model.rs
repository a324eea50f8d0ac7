//! The device in software: it obeys `docs/accelerator.md` register by register, without an
//! allocation, so that it runs in tests, in benches and inside a board's firmware.

use crate::crc::Hasher;

use super::driver::{Bus, Lent};
use super::faults::Regions;
use super::registers::{
    CONTROL_ENABLE, CONTROL_RESET, DescriptorError, LAYOUT_R4K16, State, joined,
};
use super::{
    Capability, Descriptor, ErrorCode, ID, Region, Register, Status, TILE_DEPTH, TILE_ROWS, VERSION,
};

/// A memory access that reached nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusError {
    /// The address at fault.
    pub address: u64,
}

/// Memory as the device sees it.
pub trait Memory {
    /// Reads `bytes.len()` bytes from `address` on.
    ///
    /// # Errors
    /// A [`BusError`] when they are not all there.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), BusError>;

    /// Writes a 32-bit word, little-endian, to `address`.
    ///
    /// # Errors
    /// A [`BusError`] when it cannot be written.
    fn write(&mut self, address: u64, word: u32) -> Result<(), BusError>;
}

/// The device: its registers and its engine, without a bus.
#[derive(Debug, Clone)]
pub struct Device {
    capability: Capability,
    control: u32,
    status: Status,
    descriptor: [u32; 2],
    completions: u32,
    job: u32,
    error_address: u64,
    expected: u32,
    found: u32,
    sums_checksum: u32,
    work: Work,
}

/// How far the engine is with its job.
#[derive(Debug, Clone)]
enum Work {
    None,
    Fetch,
    /// Checksum of the inputs.
    Check(Descriptor),
    /// The next token to work out, and the checksum of the sums so far.
    Token(Descriptor, u32, Hasher),
}

/// Why a job ends before its end.
enum Failure {
    Bus(BusError),
    Code(ErrorCode),
    Checksum { code: ErrorCode, expected: u32, found: u32 },
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

impl Device {
    /// A device fresh from power-on: idle, without access to memory.
    pub fn new(capability: Capability) -> Self {
        Self {
            capability,
            control: 0,
            status: Status::of(State::Idle),
            descriptor: [0; 2],
            completions: 0,
            job: 0,
            error_address: 0,
            expected: 0,
            found: 0,
            sums_checksum: 0,
            work: Work::None,
        }
    }

    /// A read of a register. Not inlined, for the flash of boards.
    #[inline(never)]
    pub fn read(&self, register: Register) -> u32 {
        match register {
            Register::Id => ID,
            Register::Version => VERSION,
            Register::Layouts => LAYOUT_R4K16,
            Register::MaxRows => self.capability.max_rows,
            Register::MaxDepth => self.capability.max_depth,
            Register::MaxTokens => self.capability.max_tokens,
            Register::PanelBytes => self.capability.panel_bytes,
            Register::Dma => u32::from_le_bytes([
                self.capability.alignment_log2,
                self.capability.address_bits,
                0,
                0,
            ]),
            Register::Control => self.control,
            Register::Status => self.status.to_bits(),
            Register::DescriptorLow => self.descriptor[0],
            Register::DescriptorHigh => self.descriptor[1],
            Register::Doorbell | Register::Acknowledge => 0,
            Register::Completions => self.completions,
            Register::Job => self.job,
            Register::ErrorAddressLow => self.error_address as u32,
            Register::ErrorAddressHigh => (self.error_address >> 32) as u32,
            Register::ErrorExpected => self.expected,
            Register::ErrorFound => self.found,
            Register::SumsChecksum => self.sums_checksum,
        }
    }

    /// A write to a register; the read-only ones ignore it.
    #[inline(never)]
    pub fn write(&mut self, register: Register, value: u32) {
        match register {
            Register::Control if value & CONTROL_RESET != 0 => self.control |= CONTROL_RESET,
            Register::Control => {
                self.control = self.control & CONTROL_RESET | value & CONTROL_ENABLE;
            }
            Register::DescriptorLow => self.descriptor[0] = value,
            Register::DescriptorHigh => self.descriptor[1] = value,
            Register::Doorbell => {
                let ready = self.status.state == State::Idle && self.control == CONTROL_ENABLE;
                self.job = value;
                if ready {
                    self.status = Status::of(State::Busy);
                    self.work = Work::Fetch;
                } else {
                    self.fail(Failure::Code(ErrorCode::Doorbell));
                }
            }
            Register::Acknowledge if matches!(self.status.state, State::Done | State::Error) => {
                self.status = Status::of(State::Idle);
            }
            _ => {}
        }
    }

    /// Lets the device work for a while: a reset, a descriptor, the checks, or one token.
    pub fn step(&mut self, memory: &mut dyn Memory) {
        if self.control & CONTROL_RESET != 0 {
            *self = Self::new(self.capability);
            return;
        }
        let work = core::mem::replace(&mut self.work, Work::None);
        match self.advance(work, memory) {
            Ok(work) => self.work = work,
            Err(failure) => self.fail(failure),
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.work = Work::None;
        let error = match failure {
            Failure::Bus(error) => {
                self.error_address = error.address;
                ErrorCode::Bus
            }
            Failure::Code(code) => code,
            Failure::Checksum { code, expected, found } => {
                (self.expected, self.found) = (expected, found);
                code
            }
        };
        self.status = Status { state: State::Error, error };
    }

    fn advance(&mut self, work: Work, memory: &mut dyn Memory) -> Result<Work, Failure> {
        match work {
            Work::None => Ok(Work::None),
            Work::Fetch => Ok(Work::Check(self.fetch(memory)?)),
            Work::Check(job) => {
                let Descriptor { rows, depth, tokens, .. } = job;
                let weights = u64::from(rows) * u64::from(depth);
                let panel = u64::from(tokens) * u64::from(depth);
                check(memory, job.weights, weights, job.weights_checksum, ErrorCode::Weights)?;
                check(memory, job.panel, panel, job.panel_checksum, ErrorCode::Panel)?;
                Ok(Work::Token(job, 0, Hasher::new()))
            }
            Work::Token(job, token, mut hasher) if token < job.tokens => {
                work_out_token(&job, token, memory, &mut hasher)?;
                Ok(Work::Token(job, token + 1, hasher))
            }
            Work::Token(_, _, hasher) => {
                self.sums_checksum = hasher.finalize();
                self.completions = self.completions.wrapping_add(1);
                self.status = Status::of(State::Done);
                Ok(Work::None)
            }
        }
    }

    /// Reads the descriptor and checks that the device can do it.
    fn fetch(&self, memory: &mut dyn Memory) -> Result<Descriptor, Failure> {
        let [low, high] = self.descriptor;
        let address = joined(low, high);
        if !address.is_multiple_of(Descriptor::ALIGNMENT) {
            return Err(Failure::Code(ErrorCode::Alignment));
        }
        let mut bytes = [0; Descriptor::BYTES];
        memory.read(address, &mut bytes)?;
        let job = Descriptor::from_bytes(&bytes).map_err(|error| match error {
            DescriptorError::Checksum { expected, found } => {
                Failure::Checksum { code: ErrorCode::Descriptor, expected, found }
            }
            DescriptorError::Format => Failure::Code(ErrorCode::Format),
        })?;
        let limits = &self.capability;
        let fits = job.is_tiled()
            && (1..=limits.max_rows).contains(&job.rows)
            && (1..=limits.max_depth).contains(&job.depth)
            && (1..=limits.max_tokens).contains(&job.tokens)
            && job.tokens as usize <= limits.tokens_at_once(job.depth as usize);
        if !fits || job.job != self.job {
            return Err(Failure::Code(if fits { ErrorCode::Format } else { ErrorCode::Size }));
        }
        let is_aligned = |address: u64| address.is_multiple_of(limits.alignment());
        if ![job.weights, job.panel, job.sums].into_iter().all(is_aligned) {
            return Err(Failure::Code(ErrorCode::Alignment));
        }
        Ok(job)
    }
}

/// Reads `length` bytes, a multiple of 16, and compares their checksum if there is one to compare.
fn check(
    memory: &mut dyn Memory,
    start: u64,
    length: u64,
    expected: Option<u32>,
    code: ErrorCode,
) -> Result<(), Failure> {
    let Some(expected) = expected else { return Ok(()) };
    let mut hasher = Hasher::new();
    let mut chunk = [0; TILE_DEPTH];
    for at in (0..length).step_by(TILE_DEPTH) {
        memory.read(start.wrapping_add(at), &mut chunk)?;
        hasher.update(&chunk);
    }
    let found = hasher.finalize();
    if found == expected { Ok(()) } else { Err(Failure::Checksum { code, expected, found }) }
}

/// One token's sums: the weights stream by, four rows and sixteen columns at a time.
fn work_out_token(
    job: &Descriptor,
    token: u32,
    memory: &mut dyn Memory,
    hasher: &mut Hasher,
) -> Result<(), BusError> {
    let depth = u64::from(job.depth);
    let panel = job.panel.wrapping_add(u64::from(token) * depth);
    let mut sums = job.sums.wrapping_add(u64::from(token) * u64::from(job.rows) * 4);
    let mut weights = job.weights;
    for _ in 0..job.rows / TILE_ROWS as u32 {
        let mut tile = [0i32; TILE_ROWS];
        for column in (0..depth).step_by(TILE_DEPTH) {
            let mut block = [[0; TILE_DEPTH]; TILE_ROWS];
            memory.read(weights, block.as_flattened_mut())?;
            weights = weights.wrapping_add((TILE_ROWS * TILE_DEPTH) as u64);
            let mut inputs = [0; TILE_DEPTH];
            memory.read(panel.wrapping_add(column), &mut inputs)?;
            for (sum, row) in tile.iter_mut().zip(&block) {
                for (&w, &q) in row.iter().zip(&inputs) {
                    *sum = sum.wrapping_add(i32::from(w as i8) * i32::from(q as i8));
                }
            }
        }
        for sum in tile {
            memory.write(sums, sum as u32)?;
            hasher.update(&sum.to_le_bytes());
            sums = sums.wrapping_add(4);
        }
    }
    Ok(())
}

/// The device on a bus of its own: it works whenever the driver lets time pass, on the memory it is
/// lent and on no other.
#[derive(Debug, Clone)]
pub struct Model {
    device: Device,
    isolated: bool,
}

impl Model {
    /// What the model can do unless told otherwise: every job, at addresses of 16 bytes.
    pub const CAPABILITY: Capability = Capability {
        max_rows: super::MAX_ROWS as u32,
        max_depth: super::MAX_DEPTH as u32,
        max_tokens: super::MAX_TOKENS as u32,
        panel_bytes: (super::MAX_TOKENS * super::MAX_DEPTH) as u32,
        alignment_log2: 4,
        address_bits: 40,
    };

    /// A model with this capability.
    pub fn new(capability: Capability) -> Self {
        Self { device: Device::new(capability), isolated: false }
    }

    /// The device behind the bus.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the driver had to cut the device off.
    pub fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// Lets the device work with `memory`, unless it is cut off.
    pub(super) fn step(&mut self, memory: &mut dyn Memory) {
        if !self.isolated {
            self.device.step(memory);
        }
    }
}

impl Default for Model {
    fn default() -> Self {
        Self::new(Self::CAPABILITY)
    }
}

impl Bus for Model {
    fn name(&self) -> &str {
        "model"
    }

    fn read(&mut self, register: Register) -> u32 {
        self.device.read(register)
    }

    fn write(&mut self, register: Register, value: u32) {
        self.device.write(register, value);
    }

    fn address(&mut self, region: Region, lent: &Lent<'_>) -> Option<u64> {
        Some(LentMemory(lent).base(region))
    }

    fn hand_over(&mut self, _lent: &Lent<'_>) {}

    fn take_back(&mut self, _lent: &Lent<'_>) {}

    fn pause(&mut self, lent: &Lent<'_>) {
        self.step(&mut LentMemory(lent));
    }

    fn isolate(&mut self) {
        self.isolated = true;
    }
}

/// The lent memory at addresses of the model's own making: 4 GiB for each region, and inside it the
/// place modulo 64 that the slice really has, so that alignment counts.
pub(super) struct LentMemory<'a, 'm>(pub(super) &'a Lent<'m>);

impl LentMemory<'_, '_> {
    fn base(&self, region: Region) -> u64 {
        let start = match region {
            Region::Descriptor => self.0.descriptor.0.as_ptr().addr(),
            Region::Weights => self.0.weights.as_ptr().addr(),
            Region::Panel => self.0.panel.as_ptr().addr(),
            Region::Sums => self.0.sums.as_ptr().addr(),
        };
        (region as u64 + 1) << 32 | (start % 64) as u64
    }

    /// The region at `address`, and how far in.
    fn place(&self, address: u64) -> Option<(Region, usize)> {
        let region = Region::ALL.into_iter().find(|&r| r as u64 + 1 == address >> 32)?;
        let offset = usize::try_from(address.checked_sub(self.base(region))?).ok()?;
        (offset < self.0.bytes(region)).then_some((region, offset))
    }
}

impl Regions for LentMemory<'_, '_> {
    fn find(&self, address: u64) -> Option<(Region, usize, usize)> {
        let (region, offset) = self.place(address)?;
        Some((region, offset, self.0.bytes(region)))
    }
}

impl Memory for LentMemory<'_, '_> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), BusError> {
        let found = self.place(address).and_then(|(region, offset)| {
            let all: &[u8] = match region {
                Region::Descriptor => &self.0.descriptor.0,
                Region::Weights => bytemuck::must_cast_slice(self.0.weights),
                Region::Panel => bytemuck::must_cast_slice(self.0.panel),
                Region::Sums => return None,
            };
            all.get(offset..)?.get(..bytes.len())
        });
        let from = found.ok_or(BusError { address })?;
        for (to, from) in bytes.iter_mut().zip(from) {
            *to = *from;
        }
        Ok(())
    }

    fn write(&mut self, address: u64, word: u32) -> Result<(), BusError> {
        let cell = match self.place(address) {
            Some((Region::Sums, offset)) if offset.is_multiple_of(4) => self.0.sums.get(offset / 4),
            _ => None,
        };
        cell.ok_or(BusError { address })?.set(word.cast_signed());
        Ok(())
    }
}
