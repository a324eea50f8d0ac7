//! This core's limits in arithmetic: `peak`, then `RUN f32` or `RUN int8`.
//!
//! Answers 10⁹ operations a second, or `none` where the instruction is missing.

use anyhow::{Result, bail};

#[path = "../../../../src/peak.rs"]
mod peak;

fn main() -> Result<()> {
    grouse_peers::answer(|request, name| {
        let rate = match (request, name) {
            ("RUN", "f32") => peak::f32(),
            ("RUN", "int8") => peak::int8(),
            _ => bail!("no request is called \"{request} {name}\""),
        };
        Ok(rate.map_or("none".into(), |r| r.to_string()))
    })
}
