//! Writes a model into one file of format v1 (`docs/format.md`).

pub mod block;
pub mod choose;
pub mod discover;
pub mod layer;
pub mod sections;
pub mod self_test;
pub mod trim;
pub mod vocab;

use std::io::Write;
use std::path::Path;

use bytemuck::Zeroable;
use grouse_runtime::format::{self, Arch, DataType, EmbeddingHeader, MatrixKind};
use grouse_runtime::view::Model;
use half::f16;

use crate::calibrate::LayerStats;
use crate::model::{Activation, DenseModel, Matrix, Pooling};
use crate::progress::Progress;
use crate::{Error, Result, quantize};

use layer::MatrixReport;
use sections::Section;

/// How a model is packed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number type of the encoder's matrices.
    pub weights: DataType,
    /// Matrices, by layer and kind, with a number type of their own.
    pub exceptions: Vec<(usize, MatrixKind, DataType)>,
    /// Number type of the word embeddings; the positions follow it.
    pub embeddings: DataType,
    /// Most tokens of one text; the model's own maximum when `None`.
    pub max_tokens: Option<usize>,
    /// Where the calibration sentences came from, for the file's `META`.
    pub calibration: String,
    /// How the vocabulary was trimmed, if it was, for the file's `META`.
    pub vocabulary: Option<trim::Vocabulary>,
    /// Whether groups and the whole matrix are timed ([`choose`]), or groups kept wherever they
    /// take fewer bytes.
    pub measure: bool,
}

impl Options {
    /// Number type of a matrix.
    fn weights_of(&self, layer: usize, kind: MatrixKind) -> DataType {
        let own = self.exceptions.iter().find(|(l, k, _)| (*l, *k) == (layer, kind));
        own.map_or(self.weights, |(.., number)| *number)
    }
}

/// A packed model.
#[derive(Debug)]
pub struct Packed {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// What happened to each matrix.
    pub matrices: Vec<MatrixReport>,
}

/// Packs `model`; `stats` are needed for int8 and int4 weights.
///
/// # Errors
/// When a number type is not finite after conversion, the length is out of range, statistics are
/// missing, or the result does not pass the runtime's own validation.
pub fn pack(model: &DenseModel, stats: Option<&[LayerStats]>, options: &Options) -> Result<Packed> {
    let max_tokens = max_tokens(model, options.max_tokens)?;
    check_f16(model, options)?;
    let mut sections = vec![
        (format::SECTION_ARCH, 0, arch(model, max_tokens)),
        (format::SECTION_TOKENIZER, 0, model.tokenizer.clone()),
        (format::SECTION_EMBEDDINGS, 0, embeddings(model, options.embeddings, max_tokens)?),
    ];
    let mut matrices = Vec::new();
    let progress = Progress::start("packing", model.layers.len() as u64, "layers");
    for (i, layer) in model.layers.iter().enumerate() {
        let stats = stats.and_then(|s| s.get(i));
        let (bytes, reports) = layer::section(i, layer, options, stats)?;
        sections.push((format::SECTION_LAYER, i as u32, bytes));
        matrices.extend(reports);
        progress.advance(1);
    }
    progress.finish();
    let meta = serde_json::json!({
        "model": model.name,
        "packer": concat!("grouse ", env!("CARGO_PKG_VERSION")),
        "weights": options.weights.name(),
        "embeddings": options.embeddings.name(),
        "calibration": options.calibration,
        "vocabulary": options.vocabulary,
        "matrices": matrices,
    });
    let test = self_test::section(&sections::file(&sections))?;
    sections.push((format::SECTION_TEST, 0, test));
    sections.push((format::SECTION_META, 0, meta.to_string().into_bytes()));
    Ok(Packed { bytes: sections::file(&sections), matrices })
}

/// Writes a packed model beside `path` and renames when whole, after the runtime has accepted it.
///
/// # Errors
/// When the directory cannot be written, or the file does not read back as a valid model.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_checked(path, bytes, |written| {
        let mapped = grouse_runtime::mapped::MappedFile::open(written)
            .map_err(Error::io("read back", written))?;
        let what = || format!("the packed form of {} is not valid", path.display());
        Model::open(mapped.bytes()).map(|_| ()).map_err(Error::runtime(what()))
    })
}

/// Writes any other file in the same way.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_page(path: &Path, text: &str) -> Result<()> {
    write_checked(path, text.as_bytes(), |_| Ok(()))
}

fn write_checked(path: &Path, bytes: &[u8], check: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".grouse-");
    // A temporary file is private by default; a model is as readable as any other new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(parent).map_err(Error::io("create a file in", parent))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.as_file().sync_all().map_err(Error::io("write", path))?;
    check(file.path())?;
    file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}

fn max_tokens(model: &DenseModel, wanted: Option<usize>) -> Result<usize> {
    let limit = model.config.max_positions.min(format::MAX_TOKENS);
    let tokens = wanted.unwrap_or(model.max_tokens.min(limit));
    if !(2..=limit).contains(&tokens) {
        return Err(Error::input(
            format!("--max-tokens {tokens} is out of range for {}", model.name),
            format!(
                "choose 2 to {limit}: [CLS] and [SEP] count, and the model has {limit} positions"
            ),
        ));
    }
    Ok(tokens)
}

fn check_f16(model: &DenseModel, options: &Options) -> Result<()> {
    let overflows = |m: &Matrix| m.data.iter().any(|w| !f16::from_f32(*w).is_finite());
    // Query, key and value are one matrix.
    let [qkv, output, up, down] = MatrixKind::ALL;
    let kinds = [qkv, qkv, qkv, output, up, down];
    for (i, layer) in model.layers.iter().enumerate() {
        for ((name, linear), kind) in layer.linears().into_iter().zip(kinds) {
            if options.weights_of(i, kind) == DataType::F16 && overflows(&linear.weight) {
                return Err(Error::input(
                    format!("encoder.layer.{i}.{name}.weight has values beyond the range of f16"),
                    "pack with --weights i8 or --weights f32",
                ));
            }
        }
    }
    Ok(())
}

fn arch(model: &DenseModel, max_tokens: usize) -> Vec<u8> {
    let config = &model.config;
    let arch = Arch {
        family: format::FAMILY_BERT,
        hidden_size: config.hidden_size as u32,
        layers: config.layers as u32,
        heads: config.heads as u32,
        intermediate_size: config.intermediate_size as u32,
        vocab_size: config.vocab_size as u32,
        max_tokens: max_tokens as u32,
        token_types: config.token_types as u32,
        activation: match config.activation {
            Activation::Gelu => format::ACTIVATION_GELU,
            Activation::GeluTanh => format::ACTIVATION_GELU_TANH,
            Activation::Relu => format::ACTIVATION_RELU,
        },
        pooling: match model.pooling {
            Pooling::Mean => format::POOLING_MEAN,
            Pooling::Cls => format::POOLING_CLS,
        },
        normalize: u32::from(model.normalize),
        layer_norm_eps: config.layer_norm_eps,
        reserved: [0; 4],
    };
    bytemuck::bytes_of(&arch).to_vec()
}

fn embeddings(model: &DenseModel, word_type: DataType, max_tokens: usize) -> Result<Vec<u8>> {
    let tables = &model.embeddings;
    let mut section = Section::with_head(size_of::<EmbeddingHeader>());
    // The small tables stay in floats, unless every byte counts.
    let position_type = match word_type {
        DataType::F32 => word_type,
        DataType::I4 | DataType::I2 => DataType::I4,
        DataType::F16 | DataType::I8 => DataType::F16,
    };
    let mut head = EmbeddingHeader {
        word_type: word_type as u32,
        position_type: position_type as u32,
        ..EmbeddingHeader::zeroed()
    };
    match word_type {
        DataType::I8 => {
            let (values, scales) = quantize::table_int8(&tables.word);
            head.word = section.push_aligned(&values)?;
            head.word_scale = section.push_aligned(&scales)?;
        }
        DataType::I4 => {
            let (rows, scales) = quantize::table_int4(&tables.word);
            head.word = section.push_aligned(&rows)?;
            head.word_scale = section.push_aligned(&scales)?;
        }
        DataType::I2 => {
            let (rows, scales) = quantize::table_int2(&tables.word);
            head.word = section.push_aligned(&rows)?;
            head.word_scale = section.push_aligned(&scales)?;
        }
        DataType::F16 | DataType::F32 => {
            head.word = push_floats(&mut section, &tables.word.data, word_type, "word embeddings")?;
        }
    }
    let cols = tables.position.cols;
    let positions = tables.position.data[..max_tokens * cols].to_vec();
    if position_type == DataType::I4 {
        let positions = Matrix { rows: max_tokens, cols, data: positions };
        let (rows, scales) = quantize::table_int4(&positions);
        head.position = section.push_aligned(&rows)?;
        head.position_scale = section.push_aligned(&scales)?;
    } else {
        head.position =
            push_floats(&mut section, &positions, position_type, "position embeddings")?;
    }
    head.token_type = section.push_aligned(&tables.token_type.data)?;
    head.norm_gamma = section.push_aligned(&tables.norm.gamma)?;
    head.norm_beta = section.push_aligned(&tables.norm.beta)?;
    Ok(section.finish(&head))
}

fn push_floats(
    section: &mut Section,
    values: &[f32],
    data_type: DataType,
    what: &str,
) -> Result<u32> {
    if data_type == DataType::F32 {
        return section.push_aligned(values);
    }
    let half: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
    if half.iter().any(|v| !v.is_finite()) {
        return Err(Error::input(
            format!("the {what} have values beyond the range of f16"),
            "pack with --embeddings f32",
        ));
    }
    section.push_aligned(&half)
}
