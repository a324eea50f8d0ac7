//! The dense model in memory: what import makes, prune changes and pack writes.

/// The numbers of a BERT `config.json` that the encoder needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of encoder layers.
    pub layers: usize,
    /// Attention heads per layer; divides `hidden_size`.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Rows of the word embedding table.
    pub vocab_size: usize,
    /// Rows of the position table in the checkpoint.
    pub max_positions: usize,
    /// Rows of the token type table.
    pub token_types: usize,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_eps: f32,
    /// Activation between the two feed-forward matrices.
    pub activation: Activation,
}

/// Activation function of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x/2 (1 + erf(x/√2))`: Hugging Face "gelu".
    Gelu,
    /// The tanh approximation: "gelu_new", "gelu_pytorch_tanh".
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// How token states become one embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Mean over all tokens.
    Mean,
    /// The first token's hidden state.
    Cls,
}

/// A dense matrix, row-major, `[rows][cols]`; a linear layer's weight is outputs × inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// `rows × cols` values.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// Row `r`, `[cols]`.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.cols..(r + 1) * self.cols]
    }

    /// Row `r`, `[cols]`, to write.
    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        &mut self.data[r * self.cols..(r + 1) * self.cols]
    }

    /// Weights that are not zero.
    pub fn nonzeros(&self) -> usize {
        self.data.iter().filter(|w| **w != 0.0).count()
    }
}

/// `y = W x + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// `[outputs][inputs]`.
    pub weight: Matrix,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// LayerNorm parameters, `[hidden_size]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    /// Weight.
    pub gamma: Vec<f32>,
    /// Bias.
    pub beta: Vec<f32>,
}

/// One encoder layer of a post-LayerNorm BERT.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// `[hidden][hidden]`.
    pub query: Linear,
    /// `[hidden][hidden]`.
    pub key: Linear,
    /// `[hidden][hidden]`.
    pub value: Linear,
    /// `[hidden][hidden]`.
    pub attention_output: Linear,
    /// After attention and residual.
    pub attention_norm: LayerNorm,
    /// `[intermediate][hidden]`.
    pub ffn_in: Linear,
    /// `[hidden][intermediate]`.
    pub ffn_out: Linear,
    /// After feed-forward and residual.
    pub ffn_norm: LayerNorm,
}

impl Layer {
    /// The six linear layers with their Hugging Face names (below `encoder.layer.N.`).
    pub fn linears(&self) -> [(&'static str, &Linear); 6] {
        [
            ("attention.self.query", &self.query),
            ("attention.self.key", &self.key),
            ("attention.self.value", &self.value),
            ("attention.output.dense", &self.attention_output),
            ("intermediate.dense", &self.ffn_in),
            ("output.dense", &self.ffn_out),
        ]
    }

    /// The six linear layers, to change.
    pub fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 6] {
        [
            ("attention.self.query", &mut self.query),
            ("attention.self.key", &mut self.key),
            ("attention.self.value", &mut self.value),
            ("attention.output.dense", &mut self.attention_output),
            ("intermediate.dense", &mut self.ffn_in),
            ("output.dense", &mut self.ffn_out),
        ]
    }
}

/// Embedding tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// `[vocab_size][hidden]`.
    pub word: Matrix,
    /// `[max_positions][hidden]`.
    pub position: Matrix,
    /// `[token_types][hidden]`.
    pub token_type: Matrix,
    /// After the sum of the three.
    pub norm: LayerNorm,
}

/// A whole BERT sentence encoder, dense and in f32, with its tokenizer.
#[derive(Debug, Clone)]
pub struct DenseModel {
    /// What the model is called: the directory's name.
    pub name: String,
    /// Shapes.
    pub config: Config,
    /// Tables.
    pub embeddings: Embeddings,
    /// Encoder layers from the bottom up.
    pub layers: Vec<Layer>,
    /// How token states become one embedding.
    pub pooling: Pooling,
    /// Whether the embedding is L2-normalised.
    pub normalize: bool,
    /// Most tokens of one text (sentence-transformers' `max_seq_length`, else the position table).
    pub max_tokens: usize,
    /// The `TOKN` section's bytes for this vocabulary.
    pub tokenizer: Vec<u8>,
}

impl DenseModel {
    /// Kept (non-zero) weights and all weights of the encoder's linear layers.
    pub fn encoder_weights(&self) -> (usize, usize) {
        let mut kept = 0;
        let mut all = 0;
        for (_, linear) in self.layers.iter().flat_map(Layer::linears) {
            kept += linear.weight.nonzeros();
            all += linear.weight.data.len();
        }
        (kept, all)
    }
}
