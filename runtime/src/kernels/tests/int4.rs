//! Int4 rows: unpacked by every backend, and multiplied.

use super::*;
use crate::format::{Multiplier, RUN, RUN_I4, quad_bytes_i4};
use crate::kernels::int4;

/// Rows of an int4 block: any codes, sound multipliers.
#[derive(Debug)]
struct Codes {
    quads: usize,
    depth: usize,
    packed: Vec<u8>,
}

impl Codes {
    fn unpack(&self, backend: &dyn Backend) -> Vec<i8> {
        let mut out = vec![0x55; self.quads * TILE_ROWS * round_up(self.depth, TILE_DEPTH)];
        backend.unpack_i4(&self.packed, self.depth, &mut out);
        out
    }

    /// Sum of each row.
    fn sums(&self) -> Vec<i32> {
        let block = self.unpack(&Scalar);
        let quads = block.chunks_exact(TILE_ROWS * round_up(self.depth, TILE_DEPTH));
        let row = |quad: &[i8], r: usize| {
            let rows = quad.chunks_exact(TILE_DEPTH);
            rows.skip(r).step_by(TILE_ROWS).flatten().map(|w| i32::from(*w)).sum()
        };
        quads.flat_map(|quad| core::array::from_fn::<i32, TILE_ROWS, _>(|r| row(quad, r))).collect()
    }
}

prop_compose! {
    fn codes()(quads in 1_usize..16, depth in 1_usize..150, seed in any::<u64>()) -> Codes {
        let mut random = Random(seed);
        let mut packed = vec![0; quads * quad_bytes_i4(depth)];
        packed.iter_mut().for_each(|byte| *byte = random.next() as u8);
        let quads_of = packed.chunks_exact_mut(quad_bytes_i4(depth));
        for run in quads_of.flat_map(|quad| quad.chunks_mut(RUN_I4)) {
            for byte in &mut run[..TILE_ROWS] {
                while !Multiplier(*byte).is_sound() {
                    *byte = random.next() as u8;
                }
            }
        }
        Codes { quads, depth, packed }
    }
}

proptest! {
    #[test]
    fn int4_rows(codes in codes()) {
        let want = codes.unpack(&Scalar);
        for backend in others() {
            prop_assert_eq!(&codes.unpack(backend), &want, "{}", backend.name());
        }
    }

    /// The scalar backend against the definition: every weight from its place.
    #[test]
    fn scalar_int4_rows_are_the_definition(codes in codes()) {
        let got = codes.unpack(&Scalar);
        let padded = round_up(codes.depth, TILE_DEPTH);
        for r in 0..codes.quads * TILE_ROWS {
            for c in 0..padded {
                let quad = &codes.packed[r / 4 * quad_bytes_i4(codes.depth)..];
                let run = &quad[c / RUN * RUN_I4..];
                let (step, zero) = (i32::from(run[r % 4] % 16), i32::from(run[r % 4] / 16));
                let byte = run[4 + c % RUN / 16 * 32 + r % 2 * 16 + c % 16];
                let code = i32::from(if r % 4 < 2 { byte % 16 } else { byte / 16 });
                let at = r / 4 * 4 * padded + c / 16 * 64 + r % 4 * 16 + c % 16;
                prop_assert_eq!(i32::from(got[at]), (code - zero) * step, "{} {}", r, c);
            }
        }
    }

    /// Int4 groups, whatever the scratch, are int8 groups of the unpacked weights.
    #[test]
    fn int4_matmul_is_int8_matmul_of_what_is_unpacked(
        codes in codes(),
        seed in any::<u64>(),
        tokens in 1_usize..40,
        less in 0_usize..3,
        more in 0_usize..3000,
    ) {
        // The codes have no padding of zeros.
        let depth = round_up(codes.depth, TILE_DEPTH);
        let outputs = (codes.quads * TILE_ROWS).saturating_sub(less).max(1);
        let case = Case::new(seed, (0, depth), outputs, tokens, true, false);
        let block = codes.unpack(&Scalar);
        let sums = codes.sums();
        let want = case.bits(&case.multiply(&Scalar, None, &sums, |group, panels, scales, out| {
            Scalar.matmul_i8(&GroupI8 { block: &block, ..*group }, panels, scales, out);
        }));
        for backend in available() {
            let mut scratch = vec![0x33; int4::ROWS * depth + more];
            let got = case.multiply(backend, None, &sums, |group, panels, scales, out| {
                let packed = &codes.packed[..outputs.div_ceil(4) * quad_bytes_i4(codes.depth)];
                int4::matmul(backend, packed, group, &mut scratch, panels, scales, out);
            });
            prop_assert_eq!(&case.bits(&got), &want, "{}", backend.name());
        }
    }
}

/// All sound multipliers stand for int8 numbers, and the others do not.
#[test]
fn sound_multipliers_make_int8() {
    for byte in 0..=255 {
        let multiplier = Multiplier(byte);
        let mut values: Vec<i32> = (0..16).map(|code| multiplier.value(code)).collect();
        values.dedup();
        let fits = values.len() == 16 && values.iter().all(|v| (-127..=127).contains(v));
        assert_eq!(multiplier.is_sound(), fits, "{byte:#x}");
        assert_eq!(Multiplier::new(multiplier.step(), multiplier.zero()), multiplier);
    }
}
