//! `grouse-insn crop`: a model directory with a smaller vocabulary, so that a whole encoder fits
//! where 23 MB do not. The encoder itself stays as it is.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

use crate::error::{Error, Result};

/// Copy a Hugging Face model directory with the first pieces of its vocabulary only.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Hugging Face model directory.
    model_dir: PathBuf,
    /// Directory to write; it must not exist.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Pieces to keep.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    vocabulary: usize,
}

const WORDS: &str = "embeddings.word_embeddings.weight";

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    fs::create_dir(&args.output).map_err(Error::io("create", &args.output))?;
    copy(&args.model_dir, &args.output)?;
    let out = |name: &str| args.output.join(name);
    crop_weights(&out("model.safetensors"), args.vocabulary)?;
    edit(&out("config.json"), |config| config["vocab_size"] = args.vocabulary.into())?;
    edit(&out("tokenizer.json"), |tokenizer| {
        let kept = |id: &Value| id.as_u64().is_some_and(|id| id < args.vocabulary as u64);
        if let Some(vocabulary) = tokenizer["model"]["vocab"].as_object_mut() {
            vocabulary.retain(|_, id| kept(id));
        }
    })?;
    let path = out("vocab.txt");
    if path.is_file() {
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let text: String = text.split_inclusive('\n').take(args.vocabulary).collect();
        fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            fs::create_dir(&target).map_err(Error::io("create", &target))?;
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(Error::io("copy", &source))?;
        }
    }
    Ok(())
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let wrong = |e| Error::Input(format!("{} is not JSON: {e}", path.display()));
    let mut value = serde_json::from_str(&text).map_err(wrong)?;
    change(&mut value);
    fs::write(path, value.to_string()).map_err(Error::io("write", path))
}

fn crop_weights(path: &Path, vocabulary: usize) -> Result<()> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let wrong = |what: String| Error::Input(format!("{}: {what}", path.display()));
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
    let mut views = Vec::new();
    let mut cropped = false;
    for (name, tensor) in tensors.iter() {
        let mut shape = tensor.shape().to_vec();
        let mut data = tensor.data();
        if name.ends_with(WORDS) {
            let [rows, _] = shape[..] else {
                return Err(wrong(format!("{name} is not a table")));
            };
            if vocabulary == 0 || vocabulary > rows {
                return Err(Error::Input(format!("keep 1 to {rows} pieces, not {vocabulary}")));
            }
            data = &data[..data.len() / rows * vocabulary];
            shape[0] = vocabulary;
            cropped = true;
        }
        let view =
            TensorView::new(tensor.dtype(), shape, data).map_err(|e| wrong(e.to_string()))?;
        views.push((name, view));
    }
    if !cropped {
        return Err(wrong(format!("it has no tensor {WORDS}")));
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let out = safetensors::serialize(views, Some(metadata)).map_err(|e| wrong(e.to_string()))?;
    fs::write(path, out).map_err(Error::io("write", path))
}
