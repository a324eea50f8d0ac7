//! `grouse classify`.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::PackedFile;
use crate::{Error, Result};

use super::embed::EngineArgs;
use super::texts::TextArgs;

/// Texts classified between two writes.
const BATCH: usize = 256;

/// Classify texts by a packed model and the linear head that `--task classify` trained: JSON lines of
/// text, label and scores.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The packed model.
    file: PathBuf,
    /// The directory that `grouse prune --task classify` or `grouse heal --task classify` wrote, and
    /// that FILE was packed from, or its grouse.json: the head's weights are there.
    #[arg(long, value_name = "DIR")]
    head: PathBuf,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print nothing but the JSON lines (notes on truncated texts are left out).
    #[arg(long)]
    json: bool,
}

/// A line of output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    text: &'a str,
    label: &'a str,
    /// By class, of sum 1.
    scores: BTreeMap<&'a str, f32>,
}

/// [`crate::heal::task::Head`] as grouse.json has it: `weight · embedding + bias`, the largest wins.
#[derive(Debug, Deserialize)]
struct Head {
    classes: Vec<String>,
    /// `[classes][hidden]`.
    weight: Vec<Vec<f32>>,
    /// `[classes]`.
    bias: Vec<f32>,
}

/// What of grouse.json matters here.
#[derive(Deserialize)]
struct Record {
    fine_tune: Option<FineTune>,
}

#[derive(Deserialize)]
struct FineTune {
    head: Option<Head>,
}

/// Runs the command.
///
/// # Errors
/// A bad file, head, text or backend, and a head for a model of another width.
pub fn run(args: Args) -> Result<()> {
    let texts = args.texts.read()?;
    let file = PackedFile::open(&args.file)?;
    let engine = args.engine.engine(file.model()?)?;
    let head = read(&args.head, engine.model().arch().hidden_size as usize)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let failed = || Error::io("write", super::output::NAME);
    for (batch, texts) in texts.chunks(BATCH).enumerate() {
        for (i, answer) in engine.embed(texts, || ())?.iter().enumerate() {
            if answer.truncated && !args.json {
                let (number, limit) = (batch * BATCH + i + 1, answer.ids.len());
                eprintln!("note: text {number} is longer than {limit} tokens and was truncated");
            }
            let scores = head.scores(&answer.embedding);
            let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            let label = best.map_or("", |best| head.classes[best].as_str());
            let scores = head.classes.iter().map(String::as_str).zip(scores.clone()).collect();
            let line = serde_json::to_string(&Line { text: &answer.text, label, scores })
                .map_err(|e| Error::input(format!("cannot print an answer: {e}"), "report this"))?;
            writeln!(out, "{line}").map_err(failed())?;
        }
    }
    out.flush().map_err(failed())
}

/// The head in this directory or file, for embeddings of this width.
fn read(path: &Path, hidden: usize) -> Result<Head> {
    let path = if path.is_dir() { path.join("grouse.json") } else { path.to_path_buf() };
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let name = path.display();
    let train = "train one: `grouse heal DIR -o OUT --steps 0 --task classify --train FILE`";
    let record: Record = serde_json::from_slice(&text)
        .map_err(|e| Error::input(format!("{name} is no record of Grouse: {e}"), train))?;
    let head = record.fine_tune.and_then(|fine_tune| fine_tune.head);
    let head =
        head.ok_or_else(|| Error::input(format!("{name} holds no head of a classifier"), train))?;
    let even = head.bias.len() == head.classes.len() && head.weight.len() == head.classes.len();
    if head.classes.is_empty() || !even || head.weight.iter().any(|row| row.len() != hidden) {
        return Err(Error::input(
            format!("{name}: the head is not for embeddings of {hidden} numbers"),
            "name the directory that this file was packed from",
        ));
    }
    Ok(head)
}

impl Head {
    /// Scores of all classes, of sum 1.
    fn scores(&self, embedding: &[f32]) -> Vec<f32> {
        let rows = self.weight.iter().zip(&self.bias);
        let outputs: Vec<f32> = rows
            .map(|(row, bias)| bias + row.iter().zip(embedding).map(|(w, x)| w * x).sum::<f32>())
            .collect();
        let most = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = outputs.iter().map(|output| (output - most).exp()).collect();
        let sum: f32 = powers.iter().sum();
        powers.iter().map(|power| power / sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_a_softmax() {
        let head = Head {
            classes: ["a", "b"].map(String::from).to_vec(),
            weight: vec![vec![1.0, 0.0], vec![0.0, 2.0]],
            bias: vec![0.5, 0.0],
        };
        // 1.5 and 1: e^0.5 to 1.
        let scores = head.scores(&[1.0, 0.5]);
        let part = 0.5_f32.exp() / (0.5_f32.exp() + 1.0);
        assert!((scores[0] - part).abs() < 1e-6 && (scores[0] + scores[1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("grouse.json");
        let error = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read(dir.path(), 2).unwrap_err().to_string()
        };
        assert!(error("not json").contains("no record"));
        assert!(error("{\"fine_tune\": null}").contains("no head"));
        assert!(error("{\"fine_tune\": {\"head\": null}}").contains("no head"));
        let head =
            r#"{"fine_tune":{"head":{"classes":["a"],"weight":[[1.0,2.0,3.0]],"bias":[0]}}}"#;
        assert!(error(head).contains("not for embeddings of 2"));
        assert!(read(&dir.path().join("none"), 2).unwrap_err().to_string().contains("none"));
    }
}
