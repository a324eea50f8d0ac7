//! The self-test that a model file carries, run by a board.

use grouse_runtime::wire::{self, Request, Response};
use serde::Serialize;

use super::{Options, Progress, Session};
use crate::error::{Error, Result};

/// A name that no backend has.
const NO_BACKEND: &str = "?";

/// How the file's texts went with one backend of a board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// The backend.
    pub backend: String,
    /// Texts that passed.
    pub passed: u32,
    /// Texts with a difference, or refused.
    pub failed: u32,
    /// Texts with more tokens than the board was prepared for.
    pub skipped: u32,
    /// Bytes of stack in use at the deepest.
    pub stack_bytes: u32,
    /// The first text that failed.
    pub first: Option<Difference>,
}

/// A text that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Number of the text in the file, from 0.
    pub text: u32,
    /// What was wrong, in words.
    pub what: String,
}

impl Tested {
    fn new(backend: &str, tested: wire::Tested<'_>) -> Self {
        let wire::Tested { passed, failed, skipped, stack_bytes, first } = tested;
        let first =
            first.map(|first| Difference { text: first.text, what: first.kind.to_string() });
        Self { backend: backend.to_owned(), passed, failed, skipped, stack_bytes, first }
    }
}

/// The self-test that a board runs by itself when it meets a model or a firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstBoot {
    /// It was not run.
    NotRun {
        /// Why.
        why: String,
    },
    /// It was.
    Ran {
        /// At this start; otherwise at one before, and the board has been on since.
        now: bool,
        /// Texts that passed, all backends together.
        passed: u32,
        /// The backends with a text that failed.
        failed: Vec<String>,
    },
}

impl From<wire::FirstBoot<'_>> for FirstBoot {
    fn from(first_boot: wire::FirstBoot<'_>) -> Self {
        match first_boot {
            wire::FirstBoot::NotRun { why } => Self::NotRun { why: why.into() },
            wire::FirstBoot::Ran { now, passed, failed } => {
                let failed = failed.split_whitespace().map(str::to_owned).collect();
                Self::Ran { now, passed, failed }
            }
        }
    }
}

impl Session<'_> {
    /// How the self-test went that the board ran by itself.
    ///
    /// # Errors
    /// As [`Session::ping`].
    pub fn first_boot(&mut self) -> Result<FirstBoot> {
        self.persist(|session| {
            let mut told = None;
            session.ask(&Request::FirstBoot, |response| match response {
                Response::FirstBoot(first_boot) => {
                    told = Some(FirstBoot::from(first_boot));
                    Ok(true)
                }
                _ => Err("another answer than about the first boot"),
            })?;
            told.ok_or_else(|| session.nonsense("no word of the first boot"))
        })
    }

    /// Names of the board's backends. The model must be prepared again afterwards
    /// ([`Session::prepare`]).
    ///
    /// # Errors
    /// As [`Session::ping`], and when the board has no usable model.
    pub fn backends(&mut self, options: &Options) -> Result<Vec<String>> {
        // No request asks for them, but the refusal of another tells them.
        let other = Options { backend: Some(NO_BACKEND.into()), ..options.clone() };
        match self.persist(|session| session.prepare(&other)) {
            Err(Error::UnknownBackend { known, .. }) => {
                Ok(known.split(' ').map(str::to_owned).collect())
            }
            Err(error) => Err(error),
            Ok(()) => Err(self.nonsense("a backend that cannot be was accepted")),
        }
    }

    /// Runs the texts that the model file carries by the backend in use.
    ///
    /// # Errors
    /// [`Error::Refused`] when the file carries none, or as [`Session::embed`].
    pub fn self_test(&mut self) -> Result<Tested> {
        let backend = self.info().backend.clone();
        self.persist(|session| {
            let mut tested = None;
            session.ask(&Request::SelfTest, |response| match response {
                Response::Tested(counts) => {
                    tested = Some(Tested::new(&backend, counts));
                    Ok(true)
                }
                _ => Err("another answer than a self-test's"),
            })?;
            tested.ok_or_else(|| session.nonsense("a self-test without a result"))
        })
    }

    /// As [`Session::self_test`] by the backend of `options`, or, when that names none, by every one
    /// that the board has. The last one stays in use.
    ///
    /// # Errors
    /// As [`Session::prepare`] and [`Session::self_test`].
    pub fn self_tests(&mut self, options: &Options) -> Result<Vec<Tested>> {
        let names = match &options.backend {
            Some(name) => vec![name.clone()],
            None => self.backends(options)?,
        };
        let test = |name| {
            self.listener()(Progress::Step(&format!("self-test by {name}")));
            let options = Options { backend: Some(name), ..options.clone() };
            self.persist(|session| session.prepare(&options))?;
            self.self_test()
        };
        names.into_iter().map(test).collect()
    }
}
