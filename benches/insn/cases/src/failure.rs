//! Why a guest could not run its cases.

use core::fmt;

/// Why the cases were not run.
#[derive(Debug, Clone, Copy)]
pub enum Failure {
    /// The runtime refused.
    Runtime(grouse_runtime::Error),
    /// No backend of this name was built in.
    UnknownBackend,
    /// A word of the request is not `key=value` with a known key and a sound value.
    Request,
    /// The guest has too little memory for results of this many values.
    Results {
        /// Values needed.
        needed: usize,
        /// Values that fit.
        available: usize,
    },
    /// The output failed.
    Output,
}

impl From<grouse_runtime::Error> for Failure {
    fn from(error: grouse_runtime::Error) -> Self {
        Self::Runtime(error)
    }
}

impl From<fmt::Error> for Failure {
    fn from(_: fmt::Error) -> Self {
        Self::Output
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runtime(error) => write!(f, "{error}"),
            Self::UnknownBackend => {
                f.write_str("this guest has no such backend; name another, or `all`")
            }
            Self::Request => f.write_str(
                "the request is not understood; it is made of tokens=N,…, backend=NAME and \
                 cases=encoder,kernels",
            ),
            Self::Results { needed, available } => write!(
                f,
                "a result has {needed} values, this guest has room for {available}; count fewer \
                 tokens or a narrower model"
            ),
            Self::Output => f.write_str("the output cannot be written"),
        }
    }
}
