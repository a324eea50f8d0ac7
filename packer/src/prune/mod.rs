//! Prunes the encoder into weight groups (PGB) and refits what is kept.
