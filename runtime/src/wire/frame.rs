//! Frames: protocol version, request id, postcard message and CRC-32, stuffed by COBS.
//!
//! ```text
//! COBS( version u8 | request id u16 LE | message (postcard) | CRC-32 of all before, LE ) 0x00
//! ```
//!
//! A zero byte ends a frame and stands nowhere else, so a receiver that lost its place finds the
//! next frame by itself.

use crate::crc::Hasher;
use serde::{Deserialize, Serialize};

use super::{LINE_BYTES, PROTOCOL};

const HEADER: usize = 3;
const CHECKSUM: usize = 4;

/// Why bytes were no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FrameFault {
    /// The frame is longer than the receiver's buffer.
    TooLong {
        /// Most bytes on the line, closing zero not counted.
        limit: u32,
    },
    /// The byte stuffing is broken.
    Stuffing,
    /// Too few bytes for a header and a checksum.
    TooShort,
    /// The checksum does not match.
    Checksum,
    /// The other side speaks another version of the protocol.
    Protocol {
        /// Its version.
        found: u8,
        /// The version spoken here.
        supported: u8,
    },
    /// The frame is whole, its message is not one that is known here.
    Message,
    /// The message does not fit a frame; only the sending side meets this.
    Unsendable,
}

impl core::fmt::Display for FrameFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::TooLong { limit } => write!(f, "the frame is longer than {limit} bytes"),
            Self::Stuffing => f.write_str("the frame's byte stuffing is broken"),
            Self::TooShort => f.write_str("the frame is too short"),
            Self::Checksum => f.write_str("the frame's checksum does not match"),
            Self::Protocol { found, supported } => {
                write!(f, "the frame has protocol version {found}, {supported} is spoken here")
            }
            Self::Message => f.write_str("the frame's message is not known here"),
            Self::Unsendable => f.write_str("the message does not fit a frame"),
        }
    }
}

impl core::error::Error for FrameFault {}

/// A received frame: the request it belongs to and what it says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame<T> {
    /// Request id; 0 when the frame was too damaged to tell.
    pub id: u16,
    /// The message, or why there is none.
    pub message: Result<T, FrameFault>,
}

/// Writes a message of request `id` to `line` as a stuffed frame with its closing zero and returns
/// the frame's length.
///
/// # Errors
/// [`FrameFault::Unsendable`] when `line` is too short.
pub fn encode<T: Serialize + ?Sized>(
    id: u16,
    message: &T,
    line: &mut [u8],
) -> Result<usize, FrameFault> {
    // The encoder gets all but the last byte, which is kept for the closing zero.
    let room = line.len().checked_sub(1).ok_or(FrameFault::Unsendable)?;
    let (stuffed, _) = line.split_at_mut_checked(room).ok_or(FrameFault::Unsendable)?;
    // A COBS encoder needs its first code byte.
    if stuffed.is_empty() {
        return Err(FrameFault::Unsendable);
    }
    let mut writer = Writer { cobs: cobs::CobsEncoder::new(stuffed), crc: Hasher::new() };
    writer.extend(&[PROTOCOL]).map_err(|_| FrameFault::Unsendable)?;
    writer.extend(&id.to_le_bytes()).map_err(|_| FrameFault::Unsendable)?;
    let length =
        postcard::serialize_with_flavor(message, writer).map_err(|_| FrameFault::Unsendable)?;
    *line.get_mut(length).ok_or(FrameFault::Unsendable)? = 0;
    Ok(length + 1)
}

/// Postcard's output: every byte is counted into the checksum and stuffed, without a copy between.
struct Writer<'a> {
    cobs: cobs::CobsEncoder<'a>,
    crc: Hasher,
}

impl Writer<'_> {
    fn extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.crc.update(data);
        self.cobs.push(data).map_err(|_| postcard::Error::SerializeBufferFull)
    }
}

impl postcard::ser_flavors::Flavor for Writer<'_> {
    type Output = usize;

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.extend(data)
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.extend(&[data])
    }

    fn finalize(mut self) -> postcard::Result<usize> {
        let crc = self.crc.finalize().to_le_bytes();
        self.cobs.push(&crc).map_err(|_| postcard::Error::SerializeBufferFull)?;
        Ok(self.cobs.finalize())
    }
}

/// Collects bytes from a line until they make a frame. Bounded: a frame that is too long is
/// dropped up to its end and reported.
#[derive(Debug)]
pub struct Receiver {
    buffer: [u8; LINE_BYTES],
    length: usize,
    too_long: bool,
}

impl Receiver {
    /// An empty receiver.
    pub const fn new() -> Self {
        Self { buffer: [0; LINE_BYTES], length: 0, too_long: false }
    }

    /// Takes one byte; `true` when it ended a frame, which [`Receiver::take`] then hands out.
    ///
    /// Zeros between frames are skipped, so a sender may clear the line with one.
    pub fn push(&mut self, byte: u8) -> bool {
        if byte == 0 {
            return self.length > 0 || self.too_long;
        }
        match self.buffer.get_mut(self.length) {
            Some(place) => {
                *place = byte;
                self.length += 1;
            }
            None => self.too_long = true,
        }
        false
    }

    /// The frame that was just completed; the receiver is empty afterwards.
    pub fn take<'a, T: Deserialize<'a>>(&'a mut self) -> Frame<T> {
        let length = core::mem::take(&mut self.length);
        if core::mem::take(&mut self.too_long) {
            let limit = LINE_BYTES as u32;
            return Frame { id: 0, message: Err(FrameFault::TooLong { limit }) };
        }
        match self.buffer.get_mut(..length) {
            Some(stuffed) => decode(stuffed),
            None => Frame { id: 0, message: Err(FrameFault::TooShort) },
        }
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes COBS out of `bytes`, in place; gives the length of the rest. The crate's own decoder has
/// panics in it.
fn unstuff(bytes: &mut [u8]) -> Option<usize> {
    let (mut from, mut to) = (0, 0);
    while let Some(code) = bytes.get(from).copied() {
        from += 1;
        for _ in 1..code {
            let byte = bytes.get(from).copied().filter(|byte| *byte != 0)?;
            *bytes.get_mut(to)? = byte;
            (from, to) = (from + 1, to + 1);
        }
        if code == 0 {
            return None;
        }
        if code != u8::MAX && from < bytes.len() {
            *bytes.get_mut(to)? = 0;
            to += 1;
        }
    }
    (from > 0).then_some(to)
}

/// Reads a frame, stuffed but without its closing zero, in place.
pub fn decode<'a, T: Deserialize<'a>>(stuffed: &'a mut [u8]) -> Frame<T> {
    let damaged = |fault| Frame { id: 0, message: Err(fault) };
    let Some(length) = unstuff(stuffed) else { return damaged(FrameFault::Stuffing) };
    let bytes: &'a [u8] = stuffed;
    let Some(bytes) = bytes.get(..length) else { return damaged(FrameFault::Stuffing) };
    let Some((checked, crc)) = bytes.split_last_chunk::<CHECKSUM>() else {
        return damaged(FrameFault::TooShort);
    };
    if crate::crc::hash(checked) != u32::from_le_bytes(*crc) {
        return damaged(FrameFault::Checksum);
    }
    let Some(([version, id @ ..], body)) = checked.split_first_chunk::<HEADER>() else {
        return damaged(FrameFault::TooShort);
    };
    let id = u16::from_le_bytes(*id);
    if *version != PROTOCOL {
        let fault = FrameFault::Protocol { found: *version, supported: PROTOCOL };
        return Frame { id, message: Err(fault) };
    }
    // Bytes after the message are refused: they would be a later version's fields.
    let message = match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameFault::Message),
    };
    Frame { id, message }
}

#[cfg(test)]
mod tests {
    use super::super::{CHUNK, Request, Response};
    use super::*;
    use proptest::prelude::*;

    fn feed(receiver: &mut Receiver, bytes: &[u8]) -> usize {
        bytes.iter().filter(|b| receiver.push(**b)).count()
    }

    #[test]
    fn bytes_are_as_documented() {
        let mut line = [0; LINE_BYTES];
        let length = encode(0x0102, &Request::Ping { nonce: 5 }, &mut line).expect("fits");
        // version 2, id 02 01, variant 1, nonce 5, CRC-32 of these five bytes.
        let crc = crc32fast::hash(&[2, 2, 1, 1, 5]).to_le_bytes();
        assert!(!crc.contains(&0));
        assert_eq!(line[..length], [10, 2, 2, 1, 1, 5, crc[0], crc[1], crc[2], crc[3], 0]);
    }

    #[test]
    fn the_longest_chunk_fits() {
        let bytes = [0xA5; CHUNK];
        let mut line = [0; LINE_BYTES];
        let message = Response::Ids { offset: u32::MAX, total: u32::MAX, bytes: &bytes };
        let length = encode(u16::MAX, &message, &mut line).expect("fits");
        let mut receiver = Receiver::new();
        assert_eq!(feed(&mut receiver, &line[..length]), 1);
        assert_eq!(receiver.take(), Frame { id: u16::MAX, message: Ok(message) });
    }

    #[test]
    fn an_endless_frame_is_reported_and_the_next_one_read() {
        let mut receiver = Receiver::new();
        assert_eq!(feed(&mut receiver, &[7; 5 * LINE_BYTES]), 0);
        assert!(receiver.push(0));
        let limit = LINE_BYTES as u32;
        assert_eq!(
            receiver.take::<Request>(),
            Frame { id: 0, message: Err(FrameFault::TooLong { limit }) }
        );
        let mut line = [0; LINE_BYTES];
        let length = encode(3, &Request::Embed, &mut line).expect("fits");
        assert_eq!(feed(&mut receiver, &line[..length]), 1);
        assert_eq!(receiver.take(), Frame { id: 3, message: Ok(Request::Embed) });
    }

    #[test]
    fn another_protocol_version_is_named() {
        let mut bytes = [PROTOCOL + 1, 9, 0, 0, 0, 0, 0, 0];
        let (body, crc) = bytes.split_at_mut(4);
        crc.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let mut line = [0; 16];
        let length = cobs::encode(&bytes, &mut line);
        let fault = FrameFault::Protocol { found: PROTOCOL + 1, supported: PROTOCOL };
        assert_eq!(decode::<Request>(&mut line[..length]), Frame { id: 9, message: Err(fault) });
    }

    proptest! {
        #[test]
        fn every_text_comes_back(id: u16, offset: u32, bytes in prop::collection::vec(any::<u8>(), 0..=CHUNK)) {
            let mut line = [0; LINE_BYTES];
            let message = Request::Text { offset, bytes: &bytes };
            let length = encode(id, &message, &mut line).expect("fits");
            prop_assert!(!line[..length - 1].contains(&0));
            let mut receiver = Receiver::new();
            prop_assert_eq!(feed(&mut receiver, &line[..length]), 1);
            prop_assert_eq!(receiver.take(), Frame { id, message: Ok(message) });
        }

        #[test]
        fn unstuffing_is_the_crates(bytes in prop::collection::vec(prop_oneof![1_u8..6, 1_u8..], 0..400)) {
            let (mut ours, mut theirs) = (bytes.clone(), bytes);
            let length = unstuff(&mut ours);
            prop_assert_eq!(length, cobs::decode_in_place(&mut theirs).ok());
            if let Some(length) = length {
                prop_assert_eq!(&ours[..length], &theirs[..length]);
            }
        }

        #[test]
        fn a_changed_byte_is_never_accepted(
            text in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, change in 1u8..,
        ) {
            let mut line = [0; LINE_BYTES];
            let message = Request::Text { offset: 1, bytes: &text };
            let length = encode(77, &message, &mut line).expect("fits");
            line[at.index(length - 1)] ^= change;
            let mut receiver = Receiver::new();
            for byte in &line[..length] {
                if receiver.push(*byte) {
                    prop_assert!(receiver.take::<Request>().message.is_err());
                }
            }
        }

        #[test]
        fn noise_is_refused_without_panic(noise in prop::collection::vec(any::<u8>(), 0..4000)) {
            let mut receiver = Receiver::new();
            for byte in noise {
                if receiver.push(byte) {
                    prop_assert!(receiver.take::<Request>().message.is_err());
                }
            }
        }

        #[test]
        fn a_short_line_is_refused(room in 0usize..60, bytes in prop::collection::vec(any::<u8>(), 50..60)) {
            let mut line = [0; 60];
            let result = encode(1, &Request::Text { offset: 0, bytes: &bytes }, &mut line[..room]);
            prop_assert_eq!(result, Err(FrameFault::Unsendable));
        }
    }
}
