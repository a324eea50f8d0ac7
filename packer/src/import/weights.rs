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

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(dir: &Path, name: &str, tensors: &[(&str, Dtype, &[u8])]) {
        let views = tensors.iter().map(|(name, dtype, bytes)| {
            let count = bytes.len() * 8 / dtype.bitsize();
            (*name, TensorView::new(*dtype, vec![count], bytes).unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    }

    #[test]
    fn number_types_become_f32() {
        let dir = tempfile::tempdir().unwrap();
        let (f32s, f16s, bf16s) = (1.5f32.to_le_bytes(), [0x00, 0x3e], [0xc0, 0x3f]);
        file(
            dir.path(),
            SINGLE,
            &[("a", Dtype::F32, &f32s), ("b", Dtype::F16, &f16s), ("c", Dtype::BF16, &bf16s)],
        );
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        for name in ["a", "b", "c"] {
            assert_eq!(checkpoint.read(name, &[1]).unwrap(), [1.5]);
        }
    }

    #[test]
    fn faults_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = [1.0, f32::NAN].iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
        file(dir.path(), SINGLE, &[("bad", Dtype::F32, &bytes), ("ids", Dtype::I64, &[0; 8])]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let said =
            |name: &str, shape: &[usize]| checkpoint.read(name, shape).unwrap_err().to_string();
        assert!(said("gone", &[1]).contains("\"gone\" is missing"));
        assert!(said("bad", &[3]).contains("shape [2], expected [3]"));
        assert!(said("bad", &[2]).contains("NaN at index 1"));
        assert!(said("ids", &[1]).contains("I64"));
        std::fs::write(dir.path().join(SINGLE), b"short").unwrap();
        assert!(Checkpoint::open(dir.path()).is_err());
    }

    #[test]
    fn shards_are_joined_and_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["x", "y"] {
            let value = 2.0f32.to_le_bytes();
            file(dir.path(), &format!("{name}.safetensors"), &[(name, Dtype::F32, &value)]);
        }
        let index = dir.path().join(INDEX);
        let good = r#"{"weight_map":{"x":"x.safetensors","y":"y.safetensors"}}"#;
        std::fs::write(&index, good).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["x", "y"]);
        for bad in [r#"{"weight_map":{"x":"../x.safetensors"}}"#, "{}", "no"] {
            std::fs::write(&index, bad).unwrap();
            assert!(Checkpoint::open(dir.path()).is_err(), "{bad}");
        }
    }
}
