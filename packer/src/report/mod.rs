//! The pruning report: one self-contained HTML page that shows what was kept, and why.

mod charts;
pub mod packed;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;

use crate::prune::Report;
use crate::prune::search::Origin;

/// Two sentences and how alike the models find them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// One sentence.
    pub first: String,
    /// The other.
    pub second: String,
    /// Cosine of the dense model's embeddings.
    pub before: f64,
    /// Cosine of the pruned model's.
    pub after: f64,
}

/// What the page is made of.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The model's name.
    pub model: &'a str,
    /// What pruning did.
    pub report: &'a Report,
    /// Mean cosine between the embeddings before and after.
    pub cosine: f64,
    /// Pairs of sentences to look at.
    pub examples: &'a [Example],
}

const STYLE: &str = "
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#1c2430}
h1{font-size:1.5em} h2{font-size:1.15em;margin-top:2em} p{max-width:46em}
table{border-collapse:collapse;font-size:.9em} td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #dde2ea}
td:first-child,th:first-child,td.text{text-align:left} svg{background:#fff} .grid{display:grid;grid-template-columns:repeat(4,1fr);gap:14px;align-items:end}
figure{margin:0} figcaption{font-size:.8em;color:#556} .figures b{font-size:1.4em} .figures span{margin-right:2em}
";

/// A page with a title and what stands below it.
fn frame(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (body)
            }
        }
    }
    .into_string()
}

/// The page.
pub fn html(page: &Page<'_>) -> String {
    let report = page.report;
    let title = format!("{} at density {:.3}", page.model, report.density);
    let body = html! {
        (figures(page))
        h2 { "What is kept" }
        p {
            "Each picture is a matrix, outputs downwards and inputs to the right, sorted by \
             group. Blue inputs are kept by all outputs, green ones by one group of outputs; \
             white weights are gone. A grey matrix was left whole, an empty one was dropped: \
             its bias says the mean output."
        }
        (patterns(report))
        h2 { "How much each matrix kept, and what it cost" }
        p {
            "Density of every matrix, and the part of its output's energy that is lost. The \
             pruner prunes each matrix alone to see how far the embedding moves with its \
             error, and keeps weights where that is most."
        }
        (charts::bars(report))
        @if let Some(search) = &report.search {
            h2 { "What was tried" }
            p {
                "Every dot is a sub-network within the budget, judged by its agreement with \
                 the dense model: the mean cosine of embeddings, on " (search.held_out) " \
                 held-out sentences and variants of them. The seed, where the losses alone point, has "
                (format!("{:.4}", search.seed_score)) "; the best of "
                (search.candidates.len()) " has " (format!("{:.4}", search.best_score)) "."
            }
            (charts::candidates(search))
            h2 { "Agreement against size" }
            p { "The same model at other budgets, allocated by the losses alone and judged on the same sentences." }
            (charts::frontier(search, report.requested_density))
        }
        h2 { "Before and after" }
        p { "How alike the dense and the pruned model find two sentences. What matters is the order." }
        (examples(page.examples))
        h2 { "All matrices" }
        (table(report))
    };
    frame(&title, &body)
}

fn figures(page: &Page<'_>) -> Markup {
    let report = page.report;
    let kept: usize = report.matrices.iter().map(|m| m.kept).sum();
    let all: usize = report.matrices.iter().map(|m| m.rows * m.cols).sum();
    let method = format!("{:?}", report.method).to_lowercase();
    html! {
        p.figures {
            span { b { (format!("{:.1} %", 100.0 * report.density)) } " of the weights kept" }
            span { b { (format!("{:.2} M", kept as f64 / 1e6)) } (format!(" of {:.2} M", all as f64 / 1e6)) }
            span { b { (format!("{:.3}", page.cosine)) } " mean cosine to the dense embedding" }
        }
        p { "Method " b { (method) } ", seed " (report.seed) "." }
    }
}

fn patterns(report: &Report) -> Markup {
    html! {
        div.grid {
            @for m in &report.matrices {
                figure {
                    (charts::pattern(m.into()))
                    figcaption { "layer " (m.layer) ", " (m.matrix) br; (format!("{:.3}, {} groups", m.density, m.groups)) }
                }
            }
        }
    }
}

fn examples(examples: &[Example]) -> Markup {
    html! {
        table {
            tr { th { "sentence" } th { "sentence" } th { "dense" } th { "pruned" } }
            @for e in examples {
                tr {
                    td.text { (e.first) } td.text { (e.second) }
                    td { (format!("{:.3}", e.before)) } td { (format!("{:.3}", e.after)) }
                }
            }
        }
    }
}

fn table(report: &Report) -> Markup {
    html! {
        table {
            tr {
                th { "matrix" } th { "shape" } th { "kept" } th { "density" } th { "groups" }
                th { "shared inputs" } th { "dropped inputs" } th { "outputs gone" }
                th { "output error" }
            }
            @for m in &report.matrices {
                tr {
                    td { (m.layer) " " (m.matrix) } td { (m.rows) "×" (m.cols) } td { (m.kept) }
                    td { (format!("{:.4}", m.density)) } td { (m.groups) } td { (m.shared) } td { (m.dropped) }
                    td { (m.gone) } td { (format!("{:.4}", m.error)) }
                }
            }
        }
    }
}

/// The name a reader sees.
fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Seed => "seed: losses alone",
        Origin::Uniform => "same density everywhere",
        Origin::Random => "random",
        Origin::Disturbed => "losses disturbed",
        Origin::Evolved => "improved",
    }
}

#[cfg(test)]
mod tests;
