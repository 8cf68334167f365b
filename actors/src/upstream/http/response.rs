//! What an HTTP server answers, however it was reached.

use bytes::Bytes;
use futures::{Stream, stream};
use http::response::Parts;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};

use super::client::in_words;
use super::kept::KeptBody;

/// The head of an answer, and its body as it comes.
pub(super) enum Response {
    /// Over a connection of the server's own.
    Kept(Parts, KeptBody),
    /// Through the general client.
    General(reqwest::Response),
}

impl Response {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Kept(parts, _) => parts.status,
            Self::General(response) => response.status(),
        }
    }

    pub fn headers(&self) -> &HeaderMap {
        match self {
            Self::Kept(parts, _) => &parts.headers,
            Self::General(response) => response.headers(),
        }
    }

    /// How many bytes of the body are to come, if that is known.
    pub fn bytes_expected(&self) -> Option<u64> {
        match self {
            Self::Kept(_, body) => body.bytes_expected(),
            Self::General(response) => response.content_length(),
        }
    }

    /// Whether it says that the answer is to be had elsewhere.
    pub fn is_redirect(&self) -> bool {
        matches!(self.status().as_u16(), 301 | 302 | 303 | 307 | 308) && self.headers().contains_key(LOCATION)
    }

    /// The next part of the body; nothing at its end. Fails in words.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        match self {
            Self::Kept(_, body) => body.chunk().await,
            Self::General(response) => response.chunk().await.map_err(|error| in_words(&error)),
        }
    }

    /// The parts of the body.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, String>> + Send {
        stream::try_unfold(self, |mut response| async {
            let chunk = response.chunk().await?;
            Ok(chunk.map(|chunk| (chunk, response)))
        })
    }
}
