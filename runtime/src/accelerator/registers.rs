//! The register map and the job descriptor, as `docs/accelerator.md` defines them.

use crate::crc::Hasher;

use super::TILE_DEPTH;

/// What [`Register::Id`] reads: `GRSA` in ASCII, first letter in the low byte.
pub const ID: u32 = u32::from_le_bytes(*b"GRSA");
/// Version of this protocol: major in the upper half (must match), minor in the lower.
pub const VERSION: u32 = 0x0001_0000;
/// Bytes of the register window.
pub const WINDOW_BYTES: usize = 0x80;

/// A 32-bit register, by its offset from the window's base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Register {
    /// [`ID`]. Read only.
    Id = 0x00,
    /// [`VERSION`]. Read only.
    Version = 0x04,
    /// Layouts that the device knows: bit 0 = `r4k16` int8. Read only.
    Layouts = 0x08,
    /// Most padded rows of a job. Read only.
    MaxRows = 0x0c,
    /// Most padded columns of a job. Read only.
    MaxDepth = 0x10,
    /// Most tokens of a job. Read only.
    MaxTokens = 0x14,
    /// Most bytes of a job's panel: what the device can keep. Read only.
    PanelBytes = 0x18,
    /// Bits 7–0: log₂ of the alignment of all addresses; bits 15–8: address bits. Read only.
    Dma = 0x1c,
    /// Bit 0: reset, reads 1 until done; bit 1: enable access to memory.
    Control = 0x20,
    /// Bits 3–0: [`State`]; bits 15–8: [`ErrorCode`]. Read only.
    Status = 0x24,
    /// Lower half of the descriptor's address.
    DescriptorLow = 0x28,
    /// Upper half of the descriptor's address.
    DescriptorHigh = 0x2c,
    /// Starts the job whose number is written.
    Doorbell = 0x30,
    /// Writing 1 takes the device from done or error to idle.
    Acknowledge = 0x34,
    /// Jobs done since the reset, modulo 2³². Read only.
    Completions = 0x38,
    /// Number of the job that the status speaks of. Read only.
    Job = 0x3c,
    /// Lower half of the address of a bus error. Read only.
    ErrorAddressLow = 0x40,
    /// Upper half of the address of a bus error. Read only.
    ErrorAddressHigh = 0x44,
    /// Checksum that the descriptor promised, after a checksum error. Read only.
    ErrorExpected = 0x48,
    /// Checksum of what was read, after a checksum error. Read only.
    ErrorFound = 0x4c,
    /// CRC-32 of the sums written. Read only.
    SumsChecksum = 0x50,
}

impl Register {
    /// All registers with their names in the documentation, by ascending offset.
    pub const ALL: [(Self, &'static str); 21] = [
        (Self::Id, "ID"),
        (Self::Version, "VERSION"),
        (Self::Layouts, "LAYOUTS"),
        (Self::MaxRows, "MAX_ROWS"),
        (Self::MaxDepth, "MAX_DEPTH"),
        (Self::MaxTokens, "MAX_TOKENS"),
        (Self::PanelBytes, "PANEL_BYTES"),
        (Self::Dma, "DMA"),
        (Self::Control, "CONTROL"),
        (Self::Status, "STATUS"),
        (Self::DescriptorLow, "DESCRIPTOR_LO"),
        (Self::DescriptorHigh, "DESCRIPTOR_HI"),
        (Self::Doorbell, "DOORBELL"),
        (Self::Acknowledge, "ACKNOWLEDGE"),
        (Self::Completions, "COMPLETIONS"),
        (Self::Job, "JOB"),
        (Self::ErrorAddressLow, "ERROR_ADDRESS_LO"),
        (Self::ErrorAddressHigh, "ERROR_ADDRESS_HI"),
        (Self::ErrorExpected, "ERROR_EXPECTED"),
        (Self::ErrorFound, "ERROR_FOUND"),
        (Self::SumsChecksum, "SUMS_CHECKSUM"),
    ];

    /// Offset in bytes from the window's base.
    pub const fn offset(self) -> u32 {
        self as u32
    }
}

/// [`Register::Control`]: start a reset; reads 1 until it is done.
pub const CONTROL_RESET: u32 = 1;
/// [`Register::Control`]: the device may use memory.
pub const CONTROL_ENABLE: u32 = 2;
/// [`Register::Layouts`]: int8 weights in layout `r4k16`.
pub const LAYOUT_R4K16: u32 = 1;

/// What the device is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u32)]
pub enum State {
    /// Nothing; a doorbell starts a job.
    Idle = 0,
    /// Working on a job.
    Busy = 1,
    /// The job is done and its sums are in memory.
    Done = 2,
    /// The job failed; the error code says why.
    Error = 3,
}

/// Why the device gave a job up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ErrorCode {
    /// 1: the descriptor's checksum does not match.
    Descriptor,
    /// 2: the descriptor's format or a flag is not known.
    Format,
    /// 3: a size is 0 or larger than the device's.
    Size,
    /// 4: an address is not aligned.
    Alignment,
    /// 5: a bus error, at the address in the error address registers.
    Bus,
    /// 6: the weights' checksum does not match.
    Weights,
    /// 7: the panel's checksum does not match.
    Panel,
    /// 8: a doorbell while busy or without access to memory.
    Doorbell,
    /// Any other number: an error inside the device.
    Internal(u8),
}

impl ErrorCode {
    /// The number in the status register.
    pub const fn number(self) -> u8 {
        match self {
            Self::Descriptor => 1,
            Self::Format => 2,
            Self::Size => 3,
            Self::Alignment => 4,
            Self::Bus => 5,
            Self::Weights => 6,
            Self::Panel => 7,
            Self::Doorbell => 8,
            Self::Internal(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Descriptor,
            2 => Self::Format,
            3 => Self::Size,
            4 => Self::Alignment,
            5 => Self::Bus,
            6 => Self::Weights,
            7 => Self::Panel,
            8 => Self::Doorbell,
            other => Self::Internal(other),
        }
    }
}

/// The status register, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// What the device is doing.
    pub state: State,
    /// The error; means something in [`State::Error`] only.
    pub error: ErrorCode,
}

impl Status {
    /// A state without an error.
    pub const fn of(state: State) -> Self {
        Self { state, error: ErrorCode::Internal(0) }
    }

    /// The register's bits.
    pub const fn to_bits(self) -> u32 {
        self.state as u32 | (self.error.number() as u32) << 8
    }

    /// The status with these bits; `None` for a state or bits that the protocol does not know
    /// (a bus without a device often reads all ones).
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !0xff0f != 0 {
            return None;
        }
        let state = match bits & 0xf {
            0 => State::Idle,
            1 => State::Busy,
            2 => State::Done,
            3 => State::Error,
            _ => return None,
        };
        Some(Self { state, error: ErrorCode::from_number((bits >> 8) as u8) })
    }
}

/// What a device can do, from its capability registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Capability {
    /// Most padded rows of a job.
    pub max_rows: u32,
    /// Most padded columns of a job.
    pub max_depth: u32,
    /// Most tokens of a job; the driver splits a job with more.
    pub max_tokens: u32,
    /// Most bytes of a panel; the driver splits a job with more.
    pub panel_bytes: u32,
    /// log₂ of the alignment of all addresses, at most 12.
    pub alignment_log2: u8,
    /// Bits of an address, 1 to 64.
    pub address_bits: u8,
}

impl Capability {
    /// Alignment of all addresses in bytes.
    pub const fn alignment(&self) -> u64 {
        1 << (self.alignment_log2 & 63)
    }

    /// Tokens of this padded depth that the device takes at once; 0 when not even one fits.
    pub fn tokens_at_once(&self, depth: usize) -> usize {
        let fit = (self.panel_bytes as usize).checked_div(depth).unwrap_or(0);
        fit.min(self.max_tokens as usize)
    }

    /// Whether `length` bytes from `address` on are within the device's address bits.
    pub fn reaches(&self, address: u64, length: usize) -> bool {
        let last = u64::try_from(length).ok().and_then(|n| address.checked_add(n.checked_sub(1)?));
        let limit = u64::MAX >> 64u32.saturating_sub(u32::from(self.address_bits)).min(63);
        last.is_some_and(|last| last <= limit)
    }
}

/// Where a job's data lie and how large it is: 64 bytes in memory that the device reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Address of the weights, int8 in layout `r4k16`.
    pub weights: u64,
    /// Address of the panel, int8 `[tokens][K]`.
    pub panel: u64,
    /// Address of the sums, i32 `[tokens][padded rows]`.
    pub sums: u64,
    /// Rows, a multiple of 4.
    pub rows: u32,
    /// K: columns, a multiple of 16.
    pub depth: u32,
    /// Tokens.
    pub tokens: u32,
    /// Number of the job, the same as rung at the doorbell.
    pub job: u32,
    /// CRC-32 of the weights, if the device is to check them.
    pub weights_checksum: Option<u32>,
    /// CRC-32 of the panel, if the device is to check it.
    pub panel_checksum: Option<u32>,
}

/// Why the bytes of a descriptor are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DescriptorError {
    /// The checksum does not match.
    Checksum {
        /// The one in the descriptor.
        expected: u32,
        /// The one of its bytes.
        found: u32,
    },
    /// Another format, an unknown flag or reserved bytes that are not zero.
    Format,
}

impl Descriptor {
    /// Bytes of a descriptor in memory.
    pub const BYTES: usize = 64;
    /// Alignment of a descriptor in memory.
    pub const ALIGNMENT: u64 = 64;
    const FORMAT: u32 = 1;
    const CHECK_WEIGHTS: u32 = 1;
    const CHECK_PANEL: u32 = 2;

    /// The descriptor's bytes, little-endian.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        let flags = flag(self.weights_checksum.is_some(), Self::CHECK_WEIGHTS)
            | flag(self.panel_checksum.is_some(), Self::CHECK_PANEL);
        let [weights_low, weights_high] = halves(self.weights);
        let [panel_low, panel_high] = halves(self.panel);
        let [sums_low, sums_high] = halves(self.sums);
        let mut words = [
            Self::FORMAT,
            flags,
            weights_low,
            weights_high,
            panel_low,
            panel_high,
            sums_low,
            sums_high,
            self.rows,
            self.depth,
            self.tokens,
            self.job,
            self.weights_checksum.unwrap_or(0),
            self.panel_checksum.unwrap_or(0),
            0,
            0,
        ];
        let [checked @ .., checksum] = &mut words;
        *checksum = words_checksum(checked);
        let mut bytes = [0; Self::BYTES];
        for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    /// The descriptor with these bytes.
    ///
    /// # Errors
    /// A [`DescriptorError`]. Sizes and addresses are for the caller to check.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Result<Self, DescriptorError> {
        let mut words = [0u32; Self::BYTES / 4];
        for (word, from) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*from);
        }
        let [checked @ .., expected] = &words;
        let found = words_checksum(checked);
        if found != *expected {
            return Err(DescriptorError::Checksum { expected: *expected, found });
        }
        let [format, flags, wl, wh, pl, ph, sl, sh, rows, depth, tokens, job, wc, pc, zero, _] =
            words;
        let unknown = flags & !(Self::CHECK_WEIGHTS | Self::CHECK_PANEL);
        if format != Self::FORMAT || unknown != 0 || zero != 0 {
            return Err(DescriptorError::Format);
        }
        Ok(Self {
            weights: joined(wl, wh),
            panel: joined(pl, ph),
            sums: joined(sl, sh),
            rows,
            depth,
            tokens,
            job,
            weights_checksum: (flags & Self::CHECK_WEIGHTS != 0).then_some(wc),
            panel_checksum: (flags & Self::CHECK_PANEL != 0).then_some(pc),
        })
    }

    /// Columns and rows are whole tiles.
    pub fn is_tiled(&self) -> bool {
        self.rows.is_multiple_of(super::TILE_ROWS as u32)
            && self.depth.is_multiple_of(TILE_DEPTH as u32)
    }
}

/// The low and the high half of an address, as two registers hold them.
pub(super) const fn halves(address: u64) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
}

/// The address in two registers.
pub(super) const fn joined(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

fn words_checksum(words: &[u32]) -> u32 {
    let mut hasher = Hasher::new();
    for word in words {
        hasher.update(&word.to_le_bytes());
    }
    hasher.finalize()
}
