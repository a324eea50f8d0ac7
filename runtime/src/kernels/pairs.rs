//! Two tokens in plain float registers: as many as leave room for eight sums of each.

use crate::kernels::Column;
use crate::kernels::generic::Simd;
use crate::math;

/// Vectors of two tokens.
#[derive(Debug, Clone, Copy)]
pub struct Pairs;

/// `f` of both.
#[inline(always)]
fn both<T: Copy, U>([a, b]: [T; 2], [c, d]: [T; 2], f: impl Fn(T, T) -> U) -> [U; 2] {
    [f(a, c), f(b, d)]
}

impl Simd for Pairs {
    const LANES: usize = 2;
    const FLOAT_SUMS: usize = 4;
    type F = [f32; 2];
    type I = [i32; 2];

    #[inline(always)]
    fn splat(self, v: f32) -> [f32; 2] {
        [v; 2]
    }
    #[inline(always)]
    fn load(self, column: &Column, part: usize) -> [f32; 2] {
        column.as_chunks().0[part % 8]
    }
    #[inline(always)]
    fn store(self, column: &mut Column, part: usize, v: [f32; 2]) {
        column.as_chunks_mut().0[part % 8] = v;
    }
    #[inline(always)]
    fn add(self, a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
        both(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
        both(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
        both(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
        both(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; 2]) -> [f32; 2] {
        a.map(math::sqrt)
    }
    #[inline(always)]
    fn max(self, a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
        both(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
        both(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: [f32; 2]) -> [f32; 2] {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn positive(self, a: [f32; 2]) -> [f32; 2] {
        a.map(|a| if 0.0 > a { 0.0 } else { a })
    }
    #[inline(always)]
    fn exp2(self, n: [f32; 2]) -> [f32; 2] {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn to_int(self, v: [f32; 2]) -> [i32; 2] {
        v.map(|v| v as i32)
    }
    #[inline(always)]
    fn to_float(self, v: [i32; 2]) -> [f32; 2] {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    fn splat_int(self, v: i32) -> [i32; 2] {
        [v; 2]
    }
    #[inline(always)]
    fn load_int(self, column: &[i32; 16], part: usize) -> [i32; 2] {
        column.as_chunks().0[part % 8]
    }
    #[inline(always)]
    fn interleave(self, [a, b, c, d]: [[i32; 2]; 4]) -> [i32; 2] {
        core::array::from_fn(|t| {
            (a[t] & 0xff) | (b[t] & 0xff) << 8 | (c[t] & 0xff) << 16 | d[t] << 24
        })
    }
    #[inline(always)]
    fn store_bytes(self, bytes: &mut [i8; 16], part: usize, v: [i32; 2]) {
        bytes.as_chunks_mut().0[part % 8] = v.map(|v| v as i8);
    }
    #[inline(always)]
    fn store_int(self, column: &mut [i32; 16], part: usize, v: [i32; 2]) {
        column.as_chunks_mut().0[part % 8] = v;
    }
    #[inline(always)]
    fn add_int(self, a: [i32; 2], b: [i32; 2]) -> [i32; 2] {
        both(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn sub_int(self, a: [i32; 2], b: [i32; 2]) -> [i32; 2] {
        both(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    fn mul_int(self, a: [i32; 2], b: [i32; 2]) -> [i32; 2] {
        both(a, b, i32::wrapping_mul)
    }
}
