//! Writes a model into one file of format v1.
