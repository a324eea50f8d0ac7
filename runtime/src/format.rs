//! Format v1 as plain structs: what `docs/format.md` specifies, byte for byte.
//!
//! Everything is little-endian. The packer writes these structs, [`crate::view`] reads them in
//! place; nothing else knows an offset.

use bytemuck::{Pod, Zeroable};

#[cfg(target_endian = "big")]
compile_error!(
    "Grouse files are little-endian and cast in place; big-endian targets are not supported"
);

/// First eight bytes of every file. The line ending shows a transfer in text mode.
pub const MAGIC: [u8; 8] = *b"GROUSE\r\n";
/// The format version that this crate reads and writes.
pub const VERSION: u16 = 1;
/// Alignment of every section and of every weight block, in bytes.
pub const ALIGN: usize = 64;
/// Alignment that the file's first byte must have in memory.
pub const BASE_ALIGN: usize = 16;
/// Largest hidden, intermediate or fused dimension of a matrix.
pub const MAX_DIM: usize = 16_384;
/// Most tokens of one text.
pub const MAX_TOKENS: usize = 512;
/// Outputs (rows) that lie together in a block: its rows are padded to a multiple.
pub const TILE_ROWS: usize = 4;
/// Inputs (columns) that lie side by side for one row of an int8 tile: one vector of Helium or
/// NEON, four steps of a four-way dot product.
pub const TILE_DEPTH: usize = 16;
/// The shared inputs of a matrix are a multiple of this many, so that a group's own inputs start a
/// new tile.
pub const SHARED_UNIT: usize = TILE_DEPTH;
/// Inputs of one row that an int4 multiplier stands for: a run. The last of a row may be half.
pub const RUN: usize = 32;
/// Bytes of an int4 tile, 4 rows by 16 inputs.
pub const TILE_I4: usize = TILE_ROWS * TILE_DEPTH / 2;
/// Bytes of four rows' run: a multiplier for each, then two tiles.
pub const RUN_I4: usize = TILE_ROWS + 2 * TILE_I4;
/// Name of the one block layout of version 1: tiles of 4 rows by 16 inputs (int8, int4), 4 by 1
/// (floats).
pub const LAYOUT_R4K16: [u8; 16] = *b"r4k16\0\0\0\0\0\0\0\0\0\0\0";

/// File header, 64 bytes, followed by [`SectionEntry`] times `section_count`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u16,
    /// Size of this header: 64.
    pub header_bytes: u16,
    /// Number of entries in the section table.
    pub section_count: u32,
    /// Length of the whole file in bytes, a multiple of [`ALIGN`].
    pub file_bytes: u64,
    /// Block layout, padded with NUL.
    pub layout: [u8; 16],
    /// Zero.
    pub reserved: [u8; 20],
    /// CRC-32 (IEEE 802.3) of the 60 bytes before this field, then of the section table.
    pub crc: u32,
}

/// One entry of the section table, 32 bytes.
///
/// Sections follow one another in table order, each starting at the next multiple of [`ALIGN`];
/// the bytes between are zero.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct SectionEntry {
    /// Kind as four ASCII characters, one of the `SECTION_…` constants.
    pub kind: [u8; 4],
    /// Layer number for `LAYR`, otherwise 0.
    pub index: u32,
    /// Start in the file, a multiple of [`ALIGN`].
    pub offset: u64,
    /// Length without padding.
    pub bytes: u64,
    /// CRC-32 (IEEE 802.3) of the section's bytes.
    pub crc: u32,
    /// Zero.
    pub reserved: u32,
}

/// Architecture header ([`Arch`]).
pub const SECTION_ARCH: [u8; 4] = *b"ARCH";
/// Tokenizer: vocabulary and its rules (see `tokenizer::vocab`).
pub const SECTION_TOKENIZER: [u8; 4] = *b"TOKN";
/// Embedding tables ([`EmbeddingHeader`]).
pub const SECTION_EMBEDDINGS: [u8; 4] = *b"EMBD";
/// One encoder layer ([`LayerHeader`]).
pub const SECTION_LAYER: [u8; 4] = *b"LAYR";
/// Texts with the hashes of their embeddings ([`TestHeader`]); optional.
pub const SECTION_TEST: [u8; 4] = *b"TEST";
/// JSON for people and tools: provenance, packer settings. The runtime never reads it.
pub const SECTION_META: [u8; 4] = *b"META";

/// The architecture, 64 bytes: section `ARCH`.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Arch {
    /// 1 = BERT (post-LayerNorm encoder).
    pub family: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Number of encoder layers.
    pub layers: u32,
    /// Attention heads per layer; divides `hidden_size`.
    pub heads: u32,
    /// Width of the feed-forward layer.
    pub intermediate_size: u32,
    /// Rows of the word embedding table.
    pub vocab_size: u32,
    /// Rows of the position table: the most tokens of one text.
    pub max_tokens: u32,
    /// Rows of the token type table.
    pub token_types: u32,
    /// 1 = GELU by erf, 2 = GELU by tanh, 3 = ReLU.
    pub activation: u32,
    /// 1 = mean over tokens, 2 = first token.
    pub pooling: u32,
    /// 1 = L2-normalise the embedding, 0 = leave it.
    pub normalize: u32,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_eps: f32,
    /// Zero.
    pub reserved: [u32; 4],
}

/// `Arch::family` of BERT.
pub const FAMILY_BERT: u32 = 1;
/// `Arch::activation`: GELU by the error function.
pub const ACTIVATION_GELU: u32 = 1;
/// `Arch::activation`: GELU by the tanh approximation.
pub const ACTIVATION_GELU_TANH: u32 = 2;
/// `Arch::activation`: ReLU.
pub const ACTIVATION_RELU: u32 = 3;
/// `Arch::pooling`: mean over all tokens.
pub const POOLING_MEAN: u32 = 1;
/// `Arch::pooling`: the first token's hidden state.
pub const POOLING_CLS: u32 = 2;

/// Number type of a table or of a matrix's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u32)]
pub enum DataType {
    /// IEEE 754 single precision.
    F32 = 1,
    /// IEEE 754 half precision.
    F16 = 2,
    /// Signed 8-bit with an f32 scale per row (embeddings) or output channel (matrices).
    I8 = 3,
    /// The same, each number made of four bits and a [`Multiplier`] that 32 neighbours share.
    I4 = 4,
    /// The same with two bits, in tables only.
    I2 = 5,
}

impl DataType {
    /// The type named by its number in a file.
    pub const fn from_u32(value: u32) -> Option<Self> {
        match value {
            1 => Some(Self::F32),
            2 => Some(Self::F16),
            3 => Some(Self::I8),
            4 => Some(Self::I4),
            5 => Some(Self::I2),
            _ => None,
        }
    }

    /// Whether the numbers are integers with scales: int8, int4 or int2.
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::I8 | Self::I4 | Self::I2)
    }

    /// The name that the command line uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "i8",
            Self::I4 => "i4",
            Self::I2 => "i2",
        }
    }
}

/// What makes int8 numbers of 4-bit codes: a code c stands for `(c − zero) × step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Multiplier(pub u8);

impl Multiplier {
    /// The multiplier of a step and a zero, both below 16.
    pub const fn new(step: u8, zero: u8) -> Self {
        Self(zero << 4 | step & 15)
    }

    /// The step: the low four bits.
    pub const fn step(self) -> u8 {
        self.0 & 15
    }

    /// The code of 0: the high four bits.
    pub const fn zero(self) -> u8 {
        self.0 >> 4
    }

    /// Whether all sixteen codes stand for different int8 numbers from −127 to 127.
    pub const fn is_sound(self) -> bool {
        let (zero, step) = (self.zero() as u32, self.step() as u32);
        let most = if zero > 15 - zero { zero } else { 15 - zero };
        step > 0 && most * step <= 127
    }

    /// What `code`, below 16, stands for.
    pub const fn value(self, code: u8) -> i32 {
        (code as i32 - self.zero() as i32) * self.step() as i32
    }
}

/// Start of section `EMBD`, 64 bytes. Offsets are relative to the section and multiples of [`ALIGN`].
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct EmbeddingHeader {
    /// [`DataType`] of the word table, `[vocab_size][hidden_size]`.
    pub word_type: u32,
    /// [`DataType`] of the position table (not int8), `[max_tokens][hidden_size]`.
    pub position_type: u32,
    /// Offset of the word table.
    pub word: u32,
    /// Offset of the word scales, f32 `[vocab_size]`; 0 unless the word table is int8 or int4.
    pub word_scale: u32,
    /// Offset of the position table.
    pub position: u32,
    /// Offset of the token type table, f32 `[token_types][hidden_size]`.
    pub token_type: u32,
    /// Offset of the LayerNorm weight, f32 `[hidden_size]`.
    pub norm_gamma: u32,
    /// Offset of the LayerNorm bias, f32 `[hidden_size]`.
    pub norm_beta: u32,
    /// Offset of the position scales, f32 `[max_tokens]`; 0 unless the position table is int4.
    pub position_scale: u32,
    /// Zero.
    pub reserved: [u32; 7],
}

/// The matrices of a layer, in the order of [`LayerHeader::matrices`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum MatrixKind {
    /// Query, key and value stacked: `[3 × hidden][hidden]`.
    Qkv = 0,
    /// Attention output: `[hidden][hidden]`.
    AttentionOutput = 1,
    /// Feed-forward up: `[intermediate][hidden]`.
    FeedForwardIn = 2,
    /// Feed-forward down: `[hidden][intermediate]`.
    FeedForwardOut = 3,
}

impl MatrixKind {
    /// All four, in file order.
    pub const ALL: [Self; 4] =
        [Self::Qkv, Self::AttentionOutput, Self::FeedForwardIn, Self::FeedForwardOut];

    /// Name as shown by `inspect`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qkv => "qkv",
            Self::AttentionOutput => "attention.output",
            Self::FeedForwardIn => "ffn.in",
            Self::FeedForwardOut => "ffn.out",
        }
    }
}

/// Start of section `LAYR`, 320 bytes. Offsets are relative to the section.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct LayerHeader {
    /// Q/K/V, attention output, feed-forward up, feed-forward down.
    pub matrices: [MatrixDesc; 4],
    /// Offset of the LayerNorm weight after attention, f32 `[hidden_size]`.
    pub attention_gamma: u32,
    /// Offset of its bias.
    pub attention_beta: u32,
    /// Offset of the LayerNorm weight after feed-forward, f32 `[hidden_size]`.
    pub ffn_gamma: u32,
    /// Offset of its bias.
    pub ffn_beta: u32,
    /// Zero.
    pub reserved: [u32; 12],
}

/// A weight matrix `[rows][cols]` (outputs × inputs) as a list of groups, 64 bytes.
///
/// Every output belongs to exactly one group. Values per output (bias, scale, sum) stand in group
/// order, each group padded to a multiple of [`TILE_ROWS`]: `padded_rows` values in all.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct MatrixDesc {
    /// Outputs.
    pub rows: u32,
    /// Inputs.
    pub cols: u32,
    /// [`DataType`] of the blocks.
    pub weights: u32,
    /// Number of [`GroupDesc`].
    pub group_count: u32,
    /// Offset of the group descriptors.
    pub groups: u32,
    /// Inputs shared by all groups that have inputs, a multiple of [`SHARED_UNIT`]: the first
    /// columns of each block.
    pub shared_count: u32,
    /// Offset of the shared input list, u16 `[shared_count]`, ascending; 0 when there is none.
    pub shared: u32,
    /// Sum over the groups of their outputs, each rounded up to a multiple of [`TILE_ROWS`].
    pub padded_rows: u32,
    /// Offset of the bias, f32 `[padded_rows]`.
    pub bias: u32,
    /// Offset of the weight scales, f32 `[padded_rows]`; 0 for float weights.
    pub scale: u32,
    /// Offset of the sums of the quantized weights, i32 `[padded_rows]`; 0 for float weights.
    pub sum: u32,
    /// Offset of the equalizing factors, f32 `[cols]`; 0 for float weights.
    pub equalize: u32,
    /// Weights stored, padding not counted: the matrix's kept weights.
    pub kept: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

/// A group: which outputs, which inputs, and the dense block between them, 32 bytes.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct GroupDesc {
    /// Number of outputs, at least 1.
    pub outputs: u32,
    /// Offset of the output list, u16 `[outputs]`, ascending; 0 = contiguous from `first_output`.
    pub output_list: u32,
    /// First output of a contiguous range; 0 when there is a list.
    pub first_output: u32,
    /// 1 when the block starts with the matrix's shared inputs, else 0.
    pub uses_shared: u32,
    /// Number of inputs of its own, beside the shared ones.
    pub inputs: u32,
    /// Offset of the input list, u16 `[inputs]`, ascending; 0 = contiguous from `first_input`.
    pub input_list: u32,
    /// First input of a contiguous range; 0 when there is a list.
    pub first_input: u32,
    /// Offset of the block, a multiple of [`ALIGN`]; 0 when the group has no inputs.
    pub block: u32,
}

/// Start of section `TEST`, 16 bytes, followed by `count` times [`TestEntry`], then the texts.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct TestHeader {
    /// Number of texts.
    pub count: u32,
    /// Edition of the arithmetic that the hashes were made with ([`crate::math::EDITION`]); 0 in files
    /// from before editions were counted.
    pub edition: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

/// A text of the self-test and what the scalar backend makes of it, 32 bytes.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct TestEntry {
    /// Offset of the text, UTF-8.
    pub text: u32,
    /// Its bytes.
    pub bytes: u32,
    /// Its tokens, at most `Arch::max_tokens`: a longer text is cut there.
    pub tokens: u32,
    /// CRC-32 (IEEE 802.3) of its ids, u32 each.
    pub ids_crc: u32,
    /// CRC-32 of its embedding, f32 `[hidden_size]`.
    pub embedding_crc: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

/// `value` rounded up to a multiple of `to`, a power of two.
pub const fn round_up(value: usize, to: usize) -> usize {
    (value + to - 1) & !(to - 1)
}

/// Bytes of the block of a group with `outputs` rows and `inputs` columns in layout `r4k16`.
///
/// int8: four rows at a time, tiles of 16 inputs in 64 bytes (row 0's sixteen inputs, row 1's…).
/// int4: four rows at a time, runs of 32 inputs in 68 bytes.
/// f16 and f32: four rows at a time, each input's four values together.
pub const fn block_bytes(weights: DataType, outputs: usize, inputs: usize) -> usize {
    let rows = round_up(outputs, TILE_ROWS);
    match weights {
        // A matrix of int2 there is not.
        DataType::I4 | DataType::I2 => rows / TILE_ROWS * quad_bytes_i4(inputs),
        DataType::I8 => rows * round_up(inputs, TILE_DEPTH),
        DataType::F16 => rows * inputs * 2,
        DataType::F32 => rows * inputs * 4,
    }
}

/// Bytes of four rows of an int4 block with `inputs` columns.
pub const fn quad_bytes_i4(inputs: usize) -> usize {
    let inputs = round_up(inputs, TILE_DEPTH);
    inputs.div_ceil(RUN) * TILE_ROWS + inputs / TILE_DEPTH * TILE_I4
}

/// Bytes of a row of `values` numbers of an int4 table: for each run of 32 its [`Multiplier`],
/// then its codes, two a byte.
pub const fn table_row_i4(values: usize) -> usize {
    values.div_ceil(RUN) + values.div_ceil(2)
}

/// What an int2 `code`, below 4, stands for: levels four apart, the zero in quarters of a level.
pub const fn value_i2(multiplier: Multiplier, code: u8) -> i32 {
    (4 * code as i32 - multiplier.zero() as i32) * multiplier.step() as i32
}

/// Bytes of a row of `values` numbers of an int2 table: for each run of 32 its [`Multiplier`],
/// then its codes, four a byte.
pub const fn table_row_i2(values: usize) -> usize {
    values.div_ceil(RUN) + values.div_ceil(4)
}
