//! What is inside a packed file: shapes, groups, bytes per section, arena per length.

use std::fmt;

use grouse_runtime::format::{self, Header, MatrixKind};
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;
use serde::Serialize;

use crate::{Error, Result};

/// Lengths for which the arena is shown, as far as the model takes them.
const LENGTHS: [usize; 6] = [16, 32, 64, 128, 256, 512];

/// Everything `grouse inspect` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Length of the file.
    pub bytes: u64,
    /// Format version.
    pub version: u16,
    /// Block layout.
    pub layout: String,
    /// CRC-32 of header and section table, which hold the checksums of everything else.
    pub checksum: String,
    /// Architecture and rules.
    pub arch: ArchFigures,
    /// Kept weights / all weights of the encoder's matrices.
    pub density: f64,
    /// All bytes of the file, part by part; `bytes` is their sum.
    pub sections: Vec<SectionFigures>,
    /// The matrices, layer after layer.
    pub matrices: Vec<MatrixFigures>,
    /// Arena bytes per number of tokens.
    pub arena: Vec<ArenaFigures>,
    /// The packer's own words: model, calibration, errors.
    pub meta: serde_json::Value,
}

/// The architecture header.
#[derive(Debug, Clone, Serialize)]
pub struct ArchFigures {
    /// Always "bert".
    pub family: &'static str,
    /// Hidden size.
    pub hidden_size: u32,
    /// Encoder layers.
    pub layers: u32,
    /// Attention heads.
    pub heads: u32,
    /// Feed-forward width.
    pub intermediate_size: u32,
    /// Vocabulary.
    pub vocab_size: u32,
    /// Most tokens of one text.
    pub max_tokens: u32,
    /// Activation function.
    pub activation: &'static str,
    /// Pooling.
    pub pooling: &'static str,
    /// Whether embeddings are L2-normalised.
    pub normalize: bool,
    /// Number type of the word embeddings.
    pub embeddings: &'static str,
}

/// A part of the file.
#[derive(Debug, Clone, Serialize)]
pub struct SectionFigures {
    /// "HEAD" for header and table, otherwise the section's kind.
    pub kind: String,
    /// Layer number for layers.
    pub index: u32,
    /// Start in the file.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// Zeros after it.
    pub padding: u64,
}

/// A matrix.
#[derive(Debug, Clone, Serialize)]
pub struct MatrixFigures {
    /// Layer, counted from the bottom.
    pub layer: usize,
    /// Name.
    pub matrix: &'static str,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Number type.
    pub weights: &'static str,
    /// Number of groups.
    pub groups: usize,
    /// Inputs that all groups read.
    pub shared: usize,
    /// Outputs and own inputs of each group.
    pub blocks: Vec<(usize, usize)>,
    /// Kept weights.
    pub kept: u32,
    /// Kept weights / all weights.
    pub density: f64,
}

/// Arena bytes at a length.
#[derive(Debug, Clone, Serialize)]
pub struct ArenaFigures {
    /// Tokens.
    pub tokens: usize,
    /// Bytes.
    pub bytes: usize,
    /// Bytes with which it still runs, reading each weight twice as often.
    pub least_bytes: usize,
}

impl Inspection {
    /// Looks into `model`.
    ///
    /// # Errors
    /// None that [`Model::open`] has not excluded already.
    pub fn of(model: &Model<'_>) -> Result<Self> {
        let refused = || Error::runtime("inspecting");
        let arch = model.arch();
        let (kept, all) = model.encoder_weights().map_err(refused())?;
        let layout = model.header().layout;
        let layout = String::from_utf8_lossy(&layout).trim_end_matches('\0').to_string();
        let max_tokens = arch.max_tokens as usize;
        let mut lengths: Vec<usize> = LENGTHS.into_iter().filter(|t| *t < max_tokens).collect();
        lengths.push(max_tokens);
        let mut arena = Vec::new();
        for tokens in lengths {
            let bytes = Plan::new(model, tokens).map_err(refused())?.arena_bytes();
            let least_bytes = Plan::compact(model, tokens).map_err(refused())?.arena_bytes();
            arena.push(ArenaFigures { tokens, bytes, least_bytes });
        }
        Ok(Self {
            bytes: model.header().file_bytes,
            version: model.header().version,
            layout,
            checksum: format!("{:08x}", model.header().crc),
            arch: ArchFigures {
                family: "bert",
                hidden_size: arch.hidden_size,
                layers: arch.layers,
                heads: arch.heads,
                intermediate_size: arch.intermediate_size,
                vocab_size: arch.vocab_size,
                max_tokens: arch.max_tokens,
                activation: match arch.activation {
                    format::ACTIVATION_GELU => "gelu",
                    format::ACTIVATION_GELU_TANH => "gelu_tanh",
                    _ => "relu",
                },
                pooling: if arch.pooling == format::POOLING_MEAN { "mean" } else { "cls" },
                normalize: arch.normalize == 1,
                embeddings: model.embeddings().word.data_type().name(),
            },
            density: kept as f64 / all as f64,
            sections: sections(model),
            matrices: matrices(model)?,
            arena,
            meta: serde_json::from_slice(model.meta()).unwrap_or_default(),
        })
    }
}

fn sections(model: &Model<'_>) -> Vec<SectionFigures> {
    let entries = model.sections();
    let head = (size_of::<Header>() + size_of_val(entries)) as u64;
    let starts = entries.iter().map(|e| e.offset).chain([model.header().file_bytes]);
    let parts = std::iter::once(("HEAD".to_string(), 0, 0, head)).chain(
        entries
            .iter()
            .map(|e| (String::from_utf8_lossy(&e.kind).into_owned(), e.index, e.offset, e.bytes)),
    );
    parts
        .zip(starts)
        .map(|((kind, index, offset, bytes), next)| SectionFigures {
            kind,
            index,
            offset,
            bytes,
            padding: next - offset - bytes,
        })
        .collect()
}

fn matrices(model: &Model<'_>) -> Result<Vec<MatrixFigures>> {
    let mut figures = Vec::new();
    for index in 0..model.arch().layers as usize {
        let layer = model.layer(index).map_err(Error::runtime("inspecting"))?;
        for kind in MatrixKind::ALL {
            let matrix = layer.matrix(kind);
            let groups = matrix.groups().map(|group| {
                let group = group.map_err(Error::runtime("inspecting"))?;
                Ok((group.outputs.len(), group.inputs.len()))
            });
            figures.push(MatrixFigures {
                blocks: groups.collect::<Result<_>>()?,
                layer: index,
                matrix: kind.name(),
                rows: matrix.rows(),
                cols: matrix.cols(),
                weights: matrix.weights().name(),
                groups: matrix.group_count(),
                shared: matrix.shared().len(),
                kept: matrix.kept(),
                density: f64::from(matrix.kept()) / (matrix.rows() * matrix.cols()) as f64,
            });
        }
    }
    Ok(figures)
}

impl Inspection {
    /// What the packer decided about a matrix's zeros, and the times that it went by.
    fn zeros(&self, matrix: &MatrixFigures) -> String {
        let reports = self.meta["matrices"].as_array().map(Vec::as_slice).unwrap_or_default();
        let same = |r: &&serde_json::Value| {
            r["layer"] == matrix.layer && r["matrix"].as_str() == Some(matrix.matrix)
        };
        let Some(decision) = reports.iter().find(same).map(|r| &r["skipping"]) else {
            return String::new();
        };
        let (Some(skips), Some(groups), Some(dense), Some(kernel), Some(tokens)) = (
            decision["skips"].as_bool(),
            decision["groups_us"].as_f64(),
            decision["dense_us"].as_f64(),
            decision["kernel"].as_str(),
            decision["tokens"].as_u64(),
        ) else {
            return String::new();
        };
        let what = if skips { "skipped" } else { "stored" };
        format!("{what}: {groups:.1} µs in groups, {dense:.1} µs whole ({kernel}, {tokens} tokens)")
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a = &self.arch;
        let name = self.meta["model"].as_str().unwrap_or("?");
        writeln!(f, "model      {name}, format v{}, layout {}", self.version, self.layout)?;
        writeln!(
            f,
            "encoder    {} layers, hidden {}, {} heads, feed-forward {}, {}",
            a.layers, a.hidden_size, a.heads, a.intermediate_size, a.activation
        )?;
        writeln!(
            f,
            "text       vocabulary {}, at most {} tokens, {} pooling{}",
            a.vocab_size,
            a.max_tokens,
            a.pooling,
            if a.normalize { ", L2-normalised" } else { "" }
        )?;
        writeln!(f, "density    {:.4} of the encoder's weights are stored", self.density)?;
        writeln!(f, "checksum   {}", self.checksum)?;
        writeln!(f, "\nsection      offset       bytes  padding")?;
        for s in &self.sections {
            let name = if s.kind == "LAYR" { format!("LAYR {}", s.index) } else { s.kind.clone() };
            writeln!(f, "{name:<9} {:>9} {:>11} {:>8}", s.offset, s.bytes, s.padding)?;
        }
        writeln!(f, "file                {:>11}", self.bytes)?;
        writeln!(f, "\nlayer matrix              shape  weights groups shared  density  zeros")?;
        for m in &self.matrices {
            let shape = format!("{}x{}", m.rows, m.cols);
            writeln!(
                f,
                "{:>5} {:<17} {shape:>9}  {:<7} {:>6} {:>6} {:>8.4}  {}",
                m.layer,
                m.matrix,
                m.weights,
                m.groups,
                m.shared,
                m.density,
                self.zeros(m)
            )?;
        }
        writeln!(f, "\ntokens  arena bytes  at least")?;
        for row in &self.arena {
            writeln!(f, "{:>6} {:>12} {:>9}", row.tokens, row.bytes, row.least_bytes)?;
        }
        Ok(())
    }
}
