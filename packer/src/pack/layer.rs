//! Section `LAYR`: one encoder layer's matrices as lists of groups, and its LayerNorms.

use bytemuck::Zeroable;
use grouse_runtime::format::{
    DataType, GroupDesc, LayerHeader, MatrixDesc, MatrixKind, TILE_ROWS, round_up,
};
use half::f16;

use crate::calibrate::{InputStats, LayerStats};
use crate::model::{Layer, Linear, Matrix};
use crate::quantize::{self, QuantizedMatrix};
use crate::{Error, Result};

use super::Options;
use super::block;
use super::choose::{Decision, choose};
use super::discover::{GroupPattern, Pattern, discover};
use super::sections::Section;

/// What happened to one matrix on its way into the file.
#[derive(Debug, Clone, serde::Serialize)]
pub struct MatrixReport {
    /// Layer, counted from the bottom.
    pub layer: usize,
    /// Matrix name as `inspect` shows it.
    pub matrix: &'static str,
    /// Number of groups.
    pub groups: usize,
    /// Inputs shared by the groups.
    pub shared: usize,
    /// Weights stored / all weights.
    pub density: f64,
    /// Whether zeros are skipped, by measurement (integers with zeros only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipping: Option<Decision>,
    /// Strength of equalization (integers only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f32>,
    /// Relative squared output error of quantization on the calibration samples (integers only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

/// Builds the section of `layer`, number `index`.
///
/// # Errors
/// When int8 is asked for without statistics, or a section outgrows the format.
pub fn section(
    index: usize,
    layer: &Layer,
    options: &Options,
    stats: Option<&LayerStats>,
) -> Result<(Vec<u8>, Vec<MatrixReport>)> {
    let mut section = Section::with_head(size_of::<LayerHeader>());
    let mut head = LayerHeader::zeroed();
    let mut reports = Vec::new();
    for kind in MatrixKind::ALL {
        let weights = options.weights_of(index, kind);
        let linear = stacked(layer, kind);
        let pattern = discover(&linear.weight, weights);
        let (pattern, skipping) = if options.measure && weights.is_integer() {
            choose(&linear.weight, pattern, weights)
        } else {
            (pattern, None)
        };
        let input = stats.map(|s| &s.inputs[kind as usize]);
        let (desc, report) = matrix(&mut section, &linear, &pattern, weights, input)?;
        head.matrices[kind as usize] = desc;
        reports.push(MatrixReport { layer: index, matrix: kind.name(), skipping, ..report });
    }
    head.attention_gamma = section.push_aligned(&layer.attention_norm.gamma)?;
    head.attention_beta = section.push_aligned(&layer.attention_norm.beta)?;
    head.ffn_gamma = section.push_aligned(&layer.ffn_norm.gamma)?;
    head.ffn_beta = section.push_aligned(&layer.ffn_norm.beta)?;
    Ok((section.finish(&head), reports))
}

/// The matrix of the given kind; query, key and value stand on top of one another.
fn stacked(layer: &Layer, kind: MatrixKind) -> Linear {
    match kind {
        MatrixKind::AttentionOutput => layer.attention_output.clone(),
        MatrixKind::FeedForwardIn => layer.ffn_in.clone(),
        MatrixKind::FeedForwardOut => layer.ffn_out.clone(),
        MatrixKind::Qkv => {
            let parts = [&layer.query, &layer.key, &layer.value];
            let data = parts.iter().flat_map(|l| l.weight.data.iter().copied()).collect();
            let bias = parts.iter().flat_map(|l| l.bias.iter().copied()).collect();
            let rows = parts.iter().map(|l| l.weight.rows).sum();
            Linear { weight: Matrix { rows, cols: layer.query.weight.cols, data }, bias }
        }
    }
}

fn matrix(
    section: &mut Section,
    linear: &Linear,
    pattern: &Pattern,
    weights: DataType,
    stats: Option<&InputStats>,
) -> Result<(MatrixDesc, MatrixReport)> {
    let weight = &linear.weight;
    let quantized = match (weights, stats) {
        (DataType::I8 | DataType::I4, Some(stats)) => {
            Some(quantize::quantize(weight, pattern, stats, weights))
        }
        (DataType::I2, _) => {
            return Err(Error::input("int2 is for word tables only", "give the weights as i4"));
        }
        (DataType::I8 | DataType::I4, None) => {
            return Err(Error::input(
                "int8 and int4 weights need calibration statistics",
                "pass --calib FILE, or leave it out for the built-in sentences",
            ));
        }
        _ => None,
    };
    let depth = |g: &GroupPattern| pattern.inputs(g).count();
    let kept: usize = pattern.groups.iter().map(|g| g.outputs.len() * depth(g)).sum();

    let mut groups = Vec::with_capacity(pattern.groups.len());
    for group in &pattern.groups {
        groups.push(group_desc(section, pattern, group, weight, quantized.as_ref(), weights)?);
    }
    let mut desc = MatrixDesc {
        rows: weight.rows as u32,
        cols: weight.cols as u32,
        weights: weights as u32,
        group_count: groups.len() as u32,
        groups: section.push(&groups, 4)?,
        shared_count: pattern.shared.len() as u32,
        padded_rows: pattern
            .groups
            .iter()
            .map(|g| round_up(g.outputs.len(), TILE_ROWS) as u32)
            .sum(),
        bias: section.push_aligned(&per_output(pattern, |r| linear.bias[r]))?,
        kept: kept as u32,
        ..MatrixDesc::zeroed()
    };
    if !pattern.shared.is_empty() {
        desc.shared = section.push(&pattern.shared, 4)?;
    }
    if let Some(QuantizedMatrix { equalize, rounded, .. }) = &quantized {
        let cols = weight.cols;
        let sum = |r: usize| -> i32 {
            rounded.weights[r * cols..(r + 1) * cols].iter().map(|w| i32::from(*w)).sum()
        };
        desc.scale = section.push_aligned(&per_output(pattern, |r| rounded.scale[r]))?;
        desc.sum = section.push_aligned(&per_output(pattern, sum))?;
        desc.equalize = section.push_aligned(equalize)?;
    }
    let report = MatrixReport {
        layer: 0,
        matrix: "",
        groups: pattern.groups.len(),
        shared: pattern.shared.len(),
        density: kept as f64 / weight.data.len() as f64,
        skipping: None,
        alpha: quantized.as_ref().map(|q| q.alpha),
        error: quantized.as_ref().map(|q| q.error),
    };
    Ok((desc, report))
}

/// Values per output in group order, each group padded to a multiple of [`TILE_ROWS`].
fn per_output<T: Default + Clone>(pattern: &Pattern, value: impl Fn(usize) -> T) -> Vec<T> {
    let mut values = Vec::new();
    for group in &pattern.groups {
        values.extend(group.outputs.iter().map(|r| value(usize::from(*r))));
        values.resize(round_up(values.len(), TILE_ROWS), T::default());
    }
    values
}

fn group_desc(
    section: &mut Section,
    pattern: &Pattern,
    group: &GroupPattern,
    weight: &Matrix,
    quantized: Option<&QuantizedMatrix>,
    weights: DataType,
) -> Result<GroupDesc> {
    let inputs: Vec<usize> = pattern.inputs(group).collect();
    let mut desc = GroupDesc {
        outputs: group.outputs.len() as u32,
        uses_shared: u32::from(group.uses_shared),
        inputs: group.inputs.len() as u32,
        ..GroupDesc::zeroed()
    };
    (desc.output_list, desc.first_output) = indices(section, &group.outputs)?;
    (desc.input_list, desc.first_input) = indices(section, &group.inputs)?;
    if inputs.is_empty() {
        return Ok(desc);
    }
    let place = |r: usize, c: usize| usize::from(group.outputs[r]) * weight.cols + inputs[c];
    let (rows, depth) = (group.outputs.len(), inputs.len());
    let integer = quantized.map(|q| &q.rounded);
    desc.block = match (weights, integer) {
        (DataType::I8, Some(rounded)) => {
            section.push_aligned(&block::int8(rows, depth, |r, c| rounded.weights[place(r, c)]))?
        }
        (DataType::I4, Some(rounded)) => {
            let runs = |r: usize| rounded.runs[usize::from(group.outputs[r])].as_slice();
            let weight = |r, c| rounded.weights[place(r, c)];
            section.push_aligned(&block::int4(rows, depth, runs, weight))?
        }
        (DataType::F16, _) => {
            let half = |r, c| f16::from_f32(weight.data[place(r, c)]);
            section.push_aligned(&block::float(rows, depth, half))?
        }
        _ => section.push_aligned(&block::float(rows, depth, |r, c| weight.data[place(r, c)]))?,
    };
    Ok(desc)
}

/// (offset, first): a contiguous range needs no list.
fn indices(section: &mut Section, list: &[u16]) -> Result<(u32, u32)> {
    let Some(first) = list.first() else { return Ok((0, 0)) };
    let contiguous =
        list.iter().zip(usize::from(*first)..).all(|(i, want)| usize::from(*i) == want);
    if contiguous { Ok((0, u32::from(*first))) } else { Ok((section.push(list, 4)?, 0)) }
}
