//! What can go wrong: each error names its cause and its remedy.

use std::path::PathBuf;

/// Why nothing was counted, or the counts are not to be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program or a compiler target is not installed.
    #[error(
        "{} missing:{}\n(or leave those targets out with --targets)",
        if .0.len() == 1 { "a tool is" } else { "some tools are" },
        .0.iter().map(|line| format!("\n  {line}")).collect::<String>()
    )]
    Missing(Vec<String>),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// An input is not what it should be.
    #[error("{0}")]
    Input(String),
    /// Cargo failed; it has said why.
    #[error("cannot build {0}; cargo's own words are above")]
    Build(String),
    /// A target cannot run what was asked; the others can.
    #[error("{0}")]
    LeftOut(String),
    /// A guest failed.
    #[error("{target} failed ({status}): {said}")]
    Guest { target: &'static str, status: String, said: String },
    /// What guest and plugin wrote does not belong together.
    #[error("the counts of {target} cannot be trusted: {what}")]
    Count { target: &'static str, what: String },
    /// Two targets or backends gave different bits.
    #[error("results differ, which is a defect of a kernel:{0}")]
    Bits(String),
    /// The result could not be written.
    #[error("cannot write the result: {0}")]
    Output(String),
}

impl Error {
    /// For `map_err` on a file operation.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
