//! Questions with parts before the answer.

use bytes::Bytes;

use super::error::LinkError;

/// What comes of a stream.
#[derive(Debug)]
pub enum StreamItem {
    /// A part; more follows.
    Part(Bytes),
    /// The answer, or why there is none; nothing follows.
    End(Result<Bytes, LinkError>),
}

/// Parts and the answer to a question, in the order in which they were sent. Dropping it cancels at the other side.
#[derive(Debug)]
pub struct LinkStream {
    _private: (),
}

impl LinkStream {
    /// The next part, or the end. Asked again after the end it waits for ever.
    pub async fn next(&mut self) -> StreamItem {
        std::future::pending().await
    }
}

/// Where the one who answers puts parts.
#[derive(Debug, Clone)]
pub struct PartSender {
    _private: (),
}

impl PartSender {
    /// Whether the asker takes parts.
    pub fn is_wanted(&self) -> bool {
        false
    }

    /// Sends a part; waits while the asker reads more slowly. Dropped in silence when no parts are wanted.
    ///
    /// # Errors
    /// [`LinkError::TooLarge`], and [`LinkError::Lost`] when the link has ended.
    pub async fn send(&self, part: Bytes) -> Result<(), LinkError> {
        let _ = part;
        Ok(())
    }
}
