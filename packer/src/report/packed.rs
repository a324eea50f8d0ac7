//! `grouse inspect --html`: one self-contained page of what is inside a packed file.

use maud::{Markup, html};

use super::charts::{self, Pattern};
use super::frame;
use crate::inspect::{Inspection, MatrixFigures};

/// Width of the bar of sections.
const WIDTH: f64 = 1000.0;

/// The page.
pub fn html(file: &Inspection) -> String {
    let name = file.meta["model"].as_str().unwrap_or("a packed model");
    let title = format!("{name}: {:.2} MB", file.bytes as f64 / 1e6);
    let arch = &file.arch;
    let body = html! {
        p.figures {
            span { b { (format!("{:.1} %", 100.0 * file.density)) } " of the encoder's weights" }
            span { b { (arch.vocab_size) } " word pieces" }
            span { b { (arch.max_tokens) } " tokens at most" }
        }
        p {
            (arch.layers) " layers, hidden " (arch.hidden_size) ", " (arch.heads)
            " heads, feed-forward " (arch.intermediate_size) ", " (arch.activation) ", "
            (arch.pooling) " pooling" @if arch.normalize { ", L2-normalised" }
            "; word table " (arch.embeddings) "; format v" (file.version) ", layout "
            (file.layout) ", checksum " (file.checksum) "."
        }
        @if let Some(words) = vocabulary(file) { p { (words) } }
        h2 { "Bytes" }
        (bar(file))
        (sections(file))
        h2 { "Matrices" }
        p {
            "Outputs downwards and inputs to the right, group after group. Blue inputs are \
             read by all groups, green ones by one; white weights are not in the file. A \
             grey matrix is whole."
        }
        div.grid {
            @for m in &file.matrices {
                figure {
                    (charts::pattern(pattern(m)))
                    figcaption {
                        "layer " (m.layer) ", " (m.matrix) ", " (m.weights) br;
                        (format!("{:.3}, {} groups", m.density, m.groups))
                    }
                }
            }
        }
        h2 { "Working memory" }
        p { "Bytes of arena for a text of so many tokens; with the least of them each weight is read twice as often." }
        table {
            tr { th { "tokens" } th { "arena" } th { "at least" } }
            @for row in &file.arena {
                tr { td { (row.tokens) } td { (row.bytes) } td { (row.least_bytes) } }
            }
        }
    };
    frame(&title, &body)
}

fn pattern(m: &MatrixFigures) -> Pattern<'_> {
    let whole = m.blocks.len() == 1;
    let blocks = if whole { &[][..] } else { &m.blocks };
    Pattern { rows: m.rows, cols: m.cols, shared: m.shared, blocks, kept: m.kept as usize }
}

/// How the vocabulary was trimmed.
fn vocabulary(file: &Inspection) -> Option<String> {
    let trimmed = &file.meta["vocabulary"];
    let figure = |name: &str| trimmed[name].as_f64();
    Some(format!(
        "The vocabulary has {} of {} pieces, chosen by {}, {:.2} % of whose words are split as before.",
        figure("size")?,
        figure("of")?,
        trimmed["corpus"].as_str()?,
        100.0 * figure("words_unchanged")? / figure("words")?.max(1.0),
    ))
}

/// The sections side by side.
fn bar(file: &Inspection) -> Markup {
    let scale = WIDTH / file.bytes.max(1) as f64;
    html! {
        svg width=(WIDTH) height="44" viewBox=(format!("0 0 {WIDTH} 44")) {
            @for (i, s) in file.sections.iter().enumerate() {
                @let wide = s.bytes as f64 * scale;
                rect x=(s.offset as f64 * scale) width=(wide) height="26" fill=(color(&s.kind, i)) {
                    title { (s.kind) " " (s.index) ": " (s.bytes) " bytes" }
                }
                @if wide > 40.0 {
                    text x=(s.offset as f64 * scale + 4.0) y="41" font-size="12" { (s.kind) }
                }
            }
        }
    }
}

fn color(kind: &str, number: usize) -> &'static str {
    match kind {
        "TOKN" => "#c98a2b",
        "EMBD" => "#b8513f",
        "LAYR" if number.is_multiple_of(2) => "#2f6fde",
        "LAYR" => "#5f93ea",
        _ => "#99a",
    }
}

fn sections(file: &Inspection) -> Markup {
    html! {
        table {
            tr { th { "section" } th { "offset" } th { "bytes" } th { "of the file" } }
            @for s in &file.sections {
                tr {
                    td { (s.kind) @if s.kind == "LAYR" { " " (s.index) } }
                    td { (s.offset) } td { (s.bytes) }
                    td { (format!("{:.1} %", 100.0 * s.bytes as f64 / file.bytes.max(1) as f64)) }
                }
            }
        }
    }
}
