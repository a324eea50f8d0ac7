//! Where the texts of a command come from: its arguments, a file, or standard input.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Texts to work on.
#[derive(Debug, clap::Args)]
pub struct TextArgs {
    /// Texts, one argument each.
    #[arg(value_name = "TEXT", required_unless_present = "input")]
    texts: Vec<OsString>,
    /// Read texts from FILE, one a line, UTF-8 (- for standard input).
    #[arg(long, value_name = "FILE", conflicts_with = "texts")]
    input: Option<PathBuf>,
}

impl TextArgs {
    /// The texts, in order.
    ///
    /// # Errors
    /// When the input cannot be read or a text is not UTF-8.
    pub fn read(&self) -> Result<Vec<String>> {
        let Some(input) = &self.input else {
            return self.texts.iter().enumerate().map(argument).collect();
        };
        let mut bytes = Vec::new();
        if input == Path::new("-") {
            std::io::stdin()
                .read_to_end(&mut bytes)
                .map_err(Error::io("read", "standard input"))?;
        } else {
            bytes = std::fs::read(input).map_err(Error::io("read", input))?;
        }
        lines(&input.display().to_string(), &bytes)
    }
}

fn argument((number, text): (usize, &OsString)) -> Result<String> {
    text.to_str().map(str::to_string).ok_or_else(|| {
        Error::input(
            format!("text {} on the command line is not valid UTF-8", number + 1),
            "convert it to UTF-8",
        )
    })
}

/// Splits `bytes` at newlines, which are not part of the texts; an empty line is an empty text.
fn lines(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let line = bytes[..at].iter().filter(|b| **b == b'\n').count() + 1;
        Error::input(
            format!("{name} is not valid UTF-8 (line {line}, byte {at})"),
            "convert it to UTF-8, for example with iconv",
        )
    })?;
    let mut lines: Vec<String> = text.split('\n').map(str::to_string).collect();
    // What follows the last newline is a text only if there is something.
    if lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_is_an_empty_text() {
        assert_eq!(lines("f", b"a\n\nb\r\n").unwrap(), ["a", "", "b\r"]);
        assert_eq!(lines("f", b"a\nb").unwrap(), ["a", "b"]);
        assert!(lines("f", b"").unwrap().is_empty());
    }

    #[test]
    fn a_bad_byte_is_named_with_its_line() {
        let error = lines("f", b"ok\n\xff").unwrap_err().to_string();
        assert!(error.contains("line 2, byte 3"), "{error}");
    }
}
