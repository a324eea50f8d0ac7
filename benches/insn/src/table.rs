//! The result as a table for people.

use std::fmt::Write as _;

use crate::record::{Record, Subject};
use crate::targets::Target;

/// A table for each model, and what the targets are.
pub(crate) fn table(subjects: &[Subject], targets: &[&Target], records: &[Record]) -> String {
    let mut text = String::new();
    for subject in subjects {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {} bytes, {}, density {:.4}\n",
            subject.name, subject.bytes, subject.shape, subject.density
        );
        text.push_str(
            "| target | case | tokens | backend | instructions | MACs/instruction | CRC |\n",
        );
        text.push_str("| --- | --- | ---: | --- | ---: | ---: | --- |\n");
        for record in records.iter().filter(|record| record.model == subject.name) {
            let line = &record.line;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                record.target,
                line.case,
                line.tokens,
                line.backend,
                record.instructions.map_or("".into(), thousands),
                record.macs_per_instruction.map_or(String::new(), |n| format!("{n:.3}")),
                line.crc
            );
        }
        text.push('\n');
    }
    let _ = writeln!(text, "Targets:");
    for target in targets {
        let _ = writeln!(text, "- {}: {}", target.name, target.core);
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
