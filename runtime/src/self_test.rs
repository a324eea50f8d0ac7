//! Runs the self-test that a packed file carries: a few texts with what the scalar backend made of
//! them when they were packed.
//!
//! It finds a backend, a build or a processor that does not give Grouse's bits, and weights that
//! are not those that were packed although the checksums match.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::crc;
use crate::encoder::Encoder;
use crate::error::Error;
use crate::math::EDITION;
use crate::view::{Model, Test};

/// How a text went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Outcome {
    /// Ids and embedding have the bits that they should.
    Passed,
    /// The text has more tokens than the encoder was planned for, or `ids` has room for.
    Skipped {
        /// Tokens of the text.
        tokens: usize,
    },
    /// Something is wrong.
    Failed(Failure<Error>),
}

impl Outcome {
    /// Whether something is wrong.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// What was wrong with a text; `E` is the runtime's error, or that error on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Failure<E> {
    /// The tokenizer gave other ids.
    Ids {
        /// CRC-32 in the file.
        expected: u32,
        /// CRC-32 of what came out.
        found: u32,
    },
    /// The encoder gave another embedding.
    Embedding {
        /// CRC-32 in the file.
        expected: u32,
        /// CRC-32 of what came out.
        found: u32,
    },
    /// The tokenizer or the encoder refused.
    Refused(E),
}

impl<E> Failure<E> {
    /// The same with another form of the error.
    pub fn map<F>(self, form: impl FnOnce(E) -> F) -> Failure<F> {
        match self {
            Self::Ids { expected, found } => Failure::Ids { expected, found },
            Self::Embedding { expected, found } => Failure::Embedding { expected, found },
            Self::Refused(error) => Failure::Refused(form(error)),
        }
    }
}

impl<E: fmt::Display> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ids { expected, found } => {
                write!(f, "other ids: CRC-32 {found:08x} instead of {expected:08x}")
            }
            Self::Embedding { expected, found } => {
                write!(f, "another embedding: CRC-32 {found:08x} instead of {expected:08x}")
            }
            Self::Refused(error) => write!(f, "refused: {error}"),
        }
    }
}

/// How many texts went how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Summary {
    /// Texts that passed.
    pub passed: u32,
    /// Texts with a difference, or refused.
    pub failed: u32,
    /// Texts too long for the encoder.
    pub skipped: u32,
}

/// CRC-32 of ids, as the file has it.
pub fn ids_crc(ids: &[u32]) -> u32 {
    crc::hash(bytemuck::must_cast_slice(ids))
}

/// CRC-32 of an embedding's bits, as the file has it.
pub fn embedding_crc(values: &[f32]) -> u32 {
    crc::hash(bytemuck::must_cast_slice(values))
}

impl Model<'_> {
    /// Runs the texts that the file carries ([`Model::tests`]) through `encoder`, which must be of
    /// this model, with its backend, and calls `each` with every text's number, the text and how it
    /// went. Nothing is allocated.
    ///
    /// `ids` is room for a text's ids, as many as the encoder's plan has tokens; `values` for an
    /// embedding, `[hidden_size]`.
    pub fn self_test(
        &self,
        encoder: &mut Encoder<'_, '_>,
        ids: &mut [u32],
        values: &mut [f32],
        mut each: impl FnMut(usize, &Test<'_>, Outcome),
    ) -> Summary {
        let mut summary = Summary::default();
        for (number, test) in self.tests().iter().enumerate() {
            let outcome = self
                .run_test(&test, encoder, ids, values)
                .unwrap_or_else(|error| Outcome::Failed(Failure::Refused(error)));
            match outcome {
                Outcome::Passed => summary.passed += 1,
                Outcome::Skipped { .. } => summary.skipped += 1,
                Outcome::Failed(_) => summary.failed += 1,
            }
            each(number, &test, outcome);
        }
        summary
    }

    fn run_test(
        &self,
        test: &Test<'_>,
        encoder: &mut Encoder<'_, '_>,
        ids: &mut [u32],
        values: &mut [f32],
    ) -> crate::Result<Outcome> {
        let tokens = test.tokens;
        if tokens > encoder.plan().tokens || tokens > ids.len() {
            return Ok(Outcome::Skipped { tokens });
        }
        // The model's own maximum is where the packer cut the text, too.
        let most = ids.len().min(self.arch().max_tokens as usize);
        let ids = ids.get_mut(..most).unwrap_or_default();
        let tokens = self.tokenizer().encode(test.text, ids)?.tokens;
        let ids = ids.get(..tokens).unwrap_or_default();
        let (expected, found) = (test.ids_crc, ids_crc(ids));
        if expected != found || tokens != test.tokens {
            return Ok(Outcome::Failed(Failure::Ids { expected, found }));
        }
        encoder.embed(ids, values)?;
        let (expected, found) = (test.embedding_crc, embedding_crc(values));
        if expected != found && test.edition != EDITION {
            return Err(Error::Edition { found: test.edition, supported: EDITION });
        }
        if expected != found {
            return Ok(Outcome::Failed(Failure::Embedding { expected, found }));
        }
        Ok(Outcome::Passed)
    }
}
