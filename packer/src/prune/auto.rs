//! Automatic pruning: from one budget to the level of every matrix (AE-BERT), each grouped (PGB).

use std::collections::BTreeSet;

use grouse_runtime::format::MatrixKind;
use serde::Serialize;

use super::allocate::{Offer, allocate};
use super::groups::Sizes;
use super::levels::{self, Ladder, Source, group_count};
use super::matrix::Level;
use super::options::{dense_cost, shape};
use super::search::{self, Breadth, Candidate, Origin, search};
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

/// Chooses the level of every matrix, in the order layer, matrix; `None` keeps it dense.
///
/// # Errors
/// [`Error::Input`] for a budget below what every matrix dropped costs.
pub fn choose(
    source: &Source<'_>,
    sentences: &[Vec<u32>],
    options: &Options,
) -> Result<(Vec<Option<Level>>, Option<SearchReport>)> {
    let (fit, held_out) = match options.search {
        0 => (None, spread(sentences, WEIGHED)),
        _ => {
            let (fit, held_out) = split(sentences);
            (Some(calibrate::collect(source.model, &fit)?), held_out)
        }
    };
    let source = Source { stats: fit.as_deref().unwrap_or(source.stats), ..*source };
    let sketched = |_, _| SKETCHED.iter().map(|s| s * options.density).collect();
    let mut ladders = levels::build(&source, options, levels::SKETCH, sketched)?;
    let quick = Judge::new(source.model, &spread(&held_out, WEIGHED), options.seed)?;
    let worths = levels::weigh(&ladders, source.model, &quick, options.density)?;
    levels::apply(&worths, &mut ladders);
    let shared_out = fitted(&source, &shared_out(&source, &ladders, options)?, options);
    if options.search == 0 {
        return Ok((shared_out, None));
    }
    let density = |at: usize| shared_out[at].map_or(1.0, |level| level.density);
    let around = |layer: usize, kind| around(density(4 * layer + kind as usize), options.density);
    let mut ladders = levels::build(&source, options, levels::CANDIDATE, around)?;
    levels::apply(&worths, &mut ladders);
    let whole = Judge::new(source.model, &held_out, options.seed)?;
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
    let densities: Vec<f64> =
        best.profile.iter().zip(&ladders).map(|(p, l)| l.steps[*p].level.density).collect();
    let report = SearchReport {
        held_out: held_out.len(),
        seed_score: seed.map_or(f64::NAN, |c| c.score),
        best_score: best.score,
        levels: ladders.iter().map(|l| l.steps.iter().map(|s| s.level.density).collect()).collect(),
        agreement: whole.score(&model)?,
        candidates,
        frontier,
    };
    Ok((fitted(&source, &densities, options), Some(report)))
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
    let middle = if density > 0.0 && density < levels::DENSE { density } else { uniform };
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

/// The knapsack's densities, on a fine grid between the levels.
fn shared_out(source: &Source<'_>, ladders: &[Ladder], options: &Options) -> Result<Vec<f64>> {
    // From a tenth of the density asked for to dense, in equal steps of the logarithm.
    let lowest = options.density / 10.0;
    let step = (1.0 / lowest).powf(1.0 / GRID as f64);
    let mut grid = vec![0.0];
    grid.extend((0..=GRID).map(|i| (lowest * step.powi(i as i32)).min(1.0)));
    let offers: Vec<Vec<Offer>> = ladders
        .iter()
        .map(|ladder| {
            let offer = |d: &f64| Offer {
                cost: cost(source, (ladder.layer, ladder.kind), *d, options),
                loss: ladder.loss_at(*d),
            };
            grid.iter().map(offer).collect()
        })
        .collect();
    let chosen =
        allocate(&offers, options.budget(source.model)).ok_or_else(|| too_small(options))?;
    Ok(chosen.into_iter().map(|c| grid[c]).collect())
}

fn sizes(source: &Source<'_>, at: (usize, MatrixKind), density: f64, options: &Options) -> Sizes {
    let (rows, cols) = shape(source.model, at.0, at.1);
    match level(rows, density, options) {
        Some(l) => Sizes::new(rows, cols, l.density, l.groups, l.shared),
        None => Sizes::new(rows, cols, 1.0, 1, None),
    }
}

fn cost(source: &Source<'_>, at: (usize, MatrixKind), density: f64, options: &Options) -> u64 {
    options.measure.of(&sizes(source, at, density, options))
}

/// The level of a density; `None` where keeping everything is as good.
fn level(rows: usize, density: f64, options: &Options) -> Option<Level> {
    let groups = if density > 0.0 { group_count(options, rows, density) } else { 1 };
    (density < levels::DENSE).then_some(Level { density, groups, shared: options.shared })
}

/// The densities, all but dropped and dense ones moved by one factor so that the budget is spent.
fn fitted(source: &Source<'_>, densities: &[f64], options: &Options) -> Vec<Option<Level>> {
    let places: Vec<(usize, MatrixKind)> = places(source.model).collect();
    let densities = coupled(densities);
    let scaled = |factor: f64| -> Vec<f64> {
        let one = |d: &f64| if *d < levels::DENSE { (d * factor).min(0.94) } else { 1.0 };
        densities.iter().map(one).collect()
    };
    let total = |densities: &[f64]| -> u64 {
        places.iter().zip(densities).map(|(at, d)| cost(source, *at, *d, options)).sum()
    };
    let budget = options.budget(source.model);
    let (mut low, mut high) = (0.25, 8.0);
    for _ in 0..30 {
        let middle = (low + high) / 2.0;
        if total(&scaled(middle)) > budget { high = middle } else { low = middle }
    }
    let mut densities = scaled(low);
    // Sizes come in whole kernel steps: one matrix after another takes what is left.
    for i in 0..densities.len() {
        for step in [0.1, 0.03, 0.01] {
            let before = densities[i];
            if before > 0.0 && before < levels::DENSE {
                densities[i] = (before * (1.0 + step)).min(0.94);
                if total(&densities) > budget {
                    densities[i] = before;
                }
            }
        }
    }
    let rows = |at: &(usize, MatrixKind)| shape(source.model, at.0, at.1).0;
    places.iter().zip(densities).map(|(at, d)| level(rows(at), d, options)).collect()
}

/// The densities with whole sub-layers dropped: without its second matrix the first is not read,
/// without the first the second sees a constant, which its bias can say.
fn coupled(densities: &[f64]) -> Vec<f64> {
    let mut out = densities.to_vec();
    for pair in out.chunks_exact_mut(2) {
        if pair.contains(&0.0) {
            pair.fill(0.0);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_sub_layer_is_dropped_whole() {
        assert_eq!(coupled(&[0.5, 0.0, 0.3, 0.2]), [0.0, 0.0, 0.3, 0.2]);
        assert_eq!(coupled(&[0.5, 0.1, 0.0, 0.2]), [0.5, 0.1, 0.0, 0.0]);
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
