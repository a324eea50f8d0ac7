//! What a guest is asked to count, from words like `tokens=32,128 backend=all cases=encoder`.

use grouse_runtime::kernels::{self, Backend};
use heapless::Vec;

use crate::Failure;

/// Most lengths in one request.
const MOST_LENGTHS: usize = 8;

/// A request: which cases, at which lengths, with which backends.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Numbers of tokens.
    pub tokens: Vec<usize, MOST_LENGTHS>,
    /// Name of the one backend asked for; `None` for all.
    pub backend: Option<&'a str>,
    /// Whole encoders.
    pub encoder: bool,
    /// Single matrices.
    pub kernels: bool,
}

impl<'a> Request<'a> {
    /// Reads a request. What is not said is: 32 tokens, all backends, encoders only.
    ///
    /// # Errors
    /// [`Failure::Request`].
    pub fn parse(words: impl Iterator<Item = &'a str>) -> Result<Self, Failure> {
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
                "backend" => request.backend = Some(value).filter(|name| *name != "all"),
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

    /// The backends to count that this core runs; none when the one asked for is not among them.
    pub fn backends(&self) -> impl Iterator<Item = &'static dyn Backend> {
        let one = self.backend;
        kernels::available().filter(move |b| one.is_none_or(|one| one == b.name()))
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
        assert_eq!(request.backends().count(), kernels::available().count());
        assert!(request.encoder && !request.kernels);
    }

    #[test]
    fn an_unknown_backend_is_none() {
        assert_eq!(Request::parse(["backend=warp"].into_iter()).unwrap().backends().count(), 0);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in ["tokens", "tokens=x", "cases=speed", "colour=red", "tokens=1,2,3,4,5,6,7,8,9"]
        {
            assert!(matches!(Request::parse(words.split(' ')), Err(Failure::Request)), "{words}");
        }
    }
}
