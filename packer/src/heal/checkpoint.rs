//! A training run on disk: a safetensors file beside the output, complete or not there.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::adam::Adam;
use super::train::{Course, Keeping};
use crate::{Error, Result};

const COURSE: &str = "course";
const FINGERPRINT: &str = "fingerprint";
/// The four lists of numbers, a tensor per parameter each.
const LISTS: [&str; 4] = ["value", "best", "first", "second"];

/// All that a run needs to go on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checkpoint {
    /// What is trained, at `course.step`.
    pub values: Vec<Vec<f32>>,
    /// The same where it scored best.
    pub best: Vec<Vec<f32>>,
    pub adam: Adam,
    pub course: Course,
}

/// Writes `checkpoint` in place of the file's former content.
pub(super) fn write(checkpoint: &Checkpoint, keeping: &Keeping) -> Result<()> {
    let path = &keeping.file;
    let broken = |e: &dyn std::fmt::Display| {
        Error::input(format!("cannot write {}: {e}", path.display()), "report this")
    };
    let adam = &checkpoint.adam;
    let lists = [&checkpoint.values, &checkpoint.best, &adam.first, &adam.second];
    let mut tensors = Vec::new();
    for (list, name) in lists.into_iter().zip(LISTS) {
        for (index, values) in list.iter().enumerate() {
            let bytes = bytemuck::cast_slice::<f32, u8>(values);
            let view = TensorView::new(Dtype::F32, vec![values.len()], bytes);
            tensors.push((format!("{name}.{index}"), view.map_err(|e| broken(&e))?));
        }
    }
    let course = serde_json::to_string(&(&checkpoint.course, adam.steps));
    let metadata = HashMap::from([
        (COURSE.to_string(), course.map_err(|e| broken(&e))?),
        (FINGERPRINT.to_string(), keeping.fingerprint.clone()),
    ]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(|e| broken(&e))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let mut file =
        tempfile::NamedTempFile::new_in(parent).map_err(Error::io("create a file in", parent))?;
    file.write_all(&bytes).map_err(Error::io("write", path))?;
    file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}

/// Reads the checkpoint of a run of the same fingerprint and the same parameters.
pub(super) fn read(keeping: &Keeping, sizes: &[usize]) -> Result<Checkpoint> {
    let path = &keeping.file;
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::input(
                format!("there is nothing to resume: {} does not exist", path.display()),
                "leave --resume out, or give the output directory of the run that was stopped",
            ));
        }
        other => other.map_err(Error::io("read", path))?,
    };
    let bad = |what: &str| {
        Error::input(
            format!("{}: {what}", path.display()),
            "remove the file, or leave --resume out to start over it",
        )
    };
    let damaged = || bad("the checkpoint is damaged");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|_| damaged())?;
    let entries = metadata.metadata().as_ref().ok_or_else(damaged)?;
    if entries.get(FINGERPRINT) != Some(&keeping.fingerprint) {
        return Err(bad("the checkpoint belongs to another model, text or set of options"));
    }
    let course = entries.get(COURSE).ok_or_else(damaged)?;
    let (course, steps): (Course, u32) = serde_json::from_str(course).map_err(|_| damaged())?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|_| damaged())?;
    let list = |name: &str| -> Result<Vec<Vec<f32>>> {
        sizes
            .iter()
            .enumerate()
            .map(|(index, size)| {
                let tensor = tensors.tensor(&format!("{name}.{index}")).map_err(|_| damaged())?;
                if tensor.dtype() != Dtype::F32 || tensor.shape() != [*size] {
                    return Err(damaged());
                }
                Ok(tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
            })
            .collect()
    };
    let [values, best, first, second] = LISTS.map(list);
    Ok(Checkpoint {
        values: values?,
        best: best?,
        adam: Adam { steps, first: first?, second: second? },
        course,
    })
}
