//! What a model directory says about itself: architecture, pooling, longest text.

use std::path::Path;

use grouse_runtime::format::{MAX_DIM, MAX_TOKENS};
use serde_json::Value;

use crate::model::{Activation, Config, Pooling};
use crate::{Error, Result};

/// Largest vocabulary: the tables of a file are addressed by u32 offsets.
const MAX_VOCAB: usize = 1 << 20;
/// Most encoder layers, far above any BERT.
const MAX_LAYERS: usize = 256;

/// Architectures that can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Post-LayerNorm encoder with absolute positions.
    Bert,
}

/// All settings of a directory.
#[derive(Debug)]
pub struct Settings {
    /// Which tensors to expect.
    pub family: Family,
    /// Shapes.
    pub config: Config,
    /// How token states become an embedding.
    pub pooling: Pooling,
    /// Whether the embedding is L2-normalised.
    pub normalize: bool,
    /// Most tokens of one text.
    pub max_tokens: usize,
}

/// Reads the JSON files of `dir`.
pub fn read(dir: &Path) -> Result<Settings> {
    let file = JsonFile::read(dir, "config.json")?.ok_or_else(|| {
        Error::input(
            format!("{} has no config.json", dir.display()),
            "give a Hugging Face model directory (config.json, model.safetensors, vocab.txt)",
        )
    })?;
    let family = match file.text("model_type")? {
        Some("bert") => Family::Bert,
        Some(other) => return Err(file.unsupported("model_type", other, "bert")),
        None => return Err(file.missing("model_type")),
    };
    let config = bert_config(&file)?;
    let (pooling, normalize) = pooling(dir, &config)?;
    let longest = config.max_positions.min(MAX_TOKENS);
    let max_tokens = match JsonFile::read(dir, "sentence_bert_config.json")? {
        Some(sentence) => match sentence.count("max_seq_length", 1 << 30)? {
            Some(length) => length.clamp(2, longest),
            None => longest,
        },
        None => longest,
    };
    Ok(Settings { family, config, pooling, normalize, max_tokens })
}

/// The directory's own name, for people.
pub fn name_of(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let name = full.file_name().map(|n| n.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".into())
}

/// The numbers of a BERT `config.json`.
fn bert_config(file: &JsonFile) -> Result<Config> {
    if let Some(kind) = file.text("position_embedding_type")?
        && kind != "absolute"
    {
        return Err(file.unsupported("position_embedding_type", kind, "absolute"));
    }
    if file.value.get("is_decoder").and_then(Value::as_bool) == Some(true) {
        return Err(file.unsupported("is_decoder", "true", "false: an encoder"));
    }
    let activation = match file.text("hidden_act")? {
        None | Some("gelu") => Activation::Gelu,
        Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some(other) => {
            let known = "gelu, gelu_new, gelu_pytorch_tanh and relu";
            return Err(file.unsupported("hidden_act", other, known));
        }
    };
    let config = Config {
        hidden_size: file.size("hidden_size", MAX_DIM)?,
        layers: file.size("num_hidden_layers", MAX_LAYERS)?,
        heads: file.size("num_attention_heads", MAX_DIM)?,
        intermediate_size: file.size("intermediate_size", MAX_DIM)?,
        vocab_size: file.size("vocab_size", MAX_VOCAB)?,
        max_positions: file.size("max_position_embeddings", 1 << 20)?,
        token_types: file.count("type_vocab_size", 1 << 16)?.unwrap_or(2).max(1),
        layer_norm_eps: file.epsilon()?,
        activation,
    };
    if config.hidden_size * 3 > MAX_DIM {
        return Err(Error::input(
            format!(
                "{}: query, key and value together have {} outputs; at most {MAX_DIM} are supported",
                file.name,
                config.hidden_size * 3
            ),
            "use a model with a smaller hidden_size",
        ));
    }
    if !config.hidden_size.is_multiple_of(config.heads) {
        return Err(Error::input(
            format!(
                "{}: hidden_size {} is not a multiple of num_attention_heads {}",
                file.name, config.hidden_size, config.heads
            ),
            "correct config.json: every head has hidden_size / num_attention_heads dimensions",
        ));
    }
    if config.max_positions < 2 {
        return Err(Error::input(
            format!("{}: max_position_embeddings is {}", file.name, config.max_positions),
            "a text needs two positions at least, for [CLS] and [SEP]",
        ));
    }
    Ok(config)
}

/// Pooling and normalisation from `modules.json`.
fn pooling(dir: &Path, config: &Config) -> Result<(Pooling, bool)> {
    let Some(modules) = JsonFile::read(dir, "modules.json")? else {
        return Ok((Pooling::Mean, true));
    };
    let list = modules.value.as_array().ok_or_else(|| {
        Error::input(
            format!("{} is not a list of modules", modules.name),
            "restore modules.json from the original model, or remove it to pool by the mean",
        )
    })?;
    let mut pooling = None;
    let mut normalize = false;
    for module in list {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or("");
        match kind.rsplit('.').next().unwrap_or("") {
            "Transformer" => {}
            "Normalize" => normalize = true,
            "Pooling" => {
                let path = module.get("path").and_then(Value::as_str).unwrap_or("1_Pooling");
                pooling = Some(pooling_mode(dir, path, config)?);
            }
            _ => {
                return Err(Error::input(
                    format!("{}: module type \"{kind}\" is not supported", modules.name),
                    "use an encoder made of Transformer, Pooling and, optionally, Normalize",
                ));
            }
        }
    }
    Ok((pooling.unwrap_or(Pooling::Mean), normalize))
}

/// The mode that the pooling module's `config.json` sets.
fn pooling_mode(dir: &Path, path: &str, config: &Config) -> Result<Pooling> {
    let relative = format!("{}/config.json", path.trim_end_matches('/'));
    let Some(file) = JsonFile::read(dir, &relative)? else {
        return Err(Error::input(
            format!("{}: modules.json names {relative}, which is missing", dir.display()),
            "fetch the whole model directory again",
        ));
    };
    if let Some(width) = file.count("word_embedding_dimension", MAX_DIM)?
        && width != config.hidden_size
    {
        return Err(Error::input(
            format!(
                "{}: word_embedding_dimension {width} is not hidden_size {}",
                file.name, config.hidden_size
            ),
            "fetch the whole model directory again: its files do not belong together",
        ));
    }
    let on: Vec<&str> = file
        .value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with("pooling_mode") && value.as_bool() == Some(true))
        .map(|(key, _)| key.as_str())
        .collect();
    match on.as_slice() {
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token"] => Ok(Pooling::Cls),
        // Newer sentence-transformers write the mode as one word.
        [] => match file.text("pooling_mode")? {
            Some("cls") => Ok(Pooling::Cls),
            Some("mean") | None => Ok(Pooling::Mean),
            Some(other) => Err(file.unsupported("pooling_mode", other, "mean or cls")),
        },
        others => {
            let known = "pooling_mode_mean_tokens or pooling_mode_cls_token";
            Err(file.unsupported("pooling", &others.join(" + "), known))
        }
    }
}

/// A JSON file and the name to call it by in errors.
struct JsonFile {
    name: String,
    value: Value,
}

impl JsonFile {
    /// `None` when the file does not exist.
    fn read(dir: &Path, relative: &str) -> Result<Option<Self>> {
        let path = dir.join(relative);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        let name = path.display().to_string();
        match serde_json::from_slice(&text) {
            Ok(value) => Ok(Some(Self { name, value })),
            Err(e) => Err(Error::input(
                format!("{name} is not valid JSON: {e}"),
                "fetch the model directory again, or correct the file",
            )),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Error::input(
                format!("{}: \"{key}\" is {other}, not a text", self.name),
                "correct the value",
            )),
        }
    }

    /// A whole number up to `most`.
    fn count(&self, key: &str, most: usize) -> Result<Option<usize>> {
        let value = match self.value.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if n <= most => Ok(Some(n)),
            _ => Err(Error::input(
                format!("{}: \"{key}\" is {value}; a whole number up to {most} works", self.name),
                "correct the value, or use a smaller model",
            )),
        }
    }

    /// A required whole number from 1 to `most`.
    fn size(&self, key: &str, most: usize) -> Result<usize> {
        match self.count(key, most)? {
            Some(0) => Err(Error::input(
                format!("{}: \"{key}\" is 0", self.name),
                "correct the value: it is at least 1",
            )),
            Some(n) => Ok(n),
            None => Err(self.missing(key)),
        }
    }

    fn epsilon(&self) -> Result<f32> {
        let Some(value) = self.value.get("layer_norm_eps") else { return Ok(1e-12) };
        match value.as_f64().map(|eps| eps as f32) {
            Some(eps) if eps.is_finite() && (0.0..1.0).contains(&eps) => Ok(eps),
            _ => Err(Error::input(
                format!("{}: \"layer_norm_eps\" is {value}", self.name),
                "correct the value: usually 1e-12",
            )),
        }
    }

    fn missing(&self, key: &str) -> Error {
        Error::input(
            format!("{}: \"{key}\" is missing", self.name),
            "give the config.json of a Hugging Face BERT",
        )
    }

    fn unsupported(&self, key: &str, found: &str, known: &str) -> Error {
        Error::input(
            format!("{}: {key} \"{found}\" is not supported", self.name),
            format!("use a model with {key} {known}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn base() -> Value {
        json!({ "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 10,
                "max_position_embeddings": 32 })
    }

    fn read_with(config: &Value, files: &[(&str, Value)]) -> Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        for (name, value) in files {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        read(dir.path())
    }

    #[test]
    fn bare_directories_pool_by_the_mean() {
        let settings = read_with(&base(), &[]).unwrap();
        assert_eq!((settings.pooling, settings.normalize), (Pooling::Mean, true));
        assert_eq!(settings.max_tokens, 32);
    }

    #[test]
    fn modules_are_heeded() {
        let modules = json!([{ "type": "sentence_transformers.models.Transformer", "path": "" },
            { "type": "sentence_transformers.models.Pooling", "path": "1_Pooling" }]);
        let pooling = json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false });
        let length = json!({ "max_seq_length": 20 });
        let files = [
            ("modules.json", modules.clone()),
            ("1_Pooling/config.json", pooling),
            ("sentence_bert_config.json", length),
        ];
        let settings = read_with(&base(), &files).unwrap();
        assert_eq!((settings.pooling, settings.normalize), (Pooling::Cls, false));
        assert_eq!(settings.max_tokens, 20);
        let most = json!({ "pooling_mode_max_tokens": true });
        let files = [("modules.json", modules), ("1_Pooling/config.json", most)];
        assert!(read_with(&base(), &files).is_err());
        let dense = json!([{ "type": "sentence_transformers.models.Dense" }]);
        assert!(read_with(&base(), &[("modules.json", dense)]).is_err());
    }

    #[test]
    fn unsupported_settings_are_named() {
        for (key, value) in [
            ("model_type", json!("roberta")),
            ("hidden_act", json!("swish")),
            ("position_embedding_type", json!("relative_key")),
            ("num_attention_heads", json!(3)),
            ("hidden_size", json!(0)),
            ("intermediate_size", json!(MAX_DIM + 1)),
            ("vocab_size", json!(-1)),
            ("layer_norm_eps", json!("x")),
            ("is_decoder", json!(true)),
        ] {
            let mut config = base();
            config[key] = value;
            let error = read_with(&config, &[]).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
