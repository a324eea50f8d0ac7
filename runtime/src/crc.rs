//! CRC-32 (IEEE 802.3) of files, frames and jobs.
//!
//! On a host it is `crc32fast`, which uses the processor's instructions; on bare metal a table of
//! 1 KiB, where that crate would bring 16 KiB of them.

#[cfg(not(target_os = "none"))]
pub use crc32fast::{Hasher, hash};
#[cfg(target_os = "none")]
pub use small::{Hasher, hash};

/// A byte at a time.
#[cfg(any(test, target_os = "none"))]
mod small {
    /// The polynomial, lowest power first.
    const POLYNOMIAL: u32 = 0xEDB8_8320;

    /// What each byte makes of an empty remainder.
    static TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut remainder, mut bit) = (byte as u32, 0);
            while bit < 8 {
                let carry = remainder & 1 != 0;
                remainder = (remainder >> 1) ^ if carry { POLYNOMIAL } else { 0 };
                bit += 1;
            }
            table[byte] = remainder;
            byte += 1;
        }
        table
    };

    /// A checksum under way.
    #[derive(Debug, Clone, Default)]
    pub struct Hasher(u32);

    impl Hasher {
        /// The checksum of nothing.
        pub const fn new() -> Self {
            Self(0)
        }

        /// Adds bytes.
        pub fn update(&mut self, bytes: &[u8]) {
            let mut remainder = !self.0;
            for byte in bytes {
                let [low, ..] = remainder.to_le_bytes();
                remainder = (remainder >> 8) ^ TABLE[usize::from(low ^ byte)];
            }
            self.0 = !remainder;
        }

        /// The checksum of all bytes so far.
        pub fn finalize(self) -> u32 {
            self.0
        }
    }

    /// The checksum of `bytes`.
    pub fn hash(bytes: &[u8]) -> u32 {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::small;

    #[test]
    fn the_check_value_is_the_standard_s() {
        assert_eq!(small::hash(b"123456789"), 0xCBF4_3926);
        assert_eq!(small::hash(b""), 0);
    }

    proptest! {
        #[test]
        fn the_table_gives_the_crate_s_checksums(bytes: Vec<u8>, at: prop::sample::Index) {
            prop_assert_eq!(small::hash(&bytes), crc32fast::hash(&bytes));
            let (head, tail) = bytes.split_at(at.index(bytes.len() + 1));
            let mut parts = small::Hasher::new();
            parts.update(head);
            parts.update(tail);
            prop_assert_eq!(parts.finalize(), crc32fast::hash(&bytes));
        }
    }
}
