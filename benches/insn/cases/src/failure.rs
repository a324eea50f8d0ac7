//! Why a guest could not run its cases.

use core::fmt;

/// Why the cases were not run.
#[derive(Debug, Clone, Copy)]
pub enum Failure {
    /// The runtime refused.
    Runtime(grouse_runtime::Error),
    /// A word of the request is not `key=value` with a known key and a sound value.
    Request,
    /// The guest's memory is too small.
    Memory {
        /// Bytes needed for one buffer.
        needed: usize,
        /// Bytes that are left.
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
            Self::Request => f.write_str(
                "the request is not understood; it is made of tokens=N,…, backend=NAME and \
                 cases=encoder,kernels",
            ),
            Self::Memory { needed, available } => write!(
                f,
                "a buffer of {needed} bytes does not fit the {available} that the guest has left; \
                 count fewer tokens or a narrower model"
            ),
            Self::Output => f.write_str("the output cannot be written"),
        }
    }
}
