//! The defined float arithmetic: one order of operations for every backend.
//!
//! Only IEEE 754 add, subtract, multiply, divide, square root and integer conversion are used,
//! each rounded to nearest even, never fused: these are the same on every target. `docs/numerics.md`
//! is the specification; the functions here are its scalar form.

/// Edition of `docs/numerics.md`: a program of another edition gives other bits for the same file.
pub const EDITION: u32 = 2;

/// Lanes of a reduction: element `i` is added to lane `i mod 16`, then halves are folded.
pub const LANES: usize = 16;

/// `1.5 × 2²³`: adding and subtracting it rounds |x| ≤ 2²² to the nearest integer, ties to even.
pub const ROUND: f32 = 12_582_912.0;

/// Nearest integer, ties to even, for |x| ≤ 2²².
#[inline(always)]
pub fn round_even(x: f32) -> f32 {
    (x + ROUND) - ROUND
}

/// A finite half as f32, exactly, subnormals included: in a few steps that vectorize, where a
/// target has no instruction for it.
#[inline(always)]
pub fn widen(half: half::f16) -> f32 {
    // The exponent's bias differs by 112.
    const SHIFT: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(half.to_bits());
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * SHIFT;
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

/// Coefficients of [`exp`].
pub mod exp_constants {
    /// Arguments below are taken as this one, so that no result is subnormal.
    pub const LOWEST: f32 = -64.0;
    /// Arguments above are taken as this one.
    pub const HIGHEST: f32 = 64.0;
    /// log₂ e.
    pub const LOG2E: f32 = core::f32::consts::LOG2_E;
    /// ln 2, upper part: 355/512, so that its products with small integers are exact.
    pub const LN2_HIGH: f32 = 0.693_359_4;
    /// ln 2, the rest.
    pub const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Polynomial in the reduced argument, highest power first (Cephes `expf`).
    pub const POLY: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
}

/// Coefficients of [`exp2_byte`].
pub mod exp2_constants {
    /// Arguments below are taken as this one: the result is 0.
    pub const LOWEST: f32 = -16.0;
    /// Polynomial for 255 × 2ʳ, |r| ≤ ½, highest power first.
    pub const POLY: [f32; 4] = [14.027_236, 61.763_84, 176.787_16, 255.0];
}

/// 255 × 2ˣ for x up to 0, rounded to a whole number.
#[inline(always)]
pub fn exp2_byte(x: f32) -> f32 {
    use exp2_constants::*;
    let x = if x > LOWEST { x } else { LOWEST };
    let n = round_even(x);
    let r = x - n;
    let mut p = POLY[0];
    for c in &POLY[1..] {
        p = p * r + c;
    }
    round_even(p * f32::from_bits(((n as i32 + 127) as u32) << 23))
}

/// eˣ for x clamped to [−64, 64]; relative error below 2e-7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    use exp_constants::*;
    let x = if x > LOWEST { x } else { LOWEST };
    let x = if x < HIGHEST { x } else { HIGHEST };
    let n = round_even(x * LOG2E);
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = POLY[0];
    for c in &POLY[1..] {
        p = p * r + c;
    }
    let y = (p * (r * r) + r) + 1.0;
    y * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Coefficients of [`erf`]: `x P(x²) / Q(x²)`, highest power first.
pub mod erf_constants {
    /// |x| beyond is taken as this.
    pub const LIMIT: f32 = 4.0;
    /// Numerator.
    pub const P: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024_1e-6,
        -5.692_506_5e-5,
        -7.349_906_6e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    /// Denominator.
    pub const Q: [f32; 5] =
        [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2];
}

/// The error function; absolute error below 5e-7.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    use erf_constants::*;
    let x = if x > -LIMIT { x } else { -LIMIT };
    let x = if x < LIMIT { x } else { LIMIT };
    let x2 = x * x;
    let mut p = P[0];
    for c in &P[1..] {
        p = p * x2 + c;
    }
    let mut q = Q[0];
    for c in &Q[1..] {
        q = q * x2 + c;
    }
    (x * p) / q
}

/// `x/2 (1 + erf(x/√2))`.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    (0.5 * x) * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2))
}

/// Coefficients of [`gelu_near`].
pub mod gelu_near_constants {
    /// |x| beyond is taken as this for what is subtracted.
    pub const LIMIT: f32 = 4.0;
    /// The eighth root of Φ(−u) for u from 0 to [`LIMIT`], highest power first.
    pub const POLY: [f32; 4] = [5.348_763e-3, -4.055_991e-2, -8.665_398_5e-2, 9.162_128e-1];
}

/// [`gelu`] within 2e-4, without a division: for outputs that are quantized to int8 next.
///
/// `max(x, 0) − |x| Φ(−|x|)`; the eighth root of Φ is nearly a straight line.
#[inline(always)]
pub fn gelu_near(x: f32) -> f32 {
    use gelu_near_constants::*;
    let u = x.abs();
    let u = if u < LIMIT { u } else { LIMIT };
    let mut p = POLY[0];
    for c in &POLY[1..] {
        p = p * u + c;
    }
    let p = p * p;
    let p = p * p;
    let p = p * p;
    let positive = if 0.0 > x { 0.0 } else { x };
    positive - u * p
}

/// `√(2/π)`, the factor of the tanh approximation of GELU.
pub const GELU_TANH_SCALE: f32 = 0.797_884_6;
/// The cubic term of the tanh approximation of GELU.
pub const GELU_TANH_CUBIC: f32 = 0.044_715;

/// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`, with tanh(u) = 1 − 2 / (e^{2u} + 1).
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    let u = GELU_TANH_SCALE * (x + GELU_TANH_CUBIC * ((x * x) * x));
    let tanh = 1.0 - 2.0 / (exp(u + u) + 1.0);
    (0.5 * x) * (1.0 + tanh)
}

/// `max(x, 0)`.
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}

/// Folds the lanes of a reduction: 16 → 8 → 4 → 2 → 1, lower half plus upper half.
#[inline(always)]
pub fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Correctly rounded square root.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half_is_widened_exactly() {
        for half in (0..=u16::MAX).map(half::f16::from_bits).filter(|h| h.is_finite()) {
            assert_eq!(widen(half).to_bits(), half.to_f32().to_bits(), "{half:?}");
        }
    }

    #[test]
    fn exp_is_close_to_libm() {
        for i in -640_000..=640_000 {
            let x = i as f32 * 1e-4;
            let want = libm::exp(f64::from(x));
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2e-7, "exp({x}): relative error {error}");
        }
    }

    #[test]
    fn exp2_byte_is_close_to_libm() {
        for i in -200_000..=0 {
            let x = f64::from(i) * 1e-4;
            let error = (f64::from(exp2_byte(x as f32)) - 255.0 * libm::exp2(x)).abs();
            assert!(error < 0.53, "exp2_byte({x}): error {error}");
        }
        assert_eq!(exp2_byte(0.0), 255.0);
        assert_eq!(exp2_byte(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn erf_is_close_to_libm() {
        for i in -60_000..=60_000 {
            let x = i as f32 * 1e-4;
            let error = (f64::from(erf(x)) - libm::erf(f64::from(x))).abs();
            assert!(error < 5e-7, "erf({x}): error {error}");
        }
    }

    #[test]
    fn gelu_near_is_close_to_f64() {
        for i in -100_000..=100_000 {
            let x = f64::from(i) * 1e-4;
            let want = 0.5 * x * (1.0 + libm::erf(x * core::f64::consts::FRAC_1_SQRT_2));
            let error = (f64::from(gelu_near(x as f32)) - want).abs();
            assert!(error < 2e-4, "gelu_near({x}): error {error}");
        }
    }

    #[test]
    fn gelu_tanh_is_close_to_f64() {
        for i in -100_000..=100_000 {
            let x = f64::from(i) * 1e-4;
            let u = (2.0 / core::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            let want = 0.5 * x * (1.0 + u.tanh());
            let error = (f64::from(gelu_tanh(x as f32)) - want).abs();
            assert!(error < 2e-6, "gelu_tanh({x}): error {error}");
        }
    }

    #[test]
    fn rounding_breaks_ties_to_even() {
        for (x, want) in
            [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0), (127.4999, 127.0)]
        {
            assert_eq!(round_even(x), want);
        }
    }
}
