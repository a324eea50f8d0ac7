//! The kept pattern of a matrix: shared inputs, and groups of outputs with inputs of their own.

use faer::MatRef;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use grouse_runtime::format::SHARED_UNIT;

use super::assign::{Gains, balanced};

/// Outputs that the widest kernel works on at once: group sizes are multiples of it where the
/// matrix allows.
pub(super) const ROW_UNIT: usize = 16;
/// Inputs of a four-way dot product: input counts are multiples of it where the matrix allows.
const INPUT_UNIT: usize = 4;

/// How many outputs and inputs each part has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Inputs kept by all outputs.
    pub shared: usize,
    /// Outputs of each group; their sum is all of them.
    pub rows: Vec<usize>,
    /// Inputs of each group's own.
    pub own: Vec<usize>,
}

impl Sizes {
    /// Sizes for a matrix of `rows` × `cols` at `density` with `groups` groups.
    ///
    /// `shared` is the wished fraction of the inputs that all outputs keep; without it every input
    /// that is not shared belongs to a group. The density is met as closely as whole kernel steps
    /// allow; in a small matrix, whole inputs.
    pub fn new(rows: usize, cols: usize, density: f64, groups: usize, shared: Option<f64>) -> Self {
        let groups = groups.clamp(1, rows.max(1));
        let tiles = rows.is_multiple_of(ROW_UNIT) && rows / ROW_UNIT >= groups;
        let row_unit = if tiles { ROW_UNIT } else { 1 };
        let sizes = split(rows / row_unit, groups).map(|n| n * row_unit).collect();
        if groups == 1 {
            let own = (density * cols as f64).round() as usize;
            return Self { shared: 0, rows: sizes, own: vec![own] };
        }
        // Every output keeps `kept` inputs, shared and own. Own inputs are disjoint, so at least
        // `lowest` must be shared: kept = shared + (cols - shared) / groups.
        let kept = density * cols as f64;
        let part = 1.0 / groups as f64;
        let lowest = ((kept - part * cols as f64) / (1.0 - part)).max(0.0);
        let wish = shared.map_or(lowest, |fraction| (fraction * cols as f64).max(lowest));
        // A coarse unit must not cost density in a small matrix.
        let large = cols >= 64 * INPUT_UNIT;
        // What a file shares comes in whole units; the packer gives the rest to each group.
        let unit = SHARED_UNIT as f64;
        let aligned = (wish / unit).round() * unit;
        let fits = large && (lowest..=kept).contains(&aligned);
        let shared = (if fits { aligned } else { wish.round() } as usize).min(cols);
        let unit = if large { INPUT_UNIT } else { 1 };
        let most = cols + (groups - 1) * shared;
        let wished = (kept * groups as f64 / unit as f64).round() as usize;
        let units = wished.min(most / unit);
        let own = split(units, groups).map(|n| (n * unit).saturating_sub(shared)).collect();
        Self { shared, rows: sizes, own }
    }

    /// Weights kept.
    pub fn kept(&self) -> usize {
        self.rows.iter().zip(&self.own).map(|(rows, own)| rows * (self.shared + own)).sum()
    }
}

/// `total` in `parts` parts that differ by one at most.
fn split(total: usize, parts: usize) -> impl Iterator<Item = usize> {
    (0..parts).map(move |i| (i + 1) * total / parts - i * total / parts)
}

/// Where every output and every input of a matrix belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// Number of groups.
    pub count: usize,
    /// Group of each output, `[rows]`; [`Groups::dropped`] for one that is not there any more.
    pub rows: Vec<usize>,
    /// Place of each input, `[cols]`: below `count` a group, [`Groups::shared`] for all groups,
    /// [`Groups::dropped`] for none.
    pub cols: Vec<usize>,
}

impl Groups {
    /// Place of an input that all outputs keep.
    pub fn shared(&self) -> usize {
        self.count
    }

    /// Place of an input that no output keeps.
    pub fn dropped(&self) -> usize {
        self.count + 1
    }

    /// The same groups in a matrix of `whole` outputs and inputs, of which `rows` and `cols` were
    /// these. All others are dropped.
    pub fn spread(&self, whole: (usize, usize), rows: &[usize], cols: &[usize]) -> Self {
        let put = |all: usize, which: &[usize], places: &[usize]| {
            let mut out = vec![self.dropped(); all];
            which.iter().zip(places).for_each(|(at, place)| out[*at] = *place);
            out
        };
        let (rows, cols) = (put(whole.0, rows, &self.rows), put(whole.1, cols, &self.cols));
        Self { count: self.count, rows, cols }
    }

    /// Outputs of group `g`, ascending.
    pub fn outputs(&self, g: usize) -> Vec<usize> {
        indices(&self.rows, |place| place == g)
    }

    /// Inputs that group `g` keeps, shared ones included, ascending.
    pub fn inputs(&self, g: usize) -> Vec<usize> {
        indices(&self.cols, |place| place == g || place == self.count)
    }

    /// Inputs in one place, ascending.
    pub fn inputs_at(&self, place: usize) -> Vec<usize> {
        indices(&self.cols, |p| p == place)
    }
}

fn indices(places: &[usize], is: impl Fn(usize) -> bool) -> Vec<usize> {
    (0..places.len()).filter(|i| is(places[*i])).collect()
}

/// Capacities of the places of inputs: groups, shared, dropped.
fn capacities(sizes: &Sizes, cols: usize) -> Vec<usize> {
    let mut list = sizes.own.clone();
    list.push(sizes.shared);
    list.push(cols - sizes.shared - sizes.own.iter().sum::<usize>());
    list
}

/// The best of `starts` searches for the groups that keep most of `importance` (`[rows][cols]`,
/// not negative), alternating outputs and inputs. Also returns the importance kept.
pub fn search(
    importance: MatRef<'_, f64>,
    sizes: &Sizes,
    starts: usize,
    random: &mut StdRng,
) -> (Groups, f64) {
    let mut best = search_once(importance, sizes, random);
    for _ in 1..starts {
        let found = search_once(importance, sizes, random);
        if found.1 > best.1 {
            best = found;
        }
    }
    best
}

fn search_once(importance: MatRef<'_, f64>, sizes: &Sizes, random: &mut StdRng) -> (Groups, f64) {
    let (rows, cols) = (importance.nrows(), importance.ncols());
    let count = sizes.rows.len();
    let column_capacities = capacities(sizes, cols);
    let mut row_places: Vec<usize> =
        sizes.rows.iter().enumerate().flat_map(|(g, n)| std::iter::repeat_n(g, *n)).collect();
    row_places.shuffle(random);
    let mut groups = Groups { count, rows: row_places, cols: vec![0; cols] };
    let mut best = (groups.clone(), f64::NEG_INFINITY);
    for _ in 0..30 {
        let mut by_col = Gains::zeros(cols, count + 2);
        for j in 0..cols {
            let gains = by_col.row_mut(j);
            for i in 0..rows {
                gains[groups.rows[i]] += importance[(i, j)];
            }
            gains[count] = gains[..count].iter().sum();
        }
        groups.cols = balanced(&by_col, &column_capacities);
        let mut by_row = Gains::zeros(rows, count);
        let mut shared = 0.0;
        for j in 0..cols {
            let place = groups.cols[j];
            for i in 0..rows {
                if place < count {
                    by_row.row_mut(i)[place] += importance[(i, j)];
                } else if place == count {
                    shared += importance[(i, j)];
                }
            }
        }
        groups.rows = balanced(&by_row, &sizes.rows);
        let now = by_row.total(&groups.rows) + shared;
        // The assignment is greedy, so a round can also lose.
        if now <= best.1 * (1.0 + 1e-9) {
            break;
        }
        best = (groups.clone(), now);
    }
    best
}

#[cfg(test)]
mod tests {
    use faer::Mat;
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn importance(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
        let mut random = StdRng::seed_from_u64(seed);
        Mat::from_fn(rows, cols, |_, _| rand::Rng::random::<f64>(&mut random).powi(4))
    }

    proptest! {
        #[test]
        fn every_output_and_input_has_one_place(
            rows in 1usize..70,
            cols in 1usize..70,
            count in 1usize..9,
            density in 0.02f64..1.0,
            shared in prop::option::of(0.0f64..1.0),
            seed in 0u64..100,
        ) {
            let shared = shared.map(|part| part * density);
            let sizes = Sizes::new(rows, cols, density, count, shared);
            prop_assert_eq!(sizes.rows.iter().sum::<usize>(), rows);
            prop_assert!(sizes.shared + sizes.own.iter().sum::<usize>() <= cols);
            let importance = importance(rows, cols, seed);
            let mut random = StdRng::seed_from_u64(seed);
            let (groups, kept) = search(importance.as_ref(), &sizes, 2, &mut random);
            prop_assert_eq!(groups.inputs_at(groups.shared()).len(), sizes.shared);
            let mut found = 0.0;
            let mut weights = 0;
            for g in 0..groups.count {
                let (outputs, inputs) = (groups.outputs(g), groups.inputs(g));
                prop_assert_eq!(outputs.len(), sizes.rows[g]);
                prop_assert_eq!(inputs.len(), sizes.shared + sizes.own[g]);
                weights += outputs.len() * inputs.len();
                for i in &outputs {
                    found += inputs.iter().map(|j| importance[(*i, *j)]).sum::<f64>();
                }
            }
            prop_assert_eq!(weights, sizes.kept());
            prop_assert!((found - kept).abs() <= 1e-9 * kept.max(1.0));
        }
    }

    #[test]
    fn density_is_met_within_half_a_percent() {
        for (rows, cols) in [(384, 384), (1152, 384), (1536, 384), (384, 1536), (2304, 768)] {
            for groups in [1, 2, 3, 4, 8, 16, 32] {
                for density in [0.12, 0.25, 0.37, 0.5, 0.75, 1.0] {
                    for shared in [None, Some(0.1 * density), Some(0.9 * density)] {
                        let sizes = Sizes::new(rows, cols, density, groups, shared);
                        let found = sizes.kept() as f64 / (rows * cols) as f64;
                        let what = (rows, cols, groups, density, shared);
                        assert!((found - density).abs() < 0.005, "{what:?}: {found}");
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_are_whole_where_the_matrix_allows() {
        let sizes = Sizes::new(1536, 384, 0.5, 7, None);
        assert!(sizes.rows.iter().all(|n| n.is_multiple_of(ROW_UNIT)));
        assert!(sizes.own.iter().all(|n| (n + sizes.shared).is_multiple_of(INPUT_UNIT)));
    }

    #[test]
    fn planted_groups_are_found() {
        // Four blocks and two heavy inputs, in scrambled order.
        let place = |i: usize| (i * 7) % 4;
        let importance = Mat::from_fn(32, 34, |i, j| match j {
            32.. => 1.0,
            _ if place(i) == place(j) => 1.0,
            _ => 0.01,
        });
        let sizes = Sizes { shared: 2, rows: vec![8; 4], own: vec![8; 4] };
        let mut random = StdRng::seed_from_u64(1);
        let (groups, kept) = search(importance.as_ref(), &sizes, 8, &mut random);
        assert_eq!(groups.inputs_at(groups.shared()), vec![32, 33]);
        assert!((kept - 320.0).abs() < 1e-9, "{kept}");
    }
}
