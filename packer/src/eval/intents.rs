//! Intent classification without training: each text goes to the class whose mean embedding is
//! nearest.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cosine;
use crate::engine::Engine;
use crate::progress::Progress;
use crate::{Error, Result};

/// Texts with their classes, as CLINC150's `data_full.json` has them (other lists are ignored).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Intents {
    /// Texts that the classes' means are made of.
    pub train: Vec<(String, String)>,
    /// Texts to classify.
    pub test: Vec<(String, String)>,
}

/// What `grouse eval --intents` prints.
#[derive(Debug, Clone, Serialize)]
pub struct IntentScore {
    /// Number of classes.
    pub classes: usize,
    /// Texts that were classified.
    pub texts: usize,
    /// Per cent that got their class.
    pub accuracy: f64,
}

/// Reads `{"train": [[text, class], …], "test": [[text, class], …]}`.
///
/// # Errors
/// When the file cannot be read, is no such JSON, or one of the lists is empty.
pub fn read(path: &Path) -> Result<Intents> {
    let remedy = "a file of intents is {\"train\": [[text, class], …], \"test\": [[text, class], …]}, \
                  like CLINC150's data_full.json";
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let intents: Intents = serde_json::from_slice(&bytes)
        .map_err(|e| Error::input(format!("{}: {e}", path.display()), remedy))?;
    if intents.train.is_empty() || intents.test.is_empty() {
        return Err(Error::input(format!("{} has an empty list", path.display()), remedy));
    }
    Ok(intents)
}

/// Classifies the test texts of `intents` with the engine's model.
///
/// # Errors
/// The first failing text's.
pub fn score(engine: &Engine<'_>, intents: &Intents) -> Result<IntentScore> {
    let pairs = || intents.train.iter().chain(&intents.test);
    let texts: Vec<String> = pairs().map(|(text, _)| text.clone()).collect();
    let progress = Progress::start("embedding", texts.len() as u64, "texts");
    let answers = engine.embed(&texts, || progress.advance(1))?;
    progress.finish();
    let embeddings: Vec<&[f32]> = answers.iter().map(|a| a.embedding.as_slice()).collect();
    let (train, test) = embeddings.split_at(intents.train.len());
    let classes = |list: &[(String, String)]| list.iter().map(|p| p.1.clone()).collect::<Vec<_>>();
    let (known, wanted) = (classes(&intents.train), classes(&intents.test));
    let found = nearest_means(train, &known, test);
    let right = found.iter().zip(&wanted).filter(|(found, wanted)| **found == wanted.as_str());
    Ok(IntentScore {
        classes: known.iter().collect::<std::collections::BTreeSet<_>>().len(),
        texts: test.len(),
        accuracy: 100.0 * right.count() as f64 / test.len().max(1) as f64,
    })
}

/// For each of `test` the class of `train` whose mean (of vectors of length 1) it is most alike.
fn nearest_means<'c>(train: &[&[f32]], classes: &'c [String], test: &[&[f32]]) -> Vec<&'c str> {
    let mut sums: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for (vector, class) in train.iter().zip(classes) {
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        let sum = sums.entry(class).or_insert_with(|| vec![0.0; vector.len()]);
        sum.iter_mut().zip(*vector).for_each(|(sum, v)| *sum += v / length);
    }
    let nearest = |vector: &&[f32]| {
        let alike = |sum: &Vec<f32>| cosine(vector, sum);
        let best = sums.iter().max_by(|a, b| alike(a.1).total_cmp(&alike(b.1)));
        best.map_or("", |(class, _)| *class)
    };
    test.iter().map(nearest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_goes_to_the_mean_it_points_to() {
        // The long vector must not outweigh the others of its class.
        let train: [&[f32]; 4] = [&[1.0, 0.0], &[0.8, 0.6], &[0.0, 90.0], &[0.6, 0.8]];
        let classes = ["a", "a", "b", "b"].map(String::from);
        let test: [&[f32]; 3] = [&[3.0, 1.0], &[0.5, 1.0], &[-1.0, 0.9]];
        assert_eq!(nearest_means(&train, &classes, &test), ["a", "b", "b"]);
    }

    #[test]
    fn files_that_are_no_intents_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("intents.json");
        for bad in ["", "[]", "{\"train\": []}", "{\"train\": [], \"test\": [[\"a\", \"b\"]]}"] {
            std::fs::write(&path, bad).unwrap();
            assert!(read(&path).is_err(), "{bad}");
        }
        let good = r#"{"train": [["a b", "x"]], "test": [["c", "x"]], "val": [["d", "y"]]}"#;
        std::fs::write(&path, good).unwrap();
        assert_eq!(read(&path).unwrap().test, [("c".to_string(), "x".to_string())]);
    }
}
