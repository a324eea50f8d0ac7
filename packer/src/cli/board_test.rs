//! `grouse run --self-test`: the file's texts by every backend of a board.

use std::fmt;

use grouse_boards::{Options, Session, Tested};
use grouse_runtime::view::Model;
use serde::Serialize;

use crate::Result;
use crate::self_test::verdict;

use super::run::board_error;
use super::{output, print_json};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    board: &'a str,
    /// Whether no text failed with any backend.
    passed: bool,
    backends: Vec<Backend>,
}

/// A backend's part of it.
#[derive(Debug, Serialize)]
struct Backend {
    #[serde(flatten)]
    tested: Tested,
    /// The first text that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_text: Option<String>,
}

/// Runs the self-test of `model`, the file that the board holds, and prints how it went.
///
/// # Errors
/// As the board refuses, and any difference.
pub(super) fn run(
    session: &mut Session<'_>,
    options: &Options,
    model: &Model<'_>,
    json: bool,
) -> Result<()> {
    let tested = session.self_tests(options).map_err(board_error)?;
    let backends = tested.into_iter().map(|tested| {
        let first = tested.first.as_ref();
        let text = first.and_then(|first| model.tests().iter().nth(first.text as usize));
        Backend { tested, first_text: text.map(|text| text.text.to_owned()) }
    });
    let backends: Vec<Backend> = backends.collect();
    let passed = backends.iter().all(|b| b.tested.failed == 0);
    let report = Report { board: &session.board().id, passed, backends };
    if json {
        print_json(&report)?;
    } else {
        output::write(format_args!("{report}"))?;
    }
    let results = report.backends.iter().map(|b| (b.tested.backend.as_str(), b.tested.failed == 0));
    let all = "the file is not what was packed, or the firmware is wrong: `grouse self-test FILE` \
               tells; then pack the model again, or report this";
    let some = "use another backend (--backend) and report this with the board and its firmware's \
                version";
    verdict(results, all, some).map_or(Ok(()), Err)
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Backend { tested, first_text } in &self.backends {
            let Tested { backend, passed, failed, skipped, first, .. } = tested;
            write!(f, "{backend:<12} {passed} of {} texts passed", passed + failed + skipped)?;
            if *skipped > 0 {
                write!(f, ", {skipped} skipped: more tokens than the board was asked for")?;
            }
            writeln!(f)?;
            if let Some(first) = first {
                let text = first_text.as_deref().unwrap_or_default();
                writeln!(f, "  first {text:?}: {}", first.what)?;
            }
        }
        Ok(())
    }
}
