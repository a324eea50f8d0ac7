//! The dense forward pass in f32 that calibration listens to.
