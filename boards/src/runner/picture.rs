//! The layout of a board's memory as a picture: a bar for each region, filled as far as it is used.

use std::fmt::Write as _;

use super::fit::Fit;
use crate::catalogue::Board;

const WIDTH: f64 = 640.0;
const BAR: f64 = 26.0;
const STEP: f64 = 62.0;
const LEFT: f64 = 20.0;
const TOP: f64 = 58.0;

/// An SVG file of the layout.
pub fn svg(board: &Board, fit: &Fit) -> String {
    let height = TOP + STEP * fit.memory.len() as f64 + 10.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{height}\" \
         viewBox=\"0 0 {w} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"17\">{id}: {tokens} tokens, {verdict}</text>\n",
        w = WIDTH + 2.0 * LEFT,
        id = escape(&board.id),
        tokens = fit.tokens,
        verdict = if fit.fits { "fits" } else { "does not fit" },
    );
    for (number, share) in fit.memory.iter().enumerate() {
        let y = TOP + STEP * number as f64;
        let used = share.needed as f64 / (share.available as f64).max(1.0);
        let fill = if share.margin < 0 { "#c0392b" } else { "#2e86ab" };
        let regions = board.regions.as_ref().map(|regions| regions.all());
        let place = regions.iter().flatten().find(|(name, _)| *name == share.region);
        let place = place.map_or(String::new(), |(_, region)| format!(" {:#010x}", region.origin));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "<text x=\"{LEFT}\" y=\"{}\">{}{place}: {} of {} bytes ({})</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{BAR}\" fill=\"#e8ebee\"/>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>\n",
            y - 6.0,
            escape(share.region),
            share.needed,
            share.available,
            escape(&share.of),
            (WIDTH * used).clamp(1.0, WIDTH),
        );
    }
    text.push_str("</svg>\n");
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
