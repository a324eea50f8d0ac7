//! A file mapped into memory: the host's stand-in for flash.

#![allow(unsafe_code)] // A memory map cannot be made without; see the SAFETY comment.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// A read-only memory map of a whole file.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// The system's, when the file cannot be opened or mapped; an empty file maps to no bytes.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::other("it is a directory, not a file"));
        }
        // SAFETY: the map is read-only and private to this process. Another process that shortens
        // the file while it is mapped can make a read fault, as with every memory map; Grouse
        // itself never writes a model in place but renames a whole new file over it.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// The file's bytes, at a page boundary.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}
