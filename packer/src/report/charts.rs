//! The report's pictures, as SVG.

use maud::{Markup, html};

use super::origin;
use crate::prune::MatrixReport;
use crate::prune::Report;
use crate::prune::auto::SearchReport;
use crate::prune::search::Origin;

/// Longest side of a pattern.
const SIDE: f64 = 150.0;
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 320.0;
/// Room for the axes' numbers.
const MARGIN: f64 = 60.0;

/// What a picture of a matrix needs.
#[derive(Debug, Clone, Copy)]
pub struct Pattern<'a> {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Inputs that all groups read.
    pub shared: usize,
    /// Outputs and own inputs of each group; empty where there are no groups.
    pub blocks: &'a [(usize, usize)],
    /// Weights that are there.
    pub kept: usize,
}

impl<'a> From<&'a MatrixReport> for Pattern<'a> {
    fn from(m: &'a MatrixReport) -> Self {
        let MatrixReport { rows, cols, shared, kept, .. } = *m;
        Self { rows, cols, shared, blocks: &m.blocks, kept }
    }
}

/// The kept blocks of one matrix, to scale.
pub fn pattern(m: Pattern<'_>) -> Markup {
    let scale = SIDE / m.rows.max(m.cols).max(1) as f64;
    let (width, height) = (m.cols as f64 * scale, m.rows as f64 * scale);
    let whole = m.kept == m.rows * m.cols;
    let mut top = 0.0;
    let mut left = m.shared as f64 * scale;
    let blocks: Vec<[f64; 4]> = m
        .blocks
        .iter()
        .map(|(rows, own)| {
            let (h, w) = (*rows as f64 * scale, *own as f64 * scale);
            let block = [left, top, w, h];
            top += h;
            left += w;
            block
        })
        .collect();
    html! {
        svg width=(width + 2.0) height=(height + 2.0) viewBox=(format!("-1 -1 {} {}", width + 2.0, height + 2.0)) {
            rect width=(width) height=(height) fill="#fff" stroke="#99a" {}
            @if whole {
                rect width=(width) height=(height) fill="#b8c0cc" {}
            } @else if m.blocks.is_empty() {
                rect width=(width) height=(height) fill="#2f6fde" fill-opacity=(m.kept as f64 / (m.rows * m.cols).max(1) as f64) {}
            } @else {
                rect width=(m.shared as f64 * scale) height=(height) fill="#2f6fde" {}
                @for [x, y, w, h] in blocks {
                    rect x=(x) y=(y) width=(w) height=(h) fill="#2a9d6f" {}
                }
            }
        }
    }
}

/// Density of every matrix, and its error.
pub fn bars(report: &Report) -> Markup {
    let count = report.matrices.len().max(1) as f64;
    let step = (WIDTH - MARGIN) / count;
    let tall = HEIGHT - 110.0;
    html! {
        svg width=(WIDTH) height=(HEIGHT) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) {
            @for (i, m) in report.matrices.iter().enumerate() {
                @let x = MARGIN + i as f64 * step;
                @let density = m.density * tall;
                @let error = m.error * tall;
                rect x=(x) y=(10.0 + tall - density) width=(step * 0.4) height=(density) fill="#2f6fde" {
                    title { (format!("layer {} {}: density {:.3}", m.layer, m.matrix, m.density)) }
                }
                rect x=(x + step * 0.42) y=(10.0 + tall - error) width=(step * 0.3) height=(error) fill="#e08a3c" {
                    title { (format!("output error {:.4}", m.error)) }
                }
                text x=(0) y=(0) font-size="11" fill="#445" transform=(format!("translate({} {}) rotate(60)", x, tall + 22.0)) {
                    (m.layer) " " (m.matrix)
                }
            }
            @for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
                text x="4" y=(14.0 + tall - tick * tall) font-size="11" fill="#445" { (format!("{tick:.2}")) }
            }
            rect x=(WIDTH - 330.0) y="6" width="12" height="12" fill="#2f6fde" {}
            text x=(WIDTH - 312.0) y="16" font-size="12" { "density" }
            rect x=(WIDTH - 230.0) y="6" width="12" height="12" fill="#e08a3c" {}
            text x=(WIDTH - 212.0) y="16" font-size="12" { "output error (part of its energy)" }
        }
    }
}

/// Positions of numbers on an axis.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64> + Clone, start: f64, end: f64) -> Self {
        let from = values.clone().fold(f64::INFINITY, f64::min);
        let to = values.fold(f64::NEG_INFINITY, f64::max);
        let room = ((to - from) * 0.05).max(1e-6);
        Self { from: from - room, to: to + room, start, end }
    }

    fn at(&self, value: f64) -> f64 {
        self.start + (value - self.from) / (self.to - self.from) * (self.end - self.start)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        (0..=4).map(|i| self.from + f64::from(i) / 4.0 * (self.to - self.from))
    }
}

/// The axes with their numbers and names.
fn axes(x: &Axis, y: &Axis, names: [&str; 2]) -> Markup {
    html! {
        line x1=(x.start) y1=(y.start) x2=(x.end) y2=(y.start) stroke="#99a" {}
        line x1=(x.start) y1=(y.start) x2=(x.start) y2=(y.end) stroke="#99a" {}
        @for tick in x.ticks() {
            text x=(x.at(tick)) y=(y.start + 16.0) font-size="11" text-anchor="middle" fill="#445" { (format!("{tick:.3}")) }
        }
        @for tick in y.ticks() {
            text x=(x.start - 6.0) y=(y.at(tick) + 4.0) font-size="11" text-anchor="end" fill="#445" { (format!("{tick:.3}")) }
        }
        text x=(x.end) y=(y.start + 34.0) font-size="12" text-anchor="end" { (names[0]) }
        text x=(x.start + 6.0) y=(y.end + 4.0) font-size="12" { (names[1]) }
    }
}

fn colour(of: Origin) -> &'static str {
    match of {
        Origin::Seed => "#c0392b",
        Origin::Uniform => "#333",
        Origin::Random => "#9aa5b1",
        Origin::Disturbed => "#2f6fde",
        Origin::Evolved => "#2a9d6f",
    }
}

/// Candidates by loss and agreement: those that were judged on all held-out sentences.
pub fn candidates(search: &SearchReport) -> Markup {
    let judged: Vec<_> = search.candidates.iter().filter(|c| c.whole).collect();
    let x = Axis::new(judged.iter().map(|c| c.loss.ln()), MARGIN, WIDTH - 20.0);
    let y = Axis::new(judged.iter().map(|c| c.score), HEIGHT - 50.0, 20.0);
    let origins =
        [Origin::Seed, Origin::Uniform, Origin::Random, Origin::Disturbed, Origin::Evolved];
    html! {
        svg width=(WIDTH) height=(HEIGHT) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) {
            (axes(&x, &y, ["logarithm of the predicted loss", "agreement"]))
            @for c in &judged {
                circle cx=(x.at(c.loss.ln())) cy=(y.at(c.score)) r="5" fill=(colour(c.origin)) fill-opacity="0.8" {
                    title { (origin(c.origin)) (format!(": agreement {:.4}, loss {:.4}", c.score, c.loss)) }
                }
            }
            @if let Some(best) = judged.first() {
                circle cx=(x.at(best.loss.ln())) cy=(y.at(best.score)) r="9" fill="none" stroke="#111" stroke-width="2" {}
            }
            @for (i, o) in origins.into_iter().enumerate() {
                circle cx=(WIDTH - 190.0) cy=(HEIGHT - 150.0 + 18.0 * i as f64) r="5" fill=(colour(o)) {}
                text x=(WIDTH - 178.0) y=(HEIGHT - 146.0 + 18.0 * i as f64) font-size="12" { (origin(o)) }
            }
        }
    }
}

/// Agreement at other budgets.
pub fn frontier(search: &SearchReport, asked: f64) -> Markup {
    let points = &search.frontier;
    let x = Axis::new(points.iter().map(|p| p.density), MARGIN, WIDTH - 20.0);
    let scores = points.iter().map(|p| p.score).chain([search.best_score]);
    let y = Axis::new(scores, HEIGHT - 50.0, 20.0);
    let line: Vec<String> =
        points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.density), y.at(p.score))).collect();
    html! {
        svg width=(WIDTH) height=(HEIGHT) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) {
            (axes(&x, &y, ["part of the budget's measure that is kept", "agreement"]))
            polyline points=(line.join(" ")) fill="none" stroke="#2f6fde" stroke-width="2" {}
            @for p in points {
                circle cx=(x.at(p.density)) cy=(y.at(p.score)) r="5" fill="#2f6fde" {
                    title { (format!("{:.3}: {:.4}", p.density, p.score)) }
                }
            }
            circle cx=(x.at(asked)) cy=(y.at(search.best_score)) r="6" fill="#2a9d6f" {
                title { (format!("the winner: {:.4}", search.best_score)) }
            }
        }
    }
}
