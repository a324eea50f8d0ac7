//! Errors of the host side: each names its cause and its remedy.

use std::path::PathBuf;

use miette::Diagnostic;

/// Why a command was refused or failed.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", "create"…
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// An input is not what it should be.
    #[error("{what}")]
    #[diagnostic()]
    Input {
        /// What is wrong, with names and figures.
        what: String,
        /// What to do.
        #[help]
        remedy: String,
    },
    /// The runtime refused a file, text or buffer.
    #[error("{context}: {source}")]
    Runtime {
        /// The file or step at fault.
        context: String,
        /// The runtime's cause and remedy.
        source: grouse_runtime::Error,
    },
    /// candle refused an operation of training.
    #[error("training failed: {0}")]
    #[diagnostic(help("this is a fault of grouse: please report it"))]
    Training(#[from] candle_core::Error),
}

impl Error {
    /// An [`Error::Input`] of a cause and a remedy.
    pub fn input(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Input { what: what.into(), remedy: remedy.into() }
    }

    /// For `map_err` on a file operation.
    pub fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err` on a call into the runtime.
    pub fn runtime(context: impl Into<String>) -> impl FnOnce(grouse_runtime::Error) -> Self {
        let context = context.into();
        move |source| Self::Runtime { context, source }
    }
}

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
