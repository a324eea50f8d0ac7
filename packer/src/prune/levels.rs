//! The database of levels: every matrix pruned to several densities, with cost and loss.

use grouse_runtime::format::MatrixKind;
use rayon::prelude::*;

use super::allocate::Offer;
use super::groups::{ROW_UNIT, Sizes};
use super::matrix::{Effort, Level, Target};
use super::score::Judge;
use super::version::Version;
use super::{Options, places, stacked, stacked_mut};
use crate::Result;
use crate::calibrate::LayerStats;
use crate::model::DenseModel;
use crate::progress::Progress;

/// Densities of the levels between dropped and dense, relative to the one asked for. The densest
/// levels are rare in good networks at low density, so the steps widen.
const STEPS: [f64; 8] = [0.25, 0.4, 0.6, 0.8, 1.0, 1.3, 1.8, 2.8];
/// How long a level's pattern is looked for: the winner's patterns are sought again, in full.
const EFFORT: Effort = Effort { starts: 1, rounds: 3 };
/// The same where only the loss is wanted.
const SKETCH: Effort = Effort { starts: 1, rounds: 1 };

/// The levels of one matrix, from dropped to dense.
pub struct Ladder {
    /// Encoder layer.
    pub layer: usize,
    /// Which of the layer's matrices.
    pub kind: MatrixKind,
    /// Ascending densities.
    pub steps: Vec<Step>,
}

/// One level of a matrix.
pub struct Step {
    /// What it keeps.
    pub level: Level,
    /// The pruned matrix; `None` for the dense one.
    pub version: Option<Version>,
    /// What it costs and loses: the matrix's own error, until [`weigh`] makes it the model's.
    pub offer: Offer,
}

/// Everything that levels are made of.
pub struct Source<'a> {
    /// The dense model.
    pub model: &'a DenseModel,
    /// What its matrices see.
    pub stats: &'a [LayerStats],
}

impl Source<'_> {
    /// One matrix and its calibration.
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn target(&self, layer: usize, kind: MatrixKind) -> Result<Target> {
        let linears = stacked(&self.model.layers[layer], kind);
        Target::new(layer, kind, &linears, &self.stats[layer].inputs[kind as usize])
    }

    /// All matrices, the ones that take longest first, so that no thread is left with one.
    pub fn matrices(&self) -> Vec<(usize, MatrixKind)> {
        let mut all: Vec<_> = places(self.model).collect();
        all.sort_by_key(|(layer, kind)| {
            let inputs = self.stats[*layer].inputs[*kind as usize].mean.len();
            (std::cmp::Reverse(inputs), *layer, *kind as usize)
        });
        all
    }
}

/// The seed of a matrix's random starts.
pub fn seed_of(options: &Options, layer: usize, kind: MatrixKind) -> u64 {
    options.seed.wrapping_mul(1 << 20) + (layer * 4 + kind as usize) as u64
}

/// How many groups a level has: fewer kept weights ask for more groups, as each row then keeps
/// more of its own choice; groups smaller than a kernel tile would be padded.
pub fn group_count(options: &Options, rows: usize, density: f64) -> usize {
    let wished = if density >= 0.2 { 16 } else { 32 };
    options.groups.unwrap_or(wished.min(rows / ROW_UNIT).max(1)).min(rows.max(1))
}

/// The levels of all matrices, in the order layer, matrix. Unless they are `many`, a few are made
/// in haste, to tell costs and losses from.
///
/// # Errors
/// As [`Target::version`].
pub fn build(source: &Source<'_>, options: &Options, many: bool) -> Result<Vec<Ladder>> {
    let matrices = source.matrices();
    let progress = Progress::start("levels", matrices.len() as u64, "matrices");
    let steps: &[f64] = if many { &STEPS } else { &[0.4, 1.0, 1.8] };
    let effort = if many { EFFORT } else { SKETCH };
    let mut ladders = matrices
        .into_par_iter()
        .map(|(layer, kind)| {
            let target = source.target(layer, kind)?;
            let (rows, cols) = target.shape();
            let mut densities = vec![0.0];
            densities.extend(steps.iter().map(|s| s * options.density).filter(|d| *d < 0.95));
            let mut ladder = Ladder { layer, kind, steps: Vec::new() };
            for density in densities {
                let groups = if density > 0.0 { group_count(options, rows, density) } else { 1 };
                let level = Level { density, groups, shared: options.shared };
                let version = target.version(&level, effort, seed_of(options, layer, kind))?;
                let sizes = Sizes::new(rows, cols, density, groups, level.shared);
                let cost = options.measure.of(&sizes);
                let offer = Offer { cost, loss: version.error };
                ladder.steps.push(Step { level, version: Some(version), offer });
            }
            let level = Level { density: 1.0, groups: 1, shared: None };
            let cost = options.measure.of(&Sizes::new(rows, cols, 1.0, 1, None));
            ladder.steps.push(Step { level, version: None, offer: Offer { cost, loss: 0.0 } });
            progress.advance(1);
            Ok(ladder)
        })
        .collect::<Result<Vec<_>>>()?;
    progress.finish();
    ladders.sort_by_key(|ladder| (ladder.layer, ladder.kind as usize));
    Ok(ladders)
}

/// Makes losses comparable: each matrix is pruned alone, to the level at `density`, and how far
/// the model then is from the dense one says what the matrix's errors are worth. Errors of a matrix
/// that later layers forgive, or that sum up over a sentence, show in nothing less.
///
/// # Errors
/// As [`Judge::score`].
pub fn weigh(
    ladders: &mut [Ladder],
    dense: &DenseModel,
    judge: &Judge,
    density: f64,
) -> Result<()> {
    let progress = Progress::start("weigh", ladders.len() as u64, "matrices");
    let mut model = dense.clone();
    for ladder in ladders {
        let (layer, kind) = (ladder.layer, ladder.kind);
        let base = ladder.steps.iter().filter(|s| s.level.density > 0.0);
        let off = |s: &&Step| (s.level.density - density).abs();
        let Some(step) = base.min_by(|a, b| off(a).total_cmp(&off(b))) else { continue };
        let Some(version) = &step.version else { continue };
        version.write(&mut stacked_mut(&mut model.layers[layer], kind));
        let lost = 1.0 - judge.score(&model)?.agreement();
        model.layers[layer] = dense.layers[layer].clone();
        let worth = lost.max(0.0) / version.error.max(f64::MIN_POSITIVE);
        ladder.steps.iter_mut().for_each(|step| step.offer.loss *= worth);
        progress.advance(1);
    }
    progress.finish();
    Ok(())
}

impl Ladder {
    /// The loss at any density, between the levels by the logarithms of both.
    pub fn loss_at(&self, density: f64) -> f64 {
        let dense = self.steps.len() - 1;
        let above = self.steps.iter().position(|s| s.level.density >= density).unwrap_or(dense);
        if above == 0 {
            return self.steps[0].offer.loss;
        }
        let (low, high) = (&self.steps[above - 1], &self.steps[above]);
        let (from, to) = (low.level.density, high.level.density);
        let part = (density - from) / (to - from);
        // Logarithms of losses, but not down to the zero of a dense matrix.
        if above == dense || low.offer.loss <= 0.0 || high.offer.loss <= 0.0 {
            return low.offer.loss * (1.0 - part) + high.offer.loss * part;
        }
        (low.offer.loss.ln() * (1.0 - part) + high.offer.loss.ln() * part).exp()
    }
}
