//! Reads and writes Hugging Face BERT directories.
//!
//! Reading is [`load_dir`], writing back is [`save_dir`]. What a directory has to say about
//! itself is in `config`, its tensors are in `weights`.

mod bert;
mod config;
mod save;
mod weights;

use std::path::Path;

use crate::model::DenseModel;
use crate::{Error, Result};

pub use save::{check_output, read_mark, save_dir};

/// Reads a BERT sentence encoder: `config.json`, its safetensors weights and its tokenizer.
///
/// The sentence-transformers files (`modules.json`, the pooling module's `config.json`,
/// `sentence_bert_config.json`) are heeded where they exist. Without `modules.json` the encoder is
/// taken to pool by the mean and to normalise, as most sentence encoders do.
///
/// # Errors
///
/// [`Error::Input`] names what is missing, unsupported or malformed: the directory, a file, a
/// setting, a tensor with its shape, a weight that is not finite. [`Error::Io`] is a file that
/// cannot be read.
pub fn load_dir(dir: &Path) -> Result<DenseModel> {
    if !dir.is_dir() {
        return Err(Error::input(
            format!("{} is not a directory", dir.display()),
            "give a Hugging Face model directory; `grouse pull` fetches one and prints its path",
        ));
    }
    let settings = config::read(dir)?;
    let tensors = weights::Checkpoint::open(dir)?;
    let config = settings.config;
    let (embeddings, layers) = match settings.family {
        config::Family::Bert => bert::read(&tensors, &config)?,
    };
    Ok(DenseModel {
        name: config::name_of(dir),
        config,
        embeddings,
        layers,
        pooling: settings.pooling,
        normalize: settings.normalize,
        max_tokens: settings.max_tokens,
        tokenizer: crate::pack::vocab::section_from_dir(dir)?,
    })
}
