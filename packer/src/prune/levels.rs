//! The database of levels: every matrix pruned to several densities, with cost and loss.

use grouse_runtime::format::MatrixKind;
use rayon::prelude::*;

use super::allocate::Offer;
use super::groups::{ROW_UNIT, Sizes};
use super::matrix::{Effort, Level, Target};
use super::options::Steps;
use super::version::Version;
use super::{Options, places, stacked, stacked_mut};
use crate::Result;
use crate::agreement::Judge;
use crate::calibrate::LayerStats;
use crate::model::DenseModel;
use crate::progress::Progress;

/// How long a level's pattern is looked for where only the loss is wanted.
pub const SKETCH: Effort = Effort { starts: 1, rounds: 1 };
/// The same for candidates of a search: the winner's patterns are sought again, in full.
pub const CANDIDATE: Effort = Effort { starts: 1, rounds: 3 };

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
    /// What it costs and loses: the matrix's own error, until [`apply`] makes it the model's.
    pub offer: Offer,
}

/// From this density on a matrix is kept as it is: groups would save nothing.
pub const DENSE: f64 = 0.95;

/// The least loss that pruning a matrix is taken to bring.
const LEAST_LOSS: f64 = 1e-6;

/// Everything that levels are made of.
pub struct Source<'a> {
    /// The dense model.
    pub model: &'a DenseModel,
    /// What its matrices see.
    pub stats: &'a [LayerStats],
    /// What is done after grouping.
    pub steps: Steps,
}

impl Source<'_> {
    /// One matrix and its calibration.
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn target(&self, layer: usize, kind: MatrixKind) -> Result<Target> {
        let linears = stacked(&self.model.layers[layer], kind);
        Target::new(layer, kind, &linears, &self.stats[layer].inputs[kind as usize], self.steps)
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

/// The levels of all matrices, in the order layer, matrix: dropped, dense, and the densities that
/// `between` names for a layer's matrix, ascending.
///
/// # Errors
/// As [`Target::version`].
pub fn build(
    source: &Source<'_>,
    options: &Options,
    effort: Effort,
    between: impl Fn(usize, MatrixKind) -> Vec<f64> + Sync,
) -> Result<Vec<Ladder>> {
    let matrices = source.matrices();
    let progress = Progress::start("levels", matrices.len() as u64, "matrices");
    let mut ladders = matrices
        .into_par_iter()
        .map(|(layer, kind)| {
            let target = source.target(layer, kind)?;
            let (rows, cols) = target.shape();
            let mut densities = vec![0.0];
            densities.extend(between(layer, kind).into_iter().filter(|d| *d < DENSE));
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

/// What an error of each matrix is worth, in the order of `ladders`: each is pruned alone, to the
/// level at `density`, and it is seen how far the model then is from the dense one. Errors of a
/// matrix that later layers forgive, or that sum up over a sentence, show in nothing less.
///
/// # Errors
/// As [`Judge::score`].
pub fn weigh(
    ladders: &[Ladder],
    dense: &DenseModel,
    judge: &Judge,
    density: f64,
) -> Result<Vec<f64>> {
    let progress = Progress::start("weigh", ladders.len() as u64, "matrices");
    let mut model = dense.clone();
    let mut worths = vec![1.0; ladders.len()];
    for (ladder, worth) in ladders.iter().zip(&mut worths) {
        let (layer, kind) = (ladder.layer, ladder.kind);
        let base = ladder.steps.iter().filter(|s| s.level.density > 0.0 && s.version.is_some());
        let off = |s: &&Step| (s.level.density - density).abs();
        let Some(step) = base.min_by(|a, b| off(a).total_cmp(&off(b))) else { continue };
        let Some(version) = &step.version else { continue };
        version.write(&mut stacked_mut(&mut model.layers[layer], kind));
        let lost = 1.0 - judge.score(&model)?.cosine;
        model.layers[layer] = dense.layers[layer].clone();
        // No matrix is worth nothing: where the judge sees no loss, it sees too little.
        *worth = lost.max(LEAST_LOSS) / version.error.max(f64::MIN_POSITIVE);
        progress.advance(1);
    }
    progress.finish();
    Ok(worths)
}

/// Makes the losses of all matrices comparable by what [`weigh`] found.
pub fn apply(worths: &[f64], ladders: &mut [Ladder]) {
    for (ladder, worth) in ladders.iter_mut().zip(worths) {
        ladder.steps.iter_mut().for_each(|step| step.offer.loss *= worth);
    }
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
