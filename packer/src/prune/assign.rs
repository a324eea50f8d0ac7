//! Balanced assignment: items to places with capacities, for the greatest total gain.

/// Gains of every item in every place, `[items][places]`.
#[derive(Debug, Clone)]
pub struct Gains {
    /// Number of places.
    pub places: usize,
    /// Item after item.
    pub values: Vec<f64>,
}

impl Gains {
    /// Gains of zero.
    pub fn zeros(items: usize, places: usize) -> Self {
        Self { places, values: vec![0.0; items * places] }
    }

    /// Gain of `item` in `place`.
    pub fn at(&self, item: usize, place: usize) -> f64 {
        self.values[item * self.places + place]
    }

    /// Gains of one item in all places.
    pub fn row(&self, item: usize) -> &[f64] {
        &self.values[item * self.places..(item + 1) * self.places]
    }

    /// Gains of one item in all places, to write.
    pub fn row_mut(&mut self, item: usize) -> &mut [f64] {
        &mut self.values[item * self.places..(item + 1) * self.places]
    }

    /// Sum of the gains of an assignment.
    pub fn total(&self, places: &[usize]) -> f64 {
        places.iter().enumerate().map(|(item, place)| self.at(item, *place)).sum()
    }
}

/// Assigns every item a place; place `p` takes exactly `capacities[p]` items (their sum is the
/// number of items). Greedy by regret, then the best exchanges between every pair of places.
pub fn balanced(gains: &Gains, capacities: &[usize]) -> Vec<usize> {
    let items = gains.values.len() / gains.places.max(1);
    debug_assert_eq!(capacities.iter().sum::<usize>(), items);
    let mut order: Vec<(f64, usize)> = (0..items).map(|i| (regret(gains.row(i)), i)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut free = capacities.to_vec();
    let mut places = vec![0; items];
    for (_, item) in order {
        let best = (0..gains.places)
            .filter(|p| free[*p] > 0)
            .max_by(|a, b| gains.at(item, *a).total_cmp(&gains.at(item, *b)).then(b.cmp(a)));
        if let Some(place) = best {
            places[item] = place;
            free[place] -= 1;
        }
    }
    // Each round raises the total; a few reach the point where no exchange of two helps.
    for _ in 0..20 {
        let exchanges = exchanges(gains, &places);
        if exchanges.is_empty() {
            break;
        }
        apply(&mut places, &exchanges, usize::MAX);
    }
    places
}

/// Two items that would gain by changing places.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// First item.
    pub a: usize,
    /// Second item, in another place.
    pub b: usize,
    /// Rise of the total, above 0.
    pub gain: f64,
}

/// The exchanges that help, best first. Each is good by itself; one that shares an item with a
/// better one must be skipped, as [`apply`] does.
pub fn exchanges(gains: &Gains, places: &[usize]) -> Vec<Exchange> {
    let mut members = vec![Vec::new(); gains.places];
    for (item, place) in places.iter().enumerate() {
        members[*place].push(item);
    }
    // Below this a rise is rounding, and two rounds could undo one another for ever.
    let scale = gains.values.iter().fold(0.0f64, |m, v| m.max(v.abs())) * 1e-12;
    let mut found = Vec::new();
    for p in 0..gains.places {
        for q in p + 1..gains.places {
            let wish = |from: usize, to: usize| {
                let mut list: Vec<(f64, usize)> = members[from]
                    .iter()
                    .map(|i| (gains.at(*i, to) - gains.at(*i, from), *i))
                    .collect();
                list.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                list
            };
            for ((up, a), (down, b)) in wish(p, q).into_iter().zip(wish(q, p)) {
                let gain = up + down;
                if gain <= scale {
                    break;
                }
                found.push(Exchange { a, b, gain });
            }
        }
    }
    found.sort_by(|x, y| y.gain.total_cmp(&x.gain).then(x.a.cmp(&y.a)).then(x.b.cmp(&y.b)));
    found
}

/// Carries out up to `most` exchanges, best first, each item at most once; returns their number.
pub fn apply(places: &mut [usize], exchanges: &[Exchange], most: usize) -> usize {
    let mut moved = vec![false; places.len()];
    let mut done = 0;
    for exchange in exchanges {
        if done == most {
            break;
        }
        if moved[exchange.a] || moved[exchange.b] {
            continue;
        }
        places.swap(exchange.a, exchange.b);
        moved[exchange.a] = true;
        moved[exchange.b] = true;
        done += 1;
    }
    done
}

/// How much an item loses when its best place is taken.
fn regret(gains: &[f64]) -> f64 {
    let (mut best, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for gain in gains {
        if *gain > best {
            (best, second) = (*gain, best);
        } else {
            second = second.max(*gain);
        }
    }
    if second.is_finite() { best - second } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_place_is_filled_exactly(
            capacities in prop::collection::vec(0usize..6, 1..6),
            seed in prop::collection::vec(0.0f64..1.0, 200),
        ) {
            let items: usize = capacities.iter().sum();
            let places = capacities.len();
            let values = (0..items * places).map(|i| seed[i % seed.len()]).collect();
            let gains = Gains { places, values };
            let assigned = balanced(&gains, &capacities);
            for (place, capacity) in capacities.iter().enumerate() {
                prop_assert_eq!(assigned.iter().filter(|p| **p == place).count(), *capacity);
            }
            prop_assert!(exchanges(&gains, &assigned).is_empty());
        }
    }

    #[test]
    fn planted_blocks_are_found() {
        let mut gains = Gains::zeros(12, 3);
        for item in 0..12 {
            gains.row_mut(item)[item % 3] = 1.0;
        }
        let assigned = balanced(&gains, &[4, 4, 4]);
        assert_eq!(gains.total(&assigned), 12.0);
    }
}
