//! An answer that comes in parts.

use std::marker::PhantomData;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use troupe_protocol::wire;

use crate::cluster::error::ClusterError;

/// What comes next of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Streamed<P, A> {
    /// A part; more follows.
    Part(P),
    /// The answer itself, which is the last.
    End(A),
}

/// An answer that comes in parts. Dropping it cancels what is still to be done for it.
pub struct EntityStream<P, A> {
    parts: mpsc::Receiver<Bytes>,
    parts_ended: bool,
    answer: BoxFuture<'static, Result<Bytes, ClusterError>>,
    answered: Option<Result<Bytes, ClusterError>>,
    types: PhantomData<fn() -> (P, A)>,
}

impl<P, A> std::fmt::Debug for EntityStream<P, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EntityStream")
    }
}

impl<P: DeserializeOwned, A: DeserializeOwned> EntityStream<P, A> {
    pub(in crate::cluster) fn new(
        parts: mpsc::Receiver<Bytes>,
        answer: BoxFuture<'static, Result<Bytes, ClusterError>>,
    ) -> Self {
        Self {
            parts,
            parts_ended: false,
            answer,
            answered: None,
            types: PhantomData,
        }
    }

    /// The next part, or the end. Not to be called again after the end.
    ///
    /// # Errors
    /// [`ClusterError`], which is an end, too.
    pub async fn next(&mut self) -> Result<Streamed<P, A>, ClusterError> {
        match self.next_bytes().await? {
            Streamed::Part(part) => Ok(Streamed::Part(decoded(&part)?)),
            Streamed::End(answer) => Ok(Streamed::End(decoded(&answer)?)),
        }
    }

    /// As [`next`](Self::next), undecoded.
    ///
    /// # Errors
    /// [`ClusterError`], which is an end, too.
    pub async fn next_bytes(&mut self) -> Result<Streamed<Bytes, Bytes>, ClusterError> {
        // Whoever answers drives the parts, so both are waited for; and all parts come before the end.
        while !self.parts_ended && self.answered.is_none() {
            tokio::select! {
                biased;
                part = self.parts.recv() => match part {
                    Some(part) => return Ok(Streamed::Part(part)),
                    None => self.parts_ended = true,
                },
                answer = &mut self.answer => self.answered = Some(answer),
            }
        }
        if let Ok(part) = self.parts.try_recv() {
            return Ok(Streamed::Part(part));
        }
        let answer = match self.answered.take() {
            Some(answer) => answer,
            None => (&mut self.answer).await,
        };
        answer.map(Streamed::End)
    }
}

pub(in crate::cluster) fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClusterError> {
    wire::decode(bytes).map_err(|error| ClusterError::Wire(error.to_string()))
}
