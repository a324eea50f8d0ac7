//! Squared distance to numbers that are not trained.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Floats, slice};
use crate::lanes;

/// Numbers per piece of parallel work.
const PIECE: usize = 1 << 13;

/// The operation.
pub struct Distance {
    wanted: Tensor,
}

/// `Σ (x − wanted)²`, a scalar.
pub fn distance(x: &Tensor, wanted: &Tensor) -> Result<Tensor> {
    if x.shape() != wanted.shape() {
        candle_core::bail!("{:?} is compared with {:?}", x.shape(), wanted.shape());
    }
    x.apply_op1(Distance { wanted: wanted.clone() })
}

impl CustomOp1 for Distance {
    fn name(&self) -> &'static str {
        "distance"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, wanted) = (slice(x, layout)?, Floats::of(&self.wanted)?);
        let pieces = x.par_chunks(PIECE).zip(wanted.get()?.par_chunks(PIECE));
        // Pieces are summed in order, whoever worked them out.
        let sums: Vec<f64> = pieces
            .map(|(x, w)| f64::from(lanes::sum_pairs(x, w, |x, w| (x - w) * (x - w))))
            .collect();
        Ok((CpuStorage::F32(vec![sums.iter().sum::<f64>() as f32]), ().into()))
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let slope = 2.0 * grad.to_scalar::<f32>()?;
        let (floats, wanted) = (Floats::of(x)?, Floats::of(&self.wanted)?);
        let (from, wanted) = (floats.get()?, wanted.get()?);
        let mut out = vec![0.0; from.len()];
        out.par_chunks_mut(PIECE)
            .zip(from.par_chunks(PIECE).zip(wanted.par_chunks(PIECE)))
            .for_each(|(out, (x, wanted))| {
                for (out, (x, wanted)) in out.iter_mut().zip(x.iter().zip(wanted)) {
                    *out = slope * (x - wanted);
                }
            });
        Ok(Some(Tensor::from_vec(out, x.shape(), &Device::Cpu)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn gradient_of_the_distance() {
        let random = |shape: &[usize], seed| {
            Tensor::from_vec(check::random(shape, seed), shape, &Device::Cpu).unwrap()
        };
        let wanted = random(&[3, 7], 77);
        check::gradients(&[&[3, 7]], |args| distance(&args[0], &wanted));
        // More than one piece.
        let (x, wanted) = (random(&[13, 700], 5), random(&[13, 700], 6));
        let got = distance(&x, &wanted).unwrap().to_scalar::<f32>().unwrap();
        let sum = (&x - &wanted).unwrap().sqr().unwrap().sum_all().unwrap();
        assert!((got / sum.to_scalar::<f32>().unwrap() - 1.0).abs() < 1e-5);
    }
}
