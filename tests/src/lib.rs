//! Shared pieces of the tests.

pub mod boards;
pub mod packed;
pub mod random_bert;

use std::path::{Path, PathBuf};

/// The real model's directory, if it is here: `GROUSE_MODEL_DIR` or what `grouse pull` keeps. Says
/// so if it is not, for a test that is skipped then.
pub fn real_model() -> Option<PathBuf> {
    let cache = || {
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
        Some(cache.join("grouse/all-MiniLM-L6-v2"))
    };
    let dir = std::env::var_os("GROUSE_MODEL_DIR").map(PathBuf::from).or_else(cache);
    let dir = dir.filter(|dir| dir.join("tokenizer.json").exists());
    if dir.is_none() {
        println!("skipped: no all-MiniLM-L6-v2; run `grouse pull` or set GROUSE_MODEL_DIR");
    }
    dir
}
