//! Shared pieces of the tests.

pub mod random_bert;
