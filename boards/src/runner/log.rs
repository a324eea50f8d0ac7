//! The firmware's log: defmt frames from a growing file, decoded by the firmware's ELF.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use defmt_decoder::Table;

use crate::error::{Error, Result};

/// A log that grows while the board runs.
pub(super) struct Log {
    /// `None` when the image has no defmt data.
    table: Option<Table>,
    file: File,
    /// Bytes of a frame that is not whole yet.
    pending: Vec<u8>,
}

impl Log {
    /// A log of the firmware `elf` that will appear in the file at `path`, which is made empty.
    pub(super) fn new(elf: &[u8], path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        File::create(path).map_err(Error::io(format!("create {name}")))?;
        let file = File::open(path).map_err(Error::io(format!("read {name}")))?;
        let table = Table::parse(elf).map_err(|e| Error::Elf {
            path: "the firmware".into(),
            what: format!("its log: {e}"),
        })?;
        Ok(Self { table, file, pending: Vec::new() })
    }

    /// Hands the lines that have come since the last call to `line`.
    pub(super) fn drain(&mut self, mut line: impl FnMut(&str)) {
        // A log that cannot be read is not worth failing a run.
        if self.file.read_to_end(&mut self.pending).is_err() {
            return;
        }
        let Some(table) = &self.table else { return };
        // A zero ends a frame, so that a damaged one costs no other.
        let whole = self.pending.iter().rposition(|b| *b == 0).map_or(0, |at| at + 1);
        let frames: Vec<u8> = self.pending.drain(..whole).collect();
        for frame in frames.split_inclusive(|b| *b == 0).filter(|f| f.len() > 1) {
            let mut decoder = table.new_stream_decoder();
            decoder.received(frame);
            match decoder.decode() {
                Ok(frame) => line(&frame.display(false).to_string()),
                Err(_) => line("(a damaged log frame)"),
            }
        }
    }
}
