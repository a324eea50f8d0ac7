//! Which sentences of a text mean nearly the same to the dense model: pairs worth comparing.
//!
//! Two lines of a text taken at random have nothing in common, and a student learns little of how
//! alike sentences are from them.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::model::{DenseModel, Matrix};
use crate::progress::Progress;
use crate::{Result, forward};

/// Sentences that are compared with one another at most, evenly spread over the text.
const MOST: usize = 10_000;
/// Neighbours kept of each.
const KEPT: usize = 6;
/// Sentences embedded, and compared with all, at once.
const PIECE: usize = 256;

/// The nearest sentences of each of `sentences`, nearest first; of a long text only an even part
/// has any.
///
/// # Errors
/// As [`forward::embed_all`].
pub fn nearest(teacher: &DenseModel, sentences: &[Vec<u32>]) -> Result<Vec<Vec<usize>>> {
    let step = sentences.len().div_ceil(MOST).max(1);
    let some: Vec<usize> = (0..sentences.len()).step_by(step).collect();
    let progress = Progress::start("compare the text", some.len() as u64, "sentences");
    let width = teacher.config.hidden_size;
    let mut rows = Matrix::zeros(0, width);
    for part in some.chunks(PIECE) {
        let ids: Vec<&Vec<u32>> = part.iter().map(|at| &sentences[*at]).collect();
        rows.data.extend(forward::embed_all(teacher, &ids)?.data);
        rows.rows += part.len();
        progress.advance(part.len() as u64);
    }
    progress.finish();
    for row in rows.data.chunks_exact_mut(width) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        row.iter_mut().for_each(|x| *x /= length);
    }
    let all = MatRef::from_row_major_slice(&rows.data, rows.rows, width);
    let found: Vec<Vec<usize>> = (0..some.len().div_ceil(PIECE))
        .into_par_iter()
        .flat_map_iter(|piece| {
            let first = piece * PIECE;
            let count = PIECE.min(some.len() - first);
            let mut alike = vec![0.0f32; count * some.len()];
            let into = MatMut::from_row_major_slice_mut(&mut alike, count, some.len());
            let own = all.submatrix(first, 0, count, width);
            matmul(into, Accum::Replace, own, all.transpose(), 1.0, Par::Seq);
            let of = |row: usize| best(&alike[row * some.len()..][..some.len()], first + row);
            (0..count).map(of).collect::<Vec<_>>()
        })
        .collect();
    let mut near = vec![Vec::new(); sentences.len()];
    for (at, found) in some.iter().zip(found) {
        near[*at] = found.into_iter().map(|other| some[other]).collect();
    }
    Ok(near)
}

/// Places of the greatest numbers but that of `own`, greatest first; of equal ones the first.
fn best(alike: &[f32], own: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::with_capacity(KEPT + 1);
    for (other, value) in alike.iter().enumerate() {
        let full = kept.len() == KEPT;
        if other == own || (full && kept.last().is_some_and(|last| *value <= alike[*last])) {
            continue;
        }
        let place = kept.partition_point(|k| alike[*k] >= *value);
        kept.insert(place, other);
        kept.truncate(KEPT);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_come_first_without_oneself() {
        let alike = [0.1, 0.9, 0.5, 1.0, 0.9, 0.2, 0.3, 0.4, 0.05];
        assert_eq!(best(&alike, 3), [1, 4, 2, 7, 6, 5]);
        assert_eq!(best(&alike[..3], 1), [2, 0]);
    }
}
