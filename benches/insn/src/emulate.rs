//! Runs a guest with the plugin and puts together what both wrote.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::images::{self, Images};
use crate::record::{Line, Record, Subject};
use crate::targets::{Runner, Target};

/// What the guests are asked to run.
pub(crate) struct Asked<'a> {
    /// Numbers of tokens.
    pub tokens: &'a [u16],
    /// A backend, or "all".
    pub backend: &'a str,
    /// Cases.
    pub cases: &'a [String],
}

impl Asked<'_> {
    /// The words that a guest reads.
    fn words(&self) -> [String; 3] {
        let tokens: Vec<_> = self.tokens.iter().map(u16::to_string).collect();
        [
            format!("tokens={}", tokens.join(",")),
            format!("backend={}", self.backend),
            format!("cases={}", self.cases.join(",")),
        ]
    }
}

/// Runs all that is asked on one target.
pub(crate) fn run(
    target: &'static Target,
    images: &Images,
    subject: &Subject,
    asked: &Asked<'_>,
) -> Result<Vec<Record>> {
    let guest = images.guest(target);
    let counts = images.counts(target);
    let mut command = match target.runner {
        Runner::Native => Command::new(&guest),
        Runner::User { qemu, .. } => Command::new(qemu),
        Runner::Machine(_) => Command::new("qemu-system-arm"),
    };
    if !matches!(target.runner, Runner::Native) {
        let plugin = option(images.plugin().as_path(), ",out=");
        command.arg("-plugin").arg(joined(plugin, option(&counts, "")));
    }
    match target.runner {
        Runner::Native => command.arg(&subject.path).args(asked.words()),
        Runner::User { cpu, .. } => {
            command.args(["-cpu", cpu]).arg(&guest).arg(&subject.path).args(asked.words())
        }
        Runner::Machine(machine) => {
            let region = images::model_region(&guest)?;
            if subject.bytes > region.end - region.start {
                return Err(Error::LeftOut(format!(
                    "{} on {} ({machine}): it has {} bytes, the machine has room for {}; pack a \
                     model with a smaller vocabulary, see `grouse-insn crop`",
                    subject.name,
                    target.name,
                    subject.bytes,
                    region.end - region.start
                )));
            }
            let loader = joined(
                "loader,file=".into(),
                option(&subject.path, &format!(",addr={:#x},force-raw=on", region.start)),
            );
            let words = asked.words().map(|word| format!(",arg={}", word.replace(',', ",,")));
            command
                .args(["-machine", machine, "-display", "none", "-monitor", "none"])
                .args(["-serial", "none", "-kernel"])
                .arg(&guest)
                .arg("-device")
                .arg(loader)
                .arg("-semihosting-config")
                .arg(format!("enable=on,target=native{}", words.concat()))
        }
    };
    let program = command.get_program().to_owned();
    let output = command.output().map_err(Error::io("start", program))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("error: ").to_owned();
        let status = output.status.to_string();
        return Err(Error::Guest { target: target.name, status, said });
    }
    let wrong = |what: String| Error::Count { target: target.name, what };
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Said>>>();
    let lines = lines.map_err(|e| wrong(format!("the guest said something else: {e}")))?;
    if let Some(Said::Absent { absent }) = lines.last() {
        let name = target.name;
        return Err(Error::LeftOut(format!(
            "{name}: it has no backend {absent}, or cannot run it"
        )));
    }
    let counts = match target.runner {
        Runner::Native => None,
        _ => Some(std::fs::read_to_string(&counts).map_err(Error::io("read", counts))?),
    };
    let counts = counts.as_deref().map(regions).transpose().map_err(wrong)?;
    records(subject, target.name, lines, counts.as_deref()).map_err(wrong)
}

/// A guest's line.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Said {
    /// A case.
    Case(Line),
    /// A loop of two instructions a turn, to check the counting itself.
    Loop { region: usize, turns: u64 },
    /// The backend that was asked for, which this guest has not or its core cannot run.
    Absent { absent: String },
}

/// The plugin's line.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Counted {
    Region { region: usize, instructions: u64 },
    Error { error: String },
}

/// The instructions of all regions.
fn regions(text: &str) -> std::result::Result<Vec<u64>, String> {
    let mut counts = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))? {
            Counted::Error { error } => return Err(error),
            Counted::Region { region, instructions } if region == counts.len() => {
                counts.push(instructions);
            }
            Counted::Region { region, .. } => return Err(format!("region {region} is early")),
        }
    }
    Ok(counts)
}

/// Joins lines and counts, and checks the counts by the loops.
fn records(
    subject: &Subject,
    target: &'static str,
    lines: Vec<Said>,
    counts: Option<&[u64]>,
) -> std::result::Result<Vec<Record>, String> {
    let ran = lines.len();
    if let Some(counts) = counts
        && counts.len() != ran
    {
        return Err(format!("the guest ran {ran} regions, the plugin counted {}", counts.len()));
    }
    let count = |region: usize| counts.map(|counts| counts.get(region).copied());
    let missing = || "a line names a region that was not counted".to_owned();
    let mut records = Vec::new();
    let mut shorter: Option<(u64, u64)> = None;
    for line in lines {
        match line {
            Said::Case(line) => {
                let instructions = count(line.region).map(|n| n.ok_or_else(missing)).transpose()?;
                records.push(Record::new(subject, target, line, instructions));
            }
            Said::Absent { absent } => {
                return Err(format!("the guest had no backend {absent}, yet went on"));
            }
            Said::Loop { region, turns } => {
                let Some(counted) = count(region) else { continue };
                let counted = counted.ok_or_else(missing)?;
                if let Some((turns_before, before)) = shorter.replace((turns, counted)) {
                    let expected = 2 * (turns - turns_before);
                    let found = counted.wrapping_sub(before);
                    if found != expected {
                        return Err(format!("{expected} instructions were counted as {found}"));
                    }
                }
            }
        }
    }
    if counts.is_some() && shorter.is_none() {
        return Err("the guest has not run its check loops".into());
    }
    Ok(records)
}

/// A path inside a QEMU option, where commas must be doubled, and what follows it.
fn option(path: &Path, after: &str) -> OsString {
    let mut option = match path.to_str() {
        Some(text) => text.replace(',', ",,").into(),
        None => path.as_os_str().to_owned(),
    };
    option.push(after);
    option
}

fn joined(mut a: OsString, b: OsString) -> OsString {
    a.push(b);
    a
}
