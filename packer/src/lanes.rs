//! Sums and maxima of f32 in sixteen lanes: the order of additions is fixed, and the compiler can
//! vectorise it.

const LANES: usize = 16;

/// `Σ of(x)`.
#[inline(always)]
pub fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (whole, tail) = values.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in whole {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += of(*x));
    }
    lanes.iter().sum::<f32>() + tail.iter().map(|x| of(*x)).sum::<f32>()
}

/// `Σ of(a, b)` over two lists of the same length.
#[inline(always)]
pub fn sum_pairs(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let ((whole_a, tail_a), (whole_b, tail_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (a, b) in whole_a.iter().zip(whole_b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += of(*a, *b));
    }
    let tail: f32 = tail_a.iter().zip(tail_b).map(|(a, b)| of(*a, *b)).sum();
    lanes.iter().sum::<f32>() + tail
}

/// The greatest; numbers that are none are passed over, and nothing has negative infinity.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, tail) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in whole {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = greater(*lane, *x));
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |a, b| greater(a, *b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lengths_are_summed() {
        for length in 0..50u16 {
            let values: Vec<f32> = (0..length).map(f32::from).collect();
            let n = f32::from(length);
            assert_eq!(sum(&values, |x| x + 1.0), n * (n - 1.0) / 2.0 + n);
            let squares: f32 = values.iter().map(|x| x * x).sum();
            assert_eq!(sum_pairs(&values, &values, |a, b| a * b), squares);
            let most = if length == 0 { f32::NEG_INFINITY } else { n - 1.0 };
            assert_eq!(max(&values), most);
        }
    }
}
