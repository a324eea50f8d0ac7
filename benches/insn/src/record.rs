//! What is counted on and what was counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use grouse_runtime::mapped::MappedFile;
use grouse_runtime::view::Model;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A packed model.
pub(crate) struct Subject {
    /// Where it is.
    pub path: PathBuf,
    /// File name.
    pub name: String,
    /// Length of the file.
    pub bytes: u64,
    /// Kept weights / all weights of the encoder's matrices.
    pub density: f64,
    /// The shape, for people.
    pub shape: String,
}

impl Subject {
    /// Looks into the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let refused = |e| Error::Input(format!("{}: {e}", path.display()));
        let file = MappedFile::open(path).map_err(Error::io("map", path))?;
        let model = Model::open(file.bytes()).map_err(refused)?;
        let (kept, all) = model.encoder_weights().map_err(refused)?;
        let arch = model.arch();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self {
            path: path.to_path_buf(),
            name,
            bytes: file.bytes().len() as u64,
            density: kept as f64 / all as f64,
            shape: format!("{} layers of {}", arch.layers, arch.hidden_size),
        })
    }
}

/// A guest's line of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Number of the plugin's region.
    #[serde(skip_serializing)]
    pub region: usize,
    /// "encoder", or a matrix.
    pub case: String,
    /// Backend.
    pub backend: String,
    /// Tokens.
    pub tokens: u32,
    /// Products that the case needs.
    pub macs: u64,
    /// CRC-32 of the result's bits.
    pub crc: String,
    /// Whether the result has the scalar backend's bits.
    pub equal: bool,
}

/// One case, counted on one target.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Record {
    /// File name of the model.
    pub model: String,
    /// Kept weights / all weights.
    pub density: f64,
    /// Target.
    pub target: &'static str,
    /// The guest's line.
    #[serde(flatten)]
    pub line: Line,
    /// Instructions; none on the host.
    pub instructions: Option<u64>,
    /// Products per instruction.
    pub macs_per_instruction: Option<f64>,
}

impl Record {
    /// Puts a guest's line and the plugin's count together.
    pub(crate) fn new(
        subject: &Subject,
        target: &'static str,
        line: Line,
        instructions: Option<u64>,
    ) -> Self {
        let macs_per_instruction = instructions.map(|n| line.macs as f64 / n.max(1) as f64);
        let (model, density) = (subject.name.clone(), subject.density);
        Self { model, density, target, line, instructions, macs_per_instruction }
    }

    /// Whether all targets and backends gave the same bits.
    pub(crate) fn check_bits(records: &[Self]) -> Result<()> {
        let mut first = BTreeMap::new();
        let mut wrong = String::new();
        for record in records {
            let Line { case, backend, tokens, crc, equal, .. } = &record.line;
            let (target, model) = (record.target, &record.model);
            let (known, by) =
                first.entry((model, case, tokens)).or_insert((crc, format!("{target} {backend}")));
            if crc != *known || !equal {
                // Writing to a string cannot fail.
                let _ = write!(
                    wrong,
                    "\n  {model}, {case}, {tokens} tokens: {crc} by {target} {backend}, {known} by {by}"
                );
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::Bits(wrong)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(target: &'static str, crc: &str, equal: bool) -> Record {
        let line = Line {
            region: 0,
            case: "encoder".into(),
            backend: "wide".into(),
            tokens: 32,
            macs: 100,
            crc: crc.into(),
            equal,
        };
        let subject = Subject {
            path: PathBuf::new(),
            name: "model".into(),
            bytes: 0,
            density: 1.0,
            shape: String::new(),
        };
        Record::new(&subject, target, line, Some(50))
    }

    #[test]
    fn different_bits_are_reported() {
        let same = [record("a", "1234", true), record("b", "1234", true)];
        assert!(Record::check_bits(&same).is_ok());
        assert_eq!(same[0].macs_per_instruction, Some(2.0));
        let across = [record("a", "1234", true), record("b", "1235", true)];
        assert!(Record::check_bits(&across).unwrap_err().to_string().contains("1235 by b wide"));
        assert!(Record::check_bits(&[record("a", "1234", false)]).is_err());
    }
}
