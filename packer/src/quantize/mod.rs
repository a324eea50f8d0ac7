//! Turns f32 weights into int8 with scales, by calibration.
