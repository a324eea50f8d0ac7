//! Standard output. What cannot be written is an error like any other, except that a reader who has
//! gone away (`grouse inspect FILE | head`) ends the program quietly.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use crate::{Error, Result};

/// How errors of standard output name it.
pub const NAME: &str = "standard output";

/// Writes text as it is.
///
/// # Errors
/// When standard output cannot be written.
pub fn write(text: Arguments<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_fmt(text).and_then(|()| out.flush()).map_err(Error::io("write", NAME))
}

/// Whether `error` only says that nobody reads the output any more.
pub fn is_closed(error: &Error) -> bool {
    matches!(error, Error::Io { action: "write", path, source }
        if path.as_os_str() == NAME && source.kind() == ErrorKind::BrokenPipe)
}

/// `println!` whose failure is returned.
macro_rules! say {
    () => { $crate::cli::output::write(format_args!("\n"))? };
    ($format:literal $($arguments:tt)*) => {
        $crate::cli::output::write(format_args!("{}\n", format_args!($format $($arguments)*)))?
    };
}
pub(super) use say;
