//! Automatic pruning: from one budget to the level of every matrix (AE-BERT), each grouped (PGB).

use std::collections::BTreeSet;

use grouse_runtime::format::MatrixKind;
use serde::Serialize;

use rayon::prelude::*;

use super::allocate::{CELLS, Offer, allocate};
use super::groups::ROW_UNIT;
use super::levels::{self, Ladder, Source};
use super::matrix::{DENSE, Level};
use super::options::{dense_cost, shape};
use super::search::{self, Breadth, Candidate, Origin, search};
use super::units::Units;
use super::{Options, places, stacked_mut};
use crate::agreement::{Judge, Score};
use crate::calibrate;
use crate::model::DenseModel;
use crate::progress::Progress;
use crate::{Error, Result};

/// Every so many distinct sentences one is held out to judge candidates on.
const HOLD_OUT: usize = 4;
/// Sentences that matrices are weighed on, and that every candidate is judged on first.
const WEIGHED: usize = 40;
/// Densities that are tried to see what a matrix loses, relative to the one asked for.
const SKETCHED: [f64; 3] = [0.4, 1.0, 1.8];
/// The same where only a part of the heads or neurons stays, relative to this part.
const SKETCHED_WITHIN: [f64; 2] = [0.35, 0.7];
/// Parts of the neurons that may stay, relative to the density asked for.
const NEURONS: [f64; 4] = [2.8, 2.0, 1.4, 0.9];
/// Parts of the heads that may stay. Fewer than half look as good to the judge, but other texts
/// lose by it (`docs/pruning.md`).
const HEADS: [f64; 3] = [0.84, 0.67, 0.5];
/// Group counts that a matrix may have, fewest first.
const GROUPS: [usize; 5] = [4, 8, 16, 24, 32];
/// An error this much larger is taken for fewer groups.
const ABOUT_AS_LITTLE: f64 = 1.01;
/// Densities of a candidate's matrices, relative to the knapsack's.
const AROUND: [f64; 9] = [0.3, 0.5, 0.7, 0.85, 1.0, 1.15, 1.4, 1.8, 2.5];
/// Sentences held out at most.
const MOST_HELD_OUT: usize = 160;
/// Densities between which the allocation without a search chooses.
const GRID: usize = 48;

/// What the search tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchReport {
    /// Sentences that candidates were judged on, relatives not counted.
    pub held_out: usize,
    /// The knapsack's answer.
    pub seed_score: f64,
    /// The best candidate's.
    pub best_score: f64,
    /// Density of each level of each matrix.
    pub levels: Vec<Vec<f64>>,
    /// All candidates; those judged on everything first, each part the best first.
    pub candidates: Vec<Candidate>,
    /// Agreement of the best in detail.
    pub agreement: Score,
    /// The knapsack's answers for other budgets.
    pub frontier: Vec<Point>,
}

/// A sub-network of another size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Cost / the dense cost.
    pub density: f64,
    /// Sum of the losses.
    pub loss: f64,
    /// Agreement with the dense model.
    pub score: f64,
}

/// Budgets of the frontier, relative to the one asked for.
const FRONTIER: [f64; 5] = [0.5, 0.75, 1.0, 1.4, 2.0];

/// The level of every matrix in the order layer, matrix, where `None` keeps it dense; the heads and
/// neurons of every layer; and what a search tried.
pub type Choice = (Vec<Option<Level>>, Vec<[Units; 2]>, Option<SearchReport>);

/// Chooses what every matrix of `model` keeps.
///
/// # Errors
/// [`Error::Input`] for a budget below what every matrix dropped costs, and as
/// [`calibrate::collect`].
pub fn choose(model: &DenseModel, sentences: &[Vec<u32>], options: &Options) -> Result<Choice> {
    // What is fitted to one text is judged on another: a pattern that keeps few inputs for many
    // outputs would seem better than it is.
    let (fit, held_out) = split(sentences);
    let stats = calibrate::collect(model, &fit)?;
    let others = match held_out.len() {
        0..calibrate::FEWEST => None,
        _ => Some(calibrate::collect(model, &held_out)?),
    };
    let (stats, others) = (stats.as_slice(), others.as_deref());
    let source = Source { model, stats, held_out: others, steps: options.steps, units: &[] };
    let units = if options.steps.units { source.rank()? } else { Vec::new() };
    let (levels, report) = share(&Source { units: &units, ..source }, &held_out, options)?;
    Ok((levels, units, report))
}

fn share(
    source: &Source<'_>,
    held_out: &[Vec<u32>],
    options: &Options,
) -> Result<(Vec<Option<Level>>, Option<SearchReport>)> {
    let densities: Vec<f64> = SKETCHED.iter().map(|s| s * options.density).collect();
    let sketched = |_, kind| -> Vec<(f64, Vec<f64>)> {
        let units = if source.units.is_empty() { Vec::new() } else { parts(kind, options.density) };
        let narrow = |part: f64| (part, SKETCHED_WITHIN.map(|within| within * part).to_vec());
        [(1.0, densities.clone())].into_iter().chain(units.into_iter().map(narrow)).collect()
    };
    let mut ladders = levels::build(source, options, levels::SKETCH, sketched)?;
    let quick = Judge::new(source.model, &spread(held_out, WEIGHED), options.seed)?;
    let worths = levels::weigh(&ladders, source.model, &quick, options.density)?;
    levels::apply(&worths, &mut ladders);
    let shares = fitted(source, &shared_out(source, &ladders, options)?, options);
    if options.search == 0 {
        return Ok((levels_of(source, &shares, options)?, None));
    }
    let density = |at: usize| shares[at].density;
    let around = |layer: usize, kind| {
        let share = shares[4 * layer + kind as usize];
        vec![(share.units, around(share.density, options.density))]
    };
    let mut ladders = levels::build(source, options, levels::CANDIDATE, around)?;
    levels::apply(&worths, &mut ladders);
    let whole = Judge::new(source.model, held_out, options.seed)?;
    let offers: Vec<Vec<Offer>> =
        ladders.iter().map(|l| l.steps.iter().map(|s| s.offer).collect()).collect();
    let budget = options.budget(source.model);
    let at = |densities: &dyn Fn(usize) -> f64| -> Option<Vec<usize>> {
        let step = |(m, ladder): (usize, &Ladder)| {
            ladder.steps.iter().position(|step| step.level.density == densities(m))
        };
        ladders.iter().enumerate().map(step).collect()
    };
    let known = [(Origin::Seed, at(&density)), (Origin::Uniform, at(&|_| options.density))];
    let known = known.into_iter().filter_map(|(origin, profile)| Some((origin, profile?)));
    let progress = Progress::start("search", judgements(options.search), "candidates");
    let mut model = source.model.clone();
    let candidates =
        search(&offers, budget, (options.search, options.seed), known, |profile, breadth| {
            assemble(&ladders, profile, source.model, &mut model);
            progress.advance(1);
            let judge = if breadth == Breadth::Part { &quick } else { &whole };
            Ok(judge.score(&model)?.cosine)
        })?;
    progress.finish();
    let Some(best) = candidates.first() else { return Err(too_small(options)) };
    let seed = candidates.iter().find(|c| c.origin == Origin::Seed);
    let mut frontier = Vec::new();
    for factor in FRONTIER {
        let Some(profile) = allocate(&offers, (factor * budget as f64) as u64) else { continue };
        assemble(&ladders, &profile, source.model, &mut model);
        let picked = || profile.iter().zip(&offers).map(|(step, matrix)| matrix[*step]);
        let cost: u64 = picked().map(|o| o.cost).sum();
        frontier.push(Point {
            density: cost as f64 / dense_cost(source.model, options.measure) as f64,
            loss: picked().map(|o| o.loss).sum(),
            score: whole.score(&model)?.cosine,
        });
    }
    assemble(&ladders, &best.profile, source.model, &mut model);
    let step = |(p, l): (&usize, &Ladder)| l.steps[*p].level;
    let best_shares: Vec<Share> =
        best.profile.iter().zip(&ladders).map(step).map(Share::from).collect();
    let report = SearchReport {
        held_out: held_out.len(),
        seed_score: seed.map_or(f64::NAN, |c| c.score),
        best_score: best.score,
        levels: ladders.iter().map(|l| l.steps.iter().map(|s| s.level.density).collect()).collect(),
        agreement: whole.score(&model)?,
        candidates,
        frontier,
    };
    let shares = fitted(source, &best_shares, options);
    Ok((levels_of(source, &shares, options)?, Some(report)))
}

/// Judgements that a search of `count` candidates makes at most.
fn judgements(count: usize) -> u64 {
    (2 + count + count.div_ceil(search::HALVING) + search::generations(count) * search::OFFSPRING)
        as u64
}

fn too_small(options: &Options) -> Error {
    Error::input(
        format!("no sub-network of this model fits density {}", options.density),
        "ask for more",
    )
}

/// At most `most` of the sentences, evenly chosen.
fn spread(sentences: &[Vec<u32>], most: usize) -> Vec<Vec<u32>> {
    let step = sentences.len().div_ceil(most.max(1)).max(1);
    sentences.iter().step_by(step).cloned().collect()
}

/// Sentences to fit to, and distinct ones held out.
fn split(sentences: &[Vec<u32>]) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let mut seen = BTreeSet::new();
    let distinct: Vec<&Vec<u32>> = sentences.iter().filter(|s| seen.insert(*s)).collect();
    let step = HOLD_OUT.max(distinct.len() / MOST_HELD_OUT);
    let held: BTreeSet<&Vec<u32>> = distinct.into_iter().step_by(step).collect();
    let fit = sentences.iter().filter(|s| !held.contains(*s)).cloned().collect();
    (fit, held.into_iter().cloned().collect())
}

/// Levels to choose from for a matrix to which the knapsack gave `density`, ascending; `uniform`
/// is among them, to compare with.
fn around(density: f64, uniform: f64) -> Vec<f64> {
    // Of a matrix that it dropped or left dense, those around the density asked for.
    let middle = if density > 0.0 && density < DENSE { density } else { uniform };
    let mut all: Vec<f64> = AROUND.iter().map(|factor| factor * middle).collect();
    let apart = |d: &f64| *d == middle || (d / uniform).ln().abs() > 0.05;
    all.retain(apart);
    if middle != uniform {
        all.push(uniform);
    }
    all.sort_by(f64::total_cmp);
    all
}

/// Puts the versions of a profile into `model`.
fn assemble(ladders: &[Ladder], profile: &[usize], dense: &DenseModel, model: &mut DenseModel) {
    for (ladder, step) in ladders.iter().zip(profile) {
        let layer = ladder.layer;
        match &ladder.steps[*step].version {
            Some(version) => version.write(&mut stacked_mut(&mut model.layers[layer], ladder.kind)),
            None => restore(dense, model, layer, ladder.kind),
        }
    }
}

fn restore(dense: &DenseModel, model: &mut DenseModel, layer: usize, kind: MatrixKind) {
    let from = super::stacked(&dense.layers[layer], kind);
    for (to, from) in stacked_mut(&mut model.layers[layer], kind).into_iter().zip(from) {
        to.clone_from(from);
    }
}

/// What a matrix gets.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Share {
    /// Heads or neurons kept / all.
    units: f64,
    /// Weights kept / all.
    density: f64,
}

impl From<Level> for Share {
    fn from(level: Level) -> Self {
        Self { units: level.units, density: level.density }
    }
}

/// Parts of the heads or neurons that may stay, beside all of them.
fn parts(kind: MatrixKind, density: f64) -> Vec<f64> {
    match kind {
        MatrixKind::Qkv | MatrixKind::AttentionOutput => HEADS.to_vec(),
        MatrixKind::FeedForwardIn | MatrixKind::FeedForwardOut => {
            NEURONS.iter().map(|part| part * density).filter(|part| *part < DENSE).collect()
        }
    }
}

/// The knapsack's shares: sub-layer by sub-layer a part of the units, and two densities on a fine
/// grid between the levels.
fn shared_out(source: &Source<'_>, ladders: &[Ladder], options: &Options) -> Result<Vec<Share>> {
    // From a tenth of the density asked for to dense, in equal steps of the logarithm.
    let lowest = options.density / 10.0;
    let step = (1.0 / lowest).powf(1.0 / GRID as f64);
    let grid: Vec<f64> = (0..=GRID).map(|i| (lowest * step.powi(i as i32)).min(1.0)).collect();
    let budget = options.budget(source.model);
    let halves: Vec<Vec<(Offer, [Share; 2])>> = (0..2 * source.model.layers.len())
        .into_par_iter()
        .map(|half| {
            let of = |second: usize| -> Vec<&Ladder> {
                let place = (half / 2, 2 * (half % 2) + second);
                ladders.iter().filter(|l| (l.layer, l.kind as usize) == place).collect()
            };
            let mut all = Vec::new();
            for (first, second) in of(0).into_iter().zip(of(1)) {
                let (a, b) =
                    (offers(source, first, &grid, options), offers(source, second, &grid, options));
                for (x, at) in &a {
                    for (y, by) in &b {
                        let offer = Offer { cost: x.cost + y.cost, loss: x.loss + y.loss };
                        all.push((offer, [*at, *by]));
                    }
                }
                // Without its second matrix the first is not read, and without the first the
                // second sees a constant: both are dropped or none.
                if let (Some(x), Some(y)) = (first.steps.first(), second.steps.first()) {
                    let offer = Offer {
                        cost: x.offer.cost + y.offer.cost,
                        loss: x.offer.loss + y.offer.loss,
                    };
                    all.push((offer, [Share::from(x.level), Share::from(y.level)]));
                }
            }
            undominated(all, budget)
        })
        .collect();
    let offers: Vec<Vec<Offer>> =
        halves.iter().map(|half| half.iter().map(|(offer, _)| *offer).collect()).collect();
    let chosen = allocate(&offers, budget).ok_or_else(|| too_small(options))?;
    Ok(chosen.into_iter().zip(&halves).flat_map(|(c, half)| half[c].1).collect())
}

/// What a matrix may have of one ladder, on the grid and with all that its units have.
fn offers(
    source: &Source<'_>,
    ladder: &Ladder,
    grid: &[f64],
    options: &Options,
) -> Vec<(Offer, Share)> {
    let all = ladder.steps.last().map_or(1.0, |step| step.level.density);
    let densities = grid.iter().copied().filter(|d| *d < all).chain([all]);
    densities
        .map(|density| {
            let share = Share { units: ladder.units, density };
            let cost = cost(source, (ladder.layer, ladder.kind), share, options);
            (Offer { cost, loss: ladder.loss_at(density) }, share)
        })
        .collect()
}

/// Those offers that none beats in cost and loss, one for each cell of the budget.
fn undominated<T>(mut offers: Vec<(Offer, T)>, budget: u64) -> Vec<(Offer, T)> {
    let cell = |offer: &Offer| offer.cost / budget.div_ceil(CELLS).max(1);
    offers.sort_by(|(a, _), (b, _)| {
        cell(a).cmp(&cell(b)).then(a.loss.total_cmp(&b.loss)).then(a.cost.cmp(&b.cost))
    });
    let mut least = f64::INFINITY;
    offers.retain(|(offer, _)| {
        let better = offer.loss < least;
        least = least.min(offer.loss);
        better
    });
    offers
}

fn cost(source: &Source<'_>, at: (usize, MatrixKind), share: Share, options: &Options) -> u64 {
    source.cost(at, &level_of(source, at, share, options), options)
}

fn level_of(
    source: &Source<'_>,
    at: (usize, MatrixKind),
    share: Share,
    options: &Options,
) -> Level {
    let (rows, cols) = shape(source.model, at.0, at.1);
    let left = source.left(at, share.units);
    let within = share.density * (rows * cols) as f64 / (left.0 * left.1) as f64;
    levels::level(options, left.0, within, share.density, share.units)
}

/// The levels of shares, each with the number of groups that suits its matrix; `None` where keeping
/// everything is as good.
fn levels_of(
    source: &Source<'_>,
    shares: &[Share],
    options: &Options,
) -> Result<Vec<Option<Level>>> {
    let matrices = source.matrices();
    let progress = Progress::start("groups", matrices.len() as u64, "matrices");
    let mut levels = vec![None; matrices.len()];
    let found = matrices
        .into_par_iter()
        .map(|at| {
            let index = 4 * at.0 + at.1 as usize;
            let share = shares[index];
            let level = match share.density < DENSE {
                true => {
                    Some(with_groups(source, at, level_of(source, at, share, options), options)?)
                }
                false => None,
            };
            progress.advance(1);
            Ok((index, level))
        })
        .collect::<Result<Vec<_>>>()?;
    progress.finish();
    found.into_iter().for_each(|(index, level)| levels[index] = level);
    Ok(levels)
}

/// `level` with the number of groups that loses least of its matrix; fewer where about as little
/// is lost, since every group costs the kernel a list to gather.
fn with_groups(
    source: &Source<'_>,
    at: (usize, MatrixKind),
    level: Level,
    options: &Options,
) -> Result<Level> {
    if level.groups == 1 || options.groups.is_some() || !options.steps.counts {
        return Ok(level);
    }
    let target = source.target(at.0, at.1)?;
    let budget = source.cost(at, &level, options);
    let most = source.left(at, level.units).0 / ROW_UNIT;
    let mut tried = Vec::new();
    for groups in GROUPS.into_iter().filter(|groups| *groups <= most.max(level.groups)) {
        let level = Level { groups, ..level };
        // Whole kernel steps may cost more in other groups; that must not break the budget.
        if source.cost(at, &level, options) <= budget {
            let version =
                target.version(&level, levels::SKETCH, levels::seed_of(options, at.0, at.1))?;
            tried.push((version.error, level));
        }
    }
    let least = tried.iter().map(|(error, _)| *error).fold(f64::INFINITY, f64::min);
    let good = tried.into_iter().find(|(error, _)| *error <= least * ABOUT_AS_LITTLE);
    Ok(good.map_or(level, |(_, level)| level))
}

/// The shares, all but dropped and dense ones moved by one factor so that the budget is spent.
fn fitted(source: &Source<'_>, shares: &[Share], options: &Options) -> Vec<Share> {
    let places: Vec<(usize, MatrixKind)> = places(source.model).collect();
    let mut shares = coupled(shares);
    // What a matrix can have at most: nearly dense, or all that its units have.
    let most: Vec<f64> = places
        .iter()
        .zip(&shares)
        .map(|(at, share)| {
            let (rows, cols) = shape(source.model, at.0, at.1);
            let left = source.left(*at, share.units);
            let all = (left.0 * left.1) as f64 / (rows * cols) as f64;
            if share.units < 1.0 { all } else { 0.94 }
        })
        .collect();
    let scaled = |factor: f64| -> Vec<Share> {
        let one = |(share, most): (&Share, &f64)| {
            let density = (share.density * factor).min(*most);
            Share { density: if share.density < DENSE { density } else { 1.0 }, ..*share }
        };
        shares.iter().zip(&most).map(one).collect()
    };
    let total = |shares: &[Share]| -> u64 {
        places.iter().zip(shares).map(|(at, s)| cost(source, *at, *s, options)).sum()
    };
    let budget = options.budget(source.model);
    let (mut low, mut high) = (0.25, 8.0);
    for _ in 0..30 {
        let middle = (low + high) / 2.0;
        if total(&scaled(middle)) > budget { high = middle } else { low = middle }
    }
    shares = scaled(low);
    let whole = |shares: &mut [Share]| {
        for (share, most) in shares.iter_mut().zip(&most) {
            // Nearly all costs as much as all.
            if share.density < DENSE && share.density >= DENSE * most && share.units < 1.0 {
                share.density = *most;
            }
        }
    };
    whole(&mut shares);
    // Sizes come in whole kernel steps: one matrix after another takes what is left.
    for i in 0..shares.len() {
        for step in [0.1, 0.03, 0.01] {
            let before = shares[i].density;
            if before > 0.0 && before < DENSE {
                shares[i].density = (before * (1.0 + step)).min(most[i]);
                if total(&shares) > budget {
                    shares[i].density = before;
                }
            }
        }
    }
    whole(&mut shares);
    shares
}

/// The shares with whole sub-layers dropped: without its second matrix the first is not read,
/// without the first the second sees a constant, which its bias can say.
fn coupled(shares: &[Share]) -> Vec<Share> {
    let mut out = shares.to_vec();
    for pair in out.chunks_exact_mut(2) {
        if pair.iter().any(|share| share.density == 0.0) {
            pair.iter_mut().for_each(|share| share.density = 0.0);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_sub_layer_is_dropped_whole() {
        let coupled = |densities: [f64; 4]| {
            let shares = densities.map(|density| Share { units: 1.0, density });
            super::coupled(&shares).iter().map(|share| share.density).collect::<Vec<_>>()
        };
        assert_eq!(coupled([0.5, 0.0, 0.3, 0.2]), [0.0, 0.0, 0.3, 0.2]);
        assert_eq!(coupled([0.5, 0.1, 0.0, 0.2]), [0.5, 0.1, 0.0, 0.0]);
    }

    #[test]
    fn sentences_held_out_are_nowhere_else() {
        let text: Vec<Vec<u32>> = (0..500).map(|i| vec![1, i % 90, 2]).collect();
        let (fit, held) = split(&text);
        assert!(held.len() >= 20);
        assert!(fit.iter().all(|s| !held.contains(s)));
        assert_eq!(split(&text), (fit, held));
    }
}
