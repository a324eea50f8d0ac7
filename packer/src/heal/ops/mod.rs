//! The pieces of a BERT layer as candle operations with hand-written gradients.
//!
//! candle has no gradient for its fused LayerNorm and softmax, and composed of elementary
//! operations they take longer than the matrices. Rows are tokens; sentences lie below one another
//! without padding. Work is cut into pieces of fixed size and summed in a fixed order, so the
//! result does not depend on the number of threads.

use candle_core::{CpuStorage, Layout, Result, Storage, StorageRef, Tensor};
use faer::{MatMut, MatRef};

pub mod activation;
pub mod attention;
pub mod distance;
pub mod linear;
pub mod norm;

/// Token rows per piece of parallel work.
const CHUNK: usize = 64;

/// The numbers of a contiguous f32 tensor, borrowed.
struct Floats<'t> {
    storage: StorageRef<'t>,
    start: usize,
    end: usize,
}

impl<'t> Floats<'t> {
    fn of(tensor: &'t Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let (start, end) = span(layout)?;
        Ok(Self { storage, start, end })
    }

    fn get(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&storage.as_slice()?[self.start..self.end]),
            _ => candle_core::bail!("a tensor is not in memory"),
        }
    }
}

/// The numbers that an operation is given.
fn slice<'s>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [f32]> {
    let (start, end) = span(layout)?;
    Ok(&storage.as_slice()?[start..end])
}

fn span(layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(span) => Ok(span),
        None => candle_core::bail!("a tensor is not contiguous"),
    }
}

/// A view of the first `rows` rows of `width` numbers.
fn view(data: &[f32], rows: usize, width: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(&data[..rows * width], rows, width)
}

/// As [`view`], to write.
fn view_mut(data: &mut [f32], rows: usize, width: usize) -> MatMut<'_, f32> {
    MatMut::from_row_major_slice_mut(&mut data[..rows * width], rows, width)
}

/// Adds the rows of `data` to `sums`, in order.
fn add_rows(sums: &mut [f32], data: &[f32]) {
    for row in data.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
}

#[cfg(test)]
mod check {
    //! Gradients against finite differences.

    use candle_core::{Device, Result, Tensor, Var};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// A seeded tensor of numbers in −1..1.
    pub fn random(shape: &[usize], seed: u64) -> Vec<f32> {
        let mut random = StdRng::seed_from_u64(seed);
        (0..shape.iter().product()).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    /// Compares the gradient of a weighted sum of `op`'s result by every argument with central
    /// differences along random directions.
    pub fn gradients(shapes: &[&[usize]], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
        let values: Vec<Vec<f32>> =
            shapes.iter().enumerate().map(|(i, shape)| random(shape, i as u64)).collect();
        let var = |i: usize, data: Vec<f32>| Var::from_vec(data, shapes[i], &Device::Cpu).unwrap();
        let vars: Vec<Var> = values.iter().cloned().enumerate().map(|(i, v)| var(i, v)).collect();
        let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let out = op(&inputs).unwrap();
        let weights = random(&[out.elem_count()], 99);
        let weigh = Tensor::from_vec(weights.clone(), out.shape(), &Device::Cpu).unwrap();
        let grads = (&out * &weigh).unwrap().sum_all().unwrap().backward().unwrap();
        let value = |inputs: &[Tensor]| -> f64 {
            let out = op(inputs).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            out.iter().zip(&weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        for (i, shape) in shapes.iter().enumerate() {
            let grad = grads.get(&vars[i]).expect("a gradient");
            let grad = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for direction in 0..8 {
                let along = random(shape, 1000 + direction);
                let step = 4e-3f32;
                let moved = |sign: f32| {
                    let data = values[i].iter().zip(&along).map(|(x, d)| x + sign * step * d);
                    let mut inputs = inputs.clone();
                    inputs[i] =
                        Tensor::from_vec(data.collect::<Vec<_>>(), *shape, &Device::Cpu).unwrap();
                    value(&inputs)
                };
                let measured = (moved(1.0) - moved(-1.0)) / (2.0 * f64::from(step));
                let told: f64 =
                    grad.iter().zip(&along).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
                let size: f64 = grad.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
                assert!(
                    (measured - told).abs() <= 2e-3 * (size + measured.abs()) + 2e-3,
                    "argument {i}, direction {direction}: {told} is {measured} by differences"
                );
            }
        }
    }
}
