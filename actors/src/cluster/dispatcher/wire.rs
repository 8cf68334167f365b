//! How questions to placed actors and to nodes travel: a short head, then the question's own bytes as they are.

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use troupe_protocol::cluster::{EntityKind, Epoch};
use troupe_protocol::wire;

/// For whom a question is, and what the asker knew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub kind: EntityKind,
    pub key: String,
    /// The epoch at which the asker looked for the owner.
    pub epoch: Epoch,
    /// How many nodes have sent the question on.
    pub hops: u8,
}

/// Why a node does not answer for an address: it was not asked, so to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// At this later epoch another node owns it.
    Elsewhere(Epoch),
    /// The owner may not act.
    NoLease,
    /// The former owner may still be acting.
    Moving,
    /// What runs such actors is not there yet.
    Starting,
    /// This node did not come to the asker's epoch in time.
    Behind,
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Elsewhere(_) => "it has moved on",
            Self::NoLease => "its owner does not follow a majority",
            Self::Moving => "its former owner may still be acting",
            Self::Starting => "its owner is still starting",
            Self::Behind => "its owner does not know yet that it is",
        }
    }
}

const ANSWERED: u8 = 0;
const REFUSED: u8 = 1;

/// Puts a head before a question.
pub(super) fn with_head<H: Serialize>(head: &H, question: &[u8]) -> Result<Bytes, String> {
    let head = wire::encode(head).map_err(|error| error.to_string())?;
    let head_bytes = u16::try_from(head.len()).map_err(|_| "the address is too long".to_owned())?;
    let mut message = BytesMut::with_capacity(2 + head.len() + question.len());
    message.put_u16(head_bytes);
    message.put_slice(&head);
    message.put_slice(question);
    Ok(message.freeze())
}

/// Takes the head off a question.
pub(super) fn without_head<H: DeserializeOwned>(mut message: Bytes) -> Result<(H, Bytes), String> {
    let length: [u8; 2] = message
        .get(..2)
        .and_then(|length| length.try_into().ok())
        .ok_or("the message is too short")?;
    let begin = 2 + usize::from(u16::from_be_bytes(length));
    if message.len() < begin {
        return Err("the message is shorter than it says".to_owned());
    }
    let question = message.split_off(begin);
    let head = wire::decode(&message[2..]).map_err(|error| error.to_string())?;
    Ok((head, question))
}

/// The bytes of an answer.
pub(super) fn answered(answer: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + answer.len());
    message.put_u8(ANSWERED);
    message.put_slice(answer);
    message.freeze()
}

/// The bytes of a refusal.
pub(super) fn refused(refusal: Refusal) -> Result<Bytes, String> {
    let refusal = wire::encode(&refusal).map_err(|error| error.to_string())?;
    let mut message = BytesMut::with_capacity(1 + refusal.len());
    message.put_u8(REFUSED);
    message.put_slice(&refusal);
    Ok(message.freeze())
}

/// What another node answered.
pub(super) fn outcome(mut message: Bytes) -> Result<Result<Bytes, Refusal>, String> {
    if message.is_empty() {
        return Err("the answer is empty".to_owned());
    }
    let rest = message.split_off(1);
    match message[0] {
        ANSWERED => Ok(Ok(rest)),
        REFUSED => wire::decode(&rest).map(Err).map_err(|error| error.to_string()),
        other => Err(format!("an answer of unknown kind {other}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn head_and_question_come_apart_as_they_were(key: String, epoch: u64, question: Vec<u8>) {
            let head = Head { kind: EntityKind::Session, key, epoch: Epoch(epoch), hops: 1 };
            let message = with_head(&head, &question).unwrap();
            let (read, rest): (Head, Bytes) = without_head(message).unwrap();
            prop_assert_eq!(read, head);
            prop_assert_eq!(&rest[..], &question[..]);
        }

        #[test]
        fn foreign_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = without_head::<Head>(bytes.clone().into());
            let _ = outcome(bytes.into());
        }
    }

    #[test]
    fn answers_and_refusals_are_told_apart() {
        assert_eq!(outcome(answered(b"yes")).unwrap(), Ok(Bytes::from_static(b"yes")));
        let refusal = Refusal::Elsewhere(Epoch(7));
        assert_eq!(outcome(refused(refusal).unwrap()).unwrap(), Err(refusal));
    }
}
