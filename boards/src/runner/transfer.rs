//! Texts to a board, ids and embeddings back, in as many frames as they need.

use grouse_runtime::wire::{CHUNK, Request, Response};

use super::Session;
use super::answer::{Answer, Offloaded, Stages};
use crate::error::Result;

/// Most values that an answer may announce: more than any model has.
const MAX_VALUES: u32 = 1 << 20;

impl Session<'_> {
    /// Turns a text into ids and an embedding.
    ///
    /// # Errors
    /// When the text is refused, the firmware fails or time is up.
    pub fn embed(&mut self, text: &str) -> Result<Answer> {
        self.run(text.as_bytes(), true)
    }

    /// As [`Session::embed`], with what each stage took.
    ///
    /// # Errors
    /// As [`Session::embed`].
    pub fn bench(&mut self, text: &str) -> Result<Answer> {
        self.persist(|session| {
            session.send_text(text.as_bytes())?;
            session.finish(&Request::Bench)
        })
    }

    /// Turns a text into ids.
    ///
    /// # Errors
    /// As [`Session::embed`].
    pub fn tokenize(&mut self, text: &str) -> Result<Answer> {
        self.run(text.as_bytes(), false)
    }

    /// As [`Session::embed`] or [`Session::tokenize`] for bytes that may not even be text.
    ///
    /// # Errors
    /// As [`Session::embed`].
    pub fn run(&mut self, text: &[u8], embed: bool) -> Result<Answer> {
        self.persist(|session| {
            session.send_text(text)?;
            session.finish(if embed { &Request::Embed } else { &Request::Tokenize })
        })
    }

    fn send_text(&mut self, text: &[u8]) -> Result<()> {
        let mut offset = 0;
        for bytes in text.chunks(CHUNK) {
            let sent = offset + bytes.len() as u32;
            self.ask(&Request::Text { offset, bytes }, |response| match response {
                Response::Received { bytes } if bytes == sent => Ok(true),
                _ => Err("the text did not arrive whole"),
            })?;
            offset = sent;
        }
        Ok(())
    }

    fn finish(&mut self, request: &Request<'_>) -> Result<Answer> {
        let embed = *request != Request::Tokenize;
        let board = self.board().clone();
        let mut ids = Vec::new();
        let mut bits = Vec::new();
        let mut done = None;
        let mut offloaded = None;
        let mut stages = None;
        self.ask(request, |response| match response {
            Response::Ids { offset, total, bytes } => append(&mut ids, offset, total, bytes),
            Response::Values { offset, total, bytes } => append(&mut bits, offset, total, bytes),
            Response::Offloaded(report) => {
                offloaded = Some(Offloaded::from(report));
                Ok(false)
            }
            Response::Stages { embed, attention, feed_forward, pool } => {
                let [embed, attention, feed_forward, pool] =
                    [embed, attention, feed_forward, pool].map(|ticks| board.work(ticks));
                stages = Some(Stages { tokenize: 0, embed, attention, feed_forward, pool });
                Ok(false)
            }
            Response::Done { truncated, tokenize_ticks, ticks, stack_bytes } => {
                done = Some((truncated, tokenize_ticks, ticks, stack_bytes));
                Ok(true)
            }
            _ => Err("an answer to another request"),
        })?;
        let (truncated, tokenize_ticks, ticks, stack_bytes) = done.unwrap_or_default();
        if embed && bits.len() != self.info().hidden_size as usize {
            return Err(self.nonsense("the embedding is not as long as the model is wide"));
        }
        let tokenize_work = self.board().work(tokenize_ticks);
        Ok(Answer {
            ids,
            truncated,
            embedding: bits.into_iter().map(f32::from_bits).collect(),
            tokenize_work,
            work: self.board().work(ticks),
            stages: stages.map(|stages| Stages { tokenize: tokenize_work, ..stages }),
            stack_bytes,
            offloaded,
        })
    }
}

/// Adds a piece of little-endian values.
fn append(
    values: &mut Vec<u32>,
    offset: u32,
    total: u32,
    bytes: &[u8],
) -> std::result::Result<bool, &'static str> {
    let (pieces, rest) = bytes.as_chunks();
    let after = u64::from(offset) + pieces.len() as u64;
    if offset as usize != values.len() || !rest.is_empty() {
        return Err("a piece of the answer is missing");
    }
    if total > MAX_VALUES || after > total.into() {
        return Err("the answer is longer than announced");
    }
    values.extend(pieces.iter().map(|b| u32::from_le_bytes(*b)));
    Ok(false)
}
