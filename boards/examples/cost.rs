//! Counts what kinds of work cost on an emulated board, for `[cost]` of the catalogue:
//!
//! ```sh
//! cargo run -p grouse-boards --example cost -- mps2-an505 int8.grouse int4.grouse sparse4.grouse
//! ```
//!
//! Each model is run at three lengths; the figures are those that fit all counts best, each count
//! weighing the same. int8 and int4 models of more than one density tell products from the rest.

use std::error::Error;
use std::path::Path;

use grouse_boards::runner::fit::Work;
use grouse_boards::{Board, Firmware, Options, Session};
use grouse_runtime::mapped::MappedFile;
use grouse_runtime::view::Model;

/// Whole tiles, one to seven.
const TOKENS: [usize; 3] = [16, 48, 112];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let id = arguments.next().ok_or("usage: cost BOARD FILE…")?;
    let board = Board::by_id(&id)?;
    let firmware = Firmware::build(&board, &|_| ())?;
    let mut rows = Vec::new();
    for path in arguments {
        let file = MappedFile::open(Path::new(&path))?;
        let model = Model::open(file.bytes()).map_err(|e| e.to_string())?;
        let options = Options::default();
        let mut session = Session::boot(&board, &firmware, Path::new(&path), &options, &|_| ())?;
        for tokens in TOKENS {
            let answer = session.embed(&vec!["dog"; tokens - 2].join(" "))?;
            let work = Work::new(&model, answer.ids.len()).map_err(|e| e.to_string())?;
            let Work { i8_macs, i4_macs, attention_macs, elements, .. } = work;
            let counted = (answer.work - answer.tokenize_work) as f64;
            let kinds = [i8_macs, i4_macs, attention_macs, elements];
            rows.push(kinds.map(|kind| kind as f64 / counted));
        }
    }
    let costs = least_squares(&rows).ok_or("these models do not tell the kinds apart")?;
    for (name, cost) in ["i8_mac", "i4_mac", "attention_mac", "element"].iter().zip(costs) {
        println!("{name} = {cost:.3}");
    }
    for row in rows {
        let sum: f64 = row.iter().zip(costs).map(|(kind, cost)| kind * cost).sum();
        println!("# {:+.1} %", 100.0 * (sum - 1.0));
    }
    Ok(())
}

/// The weights whose sums over the rows are nearest to 1, by the normal equations.
fn least_squares(rows: &[[f64; 4]]) -> Option<[f64; 4]> {
    let mut m = [[0.0; 5]; 4];
    for row in rows {
        for i in 0..4 {
            (0..4).for_each(|j| m[i][j] += row[i] * row[j]);
            m[i][4] += row[i];
        }
    }
    for i in 0..4 {
        let pivot = (i..4).max_by(|a, b| m[*a][i].abs().total_cmp(&m[*b][i].abs()))?;
        m.swap(i, pivot);
        if m[i][i].abs() < 1e-12 {
            return None;
        }
        for r in 0..4 {
            if r != i {
                let factor = m[r][i] / m[i][i];
                (0..5).for_each(|c| m[r][c] -= factor * m[i][c]);
            }
        }
    }
    Some([0, 1, 2, 3].map(|i| m[i][4] / m[i][i]))
}
