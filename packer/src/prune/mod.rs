//! Pruning: chooses what every linear layer keeps and refits it, from one number.
//!
//! A matrix keeps some inputs for all of its outputs (the shared ones) and, for each group of
//! outputs, inputs of the group's own. [`levels`] says what every matrix loses at several densities
//! and what that is worth to the embedding, [`units`] ranks heads and neurons, [`allocate`] shares the
//! budget among the matrices and [`search`] looks around its answer; [`groups`] finds a pattern from
//! importances, `polish` improves it on the true error, `refit` moves what is lost into what is
//! kept, [`sequential`] does so again with the inputs that pruned layers give. Query, key and value read the same input and lie stacked in the packed file, so they are
//! pruned as one matrix.

pub mod allocate;
pub mod assign;
pub mod auto;
mod baselines;
pub mod cost;
pub mod groups;
pub mod levels;
pub mod matrix;
pub mod options;
mod polish;
pub mod refit;
mod report;
pub mod search;
pub mod sequential;
pub mod solve;
pub mod units;
pub mod version;

use grouse_runtime::format::MatrixKind;
use rayon::prelude::*;

use crate::Result;
use crate::calibrate;
use crate::model::{DenseModel, Layer, Linear};
use crate::progress::Progress;

use levels::{Source, group_count, seed_of};
use matrix::{Level, WHOLE};
pub use options::{Method, Options, Steps};
pub use report::{MatrixReport, Report};
use version::Version;

/// How far to go towards the least squares fit on the pruned model's own inputs: with the whole way,
/// the few sentences of a calibration are followed too closely.
const FITTED_AGAIN: f64 = 0.5;

/// Prunes the six linear layers of every encoder layer of `model` in place, with `sentences` as
/// calibration.
///
/// Zeros of the result are the pruned weights; a kept weight is never exactly zero. Weights that
/// are zero already stay so. Biases absorb the mean of what is lost. The result does not depend on
/// the thread count.
///
/// # Errors
///
/// [`crate::Error::Input`] for options that cannot be met, and as [`calibrate::collect`].
pub fn prune(model: &mut DenseModel, sentences: &[Vec<u32>], options: &Options) -> Result<Report> {
    options.check(model)?;
    let (nonzero, all) = model.encoder_weights();
    let steps = options.steps;
    let (chosen, units, search) = match options.method {
        Method::Auto => auto::choose(model, sentences, options)?,
        _ => (uniform(model, options), Vec::new(), None),
    };
    // The statistics that the choice was made by are gone now: those of all text take their place.
    let stats = calibrate::collect(model, sentences)?;
    let source = Source { model, stats: &stats, held_out: None, steps, units: &units };
    let versions = match options.method {
        Method::Magnitude | Method::Wanda => {
            baselines::unstructured(model, &stats, options);
            Vec::new()
        }
        Method::Rows => baselines::rows(&source, options)?,
        Method::Groups | Method::Auto => whole(&source, &chosen, options)?,
    };
    let grouped = matches!(options.method, Method::Groups | Method::Auto);
    let dense = (grouped && steps.refit && steps.sequential).then(|| model.clone());
    for (layer, kind, version) in &versions {
        version.write(&mut stacked_mut(&mut model.layers[*layer], *kind));
    }
    clear_unread(model);
    if let Some(dense) = dense {
        sequential::refit(&dense, model, sentences, FITTED_AGAIN)?;
    }
    let matrices = places(model)
        .map(|(layer, kind)| {
            let found = versions.iter().find(|(l, k, _)| (*l, *k) == (layer, kind));
            MatrixReport::new(
                layer,
                kind,
                found.map(|v| &v.2),
                &stacked(&model.layers[layer], kind),
            )
        })
        .collect();
    Ok(Report::new(options, matrices, nonzero as f64 / all as f64, search))
}

/// All matrices in the order layer, matrix.
fn places(model: &DenseModel) -> impl Iterator<Item = (usize, MatrixKind)> + use<> {
    (0..model.layers.len()).flat_map(|layer| MatrixKind::ALL.map(|kind| (layer, kind)))
}

/// The same density everywhere.
fn uniform(model: &DenseModel, options: &Options) -> Vec<Option<Level>> {
    places(model)
        .map(|(layer, kind)| {
            let (rows, _) = options::shape(model, layer, kind);
            let groups = group_count(options, rows, options.density);
            Some(Level { density: options.density, groups, shared: options.shared, units: 1.0 })
        })
        .collect()
}

/// A pruned matrix and its place.
type Placed = (usize, MatrixKind, Version);

/// The versions at `levels` (in the order layer, matrix), with patterns sought in full.
fn whole(source: &Source<'_>, levels: &[Option<Level>], options: &Options) -> Result<Vec<Placed>> {
    let jobs: Vec<(usize, MatrixKind, Level)> = source
        .matrices()
        .into_iter()
        .filter_map(|(layer, kind)| Some((layer, kind, levels[layer * 4 + kind as usize]?)))
        .collect();
    let progress = Progress::start("prune", jobs.len() as u64, "matrices");
    let mut versions = jobs
        .into_par_iter()
        .map(|(layer, kind, level)| {
            let target = source.target(layer, kind)?;
            let seed = seed_of(options, layer, kind);
            let version = target.version(&level, WHOLE, seed)?;
            progress.advance(1);
            Ok((layer, kind, version))
        })
        .collect::<Result<Vec<_>>>()?;
    progress.finish();
    versions.sort_by_key(|(layer, kind, _)| (*layer, *kind as usize));
    Ok(versions)
}

/// Zeroes outputs that nothing reads: neurons that the second feed-forward matrix leaves out,
/// values that the attention output leaves out, and queries and keys of heads whose values all
/// are.
fn clear_unread(model: &mut DenseModel) {
    let size = model.config.hidden_size / model.config.heads;
    for layer in &mut model.layers {
        let unread = unread_inputs(&layer.ffn_out);
        clear_rows(&mut layer.ffn_in, &unread);
        let unread = unread_inputs(&layer.attention_output);
        clear_rows(&mut layer.value, &unread);
        let heads: Vec<bool> = unread
            .chunks(size)
            .flat_map(|head| std::iter::repeat_n(head.iter().all(|u| *u), head.len()))
            .collect();
        clear_rows(&mut layer.query, &heads);
        clear_rows(&mut layer.key, &heads);
    }
}

/// Whether all weights of each input are zero.
fn unread_inputs(linear: &Linear) -> Vec<bool> {
    let mut unread = vec![true; linear.weight.cols];
    for row in linear.weight.data.chunks_exact(linear.weight.cols.max(1)) {
        unread.iter_mut().zip(row).for_each(|(unread, w)| *unread &= *w == 0.0);
    }
    unread
}

fn clear_rows(linear: &mut Linear, which: &[bool]) {
    for (row, _) in which.iter().enumerate().filter(|(_, clear)| **clear) {
        linear.weight.row_mut(row).fill(0.0);
        linear.bias[row] = 0.0;
    }
}

/// The linear layers of a packed matrix.
fn stacked(layer: &Layer, kind: MatrixKind) -> Vec<&Linear> {
    match kind {
        MatrixKind::Qkv => vec![&layer.query, &layer.key, &layer.value],
        MatrixKind::AttentionOutput => vec![&layer.attention_output],
        MatrixKind::FeedForwardIn => vec![&layer.ffn_in],
        MatrixKind::FeedForwardOut => vec![&layer.ffn_out],
    }
}

/// The linear layers of a packed matrix, to change.
fn stacked_mut(layer: &mut Layer, kind: MatrixKind) -> Vec<&mut Linear> {
    match kind {
        MatrixKind::Qkv => vec![&mut layer.query, &mut layer.key, &mut layer.value],
        MatrixKind::AttentionOutput => vec![&mut layer.attention_output],
        MatrixKind::FeedForwardIn => vec![&mut layer.ffn_in],
        MatrixKind::FeedForwardOut => vec![&mut layer.ffn_out],
    }
}

#[cfg(test)]
mod tests;
