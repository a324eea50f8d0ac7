//! `grouse run --board all`: the same texts on every board that can be emulated here.

use std::path::Path;
use std::time::Instant;

use grouse_boards::catalogue::Unit;
use grouse_boards::runner::Listener;
use grouse_boards::{Board, Firmware, Options, Progress, Session};
use serde::Serialize;

use crate::engine::{self, Answer, Engine, PackedFile};
use crate::{Error, Result};

use super::output::say;

/// How the texts went on one board.
#[derive(Debug, Serialize)]
struct Row {
    board: String,
    core: String,
    /// Empty when nothing was run.
    backend: String,
    /// Ids and embeddings of all texts have the host's bits; `None` when nothing was run.
    same_bits: Option<bool>,
    /// From text to embedding, all texts together, where the emulator counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<u64>,
    /// The same on this machine's clock, with the line.
    seconds: f64,
    /// Why nothing was run.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

/// Runs `texts` on every emulated board and compares what comes back with this host's answers.
///
/// # Errors
/// A bad file or text, and, after the table, a board with other bits.
pub fn run(
    file: &Path,
    texts: &[String],
    options: &Options,
    json: bool,
    listener: Listener<'_>,
) -> Result<()> {
    let packed = PackedFile::open(file)?;
    let host = Engine::new(packed.model()?, engine::backend(None)?, None)?;
    let expected = host.embed(texts, || ())?;
    let boards = Board::all().map_err(super::run::board_error)?;
    let mut rows = Vec::new();
    for board in boards.into_iter().filter(|board| board.qemu.is_some()) {
        let row = on(&board, file, texts, &expected, options, listener);
        rows.push(row.unwrap_or_else(|error| Row {
            board: board.id,
            core: board.core,
            backend: String::new(),
            same_bits: None,
            instructions: None,
            seconds: 0.0,
            skipped: Some(format!("{error}; {}", error.remedy())),
        }));
    }
    listener(Progress::Step("all boards done"));
    if json {
        super::print_json(&rows)?;
    } else {
        table(&rows)?;
    }
    let differ: Vec<&str> =
        rows.iter().filter(|r| r.same_bits == Some(false)).map(|r| r.board.as_str()).collect();
    if differ.is_empty() && rows.iter().any(|row| row.same_bits.is_some()) {
        return Ok(());
    }
    Err(match differ.as_slice() {
        [] => Error::input("no board could be emulated", "see the table for what is missing"),
        boards => Error::input(
            format!("other bits than this host's on {}", boards.join(", ")),
            "run it there with --self-test: it says which backend and which text differ",
        ),
    })
}

fn on(
    board: &Board,
    file: &Path,
    texts: &[String],
    expected: &[Answer],
    options: &Options,
    listener: Listener<'_>,
) -> grouse_boards::Result<Row> {
    let firmware = Firmware::build(board, listener)?;
    let mut session = Session::boot(board, &firmware, file, options, listener)?;
    let (mut same, mut work) = (true, 0);
    let start = Instant::now();
    for (text, expected) in texts.iter().zip(expected) {
        let answer = session.embed(text)?;
        let alike = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        same &= answer.ids == expected.ids
            && answer.embedding.len() == expected.embedding.len()
            && answer.embedding.iter().zip(&expected.embedding).all(alike);
        work += answer.work;
    }
    Ok(Row {
        board: board.id.clone(),
        core: board.core.clone(),
        backend: session.info().backend.clone(),
        same_bits: Some(same),
        instructions: (board.counter.unit == Unit::Instructions).then_some(work),
        seconds: start.elapsed().as_secs_f64(),
        skipped: None,
    })
}

fn table(rows: &[Row]) -> Result<()> {
    let head = ("board", "core", "backend", "same bits", "instructions", "seconds");
    let (board, core, backend, same, instructions, seconds) = head;
    say!("{board:<14} {core:<24} {backend:<10} {same:<9} {instructions:>14} {seconds:>8}");
    for row in rows {
        let Row { board, core, backend, same_bits, instructions, seconds, skipped } = row;
        if let Some(why) = skipped {
            say!("{board:<14} {core:<24} skipped: {why}");
            continue;
        }
        let same = if *same_bits == Some(true) { "yes" } else { "NO" };
        let instructions = instructions.map_or("not counted".into(), |n| n.to_string());
        say!("{board:<14} {core:<24} {backend:<10} {same:<9} {instructions:>14} {seconds:>8.2}");
    }
    say!("seconds are the emulator's on this machine and say nothing about a board");
    Ok(())
}
