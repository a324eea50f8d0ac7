//! Makes small BERT directories with seeded random weights, for tests that need a whole model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

/// Shape of a random BERT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Width of the residual stream, a multiple of `heads`.
    pub hidden: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Pieces of the vocabulary, at least [`SMALLEST_VOCAB`].
    pub vocab: usize,
    /// Rows of the position table.
    pub max_positions: usize,
    /// `hidden_act`: "gelu", "gelu_new", "gelu_pytorch_tanh" or "relu".
    pub activation: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            hidden: 32,
            layers: 2,
            heads: 4,
            intermediate: 64,
            vocab: SMALLEST_VOCAB + 64,
            max_positions: 64,
            activation: "gelu",
        }
    }
}

/// Special tokens, printable ASCII, and a `##` piece for every letter and digit.
pub const SMALLEST_VOCAB: usize = 5 + PUNCTUATION.len() + 2 * 36;

const SPECIALS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// Writes a complete sentence-transformers directory to `dir`, which is created: `config.json`,
/// `model.safetensors`, `vocab.txt`, `tokenizer.json`, `tokenizer_config.json`, `modules.json`
/// (mean pooling, normalised) and their configurations.
///
/// Weights are normal with a standard deviation that keeps the states near 1, LayerNorm weights
/// near 1. The same shape and seed give the same bytes.
///
/// # Panics
///
/// When the shape is impossible or `dir` cannot be written: this is test code.
pub fn write(dir: &Path, shape: &Shape, seed: u64) {
    assert!(shape.vocab >= SMALLEST_VOCAB, "vocab is {SMALLEST_VOCAB} at least");
    assert!(shape.hidden.is_multiple_of(shape.heads), "heads must divide hidden");
    fs::create_dir_all(dir.join("1_Pooling")).expect("create the model directory");
    let text = |name: &str, value: serde_json::Value| {
        fs::write(dir.join(name), format!("{value:#}\n")).expect("write a model file");
    };
    let mut random = StdRng::seed_from_u64(seed);
    let vocab = vocabulary(shape.vocab, &mut random);
    fs::write(dir.join("vocab.txt"), vocab.join("\n") + "\n").expect("write vocab.txt");
    text("tokenizer.json", tokenizer(&vocab));
    text(
        "tokenizer_config.json",
        json!({ "do_lower_case": true, "model_max_length": shape.max_positions,
                "tokenizer_class": "BertTokenizer", "strip_accents": null,
                "tokenize_chinese_chars": true }),
    );
    text("config.json", config(shape));
    text(
        "modules.json",
        json!([
            { "idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer" },
            { "idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
            { "idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize" }
        ]),
    );
    text(
        "1_Pooling/config.json",
        json!({ "word_embedding_dimension": shape.hidden, "pooling_mode_cls_token": false,
                "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false,
                "pooling_mode_mean_sqrt_len_tokens": false }),
    );
    text(
        "sentence_bert_config.json",
        json!({ "max_seq_length": shape.max_positions, "do_lower_case": false }),
    );
    weights(&dir.join("model.safetensors"), shape, &mut random);
}

fn config(shape: &Shape) -> serde_json::Value {
    json!({
        "architectures": ["BertModel"],
        "model_type": "bert",
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": shape.activation,
        "hidden_dropout_prob": 0.1,
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": shape.max_positions,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "use_cache": true,
        "vocab_size": shape.vocab
    })
}

/// Specials, single characters, their `##` forms, then random words and endings.
fn vocabulary(size: usize, random: &mut StdRng) -> Vec<String> {
    let alphabet: Vec<char> = ('a'..='z').chain('0'..='9').collect();
    let mut vocab: Vec<String> = SPECIALS.map(String::from).to_vec();
    vocab.extend(PUNCTUATION.chars().map(String::from));
    vocab.extend(alphabet.iter().map(|c| c.to_string()));
    vocab.extend(alphabet.iter().map(|c| format!("##{c}")));
    let common = ["the", "and", "##ing", "##ed", "##s", "man", "dog", "is", "a1", "in", "café"];
    for piece in common {
        if vocab.len() < size && !vocab.iter().any(|p| p == piece) {
            vocab.push(piece.to_string());
        }
    }
    while vocab.len() < size {
        let length = random.random_range(2..6);
        let word: String = (0..length).map(|_| alphabet[random.random_range(0..26)]).collect();
        let piece = if random.random_bool(0.5) { word } else { format!("##{word}") };
        if !vocab.contains(&piece) {
            vocab.push(piece);
        }
    }
    vocab
}

/// The Hugging Face description of the same WordPiece tokenizer.
fn tokenizer(vocab: &[String]) -> serde_json::Value {
    let ids: BTreeMap<&str, usize> =
        vocab.iter().enumerate().map(|(id, piece)| (piece.as_str(), id)).collect();
    let added: Vec<_> = SPECIALS
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true })
        })
        .collect();
    let special = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": { "type": "BertNormalizer", "clean_text": true,
                        "handle_chinese_chars": true, "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, special("[SEP]")],
            "pair": [special("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, special("[SEP]"),
                     { "Sequence": { "id": "B", "type_id": 1 } },
                     { "SpecialToken": { "id": "[SEP]", "type_id": 1 } }],
            "special_tokens": {
                "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] }
            }
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100, "vocab": ids }
    })
}

fn weights(path: &Path, shape: &Shape, random: &mut StdRng) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut put = |name: String, dims: &[usize], mean: f32, std: f32| {
        let count = dims.iter().product();
        let values = (0..count).flat_map(|_| (mean + std * normal(random)).to_le_bytes());
        let bytes: Vec<u8> = values.collect();
        tensors.push((name, dims.to_vec(), bytes));
    };
    let hidden = shape.hidden;
    let tables = [("word", shape.vocab), ("position", shape.max_positions), ("token_type", 2)];
    for (name, rows) in tables {
        put(format!("embeddings.{name}_embeddings.weight"), &[rows, hidden], 0.0, 0.2);
    }
    put("embeddings.LayerNorm.weight".into(), &[hidden], 1.0, 0.1);
    put("embeddings.LayerNorm.bias".into(), &[hidden], 0.0, 0.05);
    for layer in 0..shape.layers {
        let at = format!("encoder.layer.{layer}.");
        let linears = [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", shape.intermediate, hidden),
            ("output.dense", hidden, shape.intermediate),
        ];
        for (name, outputs, inputs) in linears {
            // States of about 1 stay about 1, within what trained weights look like.
            let std = (1.0 / (inputs as f32).sqrt()).clamp(0.05, 0.2);
            put(format!("{at}{name}.weight"), &[outputs, inputs], 0.0, std);
            put(format!("{at}{name}.bias"), &[outputs], 0.0, 0.05);
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            put(format!("{at}{name}.weight"), &[hidden], 1.0, 0.1);
            put(format!("{at}{name}.bias"), &[hidden], 0.0, 0.05);
        }
    }
    let views = tensors.iter().map(|(name, dims, bytes)| {
        let view = TensorView::new(Dtype::F32, dims.clone(), bytes).expect("a sound tensor");
        (name.as_str(), view)
    });
    let format = [("format".to_string(), "pt".to_string())].into();
    safetensors::serialize_to_file(views, Some(format), path).expect("write model.safetensors");
}

/// A standard normal value (Box–Muller).
fn normal(random: &mut StdRng) -> f32 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * random.random::<f64>()).cos()) as f32
}
