//! Writes a changed model back as a complete Hugging Face directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

use super::bert;
use super::weights::{Checkpoint, SINGLE, to_f32};
use crate::model::DenseModel;
use crate::{Error, Result};

/// The file that marks a directory as written by Grouse.
pub const MARK: &str = "grouse.json";

/// Writes `model` to `out_dir`: the files of `source_dir` with new weights, and `grouse.json`.
///
/// The new `model.safetensors` holds every tensor of the source, floats as f32; the encoder's
/// linear layers and all LayerNorms come from `model`. `extra` becomes `grouse.json`. The directory
/// is built beside `out_dir` and renamed when whole; on an error nothing is left behind.
///
/// # Errors
///
/// [`Error::Input`] when `out_dir` is the source or holds anything but a former output of Grouse;
/// [`Error::Io`] when a file cannot be read or written.
pub fn save_dir(
    model: &DenseModel,
    source_dir: &Path,
    out_dir: &Path,
    extra: &Value,
) -> Result<()> {
    check_output(source_dir, out_dir)?;
    let parent = match out_dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    // Dropped on every error path below, and the half-written directory with it.
    let building = tempfile::Builder::new()
        .prefix(".grouse-")
        .tempdir_in(parent)
        .map_err(Error::io("create a temporary directory in", parent))?;
    let inside = building.path().join("model");
    std::fs::create_dir(&inside).map_err(Error::io("create", &inside))?;
    let mut converted = false;
    write_weights(model, source_dir, &inside.join(SINGLE), &mut converted)?;
    copy_files(source_dir, &inside)?;
    if converted {
        say_float32(&inside.join("config.json"))?;
    }
    write_json(&inside.join(MARK), extra)?;
    if out_dir.exists() {
        // The former output leaves only when the new one is complete.
        let old = building.path().join("old");
        std::fs::rename(out_dir, &old).map_err(Error::io("replace", out_dir))?;
        if let Err(error) = std::fs::rename(&inside, out_dir) {
            let _ = std::fs::rename(&old, out_dir);
            return Err(Error::io("write", out_dir)(error));
        }
        return Ok(());
    }
    std::fs::rename(&inside, out_dir).map_err(Error::io("write", out_dir))
}

/// What `grouse.json` of a directory says; an empty object when it was not written by Grouse.
///
/// # Errors
///
/// [`Error::Input`] when it is not a JSON object, [`Error::Io`] when it cannot be read.
pub fn read_mark(dir: &Path) -> Result<Value> {
    let path = dir.join(MARK);
    if !path.is_file() {
        return Ok(Value::Object(Default::default()));
    }
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    match serde_json::from_slice(&bytes) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(Error::input(
            format!("{} is not a JSON object", path.display()),
            "remove the file, or prune again",
        )),
    }
}

/// Refuses to write over anything that Grouse did not write. Cheap: callers may ask it before
/// long work, so that a refusal does not cost the work.
pub fn check_output(source_dir: &Path, out_dir: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().ok();
    if real(source_dir).is_some() && real(source_dir) == real(out_dir) {
        return Err(Error::input(
            format!("{} is the model that is being read", out_dir.display()),
            "write to another directory",
        ));
    }
    let other = "choose a new directory, or empty this one first";
    if out_dir.exists() && !out_dir.is_dir() {
        return Err(Error::input(format!("{} is a file", out_dir.display()), other));
    }
    if out_dir.is_dir() && !out_dir.join(MARK).is_file() {
        let mut entries = std::fs::read_dir(out_dir).map_err(Error::io("read", out_dir))?;
        if entries.next().is_some() {
            return Err(Error::input(
                format!("{} is not empty and was not written by grouse", out_dir.display()),
                other,
            ));
        }
    }
    // What will be written is made beside its place first: whether that can be is known now.
    let found = out_dir.ancestors().skip(1).find(|p| p.exists());
    let found = found.unwrap_or(Path::new("."));
    tempfile::tempdir_in(found).map_err(Error::io("create a directory in", found))?;
    Ok(())
}

/// All tensors of the source, those that `model` may have changed taken from it.
fn write_weights(model: &DenseModel, source: &Path, to: &Path, converted: &mut bool) -> Result<()> {
    let checkpoint = Checkpoint::open(source)?;
    let mut changed = changed_tensors(model, &checkpoint);
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for name in checkpoint.names() {
        let Some(tensor) = checkpoint.tensor(name) else { continue };
        let shape = tensor.shape.to_vec();
        let floats = changed.remove(name).or_else(|| to_f32(tensor.dtype, tensor.bytes));
        *converted |= floats.is_some() && tensor.dtype != Dtype::F32;
        let stored = match floats {
            Some(values) => {
                let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                (Dtype::F32, shape, bytes)
            }
            None => (tensor.dtype, shape, tensor.bytes.to_vec()),
        };
        tensors.insert(name.to_string(), stored);
    }
    let bad = |e: safetensors::SafeTensorError| {
        Error::input(
            format!("cannot write {}: {e}", to.display()),
            "check the space left on the device and the source's tensors",
        )
    };
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| {
            Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).map_err(bad)?))
        })
        .collect::<Result<Vec<_>>>()?;
    // transformers refuses a file without this entry.
    let format = [("format".to_string(), "pt".to_string())].into();
    // Not `serialize_to_file`: its file is readable by its owner only.
    let bytes = safetensors::serialize(views, Some(format)).map_err(bad)?;
    std::fs::write(to, bytes).map_err(Error::io("write", to))
}

/// Full tensor name → values, for everything that pruning changes.
fn changed_tensors<'m>(model: &'m DenseModel, source: &Checkpoint) -> BTreeMap<String, Vec<f32>> {
    let prefix = bert::prefix(source);
    let mut changed: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut put = |name: String, values: &'m [f32]| changed.insert(name, values.to_vec());
    for (weight, bias) in bert::NORM_NAMES {
        let norm = &model.embeddings.norm;
        put(format!("{prefix}embeddings.LayerNorm.{weight}"), &norm.gamma);
        put(format!("{prefix}embeddings.LayerNorm.{bias}"), &norm.beta);
    }
    for (index, layer) in model.layers.iter().enumerate() {
        let at = format!("{prefix}encoder.layer.{index}.");
        for (name, linear) in layer.linears() {
            put(format!("{at}{name}.weight"), &linear.weight.data);
            put(format!("{at}{name}.bias"), &linear.bias);
        }
        let norms = [("attention.output", &layer.attention_norm), ("output", &layer.ffn_norm)];
        for (name, norm) in norms {
            // Only one pair of names exists in the source; the other finds no tensor to replace.
            for (weight, bias) in bert::NORM_NAMES {
                put(format!("{at}{name}.LayerNorm.{weight}"), &norm.gamma);
                put(format!("{at}{name}.LayerNorm.{bias}"), &norm.beta);
            }
        }
    }
    changed
}

/// Configuration, tokenizer and module files: everything small that is not weights.
fn copy_files(source: &Path, to: &Path) -> Result<()> {
    for (path, name) in list(source)? {
        let is_index = name.ends_with(".index.json") || name == MARK;
        if path.is_file() && is_text_file(&name) && !is_index {
            copy(&path, &to.join(&name))?;
        } else if path.is_dir() && is_module(&name) {
            let target = to.join(&name);
            std::fs::create_dir(&target).map_err(Error::io("create", &target))?;
            for (inner, inner_name) in list(&path)? {
                if inner.is_file() && is_text_file(&inner_name) {
                    copy(&inner, &target.join(&inner_name))?;
                }
            }
        }
    }
    Ok(())
}

/// Model files that are text. Weights in other formats stay behind: they would be the dense ones.
fn is_text_file(name: &str) -> bool {
    [".json", ".txt", ".md", ".jinja"].iter().any(|end| name.ends_with(end))
        || name.starts_with("LICENSE")
        || name.starts_with("NOTICE")
}

/// sentence-transformers numbers its module directories: "1_Pooling".
fn is_module(name: &str) -> bool {
    name.split_once('_')
        .is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn list(dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        entries.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
    }
    entries.sort();
    Ok(entries)
}

/// A fresh file, not `fs::copy`: that would carry over a read-only mode.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(Error::io("read", from))?;
    std::fs::write(to, bytes).map_err(Error::io("write", to))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = format!("{value:#}");
    text.push('\n');
    std::fs::write(path, text).map_err(Error::io("write", path))
}

/// Half-precision sources become f32 files: loaders that heed `torch_dtype` must not round them.
fn say_float32(path: &Path) -> Result<()> {
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    let Ok(mut config) = serde_json::from_slice::<Value>(&text) else { return Ok(()) };
    let mut set = false;
    for key in ["torch_dtype", "dtype"] {
        if let Some(value) = config.get_mut(key) {
            *value = Value::from("float32");
            set = true;
        }
    }
    if set { write_json(path, &config) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_former_outputs_are_replaced() {
        let root = tempfile::tempdir().unwrap();
        let (source, out) = (root.path().join("source"), root.path().join("out"));
        std::fs::create_dir(&source).unwrap();
        assert!(check_output(&source, &source).is_err());
        assert!(check_output(&source, &out).is_ok());
        std::fs::create_dir(&out).unwrap();
        assert!(check_output(&source, &out).is_ok());
        std::fs::write(out.join("mine.txt"), "").unwrap();
        assert!(check_output(&source, &out).is_err());
        std::fs::write(out.join(MARK), "{}").unwrap();
        assert!(check_output(&source, &out).is_ok());
        assert!(check_output(&source, &out.join("mine.txt")).is_err());
    }
}
