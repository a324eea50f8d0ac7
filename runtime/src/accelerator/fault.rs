//! What can go wrong between a job and its sums, as values with their numbers.

use core::fmt;

use super::ErrorCode;

/// Memory that the CPU lends the device for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Region {
    /// The job's descriptor; the device reads it.
    Descriptor,
    /// The weights; the device reads them.
    Weights,
    /// The quantized activations; the device reads them.
    Panel,
    /// The result; the device writes it.
    Sums,
}

impl Region {
    /// All regions, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Descriptor, Self::Weights, Self::Panel, Self::Sums];
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptor => "descriptor",
            Self::Weights => "weights",
            Self::Panel => "panel",
            Self::Sums => "sums",
        })
    }
}

/// How a fault bears on the jobs after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Severity {
    /// This job is not for this device; the device is well.
    Refusal,
    /// The device was reset and may do the next job.
    Passing,
    /// The device must not be used again.
    Lasting,
}

/// Why a device did not deliver a job's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Fault {
    /// A size of the job is 0 or above what a job may have.
    JobSize {
        /// Rows given.
        rows: usize,
        /// Columns given.
        depth: usize,
        /// Tokens given.
        tokens: usize,
    },
    /// A slice of the job has another length than its sizes ask for.
    JobLength {
        /// The slice.
        region: Region,
        /// Elements needed.
        needed: usize,
        /// Elements given.
        given: usize,
    },
    /// The job is larger than the device can do.
    TooLarge {
        /// Rows of the job, padded.
        rows: usize,
        /// Columns of the job, padded.
        depth: usize,
        /// Most rows that the device takes.
        max_rows: u32,
        /// Most columns that the device takes.
        max_depth: u32,
    },
    /// The device cannot reach this memory.
    Unreachable {
        /// The memory.
        region: Region,
    },
    /// This memory is not aligned as the device needs.
    Misaligned {
        /// The memory.
        region: Region,
        /// Its address on the device's bus.
        address: u64,
        /// Needed alignment in bytes.
        needed: u64,
    },
    /// There is no such device: its identification is another.
    NoDevice {
        /// What the identification register reads.
        found: u32,
    },
    /// The device speaks another version of the protocol.
    Version {
        /// The device's major version.
        found: u16,
        /// The one that the driver speaks.
        supported: u16,
    },
    /// The device's capability registers make no sense.
    Capability {
        /// Offset of the register at fault.
        register: u32,
        /// What it reads.
        found: u32,
    },
    /// The device did not finish in time; it was reset.
    TimeOut {
        /// Polls of its status before giving up.
        polls: u32,
    },
    /// The device did not come out of a reset; it was cut off from memory.
    Stuck {
        /// Polls of its control register before giving up.
        polls: u32,
    },
    /// The device met a bus error.
    BusError {
        /// The address that it could not reach.
        address: u64,
    },
    /// What the device read has another checksum than what the CPU meant it to read.
    InputChecksum {
        /// What was read.
        region: Region,
        /// The CPU's checksum.
        expected: u32,
        /// The device's.
        found: u32,
    },
    /// The sums in memory have another checksum than those that the device wrote.
    ResultChecksum {
        /// The device's checksum.
        expected: u32,
        /// The one of the sums in memory.
        found: u32,
    },
    /// The device reports the end of another job.
    WrongJob {
        /// The job's number.
        expected: u32,
        /// The number that the device reports.
        found: u32,
    },
    /// The device reports an error of its own.
    Device {
        /// Which.
        code: ErrorCode,
    },
    /// The status register reads what the protocol does not know.
    Status {
        /// What it reads.
        found: u32,
    },
    /// An audit found other sums than the CPU's, with checksums in order.
    WrongSums {
        /// Checksum of the CPU's sums.
        expected: u32,
        /// Checksum of the device's.
        found: u32,
    },
}

impl Fault {
    /// What the kinds of faults are called in reports.
    pub const KINDS: [&'static str; 17] = [
        "job size",
        "job length",
        "too large",
        "unreachable",
        "misaligned",
        "no device",
        "version",
        "capability",
        "time-out",
        "stuck",
        "bus error",
        "input checksum",
        "result checksum",
        "wrong job",
        "device error",
        "status",
        "wrong sums",
    ];

    /// The fault's place in [`Fault::KINDS`].
    pub fn kind(&self) -> usize {
        match self {
            Self::JobSize { .. } => 0,
            Self::JobLength { .. } => 1,
            Self::TooLarge { .. } => 2,
            Self::Unreachable { .. } => 3,
            Self::Misaligned { .. } => 4,
            Self::NoDevice { .. } => 5,
            Self::Version { .. } => 6,
            Self::Capability { .. } => 7,
            Self::TimeOut { .. } => 8,
            Self::Stuck { .. } => 9,
            Self::BusError { .. } => 10,
            Self::InputChecksum { .. } => 11,
            Self::ResultChecksum { .. } => 12,
            Self::WrongJob { .. } => 13,
            Self::Device { .. } => 14,
            Self::Status { .. } => 15,
            Self::WrongSums { .. } => 16,
        }
    }

    /// How this fault bears on the jobs after it.
    pub fn severity(&self) -> Severity {
        match self {
            Self::JobSize { .. }
            | Self::JobLength { .. }
            | Self::TooLarge { .. }
            | Self::Unreachable { .. }
            | Self::Misaligned { .. } => Severity::Refusal,
            Self::NoDevice { .. }
            | Self::Version { .. }
            | Self::Capability { .. }
            | Self::Stuck { .. }
            | Self::WrongSums { .. } => Severity::Lasting,
            _ => Severity::Passing,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::JobSize { rows, depth, tokens } => write!(
                f,
                "a job of {rows} rows, {depth} columns and {tokens} tokens is none; each must be \
                 above 0 and at most {}, {} and {}",
                super::MAX_ROWS,
                super::MAX_DEPTH,
                super::MAX_TOKENS
            ),
            Self::JobLength { region, needed, given } => write!(
                f,
                "the job's {region} have {given} elements, {needed} needed; pass the whole, \
                 padded buffer"
            ),
            Self::TooLarge { rows, depth, max_rows, max_depth } => write!(
                f,
                "a group of {rows} rows and {depth} columns is too large for the accelerator, \
                 which takes {max_rows} and {max_depth}; it runs on the CPU"
            ),
            Self::Unreachable { region } => write!(
                f,
                "the accelerator cannot reach the {region}; place them in memory that its DMA sees"
            ),
            Self::Misaligned { region, address, needed } => write!(
                f,
                "the {region} lie at {address:#x}, the accelerator needs a multiple of {needed}; \
                 align the buffer"
            ),
            Self::NoDevice { found } => write!(
                f,
                "no accelerator answers (its identification reads {found:#010x}); check the base \
                 address, clock and bitstream"
            ),
            Self::Version { found, supported } => write!(
                f,
                "the accelerator speaks version {found} of the protocol, this driver {supported}; \
                 load a matching bitstream"
            ),
            Self::Capability { register, found } => write!(
                f,
                "the accelerator's capability register {register:#04x} reads {found:#010x}, which \
                 makes no sense; check the bitstream"
            ),
            Self::TimeOut { polls } => write!(
                f,
                "the accelerator did not finish within {polls} polls and was reset; raise the \
                 limit if it is only slow"
            ),
            Self::Stuck { polls } => write!(
                f,
                "the accelerator did not come out of its reset within {polls} polls and was cut \
                 off; power-cycle it"
            ),
            Self::BusError { address } => write!(
                f,
                "the accelerator met a bus error at {address:#x}; check the memory map of its DMA"
            ),
            Self::InputChecksum { region, expected, found } => write!(
                f,
                "the accelerator read {region} with checksum {found:#010x} instead of \
                 {expected:#010x}; check caches, bus and memory"
            ),
            Self::ResultChecksum { expected, found } => write!(
                f,
                "the accelerator's sums have checksum {found:#010x} in memory, it wrote \
                 {expected:#010x}; check caches, bus and memory"
            ),
            Self::WrongJob { expected, found } => write!(
                f,
                "the accelerator reports the end of job {found} during job {expected}; it lost \
                 its place and was reset"
            ),
            Self::Device { code } => {
                write!(f, "the accelerator reports error {}; it was reset", code.number())
            }
            Self::Status { found } => write!(
                f,
                "the accelerator's status reads {found:#010x}, which the protocol does not know; \
                 check power and clock"
            ),
            Self::WrongSums { expected, found } => write!(
                f,
                "the accelerator computes wrong: its sums have checksum {found:#010x}, the CPU's \
                 {expected:#010x}; do not use it"
            ),
        }
    }
}

impl core::error::Error for Fault {}
