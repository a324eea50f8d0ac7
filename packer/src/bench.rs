//! How long a packed model takes on this host, shape by shape.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::engine::Engine;
use crate::{Error, Result};

/// What is embedded: repeated or cut to the number of tokens.
const TEXT: &str = "The grouse is a ground bird of northern woods and moors. It feeds on buds, \
    berries and heather, walks more than it flies, and spends the coldest nights of January in a \
    burrow under the snow. In spring the males gather before dawn, drum with their wings, and \
    can be heard more than half a mile away.";

/// Time given to a shape before it is measured, and to its measurement.
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURING: Duration = Duration::from_secs(2);

/// Repetitions, whatever the time they take.
const LEAST: usize = 20;
const MOST: usize = 2000;

/// The figures of one shape.
#[derive(Debug, Clone, Serialize)]
pub struct ShapeFigures {
    /// Tokens of each text, `[CLS]` and `[SEP]` included.
    pub seq: usize,
    /// Texts of a call.
    pub batch: usize,
    /// Measured calls.
    pub repetitions: usize,
    /// Half of the calls took up to so many milliseconds.
    pub median_ms: f64,
    /// A tenth.
    pub p10_ms: f64,
    /// Nine tenths.
    pub p90_ms: f64,
}

/// Refuses a number of tokens that the engine's model cannot take.
///
/// # Errors
/// Then.
pub fn check_length(engine: &Engine<'_>, seq: usize) -> Result<()> {
    let most = engine.model().arch().max_tokens as usize;
    if (2..=most).contains(&seq) {
        return Ok(());
    }
    Err(Error::input(
        format!("this model takes 2 to {most} tokens, not {seq}"),
        "give --seq lengths in this range",
    ))
}

/// Measures calls with `batch` texts of `seq` tokens, ids in and embeddings out.
///
/// # Errors
/// A length that the model does not take.
pub fn measure(engine: &Engine<'_>, seq: usize, batch: usize) -> Result<ShapeFigures> {
    check_length(engine, seq)?;
    let texts = texts(engine, seq, batch)?;
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let call = || -> Result<Duration> {
        let start = Instant::now();
        let out = engine.embed_ids(&texts, || ()).map_err(|(number, error)| {
            Error::runtime(format!("embedding text {}", number + 1))(error)
        })?;
        std::hint::black_box(out);
        Ok(start.elapsed())
    };
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        call()?;
    }
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < LEAST || (times.len() < MOST && start.elapsed() < MEASURING) {
        times.push(call()?.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(ShapeFigures {
        seq,
        batch,
        repetitions: times.len(),
        median_ms: quantile(&times, 0.5),
        p10_ms: quantile(&times, 0.1),
        p90_ms: quantile(&times, 0.9),
    })
}

/// Ids of [`TEXT`], over and over: `batch` texts of `seq`, each going on where the last ended.
fn texts(engine: &Engine<'_>, seq: usize, batch: usize) -> Result<Vec<Vec<u32>>> {
    let ids = engine.tokenize(TEXT)?.ids;
    let [first, middle @ .., last] = ids.as_slice() else {
        return Err(Error::input("the model gives no tokens for a text", "pack the model anew"));
    };
    let mut words = middle.iter().cycle();
    let mut text = || {
        let words = words.by_ref().take(seq - 2);
        std::iter::once(first).chain(words).chain([last]).copied().collect()
    };
    let texts: Vec<Vec<u32>> = (0..batch).map(|_| text()).collect();
    match texts.iter().all(|text| text.len() == seq) {
        true => Ok(texts),
        false => Err(Error::input(
            "this model is too short for a text of words",
            "pack it with --max-tokens 3 or more",
        )),
    }
}

/// The value that a share of the sorted `values` reaches, between two of them if need be.
fn quantile(values: &[f64], share: f64) -> f64 {
    let at = share * values.len().saturating_sub(1) as f64;
    let value = |i: usize| values.get(i).or(values.last()).copied().unwrap_or(f64::NAN);
    let (low, high) = (value(at as usize), value(at as usize + 1));
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&values, 0.5), 3.0);
        assert_eq!((quantile(&values, 0.0), quantile(&values, 1.0)), (1.0, 8.0));
        assert!((quantile(&values, 0.9) - 6.8).abs() < 1e-12);
    }
}
