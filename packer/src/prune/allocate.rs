//! Shares a budget among the matrices: the levels whose losses sum to least within it.

/// One level of one matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offer {
    /// What the level takes of the budget.
    pub cost: u64,
    /// What it loses; additive over matrices.
    pub loss: f64,
}

/// Cells of the dynamic programme: a choice is off the best by a cell per matrix at most.
pub const CELLS: u64 = 8_192;

/// The choice for each matrix with the least sum of losses at a sum of costs within `budget`:
/// multiple-choice knapsack by dynamic programming (as in SPDY, Frantar & Alistarh 2022). `None`
/// when even the cheapest levels do not fit.
pub fn allocate(offers: &[Vec<Offer>], budget: u64) -> Option<Vec<usize>> {
    let cell = budget.div_ceil(CELLS).max(1);
    let cells = (budget / cell) as usize;
    // best[c]: least loss of the matrices so far with c cells at most; from[m][c]: its last choice.
    let mut best = vec![0.0f64; cells + 1];
    let mut from: Vec<Vec<Option<usize>>> = Vec::with_capacity(offers.len());
    for matrix in offers {
        let mut next = vec![f64::INFINITY; cells + 1];
        let mut choice = vec![None; cells + 1];
        for (index, offer) in matrix.iter().enumerate() {
            let width = offer.cost.div_ceil(cell) as usize;
            for c in width..=cells {
                let loss = best[c - width] + offer.loss;
                if loss < next[c] {
                    next[c] = loss;
                    choice[c] = Some(index);
                }
            }
        }
        best = next;
        from.push(choice);
    }
    let mut at = cells;
    let mut chosen = vec![0; offers.len()];
    for (matrix, choices) in from.iter().enumerate().rev() {
        let index = choices[at]?;
        chosen[matrix] = index;
        at -= offers[matrix][index].cost.div_ceil(cell) as usize;
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All combinations, one by one.
    fn exhaustive(offers: &[Vec<Offer>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = offers.split_first() else { return Some(0.0) };
        first
            .iter()
            .filter(|offer| offer.cost <= budget)
            .filter_map(|o| Some(o.loss + exhaustive(rest, budget - o.cost)?))
            .min_by(f64::total_cmp)
    }

    proptest! {
        #[test]
        fn nothing_within_the_budget_loses_less(
            raw in prop::collection::vec(prop::collection::vec((0u64..40, 0u32..100), 1..5), 1..6),
            budget in 0u64..150,
        ) {
            let offers: Vec<Vec<Offer>> = raw
                .iter()
                .map(|m| m.iter().map(|(cost, loss)| Offer { cost: *cost, loss: f64::from(*loss) }))
                .map(Iterator::collect)
                .collect();
            let chosen = allocate(&offers, budget);
            let found = chosen.as_ref().map(|chosen| {
                let picked = chosen.iter().zip(&offers).map(|(c, m)| m[*c]);
                assert!(picked.clone().map(|o| o.cost).sum::<u64>() <= budget);
                picked.map(|o| o.loss).sum::<f64>()
            });
            prop_assert_eq!(found, exhaustive(&offers, budget));
        }
    }
}
