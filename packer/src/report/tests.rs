//! The page of a made-up report.

use super::*;
use crate::prune::{MatrixReport, Method};

#[test]
fn the_page_stands_alone_and_escapes_text() {
    let matrix = MatrixReport {
        layer: 3,
        matrix: "ffn.in",
        rows: 64,
        cols: 32,
        kept: 512,
        density: 0.25,
        groups: 2,
        blocks: vec![(32, 4), (32, 4)],
        shared: 4,
        dropped: 20,
        gone: 0,
        error: 0.1,
    };
    let report = Report {
        requested_density: 0.25,
        density: 0.25,
        density_before: 1.0,
        method: Method::Groups,
        seed: 0,
        error: 0.1,
        matrices: vec![matrix],
        search: None,
    };
    let examples =
        [Example { first: "a < b & c".into(), second: "d".into(), before: 0.5, after: 0.25 }];
    let page = html(&Page { model: "tiny", report: &report, cosine: 0.9, examples: &examples });
    assert!(page.starts_with("<!DOCTYPE html>"));
    assert!(page.contains("a &lt; b &amp; c"));
    assert!(page.contains("ffn.in"));
    // Nothing is fetched.
    assert!(!page.contains("http") && !page.contains("src="));
}
