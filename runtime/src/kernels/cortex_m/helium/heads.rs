//! Attention in int8, four tokens at a time with Helium's floats: softmax, keys and values.
//!
//! These take subnormal numbers for zeros. A quantized value is the same for that: v × inverse is
//! far below ½ where v is subnormal (see `quantize`). Nor can a softmax's numerator tell: what is
//! flushed changes t − m by less than 2⁻¹²⁵, which for a difference of at least 2⁻¹⁰⁰ is lost in
//! rounding, and below that 2 to its power is 1; and the terms of the polynomial are added to
//! constants above 61.

use core::arch::naked_asm;

use crate::format::{TILE_DEPTH, TILE_ROWS};
use crate::kernels::scalar::{ZERO, largest, quantize_symmetric};
use crate::kernels::{Column, Quantized, Scores, Span, TILE_TOKENS, TileScales, symmetric_scale};
use crate::math::exp2_byte;
use crate::math::exp2_constants::{LOWEST, POLY};

/// Tokens in a vector, and inputs in a step.
const TOKENS: usize = 4;

/// Four rows' sixteen weights.
const TILE: usize = TILE_ROWS * TILE_DEPTH;

/// Twice the bits of infinity: doubled magnitudes of numbers are below.
const DOUBLED_INFINITY: u32 = 2 * f32::INFINITY.to_bits();

/// What [`exponentials`] reads and adds to, known to its assembly.
#[repr(C)]
struct Exponentials {
    /// Score factor, and the polynomial.
    factor: f32,
    poly: [f32; 4],
    /// Steps of four positions, and the first one's position.
    steps: usize,
    position: usize,
    lowest: [f32; TOKENS],
    highest: [f32; TOKENS],
    total: [f32; TOKENS],
    /// In each byte what makes 0 to 255 of −128 to 127.
    flip: [u32; TOKENS],
    /// Where the four tokens' words lie, in bytes.
    offsets: [usize; TOKENS],
}

/// See [`crate::kernels::Backend::softmax`]; the panel is [`super::Helium`]'s. `None` if it is left
/// to scalar code. Needs Helium's floats.
pub(super) fn softmax(
    scores: &Scores<'_>,
    capacity: usize,
    panel: &mut [u8],
) -> Option<TileScales> {
    let positions = scores.columns.len();
    let (first, end) = (scores.first, scores.first + scores.count);
    let fits = end <= positions && positions <= capacity && panel.len() >= TILE_TOKENS * capacity;
    if !fits || scores.count == 0 || !positions.is_multiple_of(TILE_DEPTH) {
        return None;
    }
    let mut scales = TileScales::EMPTY;
    scales.zero = [ZERO; TILE_TOKENS];
    // Whole steps, and what lies before and after them.
    let from = first.next_multiple_of(TOKENS).min(end);
    let to = from + (end - from) / TOKENS * TOKENS;
    let pair = 2 * capacity;
    for part in 0..scores.live.min(TILE_TOKENS).div_ceil(TOKENS) {
        let token = part * TOKENS;
        let columns = scores.columns.as_ptr().cast::<f32>().wrapping_add(token);
        let mut job = Exponentials {
            factor: scores.factor,
            poly: POLY,
            steps: (to - from) / TOKENS,
            position: from,
            lowest: [LOWEST; TOKENS],
            highest: [f32::MIN; TOKENS],
            total: [0.0; TOKENS],
            flip: [0x8080_8080; TOKENS],
            offsets: [0, TILE_DEPTH, pair, pair + TILE_DEPTH],
        };
        let inside = columns.wrapping_add(first * TILE_TOKENS);
        // SAFETY: `count` columns of sixteen tokens from `first` on, of which four from `token` on;
        // the caller has Helium's floats.
        unsafe { highest(inside, scores.count, scores.factor.to_bits(), &mut job.highest) };
        if job.steps > 0 {
            let at = part * 2 * pair + place(from);
            let (x, place) =
                (columns.wrapping_add(from * TILE_TOKENS), panel.as_mut_ptr().wrapping_add(at));
            // SAFETY: likewise; the words of four tokens, in two pairs of 2 × `capacity` bytes,
            // lie within the panel for all positions below `capacity`.
            unsafe { exponentials(&mut job, x, place) };
        }
        for position in (0..from).chain(to..positions) {
            let column = scores.columns.get(position)?;
            for (t, (x, (highest, total))) in
                column.iter().skip(token).zip(job.highest.iter().zip(&mut job.total)).enumerate()
            {
                let mut byte = ZERO as u8;
                if (first..end).contains(&position) {
                    let e = exp2_byte(x * scores.factor - highest);
                    *total += e;
                    byte = (e as i32 + ZERO) as u8;
                }
                let at = part * 2 * pair + job.offsets.get(t)? + place(position);
                *panel.get_mut(at)? = byte;
            }
        }
        let scale = scales.scale.as_chunks_mut::<TOKENS>().0.get_mut(part)?;
        *scale = job.total.map(|total| 1.0 / total);
    }
    Some(scales)
}

/// Where a position lies in its token's part of a panel.
fn place(position: usize) -> usize {
    position / TILE_DEPTH * 2 * TILE_DEPTH + position % TILE_DEPTH
}

/// See [`crate::kernels::Backend::keys`]; false if it is left to scalar code. Tokens of other texts
/// alone are left out. Needs Helium's floats.
pub(super) fn keys(span: &Span<'_>, out: &mut Quantized<'_>) -> bool {
    let size = span.size;
    if size == 0 || !size.is_multiple_of(TILE_DEPTH) {
        return false;
    }
    let quads = out.block.chunks_exact_mut((TILE_ROWS * size).max(1));
    let rows = out.scale.as_chunks_mut::<TOKENS>().0.iter_mut();
    let rows = rows.zip(out.sum.as_chunks_mut::<TOKENS>().0);
    for (number, (quad, (scale, sum))) in quads.zip(rows).enumerate() {
        let (tile, token) = (number * TOKENS / TILE_TOKENS, number * TOKENS % TILE_TOKENS);
        if tile * TILE_TOKENS >= span.positions() {
            break;
        }
        let (columns, (first, end)) = (span.tile(tile), span.lanes(tile));
        if columns.len() != size {
            return false;
        }
        (*scale, *sum) = ([0.0; TOKENS], [0; TOKENS]);
        if token + TOKENS <= first || token >= end {
            continue;
        }
        let x = columns.as_ptr().cast::<f32>().wrapping_add(token);
        let mut most = [0; TOKENS];
        // SAFETY: `size` columns of sixteen tokens, of which four from `token` on; the caller has
        // Helium's floats.
        unsafe { magnitudes(x, size, size_of::<Column>(), &mut most) };
        if most.iter().any(|m| *m >= DOUBLED_INFINITY) {
            return false;
        }
        let mut inverse = [0.0; TOKENS];
        for ((scale, inverse), most) in scale.iter_mut().zip(&mut inverse).zip(most) {
            (*scale, *inverse) = symmetric_scale(f32::from_bits(most / 2));
        }
        // SAFETY: likewise; four rows of `size` bytes, a multiple of sixteen, are there.
        unsafe { quantize_tokens(x, size / TOKENS, &inverse, sum, quad.as_mut_ptr()) };
    }
    true
}

/// See [`crate::kernels::Backend::values`], with sums; false if it is left to scalar code. Needs
/// Helium's floats.
pub(super) fn values(span: &Span<'_>, out: &mut Quantized<'_>) -> bool {
    let (size, positions) = (span.size, span.positions());
    let quad_bytes = TILE_ROWS * positions;
    if size == 0
        || !size.is_multiple_of(TILE_ROWS)
        || out.block.len() < size * positions
        || out.scale.len().min(out.sum.len()) < size
    {
        return false;
    }
    let mut most = 0.0;
    for tile in 0..positions / TILE_TOKENS {
        let (columns, (first, end)) = (span.tile(tile), span.lanes(tile));
        if columns.len() != size {
            return false;
        }
        if (first, end) == (0, TILE_TOKENS) {
            let mut all = [0; TOKENS];
            let vectors = size * (TILE_TOKENS / TOKENS);
            // SAFETY: so many vectors are in `size` columns; the caller has Helium's floats.
            unsafe {
                magnitudes(columns.as_ptr().cast(), vectors, TOKENS * size_of::<f32>(), &mut all);
            }
            let all = all.into_iter().fold(0, u32::max);
            if all >= DOUBLED_INFINITY {
                return false;
            }
            most = largest([most, f32::from_bits(all / 2)].into_iter());
        } else {
            let lanes = columns.iter().flat_map(|c| c.iter().take(end).skip(first).copied());
            most = largest(lanes.chain([most]));
        }
    }
    let (step, inverse) = symmetric_scale(most);
    out.scale.iter_mut().take(size).for_each(|scale| *scale = step);
    out.sum.iter_mut().take(size).for_each(|sum| *sum = 0);
    for tile in 0..positions / TILE_TOKENS {
        let (columns, (first, end)) = (span.tile(tile), span.lanes(tile));
        if (first, end) == (0, TILE_TOKENS) {
            let place = out.block.as_mut_ptr().wrapping_add(tile * TILE);
            let job = Rows { inverse, next: quad_bytes - TILE, quads: size / TILE_ROWS };
            // SAFETY: `size` columns, and as many sums; `size` / 4 quads of `quad_bytes` have room
            // for this tile.
            unsafe { quantize_rows(columns.as_ptr(), &job, place, out.sum.as_mut_ptr()) };
            continue;
        }
        let quads = out.block.chunks_exact_mut(quad_bytes.max(1)).zip(columns.chunks(TILE_ROWS));
        for ((quad, columns), sums) in quads.zip(out.sum.as_chunks_mut::<TILE_ROWS>().0) {
            let Some(rows) = quad.as_chunks_mut::<TILE>().0.get_mut(tile) else { return false };
            let rows = rows.as_chunks_mut::<TILE_DEPTH>().0.iter_mut();
            for ((row, column), sum) in rows.zip(columns).zip(sums) {
                *row = [0; TILE_DEPTH];
                for (q, v) in row.iter_mut().zip(column).take(end).skip(first) {
                    *q = quantize_symmetric(*v, inverse);
                    *sum += i32::from(*q);
                }
            }
        }
    }
    true
}

/// The largest of `out` and all x × factor of four tokens in `count` columns.
///
/// # Safety
/// They are there, at least one column. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn highest(x: *const f32, count: usize, factor: u32, out: &mut [f32; TOKENS]) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4, lr}}",
        "vldrw.u32 q1, [r3]",
        "dls lr, r1",
        "2:",
        "vldrw.u32 q0, [r0], #64",
        "vmul.f32 q0, q0, r2",
        "vmaxnm.f32 q1, q1, q0",
        "le lr, 2b",
        "vstrw.32 q1, [r3]",
        "pop {{r4, pc}}",
    )
}

/// One input of a step, as an integer in `$q`: q4 has the highest, q5 the total.
macro_rules! exponential {
    ($q:literal) => {
        concat!(
            "vldrw.u32 ",
            $q,
            ", [r1], #64\n",
            "vldrw.u32 q7, [r0, #28]\n",
            "vmul.f32 ",
            $q,
            ", ",
            $q,
            ", r3\n",
            "vsub.f32 ",
            $q,
            ", ",
            $q,
            ", q4\n",
            "vmaxnm.f32 ",
            $q,
            ", ",
            $q,
            ", q7\n",
            "vrintn.f32 q7, ",
            $q,
            "\n",
            "vsub.f32 ",
            $q,
            ", ",
            $q,
            ", q7\n",
            "vmul.f32 q6, ",
            $q,
            ", r4\n",
            "vadd.f32 q6, q6, r5\n",
            "vcvt.s32.f32 q7, q7\n",
            "vmul.f32 q6, q6, ",
            $q,
            "\n",
            "vadd.f32 q6, q6, r6\n",
            "vshl.i32 q7, q7, #23\n",
            "vmul.f32 q6, q6, ",
            $q,
            "\n",
            "vadd.f32 q6, q6, r7\n",
            "vadd.i32 q6, q6, q7\n",
            "vrintn.f32 q6, q6\n",
            "vadd.f32 q5, q5, q6\n",
            "vcvt.s32.f32 ",
            $q,
            ", q6\n",
        )
    };
}

/// The numerators of four tokens as bytes, and adds them up; 2ⁿ is multiplied with by adding to the
/// exponent.
///
/// # Safety
/// All that `job` says is there, with at least one step; places of four tokens' words are writable
/// for every step. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn exponentials(job: *mut Exponentials, x: *const f32, place: *mut u8) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r9, r10, lr}}",
        "vpush {{d8-d15}}",
        "mov r10, r0",
        "ldm r10, {{r3-r9}}",
        "vldrw.u32 q4, [r0, #44]",
        "vmov.i32 q5, #0",
        "dls lr, r8",
        "2:",
        exponential!("q0"),
        exponential!("q1"),
        exponential!("q2"),
        exponential!("q3"),
        "vsli.32 q0, q1, #8",
        "vldrw.u32 q6, [r0, #76]",
        "vsli.32 q0, q2, #16",
        "vldrw.u32 q7, [r0, #92]",
        "vsli.32 q0, q3, #24",
        "veor q0, q0, q6",
        "vstrw.32 q0, [r2, q7]",
        "adds r2, #4",
        "adds r9, #4",
        "tst r9, #15",
        "it eq",
        "addeq r2, #16",
        "le lr, 2b",
        "vstrw.32 q5, [r0, #60]",
        "vpop {{d8-d15}}",
        "pop {{r4-r9, r10, pc}}",
    )
}

/// The largest doubled magnitudes in four lanes of `count` vectors, `stride` bytes apart.
///
/// # Safety
/// They are there, at least one.
#[unsafe(naked)]
unsafe extern "C" fn magnitudes(
    x: *const f32,
    count: usize,
    stride: usize,
    out: &mut [u32; TOKENS],
) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4, lr}}",
        "vmov.i32 q1, #0",
        "dls lr, r1",
        "2:",
        "vldrw.u32 q0, [r0]",
        "add r0, r0, r2",
        "vshl.i32 q0, q0, #1",
        "vmax.u32 q1, q1, q0",
        "le lr, 2b",
        "vstrw.32 q1, [r3]",
        "pop {{r4, pc}}",
    )
}

/// `steps` times four columns of four tokens to four rows of bytes, sixteen apart and in tiles of
/// 64, and the rows' sums.
///
/// # Safety
/// They are there, at least one step, and room for as many bytes. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn quantize_tokens(
    x: *const f32,
    steps: usize,
    inverse: &[f32; TOKENS],
    sums: &mut [i32; TOKENS],
    place: *mut i8,
) {
    naked_asm!(
        ".cpu cortex-m55",
        "ldr r12, [sp]",
        "push {{r4-r6, lr}}",
        "vpush {{d8-d13}}",
        "vldrw.u32 q4, [r2]",
        "vmov.i32 q5, #0",
        // 0, 16, 32, 48.
        "movs r4, #0",
        "vidup.u32 q6, r4, #8",
        "vshl.i32 q6, q6, #1",
        "movs r4, #0",
        "dls lr, r1",
        "2:",
        "vldrw.u32 q0, [r0]",
        "vldrw.u32 q1, [r0, #64]",
        "vmul.f32 q0, q0, q4",
        "vldrw.u32 q2, [r0, #128]",
        "vmul.f32 q1, q1, q4",
        "vldrw.u32 q3, [r0, #192]",
        "vmul.f32 q2, q2, q4",
        "vmul.f32 q3, q3, q4",
        "vcvtn.s32.f32 q0, q0",
        "vcvtn.s32.f32 q1, q1",
        "vcvtn.s32.f32 q2, q2",
        "vcvtn.s32.f32 q3, q3",
        "vadd.i32 q5, q5, q0",
        "vadd.i32 q5, q5, q1",
        "vsli.32 q0, q1, #8",
        "vadd.i32 q5, q5, q2",
        "vsli.32 q0, q2, #16",
        "vadd.i32 q5, q5, q3",
        "vsli.32 q0, q3, #24",
        "add r0, r0, #256",
        "vstrw.32 q0, [r12, q6]",
        "adds r4, #4",
        "add r12, r12, #4",
        "tst r4, #15",
        "it eq",
        "addeq r12, r12, #48",
        "le lr, 2b",
        "vstrw.32 q5, [r3]",
        "vpop {{d8-d13}}",
        "pop {{r4-r6, pc}}",
    )
}

/// What [`quantize_rows`] reads, known to its assembly.
#[repr(C)]
struct Rows {
    inverse: f32,
    /// Bytes from the end of four rows' tile to the next four's.
    next: usize,
    quads: usize,
}

/// Sixteen tokens of a column to a row's sixteen bytes, added to the sum in `$sum`.
macro_rules! row {
    ($sum:literal) => {
        concat!(
            "vldrw.u32 q0, [r0], #16\n",
            "vldrw.u32 q1, [r0], #16\n",
            "vmul.f32 q0, q0, r5\n",
            "vldrw.u32 q2, [r0], #16\n",
            "vmul.f32 q1, q1, r5\n",
            "vldrw.u32 q3, [r0], #16\n",
            "vmul.f32 q2, q2, r5\n",
            "vmul.f32 q3, q3, r5\n",
            "vcvtn.s32.f32 q0, q0\n",
            "vcvtn.s32.f32 q1, q1\n",
            "vcvtn.s32.f32 q2, q2\n",
            "vcvtn.s32.f32 q3, q3\n",
            "vaddva.s32 ",
            $sum,
            ", q0\n",
            "vstrb.32 q0, [r2], #4\n",
            "vaddva.s32 ",
            $sum,
            ", q1\n",
            "vstrb.32 q1, [r2], #4\n",
            "vaddva.s32 ",
            $sum,
            ", q2\n",
            "vstrb.32 q2, [r2], #4\n",
            "vaddva.s32 ",
            $sum,
            ", q3\n",
            "vstrb.32 q3, [r2], #4\n",
        )
    };
}

/// Times four columns to as many rows of a tile, and adds to their sums.
///
/// # Safety
/// All that `job` says is there, at least one quad. Needs Helium's floats.
#[unsafe(naked)]
unsafe extern "C" fn quantize_rows(
    x: *const Column,
    job: *const Rows,
    place: *mut i8,
    sums: *mut i32,
) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r10, lr}}",
        "ldm r1, {{r5, r7, r9}}",
        "dls lr, r9",
        "2:",
        "ldrd r4, r6, [r3]",
        "ldrd r8, r10, [r3, #8]",
        row!("r4"),
        row!("r6"),
        row!("r8"),
        row!("r10"),
        "strd r4, r6, [r3], #8",
        "strd r8, r10, [r3], #8",
        "add r2, r2, r7",
        "le lr, 2b",
        "pop {{r4-r10, pc}}",
    )
}
