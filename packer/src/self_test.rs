//! The self-test that a packed file carries, through every backend of this host.

use std::fmt;

use grouse_runtime::encoder::Encoder;
use grouse_runtime::kernels::Backend;
use grouse_runtime::plan::Plan;
use grouse_runtime::self_test::Outcome;
use grouse_runtime::view::Model;
use serde::Serialize;

use crate::{Error, Result};

/// All backends' results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SelfTest {
    /// Whether every text passed with every backend.
    pub passed: bool,
    /// The backends.
    pub backends: Vec<BackendResult>,
}

/// A backend's results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendResult {
    /// The backend.
    pub backend: &'static str,
    /// Whether every text passed.
    pub passed: bool,
    /// The texts.
    pub texts: Vec<TextResult>,
}

/// A text's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextResult {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// Whether ids and embedding have the hashes in the file.
    pub passed: bool,
    /// In words.
    pub outcome: String,
}

impl SelfTest {
    /// Runs the texts of `model` through each of `backends`.
    ///
    /// # Errors
    /// [`Error::Input`] when the file carries no texts.
    pub fn run(
        model: &Model<'_>,
        backends: impl IntoIterator<Item = &'static dyn Backend>,
    ) -> Result<Self> {
        if model.tests().is_empty() {
            return Err(Error::input(
                "the file carries no self-test",
                "pack the model again with this version of grouse",
            ));
        }
        let backends: Vec<BackendResult> =
            backends.into_iter().map(|b| run(model, b)).collect::<Result<_>>()?;
        Ok(Self { passed: backends.iter().all(|b| b.passed), backends })
    }

    /// What to do, when something differs.
    pub fn verdict(&self) -> Option<Error> {
        verdict(
            self.backends.iter().map(|b| (b.backend, b.passed)),
            "the file is not what was packed, although its checksums match: pack the model again",
            "use another backend (--backend, or GROUSE_BACKEND) and report this with the output of \
             `grouse inspect --cpu`",
        )
    }
}

/// The error for backends that did not pass: what to do when it is all of them, and when others did.
pub(crate) fn verdict<'a>(
    backends: impl IntoIterator<Item = (&'a str, bool)>,
    all: &str,
    some: &str,
) -> Option<Error> {
    let (passed, failed): (Vec<_>, Vec<_>) = backends.into_iter().partition(|(_, passed)| *passed);
    if failed.is_empty() {
        return None;
    }
    let names: Vec<&str> = failed.into_iter().map(|(name, _)| name).collect();
    let names = names.join(", ");
    Some(if passed.is_empty() {
        Error::input(format!("the self-test fails with every backend tried ({names})"), all)
    } else {
        Error::input(format!("the self-test fails with: {names}"), some)
    })
}

fn run(model: &Model<'_>, backend: &'static dyn Backend) -> Result<BackendResult> {
    let refused = || Error::runtime("the self-test");
    let tokens = model.tests().iter().map(|test| test.tokens).max().unwrap_or(2);
    let plan = Plan::new(model, tokens).map_err(refused())?;
    let mut arena = vec![0_u128; plan.arena_bytes().div_ceil(size_of::<u128>())];
    let arena = bytemuck::cast_slice_mut(&mut arena);
    let mut encoder = Encoder::with_plan(model, backend, arena, plan).map_err(refused())?;
    let mut ids = vec![0; tokens];
    let mut values = vec![0.0; model.arch().hidden_size as usize];
    let mut texts = Vec::new();
    let summary = model.self_test(&mut encoder, &mut ids, &mut values, |_, test, outcome| {
        texts.push(TextResult {
            text: test.text.to_string(),
            tokens: test.tokens,
            passed: outcome == Outcome::Passed,
            outcome: words(outcome),
        });
    });
    Ok(BackendResult { backend: backend.name(), passed: summary.failed == 0, texts })
}

fn words(outcome: Outcome) -> String {
    match outcome {
        Outcome::Passed => "passed".into(),
        Outcome::Skipped { tokens } => format!("skipped: {tokens} tokens are too many"),
        Outcome::Failed(failure) => failure.to_string(),
        _ => "unknown".into(),
    }
}

impl fmt::Display for SelfTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for BackendResult { backend, texts, .. } in &self.backends {
            let passed = texts.iter().filter(|text| text.passed).count();
            writeln!(f, "{backend:<12} {passed} of {} texts passed", texts.len())?;
            for text in texts.iter().filter(|text| !text.passed) {
                writeln!(f, "  {:?} ({} tokens): {}", text.text, text.tokens, text.outcome)?;
            }
        }
        Ok(())
    }
}
