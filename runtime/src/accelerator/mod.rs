//! "Run this group matmul elsewhere": the trait of an accelerator, its jobs and its faults.
//!
//! ```text
//! encoder ─ Dispatcher ─┬─▶ Accelerator (Driver ─ Bus ─ registers and DMA) ─▶ sums
//!                       └─▶ CPU kernel, when the job is small or the device faults ─▶ same sums
//! ```
//!
//! A job is integers only, so its result is exact and the same wherever it runs. The register
//! protocol is `docs/accelerator.md`. [`Driver`] speaks it over a [`Bus`]: [`Mmio`] for hardware,
//! [`Model`] for the software model, [`Faulty`] for a model with injected faults.

mod dispatch;
mod driver;
mod fault;
mod faults;
mod mmio;
mod model;
mod registers;
mod self_test;
#[cfg(test)]
mod tests;
mod window;

pub use dispatch::{Dispatcher, Policy, Ran, Report};
pub use driver::{AlignedDescriptor, Bus, Driver, Lent, Limits};
pub use fault::{Fault, Region, Severity};
pub use faults::{Faulty, Injected};
pub use mmio::{Flat, Mmio, Platform};
pub use model::{BusError, Device, Memory, Model};
pub use registers::{
    Capability, Descriptor, DescriptorError, ErrorCode, ID, Register, State, Status, VERSION,
    WINDOW_BYTES,
};
pub use self_test::{Drill, Mismatch, SelfTest, SelfTestError, drill, self_test};
pub use window::{Window, Windowed};

/// Most rows (outputs) of a job.
pub const MAX_ROWS: usize = 16_384;
/// Most columns (inputs) of a job. With it every sum is exact in an i32: 2¹⁴ × 2⁷ × 2⁷ = 2²⁸.
pub const MAX_DEPTH: usize = 16_384;
/// Most tokens of a job.
pub const MAX_TOKENS: usize = 512;
/// Rows of one tile of the weights' layout; rows are padded to a multiple of it.
pub const TILE_ROWS: usize = 4;
/// Columns of one chunk of the weights' layout; columns are padded to a multiple of it.
pub const TILE_DEPTH: usize = 16;

/// A device that works out a group's sums of products.
pub trait Accelerator {
    /// What the device is called in logs and reports.
    fn name(&self) -> &str;

    /// Writes the exact dot products of `job` to `sums`, i32 `[tokens][padded rows]`, and returns
    /// when they are all there.
    ///
    /// The call is bounded: a device that does not answer is a fault, not a wait.
    ///
    /// # Errors
    /// A [`Fault`]; `sums` then holds anything, and the device no longer touches it.
    fn group_matmul(&mut self, job: &GroupJob<'_>, sums: &mut [i32]) -> Result<(), Fault>;
}

/// One group's matmul on quantized integers: `sums[t][r] = Σ_c weights[r][c] × panel[t][c]`.
///
/// The sizes are checked when the job is made, so nothing that reads it can leave its slices.
#[derive(Debug, Clone, Copy)]
pub struct GroupJob<'a> {
    weights: &'a [i8],
    panel: &'a [i8],
    rows: usize,
    depth: usize,
    tokens: usize,
    weights_checksum: Option<u32>,
}

impl<'a> GroupJob<'a> {
    /// A job of `rows` × `depth` weights and `tokens` rows of activations.
    ///
    /// - `weights`: int8 in layout `r4k16`, `[padded rows / 4][K / 16][4][16]`, padding zero;
    /// - `panel`: int8 `[tokens][K]`, padding zero.
    ///
    /// K is `depth` rounded up to [`TILE_DEPTH`].
    ///
    /// # Errors
    /// [`Fault::JobSize`] for a size that is 0 or above its limit, [`Fault::JobLength`] for a
    /// slice that does not have exactly the length the sizes ask for.
    pub fn new(
        weights: &'a [i8],
        panel: &'a [i8],
        rows: usize,
        depth: usize,
        tokens: usize,
    ) -> Result<Self, Fault> {
        let in_limits = |n: usize, limit: usize| (1..=limit).contains(&n);
        if !(in_limits(rows, MAX_ROWS)
            && in_limits(depth, MAX_DEPTH)
            && in_limits(tokens, MAX_TOKENS))
        {
            return Err(Fault::JobSize { rows, depth, tokens });
        }
        let job = Self { weights, panel, rows, depth, tokens, weights_checksum: None };
        check_length(Region::Weights, job.padded_rows() * job.padded_depth(), weights.len())?;
        check_length(Region::Panel, tokens * job.padded_depth(), panel.len())?;
        Ok(job)
    }

    /// The same job with the CRC-32 of its weights already known.
    ///
    /// Weights never change, so a caller that keeps the checksum saves reading them for each job.
    pub fn with_weights_checksum(self, checksum: u32) -> Self {
        Self { weights_checksum: Some(checksum), ..self }
    }

    /// int8 weights in layout `r4k16`.
    pub fn weights(&self) -> &'a [i8] {
        self.weights
    }

    /// int8 activations `[tokens][padded depth]`.
    pub fn panel(&self) -> &'a [i8] {
        self.panel
    }

    /// Rows (outputs) without padding.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows rounded up to [`TILE_ROWS`]: the row length of the sums.
    pub fn padded_rows(&self) -> usize {
        padded(self.rows, TILE_ROWS)
    }

    /// Columns (inputs) without padding.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Columns rounded up to [`TILE_DEPTH`]: K, the row length of the panel.
    pub fn padded_depth(&self) -> usize {
        padded(self.depth, TILE_DEPTH)
    }

    /// Tokens: rows of the panel and of the sums.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// CRC-32 of the weights, when the caller knows it.
    pub fn weights_checksum(&self) -> Option<u32> {
        self.weights_checksum
    }

    /// Multiply-accumulates of the job, padding included.
    pub fn macs(&self) -> u64 {
        self.padded_rows() as u64 * self.padded_depth() as u64 * self.tokens as u64
    }

    /// Elements of the result: tokens × padded rows.
    pub fn sums_len(&self) -> usize {
        self.tokens * self.padded_rows()
    }

    /// The definition, in plain loops: what every device and every kernel has to equal.
    ///
    /// # Errors
    /// [`Fault::JobLength`] when `sums` is not [`GroupJob::sums_len`] long.
    pub fn run_plainly(&self, sums: &mut [i32]) -> Result<(), Fault> {
        check_length(Region::Sums, self.sums_len(), sums.len())?;
        let depth = self.padded_depth();
        let rows = sums.chunks_exact_mut(self.padded_rows());
        for (panel, sums) in self.panel.chunks_exact(depth).zip(rows) {
            for (r, sum) in sums.iter_mut().enumerate() {
                let tile = (r / TILE_ROWS) * TILE_ROWS * depth + (r % TILE_ROWS) * TILE_DEPTH;
                let row = panel.iter().enumerate().map(|(c, &q)| {
                    let at = tile + (c / TILE_DEPTH) * TILE_ROWS * TILE_DEPTH + c % TILE_DEPTH;
                    // `new` checked the length, so every weight is there.
                    i32::from(self.weights.get(at).copied().unwrap_or(0)) * i32::from(q)
                });
                *sum = row.sum();
            }
        }
        Ok(())
    }

    /// The part of the job from token `first` on, at most `tokens` of them; `None` past the end.
    fn part(&self, first: usize, tokens: usize) -> Option<Self> {
        let tokens = tokens.min(self.tokens.checked_sub(first)?);
        let depth = self.padded_depth();
        let panel = self.panel.get(first * depth..(first + tokens) * depth)?;
        (tokens > 0).then_some(Self { panel, tokens, ..*self })
    }
}

/// `size`, which is at least 1, rounded up to whole tiles. The maximum changes nothing but tells the
/// compiler that the result is not 0, so that dividing by it needs no panic.
fn padded(size: usize, tile: usize) -> usize {
    size.next_multiple_of(tile).max(tile)
}

/// Refuses a slice whose length is not the one that the job's sizes ask for.
fn check_length(region: Region, needed: usize, given: usize) -> Result<(), Fault> {
    if needed == given { Ok(()) } else { Err(Fault::JobLength { region, needed, given }) }
}
