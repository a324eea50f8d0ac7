//! Group products on an accelerator: the inputs laid out for it, the sums rescaled by the CPU.
//!
//! Whatever the device does, the caller ends with the same bits: its sums are exact integers, and
//! what it does not deliver is left to the CPU's kernels.

use crate::accelerator::{Dispatcher, Fault, GroupJob, Ran, Region, Report};
use crate::error::{Error, Result};
use crate::format::{DataType, MatrixKind, TILE_DEPTH, TILE_ROWS, round_up};
use crate::kernels::scalar::Scalar;
use crate::kernels::{Backend, GroupI8, Output, Pack, TILE_TOKENS, TileScales};
use crate::plan::BLOCK_TILES;
use crate::view::{Indices, Model};

use super::linear::Input;

/// Where the device's buffers begin.
const ALIGNMENT: usize = 16;
/// Most tokens of a job.
const TOKENS: usize = BLOCK_TILES * TILE_TOKENS;

/// A dispatcher with memory that its device can reach.
pub struct Offload<'d> {
    dispatcher: Dispatcher<'d>,
    /// int8 `[TOKENS][inputs of the deepest int8 group]`.
    panel: &'d mut [i8],
    /// i32 `[TOKENS][outputs of the widest int8 group]`.
    sums: &'d mut [i32],
}

impl<'d> Offload<'d> {
    /// Cuts `memory`, which must hold [`Offload::bytes`] and start at a multiple of 16, into the
    /// buffers for the jobs of `model`.
    ///
    /// # Errors
    /// [`Error::ArenaTooSmall`], [`Error::Misaligned`].
    pub fn new(
        model: &Model<'_>,
        dispatcher: Dispatcher<'d>,
        memory: &'d mut [u8],
    ) -> Result<Self> {
        let (panel, sums) = sizes(model)?;
        let too_small = Error::ArenaTooSmall { needed: panel + sums, available: memory.len() };
        if !memory.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(Error::Misaligned { needed: ALIGNMENT });
        }
        let (panel, rest) = memory.split_at_mut_checked(panel).ok_or(too_small)?;
        let sums = rest.get_mut(..sums).ok_or(too_small)?;
        let sums = bytemuck::try_cast_slice_mut(sums)
            .map_err(|_| Error::Misaligned { needed: ALIGNMENT })?;
        Ok(Self { dispatcher, panel: bytemuck::must_cast_slice_mut(panel), sums })
    }

    /// Bytes of memory that the jobs of `model` need.
    ///
    /// # Errors
    /// None for an opened model.
    pub fn bytes(model: &Model<'_>) -> Result<usize> {
        let (panel, sums) = sizes(model)?;
        Ok(panel + sums)
    }

    /// What was done so far.
    pub fn report(&self) -> &Report {
        self.dispatcher.report()
    }

    /// Has the device work out a group's products, and the CPU the rest. False when the group is
    /// the CPU's: it is too small, or the device is switched off, refused it or failed.
    pub(super) fn run(
        &mut self,
        backend: &dyn Backend,
        group: &GroupI8<'_>,
        inputs: &Inputs<'_>,
        out: &mut Output<'_>,
    ) -> bool {
        let (rows, depth, tokens) = (group.outputs.len(), group.depth, out.tokens);
        let (p, k) = (round_up(rows, TILE_ROWS), round_up(depth, TILE_DEPTH));
        let macs = p as u64 * k as u64 * tokens as u64;
        if !self.dispatcher.wants(macs) {
            self.dispatcher.keep();
            return false;
        }
        let ran = match self.send(group, inputs, [tokens, p, k]) {
            Ok(ran) => ran,
            Err(fault) => self.dispatcher.failed(fault),
        };
        if ran != Ran::OnDevice {
            return false;
        }
        let products = self.sums.get(..tokens * p).unwrap_or_default();
        backend.rescale(group, products, inputs.scales, out);
        true
    }

    /// Makes the job, and offers it.
    fn send(
        &mut self,
        group: &GroupI8<'_>,
        inputs: &Inputs<'_>,
        [tokens, p, k]: [usize; 3],
    ) -> core::result::Result<Ran, Fault> {
        let lacking = |region, needed, given| Fault::JobLength { region, needed, given };
        // Whole tiles, since the quantizer writes such.
        let (whole, given) = (tokens.next_multiple_of(TILE_TOKENS) * k, self.panel.len());
        let panel = self.panel.get_mut(..whole).ok_or(lacking(Region::Panel, whole, given))?;
        let (needed, given) = (tokens * p, self.sums.len());
        let sums = self.sums.get_mut(..needed).ok_or(lacking(Region::Sums, needed, given))?;
        inputs.quantize(k, bytemuck::must_cast_slice_mut(panel));
        let panel = panel.get(..tokens * k).unwrap_or_default();
        let job = GroupJob::new(group.block, panel, group.outputs.len(), group.depth, tokens)?;
        Ok(self.dispatcher.offer(&job, sums, |job, sums| {
            // `sums` has the job's length, which is all that can be wrong.
            let _ = job.run_plainly(sums);
        }))
    }
}

impl core::fmt::Debug for Offload<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Offload").field("report", self.report()).finish_non_exhaustive()
    }
}

/// A group's inputs before they are quantized.
pub(super) struct Inputs<'a> {
    pub(super) input: Input<'a>,
    /// Features of a tile.
    pub(super) width: usize,
    pub(super) equalize: &'a [f32],
    pub(super) scales: &'a [TileScales],
    /// The group's inputs: those shared with other groups, then its own.
    pub(super) shared: &'a [u16],
    pub(super) own: Indices<'a>,
}

impl Inputs<'_> {
    /// Fills `panel`, `[tokens of whole tiles][k]`, padding zero.
    fn quantize(&self, k: usize, panel: &mut [u8]) {
        panel.fill(0);
        let tiles = self.input.tiles(self.width).zip(self.scales);
        for (((x, live), scales), panel) in
            tiles.zip(panel.chunks_exact_mut((TILE_TOKENS * k).max(1)))
        {
            let shared = (Indices::List(self.shared), 0);
            for (inputs, at) in [shared, (self.own, self.shared.len())] {
                // The specification's panel is the device's.
                let job = Pack { x, equalize: self.equalize, scales, inputs, at, live };
                Scalar.pack(&job, k, panel);
            }
        }
    }
}

/// Bytes of the panel and of the sums.
fn sizes(model: &Model<'_>) -> Result<(usize, usize)> {
    let (mut depth, mut rows) = (0, 0);
    for i in 0..model.arch().layers as usize {
        let layer = model.layer(i)?;
        for kind in MatrixKind::ALL {
            let matrix = layer.matrix(kind);
            if matrix.weights() != DataType::I8 {
                continue;
            }
            for group in matrix.groups() {
                let group = group?;
                depth = group.depth().max(depth);
                rows = group.outputs.len().max(rows);
            }
        }
    }
    let panel = TOKENS * round_up(depth, TILE_DEPTH);
    Ok((panel, TOKENS * round_up(rows, TILE_ROWS) * size_of::<i32>()))
}
