//! The database of levels: every matrix pruned to several densities, with cost and loss.

use grouse_runtime::format::MatrixKind;
use rayon::prelude::*;

use super::allocate::Offer;
use super::groups::{ROW_UNIT, Sizes};
use super::matrix::{Axis, DENSE, Effort, Level, Target};
use super::options::{Steps, shape};
use super::units::{self, Units};
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

/// Levels that are only compared are not kept, but for those that [`weigh`] tries: of a large model
/// they would take gigabytes.
fn is_kept(effort: Effort, level: &Level, options: &Options) -> bool {
    effort != SKETCH || (level.units == 1.0 && level.density == options.density)
}

/// The levels of one matrix, from dropped to dense.
pub struct Ladder {
    /// Encoder layer.
    pub layer: usize,
    /// Which of the layer's matrices.
    pub kind: MatrixKind,
    /// Heads or neurons kept / all, at all levels.
    pub units: f64,
    /// Ascending densities.
    pub steps: Vec<Step>,
}

/// One level of a matrix.
pub struct Step {
    /// What it keeps.
    pub level: Level,
    /// The pruned matrix; `None` for the dense one, and for one that was only a sketch.
    pub version: Option<Version>,
    /// What it costs and loses: the matrix's own error, until [`apply`] makes it the model's.
    pub offer: Offer,
}

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
    /// What they see in other text, to judge errors by; without it they are judged by the same.
    pub held_out: Option<&'a [LayerStats]>,
    /// Heads and neurons of every layer; empty where none are to be left out.
    pub units: &'a [[Units; 2]],
}

impl<'a> Source<'a> {
    /// One matrix and its calibration.
    ///
    /// # Errors
    /// As [`Target::new`].
    pub fn target(&self, layer: usize, kind: MatrixKind) -> Result<Target<'a>> {
        let linears = stacked(&self.model.layers[layer], kind);
        let input = &self.stats[layer].inputs[kind as usize];
        let axis = if first_of_two(kind) { Axis::Outputs } else { Axis::Inputs };
        let units = self.units.get(layer).map(|halves| (axis, &halves[kind as usize / 2]));
        let target = Target::new(layer, kind, &linears, input, self.steps, units)?;
        Ok(match self.held_out {
            Some(other) => target.judged_by(&other[layer].inputs[kind as usize]),
            None => target,
        })
    }

    /// What a matrix has at `level`.
    pub fn sizes(&self, (layer, kind): (usize, MatrixKind), level: &Level) -> Sizes {
        let whole = shape(self.model, layer, kind);
        level.sizes(whole, self.left((layer, kind), level.units))
    }

    /// What a matrix at `level` takes of the budget.
    pub fn cost(&self, at: (usize, MatrixKind), level: &Level, options: &Options) -> u64 {
        let gone = shape(self.model, at.0, at.1).0 - self.left(at, level.units).0;
        options.measure.of(&self.sizes(at, level)) + options.measure.of_gone(gone)
    }

    /// Outputs and inputs of a matrix when the part `units` of the heads or neurons stays.
    pub fn left(&self, (layer, kind): (usize, MatrixKind), units: f64) -> (usize, usize) {
        let (rows, cols) = shape(self.model, layer, kind);
        let config = &self.model.config;
        let heads = || units::count(config.heads, units) * config.hidden_size / config.heads;
        match kind {
            MatrixKind::Qkv => (3 * heads(), cols),
            MatrixKind::AttentionOutput => (rows, heads()),
            MatrixKind::FeedForwardIn => (units::count(rows, units), cols),
            MatrixKind::FeedForwardOut => (rows, units::count(cols, units)),
        }
    }

    /// The heads and the neurons of every layer, ranked.
    ///
    /// # Errors
    /// As [`Units::new`].
    pub fn rank(&self) -> Result<Vec<[Units; 2]>> {
        let config = &self.model.config;
        let jobs: Vec<_> = self.matrices().into_iter().filter(|m| !first_of_two(m.1)).collect();
        let progress = Progress::start("rank", jobs.len() as u64, "sub-layers");
        let mut ranked = jobs
            .into_par_iter()
            .map(|(layer, kind)| {
                let size = match kind {
                    MatrixKind::AttentionOutput => config.hidden_size / config.heads,
                    _ => 1,
                };
                let units = Units::new(&self.target(layer, kind)?.problem(), size)?;
                progress.advance(1);
                Ok(((layer, kind as usize), units))
            })
            .collect::<Result<Vec<_>>>()?;
        progress.finish();
        ranked.sort_by_key(|(at, _)| *at);
        let mut units = ranked.into_iter().map(|(_, units)| units);
        let layers = 0..self.model.layers.len();
        Ok(layers.filter_map(|_| Some([units.next()?, units.next()?])).collect())
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

/// Whether a matrix is the first of its sub-layer: its outputs are heads or neurons, the second's
/// inputs.
fn first_of_two(kind: MatrixKind) -> bool {
    matches!(kind, MatrixKind::Qkv | MatrixKind::FeedForwardIn)
}

/// The levels of all matrices, in the order layer, matrix, units: for each part of the heads or
/// neurons that `between` names for a layer's matrix, dropped, all kept, and the densities that it
/// names, ascending.
///
/// # Errors
/// As [`Target::version`].
pub fn build(
    source: &Source<'_>,
    options: &Options,
    effort: Effort,
    between: impl Fn(usize, MatrixKind) -> Vec<(f64, Vec<f64>)> + Sync,
) -> Result<Vec<Ladder>> {
    let matrices = source.matrices();
    let progress = Progress::start("levels", matrices.len() as u64, "matrices");
    let ladders = matrices
        .into_par_iter()
        .map(|(layer, kind)| {
            let target = source.target(layer, kind)?;
            let whole = target.shape();
            let seed = seed_of(options, layer, kind);
            let mut ladders = Vec::new();
            for (units, between) in between(layer, kind) {
                let left = source.left((layer, kind), units);
                let all = (left.0 * left.1) as f64 / (whole.0 * whole.1) as f64;
                let mut densities = vec![0.0];
                densities.extend(between.into_iter().filter(|d| *d < DENSE * all));
                densities.push(all);
                let mut ladder = Ladder { layer, kind, units, steps: Vec::new() };
                for density in densities {
                    let level = level(options, left.0, density / all, density, units);
                    let version = match density {
                        1.0 => None,
                        _ => Some(target.version(&level, effort, seed)?),
                    };
                    let cost = source.cost((layer, kind), &level, options);
                    let offer = Offer { cost, loss: version.as_ref().map_or(0.0, |v| v.error) };
                    let version = version.filter(|_| is_kept(effort, &level, options));
                    ladder.steps.push(Step { level, version, offer });
                }
                ladders.push(ladder);
            }
            progress.advance(1);
            Ok(ladders)
        })
        .collect::<Result<Vec<_>>>()?;
    progress.finish();
    let mut ladders: Vec<Ladder> = ladders.into_iter().flatten().collect();
    ladders.sort_by_key(|ladder| (ladder.layer, ladder.kind as usize));
    Ok(ladders)
}

/// The level that has `density` of a matrix when the part `units` of the heads or neurons stays:
/// `rows` outputs, of whose weights `within` are kept.
pub fn level(options: &Options, rows: usize, within: f64, density: f64, units: f64) -> Level {
    let groups =
        if within > 0.0 && within < DENSE { group_count(options, rows, within) } else { 1 };
    Level { density, groups, shared: options.shared, units }
}

/// What an error of each matrix is worth, in the order layer, matrix: each is pruned alone, to the
/// level at `density` with all heads or neurons, and it is seen how far the model then is from the dense one. Errors of a
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
    let whole = ladders.iter().filter(|ladder| ladder.units == 1.0);
    let progress = Progress::start("weigh", 4 * dense.layers.len() as u64, "matrices");
    let mut model = dense.clone();
    let mut worths = vec![1.0; 4 * dense.layers.len()];
    for (ladder, worth) in whole.zip(&mut worths) {
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
    for ladder in ladders {
        let worth = worths[4 * ladder.layer + ladder.kind as usize];
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
