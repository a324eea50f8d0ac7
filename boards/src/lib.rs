//! Catalogue of boards.
