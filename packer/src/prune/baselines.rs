//! Other people's pruning, to compare with.

use grouse_runtime::format::MatrixKind;
use rayon::prelude::*;

use super::groups::Groups;
use super::levels::{Source, seed_of};
use super::matrix::{Level, WHOLE};
use super::{Method, Options, Placed, stacked_mut};
use crate::Result;
use crate::calibrate::LayerStats;
use crate::model::DenseModel;

/// Single weights: in every output the density's part of least magnitude (times the norm of the
/// input, Wanda) is removed. Nothing is refitted.
pub fn unstructured(model: &mut DenseModel, stats: &[LayerStats], options: &Options) {
    for (layer, stats) in model.layers.iter_mut().zip(stats) {
        for kind in MatrixKind::ALL {
            let moment = &stats.inputs[kind as usize].second_moment;
            for linear in stacked_mut(layer, kind) {
                let cols = linear.weight.cols;
                let lost = cols - (options.density * cols as f64).round() as usize;
                linear.weight.data.par_chunks_mut(cols).for_each(|row| {
                    let weigh = |j: usize| match options.method {
                        Method::Wanda => row[j].abs() * moment.data[j * cols + j].max(0.0).sqrt(),
                        _ => row[j].abs(),
                    };
                    let mut order: Vec<usize> = (0..cols).collect();
                    order.sort_by(|a, b| weigh(*a).total_cmp(&weigh(*b)).then(a.cmp(b)));
                    order.iter().take(lost).for_each(|j| row[*j] = 0.0);
                });
            }
        }
    }
}

/// Whole heads and neurons: those stay whose outputs carry most energy; the matrices
/// that read them are refitted.
pub fn rows(source: &Source<'_>, options: &Options) -> Result<Vec<Placed>> {
    let config = &source.model.config;
    let size = config.hidden_size / config.heads;
    let heads = ((options.density * config.heads as f64).round() as usize).max(1);
    let parts: Vec<[Placed; 2]> = (0..config.layers)
        .into_par_iter()
        .map(|layer| {
            let kind = MatrixKind::AttentionOutput;
            let target = source.target(layer, kind)?;
            let carried = target.carried();
            let of = |head: usize| carried[head * size..(head + 1) * size].iter().sum::<f64>();
            let mut order: Vec<usize> = (0..config.heads).collect();
            order.sort_by(|a, b| of(*b).total_cmp(&of(*a)));
            let kept = &order[..heads];
            let cols =
                (0..config.hidden_size).map(|j| if kept.contains(&(j / size)) { 0 } else { 2 });
            let groups =
                Groups { count: 1, rows: vec![0; config.hidden_size], cols: cols.collect() };
            let attention = (layer, kind, target.fit(groups, 1.0)?);
            let kind = MatrixKind::FeedForwardOut;
            let level = Level { density: options.density, groups: 1, shared: None, units: 1.0 };
            let target = source.target(layer, kind)?;
            let seed = seed_of(options, layer, kind);
            let version = target.version(&level, WHOLE, seed)?;
            Ok([attention, (layer, kind, version)])
        })
        .collect::<Result<_>>()?;
    Ok(parts.into_iter().flatten().collect())
}
