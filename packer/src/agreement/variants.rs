//! Sentences near a given one, made from its token ids.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A sentence near `ids`: words left out, put in from `other`, exchanged, or half of each. What it
/// means is for the dense model to say.
pub fn variant(ids: &[u32], other: &[u32], random: &mut StdRng) -> Vec<u32> {
    let inner = |ids: &[u32]| ids[1..ids.len().max(2) - 1].to_vec();
    let (mut words, others) = (inner(ids), inner(other));
    let changes = 1 + words.len() / 8;
    match random.random_range(0..4) {
        0 => {
            for _ in 0..changes {
                if words.len() > 1 {
                    words.remove(random.random_range(0..words.len()));
                }
            }
        }
        1 => {
            for _ in 0..changes {
                if let (false, Some(word)) = (words.is_empty(), pick(&others, random)) {
                    let at = random.random_range(0..words.len());
                    words[at] = word;
                }
            }
        }
        2 => {
            let from = random.random_range(0..=words.len() / 3);
            let to = random.random_range(words.len() - words.len() / 3..=words.len());
            words = words[from..to.max(from + 1).min(words.len())].to_vec();
            if words.len() > 3 && random.random_bool(0.3) {
                words.shuffle(random);
            }
        }
        _ => {
            words.truncate(words.len().div_ceil(2));
            // Rounded the other way, so that the whole is no longer than the longer of the two.
            words.extend_from_slice(&others[others.len().div_ceil(2)..]);
        }
    }
    if words.is_empty() {
        return ids.to_vec();
    }
    let mut out = vec![ids[0]];
    out.append(&mut words);
    out.extend(ids.last());
    out
}

fn pick(words: &[u32], random: &mut StdRng) -> Option<u32> {
    (!words.is_empty()).then(|| words[random.random_range(0..words.len())])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    proptest! {
        #[test]
        fn variants_keep_their_ends_and_their_measure(
            words in prop::collection::vec(10u32..90, 0..140),
            others in prop::collection::vec(100u32..190, 0..140),
            seed: u64,
        ) {
            let whole = |words: &[u32]| [&[2], words, &[3]].concat();
            let ids = variant(&whole(&words), &whole(&others), &mut StdRng::seed_from_u64(seed));
            prop_assert!(ids.len() <= words.len().max(others.len()) + 2);
            prop_assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3));
            let inner = &ids[1..ids.len() - 1];
            prop_assert!(inner.iter().all(|id| words.contains(id) || others.contains(id)));
        }
    }
}
