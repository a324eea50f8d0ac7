//! The result as tables for people.

use std::fmt::Write as _;

use crate::record::{Record, Subject};
use crate::targets::{Runner, Target};

/// A table for each model, case and length, and what the targets are.
pub(crate) fn tables(subjects: &[Subject], targets: &[&Target], records: &[Record]) -> String {
    let mut text = String::new();
    for subject in subjects {
        let Subject { name, bytes, shape, density, .. } = subject;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# {name}: {bytes} bytes, {shape}, density {density:.4}\n");
        let mut records: Vec<_> = records.iter().filter(|r| r.model == *name).collect();
        while let Some(first) = records.first().map(|record| record.line.clone()) {
            let is_same = |r: &&Record| r.line.case == first.case && r.line.tokens == first.tokens;
            let _ = writeln!(
                text,
                "## {}, {} tokens, {} MACs\n",
                first.case,
                first.tokens,
                thousands(first.macs)
            );
            text.push_str("| target | backend | instructions | MACs per instruction |\n");
            text.push_str("| --- | --- | ---: | ---: |\n");
            for record in records.iter().filter(|r| is_same(r)) {
                let (target, backend) = (record.target, &record.line.backend);
                if let (Some(n), Some(rate)) = (record.instructions, record.macs_per_instruction) {
                    let _ =
                        writeln!(text, "| {target} | {backend} | {} | {rate:.3} |", thousands(n));
                }
            }
            text.push('\n');
            records.retain(|r| !is_same(r));
        }
    }
    for target in targets {
        match target.runner {
            Runner::Native => {}
            Runner::User { qemu, cpu } => {
                let _ = writeln!(text, "- {}: {} ({qemu} -cpu {cpu})", target.name, target.core);
            }
            Runner::Machine(machine) => {
                let _ = writeln!(text, "- {}: {} ({machine})", target.name, target.core);
            }
        }
    }
    text
}

/// A number with a space before every three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_threes() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(123), "123");
        assert_eq!(thousands(1234), "1 234");
        assert_eq!(thousands(359_347_685), "359 347 685");
    }
}
