//! Reads a Hugging Face directory into a dense model.
