//! `grouse demo`: the other commands, one after the other, on one real model.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Error, Result};

use super::output::say;

/// The whole way on one real model, from nothing: pull, prune, pack, inspect, run on a board.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the pruned model and the packed file go.
    #[arg(long, value_name = "DIR", default_value = "demo")]
    dir: PathBuf,
    /// Weights to keep / all weights of the encoder.
    #[arg(long, value_name = "D", default_value = "0.5")]
    density: f64,
    /// The board to boot.
    #[arg(long, value_name = "B", default_value = "mps3-an547")]
    board: String,
}

/// What the board is asked.
const TEXTS: [&str; 3] = [
    "A man is playing a guitar on stage.",
    "Someone performs music with a string instrument.",
    "The stock fell seven percent on Monday.",
];

/// Runs the command.
///
/// # Errors
/// The first failing step's, and any difference between the board's bits and this machine's.
pub fn run(args: Args) -> Result<()> {
    ensure_qemu()?;
    std::fs::create_dir_all(&args.dir).map_err(Error::io("create", &args.dir))?;
    let path = |name: &str| args.dir.join(name).display().to_string();
    let (pruned, file) = (path("pruned"), path("model.grouse"));
    let density = args.density.to_string();

    let model = grouse(&["pull"])?.trim().to_string();
    say!("{model}\n");
    say!("{}", grouse(&["prune", &model, "-o", &pruned, "--density", &density])?);
    say!("{}", grouse(&["pack", &pruned, "-o", &file])?);
    say!("{}", grouse(&["inspect", &file])?);

    let mut host = vec!["embed", &file, "--json"];
    host.extend(TEXTS);
    let host = lines(&grouse(&host)?)?;
    let mut board = vec!["run", &file, "--board", &args.board, "--json"];
    board.extend(TEXTS);
    let board = lines(&grouse(&board)?)?;
    say!();
    for (i, (here, there)) in host.iter().zip(&board).enumerate() {
        let text = TEXTS.get(i).copied().unwrap_or_default();
        if here["embedding"] != there["embedding"] || here["ids"] != there["ids"] {
            return Err(Error::input(
                format!("the board and this machine differ on \"{text}\""),
                "this is a bug in Grouse: please report it with the model and the text",
            ));
        }
        say!(
            "{text:<50} {:>3} tokens, {:>11} instructions, embedding {}…",
            here["ids"].as_array().map_or(0, Vec::len),
            there["instructions"],
            first_numbers(&there["embedding"]),
        );
    }
    if let [a, b, c, ..] = board.as_slice() {
        say!("\nsimilarity of 1 and 2: {:.3}", similarity(a, b));
        say!("similarity of 1 and 3: {:.3}", similarity(a, c));
    }
    if let Some(answer) = board.first() {
        say!(
            "\n{}: arena {} bytes, firmware {} bytes of flash, {} bytes of RAM",
            args.board,
            answer["arena_bytes"],
            answer["flash_bytes"],
            answer["ram_bytes"]
        );
    }
    say!("board and laptop: the same bits for all {} texts", TEXTS.len());
    Ok(())
}

/// Runs this program with `arguments`, saying so, and returns what it printed.
fn grouse(arguments: &[&str]) -> Result<String> {
    let quoted: Vec<String> = arguments
        .iter()
        .map(|a| if a.contains(' ') { format!("\"{a}\"") } else { a.to_string() })
        .collect();
    say!("$ grouse {}", quoted.join(" "));
    let program = std::env::current_exe().map_err(Error::io("find", "grouse itself"))?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::io("start", "grouse itself"))?;
    if !output.status.success() {
        return Err(Error::input(
            format!("`grouse {}` failed", quoted.join(" ")),
            "the message above says why; mend that and run `grouse demo` again",
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn lines(output: &str) -> Result<Vec<Value>> {
    output
        .lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|e| {
                Error::input(format!("not a JSON line: {e}"), "this is a bug in Grouse")
            })
        })
        .collect()
}

fn numbers(embedding: &Value) -> Vec<f32> {
    let values = embedding.as_array().map(Vec::as_slice).unwrap_or_default();
    values.iter().filter_map(Value::as_f64).map(|v| v as f32).collect()
}

fn first_numbers(embedding: &Value) -> String {
    let first: Vec<String> = numbers(embedding).iter().take(3).map(|v| format!("{v:.4}")).collect();
    first.join(" ")
}

fn similarity(a: &Value, b: &Value) -> f64 {
    crate::eval::cosine(&numbers(&a["embedding"]), &numbers(&b["embedding"]))
}

/// Makes sure that QEMU is there: installs it where that needs no question, else says what to type.
fn ensure_qemu() -> Result<()> {
    let there = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    if there("qemu-system-arm") {
        return Ok(());
    }
    let root = Path::new("/usr/bin/apt-get").exists()
        && Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    if root {
        for step in [&["update"][..], &["install", "-y", "qemu-system-arm"]] {
            eprintln!("QEMU is missing: apt-get {}", step.join(" "));
            let mut command = Command::new("apt-get");
            command.args(step).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
            command.status().map_err(Error::io("start", "apt-get"))?;
        }
    }
    if there("qemu-system-arm") {
        return Ok(());
    }
    Err(Error::input(
        "qemu-system-arm, the emulator of the demo's board, is not installed",
        "sudo apt-get update && sudo apt-get install -y qemu-system-arm",
    ))
}
