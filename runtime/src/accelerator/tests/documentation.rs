//! The register map, the descriptor and the error codes against `docs/accelerator.md`.

use super::*;

const PAGE: &str = include_str!("../../../../docs/accelerator.md");

/// The cells of the tables under `heading`, row by row.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = PAGE.split_once(heading).expect("the page has the heading");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.contains("---"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn registers_lie_where_the_documentation_says() {
    let documented: Vec<(u32, &str)> = rows("\n## Registers\n")
        .into_iter()
        .filter_map(|row| {
            let offset = u32::from_str_radix(row[0].strip_prefix("0x")?, 16).ok()?;
            Some((offset, row[1].trim_matches('`')))
        })
        .collect();
    let defined: Vec<(u32, &str)> =
        Register::ALL.into_iter().map(|(register, name)| (register.offset(), name)).collect();
    assert_eq!(documented, defined);
    assert!(defined.windows(2).all(|pair| pair[0].0 < pair[1].0), "ascending, none twice");
    assert!(defined.iter().all(|&(at, _)| at % 4 == 0 && at as usize + 4 <= WINDOW_BYTES));
    assert_eq!(defined[0].0, 0x00);
    assert_eq!(Register::SumsChecksum.offset(), 0x50);
}

#[test]
fn identification_is_as_documented() {
    assert!(PAGE.contains(&format!("`{ID:#010x}`")));
    assert!(PAGE.contains(&format!("`{VERSION:#010x}`")));
    assert!(PAGE.contains(&format!("window of {WINDOW_BYTES} bytes")));
    assert_eq!(ID.to_le_bytes(), *b"GRSA");
}

#[test]
fn error_codes_are_as_documented() {
    let documented: Vec<u8> =
        rows("\n## Errors\n").iter().filter_map(|row| row[0].parse().ok()).collect();
    let defined = [
        ErrorCode::Descriptor,
        ErrorCode::Format,
        ErrorCode::Size,
        ErrorCode::Alignment,
        ErrorCode::Bus,
        ErrorCode::Weights,
        ErrorCode::Panel,
        ErrorCode::Doorbell,
    ];
    assert_eq!(documented, defined.map(ErrorCode::number));
    for code in 0..=u8::MAX {
        let bits = u32::from(code) << 8 | 3;
        let status = Status::from_bits(bits).expect("every error code is one");
        assert_eq!((status.error.number(), status.to_bits()), (code, bits));
    }
    for bits in [4, 0x10, 0x1_0000, u32::MAX] {
        assert_eq!(Status::from_bits(bits), None);
    }
}

#[test]
fn descriptor_fields_lie_where_the_documentation_says() {
    let offset = |what: &str| -> usize {
        rows("\n## Descriptor\n")
            .iter()
            .find(|row| row[2].contains(what))
            .and_then(|row| row[0].parse().ok())
            .expect("the field is documented")
    };
    let descriptor = Descriptor {
        weights: 0x0102_0304_0506_0708,
        panel: 0x1112_1314_1516_1718,
        sums: 0x2122_2324_2526_2728,
        rows: 0x3132_3334,
        depth: 0x4142_4344,
        tokens: 0x5152_5354,
        job: 0x6162_6364,
        weights_checksum: Some(0x7172_7374),
        panel_checksum: Some(0x8182_8384),
    };
    let bytes = descriptor.to_bytes();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(word(offset("format")), 1);
    assert_eq!(word(offset("flags")), 3);
    assert_eq!(long(offset("address of the weights")), descriptor.weights);
    assert_eq!(long(offset("address of the panel")), descriptor.panel);
    assert_eq!(long(offset("address of the sums")), descriptor.sums);
    assert_eq!(word(offset("padded rows")), descriptor.rows);
    assert_eq!(word(offset("K, padded columns")), descriptor.depth);
    assert_eq!(word(offset("tokens, at least")), descriptor.tokens);
    assert_eq!(word(offset("number of the job")), descriptor.job);
    assert_eq!(word(offset("CRC-32 of the weights")), 0x7172_7374);
    assert_eq!(word(offset("CRC-32 of the panel")), 0x8182_8384);
    assert_eq!(word(offset("reserved")), 0);
    assert_eq!(word(offset("CRC-32 of bytes")), crc32fast::hash(&bytes[..60]));
}
