//! The tensors of a checkpoint: one safetensors file or several shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{Error, Result};

/// Name of the file of an unsharded checkpoint.
pub const SINGLE: &str = "model.safetensors";
/// Name of the list of a sharded one.
pub const INDEX: &str = "model.safetensors.index.json";

/// Where a tensor lies.
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// All tensors of a directory, read into memory.
pub struct Checkpoint {
    files: Vec<(PathBuf, Vec<u8>)>,
    entries: BTreeMap<String, Entry>,
}

/// A tensor as the file has it.
pub struct Tensor<'a> {
    /// Number type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: &'a [usize],
    /// Raw little-endian values.
    pub bytes: &'a [u8],
}

impl Checkpoint {
    /// Reads the weights of `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let single = dir.join(SINGLE);
        let paths = if single.is_file() {
            vec![single]
        } else if dir.join(INDEX).is_file() {
            shards(dir)?
        } else {
            return Err(Error::input(
                format!("{} has neither {SINGLE} nor {INDEX}", dir.display()),
                "use a model that is published as safetensors, or convert it with transformers' save_pretrained",
            ));
        };
        let mut checkpoint = Self { files: Vec::new(), entries: BTreeMap::new() };
        for path in paths {
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            checkpoint.add(path, bytes)?;
        }
        Ok(checkpoint)
    }

    fn add(&mut self, path: PathBuf, bytes: Vec<u8>) -> Result<()> {
        let file = self.files.len();
        let parsed = SafeTensors::deserialize(&bytes).map_err(|e| {
            Error::input(
                format!("{} is not a valid safetensors file: {e}", path.display()),
                "fetch the file again; it may be cut short",
            )
        })?;
        let base = bytes.as_ptr() as usize;
        for (name, view) in parsed.iter() {
            let start = view.data().as_ptr() as usize - base;
            let entry = Entry {
                file,
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                start,
                end: start + view.data().len(),
            };
            self.entries.insert(name.to_string(), entry);
        }
        self.files.push((path, bytes));
        Ok(())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether a tensor of this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The tensor `name` as it is stored.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let entry = self.entries.get(name)?;
        let bytes = &self.files[entry.file].1[entry.start..entry.end];
        Some(Tensor { dtype: entry.dtype, shape: &entry.shape, bytes })
    }

    /// The tensor `name` in f32, checked for its shape and for values that are not finite.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(entry) = self.entries.get(name) else {
            return Err(Error::input(
                format!("{}: tensor \"{name}\" is missing", self.files[0].0.display()),
                format!("the model must have it with shape {shape:?}; is this a BERT encoder?"),
            ));
        };
        let (path, bytes) = &self.files[entry.file];
        if entry.shape != shape {
            return Err(Error::input(
                format!(
                    "{}: tensor \"{name}\" has shape {:?}, expected {shape:?}",
                    path.display(),
                    entry.shape
                ),
                "config.json and the weights do not belong together: fetch both again",
            ));
        }
        let values = to_f32(entry.dtype, &bytes[entry.start..entry.end]).ok_or_else(|| {
            Error::input(
                format!("{}: tensor \"{name}\" is {:?}", path.display(), entry.dtype),
                "convert the weights to F32, F16 or BF16",
            )
        })?;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::input(
                format!("{}: tensor \"{name}\" has {} at index {at}", path.display(), values[at]),
                "the weights are damaged: fetch the model again",
            ));
        }
        Ok(values)
    }
}

/// `bytes` of floats as f32; `None` for types that are not floats (or that nobody ships).
pub fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let half = |to: fn([u8; 2]) -> f32| bytes.chunks_exact(2).map(|b| to([b[0], b[1]])).collect();
    match dtype {
        Dtype::F32 => {
            let one = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            Some(bytes.chunks_exact(4).map(one).collect())
        }
        Dtype::F16 => Some(half(|b| half::f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => Some(half(|b| half::bf16::from_le_bytes(b).to_f32())),
        _ => None,
    }
}

/// The files that the index names, in order.
fn shards(dir: &Path) -> Result<Vec<PathBuf>> {
    let path = dir.join(INDEX);
    let broken = |why: String| {
        Error::input(format!("{}: {why}", path.display()), "fetch the model directory again")
    };
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let index: Value = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| broken("\"weight_map\" is missing".into()))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(broken("\"weight_map\" names no file".into()));
    }
    // A shard is a plain file name: an index must not reach outside its directory.
    if let Some(bad) = names.iter().find(|n| n.contains(['/', '\\']) || n.starts_with("..")) {
        return Err(broken(format!("\"{bad}\" is not a file of this directory")));
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}
