//! Shared pieces of the tests.

pub mod packed;
pub mod random_bert;
