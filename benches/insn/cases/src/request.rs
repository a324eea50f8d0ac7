//! What a guest is asked to count, from words like `tokens=32,128 backend=all cases=encoder`.

use grouse_runtime::kernels::{self, BACKENDS, Backend};
use heapless::Vec;

use crate::Failure;

/// Most lengths in one request.
const MOST_LENGTHS: usize = 8;

/// A request: which cases, at which lengths, with which backends.
#[derive(Clone)]
pub struct Request {
    /// Numbers of tokens.
    pub tokens: Vec<usize, MOST_LENGTHS>,
    /// The one backend asked for; `None` for all.
    pub backend: Option<&'static dyn Backend>,
    /// Whole encoders.
    pub encoder: bool,
    /// Single matrices.
    pub kernels: bool,
}

impl core::fmt::Debug for Request {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let backend = self.backend.map_or("all", Backend::name);
        write!(f, "tokens={:?} backend={backend}", self.tokens)?;
        write!(f, " encoder={} kernels={}", self.encoder, self.kernels)
    }
}

impl Request {
    /// Reads a request. What is not said is: 32 tokens, all backends, encoders only.
    ///
    /// # Errors
    /// [`Failure::Request`], [`Failure::UnknownBackend`].
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, Failure> {
        let mut request = Self { tokens: Vec::new(), backend: None, encoder: true, kernels: false };
        for word in words {
            let (key, value) = word.split_once('=').ok_or(Failure::Request)?;
            match key {
                "tokens" => {
                    for number in value.split(',') {
                        let number = number.parse().map_err(|_| Failure::Request)?;
                        request.tokens.push(number).map_err(|_| Failure::Request)?;
                    }
                }
                "backend" if value == "all" => request.backend = None,
                "backend" => {
                    let backend = kernels::by_name(value).ok_or(Failure::UnknownBackend)?;
                    request.backend = Some(backend);
                }
                "cases" => {
                    request.encoder = value.split(',').any(|case| case == "encoder");
                    request.kernels = value.split(',').any(|case| case == "kernels");
                    if !value.split(',').all(|case| matches!(case, "encoder" | "kernels")) {
                        return Err(Failure::Request);
                    }
                }
                _ => return Err(Failure::Request),
            }
        }
        if request.tokens.is_empty() {
            request.tokens.push(32).map_err(|_| Failure::Request)?;
        }
        Ok(request)
    }

    /// The backends to count, the scalar one first where it is among them.
    pub fn backends(&self) -> impl Iterator<Item = &'static dyn Backend> {
        let one = self.backend;
        BACKENDS.into_iter().filter(move |b| one.is_none_or(|one| one.name() == b.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read() {
        let request = Request::parse("tokens=7,9 backend=wide cases=kernels".split(' ')).unwrap();
        assert_eq!(request.tokens, [7, 9]);
        assert!(request.backends().map(Backend::name).eq(["wide"]));
        assert!(request.kernels && !request.encoder);
    }

    #[test]
    fn silence_means_32_tokens_with_all_backends() {
        let request = Request::parse([].into_iter()).unwrap();
        assert_eq!(request.tokens, [32]);
        assert_eq!(request.backends().count(), BACKENDS.len());
    }

    #[test]
    fn nonsense_is_refused() {
        for words in ["tokens", "tokens=x", "cases=speed", "colour=red", "tokens=1,2,3,4,5,6,7,8,9"]
        {
            assert!(matches!(Request::parse(words.split(' ')), Err(Failure::Request)), "{words}");
        }
        let backend = Request::parse(["backend=warp"].into_iter());
        assert!(matches!(backend, Err(Failure::UnknownBackend)));
    }
}
