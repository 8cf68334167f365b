//! What two nodes say over a link, as bytes.
//!
//! A link opens with a [`Hello`] from who dialled and a [`HelloAnswer`] from who was dialled, both JSON, so that any two
//! versions can at least tell each other that they do not fit. Afterwards batches travel, in the version both agreed on:
//! a [`BatchHead`] and then any number of [`Frame`]s. Integers are little-endian; lengths, numbers and times take seven bits
//! a byte (LEB128), since most are small and idle nodes exchange little else.
//!
//! Frames of large messages are cut: their encoded bytes travel in [`Frame::Begin`] and [`Frame::More`], so that small
//! frames can go between the pieces. At most one large frame is under way in each direction of a link.

use serde::{Deserialize, Serialize};

use super::member::Generation;
use super::varint::{self, VarintError};
use crate::id::{CorrelationId, NodeId, SpanId};
use crate::trace::TraceContext;

/// The oldest version of the wire that this program speaks.
pub const WIRE_VERSION_MIN: u16 = 1;
/// The newest version of the wire that this program speaks.
pub const WIRE_VERSION_MAX: u16 = 1;
/// The longest hello, in bytes.
pub const HELLO_BYTES_MAX: usize = 4 * 1024;

/// Who opens a link, and how it can speak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version of the wire it speaks.
    pub wire_min: u16,
    /// The newest version of the wire it speaks.
    pub wire_max: u16,
    /// Who it is; the certificate must say the same.
    pub node: NodeId,
    /// Which of its starts this is.
    pub generation: Generation,
    /// Random, drawn when the process started: tells a node that dials again from its copy under the same name.
    pub instance: u64,
    /// The local number of the actor that takes its batches.
    pub dispatcher: u64,
    /// Random, drawn for this link: each batch to it says this number, so that it cannot come over another link.
    pub key: u64,
    /// On which times its leases rest; nothing when it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<ClusterTiming>,
}

/// The settings that all nodes of a cluster need alike: from its own ones a node tells when the lease of another is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterTiming {
    /// How long a lease lasts.
    pub lease_ms: u64,
    /// The shortest silence of the leader after which another is elected.
    pub election_timeout_ms: u64,
}

impl std::fmt::Display for ClusterTiming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            lease_ms,
            election_timeout_ms,
        } = self;
        write!(
            f,
            "lease_ms = {lease_ms} and election_timeout_ms = {election_timeout_ms}"
        )
    }
}

/// What the node that was dialled says to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HelloAnswer {
    /// The link is open; who was dialled introduces itself.
    Welcome(Hello),
    /// There will be no link.
    Refused {
        /// The error's stable code, as `T8012`.
        code: String,
        /// What was wrong.
        detail: String,
    },
}

/// The version of the wire that two ranges have in common: the newest. Nothing when there is none.
pub fn common_version(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0.max(theirs.0)).then_some(newest)
}

/// Bytes that are not a batch of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It ends within a frame.
    #[error("the batch ends within a frame")]
    Cut,
    /// A number has more bits than it can have.
    #[error("a number in a frame is too large")]
    Number,
    /// No such kind of frame.
    #[error("unknown kind of frame {0}")]
    Kind(u8),
    /// A text is not UTF-8.
    #[error("text in a frame is not UTF-8")]
    Text,
}

/// What every batch begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHead {
    /// The key that the receiver chose for this link in its hello.
    pub key: u64,
    /// Bytes of small frames that the sender of this batch has taken since its last one.
    pub small_bytes_taken: u32,
    /// Bytes of large frames that the sender of this batch has taken since its last one.
    pub bulk_bytes_taken: u32,
}

/// The most bytes that a [`BatchHead`] takes.
pub const BATCH_HEAD_BYTES_MAX: usize = 8 + 5 + 5;

impl BatchHead {
    /// Writes the head.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.to_le_bytes());
        varint::put(u64::from(self.small_bytes_taken), out);
        varint::put(u64::from(self.bulk_bytes_taken), out);
    }

    /// Writes the head right before the frames of a batch, for which [`BATCH_HEAD_BYTES_MAX`] bytes were left free. Answers
    /// where it begins.
    pub fn put_before(&self, batch: &mut [u8]) -> usize {
        let mut head = Vec::with_capacity(BATCH_HEAD_BYTES_MAX);
        self.put(&mut head);
        let begin = BATCH_HEAD_BYTES_MAX - head.len();
        if let Some(place) = batch.get_mut(begin..BATCH_HEAD_BYTES_MAX) {
            place.copy_from_slice(&head);
        }
        begin
    }

    /// The head of a batch, and its frames.
    ///
    /// # Errors
    /// [`FrameError::Cut`] when it is too short.
    pub fn split(batch: &[u8]) -> Result<(Self, Frames<'_>), FrameError> {
        let mut rest = Reader(batch);
        let head = Self {
            key: rest.u64()?,
            small_bytes_taken: rest.varint_u32()?,
            bulk_bytes_taken: rest.varint_u32()?,
        };
        Ok((head, Frames(rest.0)))
    }
}

/// One thing said over a link. Numbers are chosen by who asks and unique on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A question.
    Ask {
        /// Its number.
        number: u64,
        /// Whether parts may come before the answer.
        wants_parts: bool,
        /// Who is meant.
        service: u8,
        /// How long the answer is of use, in milliseconds from now.
        deadline_ms: u32,
        /// The request for which it is asked.
        trace: Option<TraceContext>,
        /// The question.
        payload: &'a [u8],
    },
    /// The answer to a question.
    Answer {
        /// The question's number.
        number: u64,
        /// The answer.
        payload: &'a [u8],
    },
    /// An error in place of an answer.
    Refusal {
        /// The question's number.
        number: u64,
        /// The number of the stable code.
        code: u16,
        /// What went wrong.
        detail: &'a str,
    },
    /// Something before the answer.
    Part {
        /// The question's number.
        number: u64,
        /// The part.
        payload: &'a [u8],
    },
    /// A message without an answer.
    Tell {
        /// Who is meant.
        service: u8,
        /// The request for which it is said.
        trace: Option<TraceContext>,
        /// The message.
        payload: &'a [u8],
    },
    /// Nobody waits for this answer any more.
    Cancel {
        /// The question's number.
        number: u64,
    },
    /// So many bytes of parts have been consumed and may follow.
    Credit {
        /// The question's number.
        number: u64,
        /// How many.
        bytes: u32,
    },
    /// Are you there?
    Ping {
        /// The sender's monotonic clock in microseconds; comes back in the pong.
        sent_us: u64,
    },
    /// I am.
    Pong {
        /// From the ping.
        sent_us: u64,
        /// The wall clock of who answers, in microseconds since 1970.
        clock_us: i64,
    },
    /// The first piece of a large frame.
    Begin {
        /// The size of the whole encoded frame in bytes.
        total_bytes: u32,
        /// Its first bytes.
        piece: &'a [u8],
    },
    /// A further piece of the large frame under way.
    More {
        /// Its next bytes.
        piece: &'a [u8],
    },
}

const HAS_TRACE: u8 = 0x80;
const KIND_MASK: u8 = 0x7f;

const ASK: u8 = 1;
const ASK_FOR_PARTS: u8 = 2;
const ANSWER: u8 = 3;
const REFUSAL: u8 = 4;
const PART: u8 = 5;
const TELL: u8 = 6;
const CANCEL: u8 = 7;
const CREDIT: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const BEGIN: u8 = 11;
const MORE: u8 = 12;

/// The most bytes of a frame before its body: kind and length.
const FRAME_HEAD_BYTES_MAX: usize = 1 + 5;
/// The most that a frame has beside its payload, in bytes.
pub const FRAME_OVERHEAD_BYTES_MAX: usize = FRAME_HEAD_BYTES_MAX + 10 + 1 + 5 + 24;

impl<'a> Frame<'a> {
    /// Writes the frame: kind (1 byte), length of the rest, the rest.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.put_head(out, self.payload().len());
        out.extend_from_slice(self.payload());
    }

    /// Writes all of the frame but its payload, of which so many bytes are to follow; for payloads that are cut and
    /// should not be copied for it.
    pub fn put_head(&self, out: &mut Vec<u8>, payload_bytes: usize) {
        out.push(self.kind());
        varint::put((self.field_bytes() + payload_bytes) as u64, out);
        self.put_fields(out);
    }

    /// The size of the whole frame in bytes.
    pub fn bytes(&self) -> usize {
        let body = self.field_bytes() + self.payload().len();
        1 + varint::encoded_bytes(body as u64) + body
    }

    /// The size of what is between the frame's head and its payload, in bytes.
    fn field_bytes(&self) -> usize {
        match self {
            Self::Ask {
                number,
                deadline_ms,
                trace,
                ..
            } => {
                let times = varint::encoded_bytes(u64::from(*deadline_ms));
                varint::encoded_bytes(*number) + 1 + times + trace_bytes(trace.as_ref())
            }
            Self::Tell { trace, .. } => 1 + trace_bytes(trace.as_ref()),
            Self::Answer { number, .. } | Self::Part { number, .. } | Self::Cancel { number } => {
                varint::encoded_bytes(*number)
            }
            Self::Refusal { number, .. } => varint::encoded_bytes(*number) + 2,
            Self::Credit { number, bytes } => {
                varint::encoded_bytes(*number) + varint::encoded_bytes(u64::from(*bytes))
            }
            Self::Ping { sent_us } => varint::encoded_bytes(*sent_us),
            Self::Pong { sent_us, .. } => varint::encoded_bytes(*sent_us) + 8,
            Self::Begin { total_bytes, .. } => varint::encoded_bytes(u64::from(*total_bytes)),
            Self::More { .. } => 0,
        }
    }

    fn payload(&self) -> &'a [u8] {
        match self {
            Self::Ask { payload, .. }
            | Self::Answer { payload, .. }
            | Self::Part { payload, .. }
            | Self::Tell { payload, .. } => payload,
            Self::Refusal { detail, .. } => detail.as_bytes(),
            Self::Begin { piece, .. } | Self::More { piece } => piece,
            Self::Cancel { .. } | Self::Credit { .. } | Self::Ping { .. } | Self::Pong { .. } => &[],
        }
    }

    fn kind(&self) -> u8 {
        let with =
            |kind: u8, trace: &Option<TraceContext>| kind | if trace.is_some() { HAS_TRACE } else { 0 };
        match self {
            Self::Ask {
                wants_parts, trace, ..
            } => with(if *wants_parts { ASK_FOR_PARTS } else { ASK }, trace),
            Self::Answer { .. } => ANSWER,
            Self::Refusal { .. } => REFUSAL,
            Self::Part { .. } => PART,
            Self::Tell { trace, .. } => with(TELL, trace),
            Self::Cancel { .. } => CANCEL,
            Self::Credit { .. } => CREDIT,
            Self::Ping { .. } => PING,
            Self::Pong { .. } => PONG,
            Self::Begin { .. } => BEGIN,
            Self::More { .. } => MORE,
        }
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ask {
                number,
                service,
                deadline_ms,
                trace,
                ..
            } => {
                varint::put(*number, out);
                out.push(*service);
                varint::put(u64::from(*deadline_ms), out);
                put_trace(trace.as_ref(), out);
            }
            Self::Answer { number, .. } | Self::Part { number, .. } | Self::Cancel { number } => {
                varint::put(*number, out);
            }
            Self::Refusal { number, code, .. } => {
                varint::put(*number, out);
                out.extend_from_slice(&code.to_le_bytes());
            }
            Self::Tell { service, trace, .. } => {
                out.push(*service);
                put_trace(trace.as_ref(), out);
            }
            Self::Credit { number, bytes } => {
                varint::put(*number, out);
                varint::put(u64::from(*bytes), out);
            }
            Self::Ping { sent_us } => varint::put(*sent_us, out),
            Self::Pong { sent_us, clock_us } => {
                varint::put(*sent_us, out);
                out.extend_from_slice(&clock_us.to_le_bytes());
            }
            Self::Begin { total_bytes, .. } => varint::put(u64::from(*total_bytes), out),
            Self::More { .. } => {}
        }
    }

    /// The frame at the beginning of these bytes, and what follows it.
    ///
    /// # Errors
    /// When the bytes are not a frame.
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), FrameError> {
        let mut rest = Reader(bytes);
        let kind = rest.u8()?;
        let length = rest.varint_u32()? as usize;
        let body = rest.take(length)?;
        Ok((Self::read(kind, Reader(body))?, rest.0))
    }

    fn read(kind: u8, mut body: Reader<'a>) -> Result<Self, FrameError> {
        let has_trace = kind & HAS_TRACE != 0;
        let frame = match kind & KIND_MASK {
            kind @ (ASK | ASK_FOR_PARTS) => Self::Ask {
                number: body.varint()?,
                wants_parts: kind == ASK_FOR_PARTS,
                service: body.u8()?,
                deadline_ms: body.varint_u32()?,
                trace: body.trace(has_trace)?,
                payload: body.0,
            },
            ANSWER => Self::Answer {
                number: body.varint()?,
                payload: body.0,
            },
            REFUSAL => Self::Refusal {
                number: body.varint()?,
                code: body.u16()?,
                detail: std::str::from_utf8(body.0).map_err(|_| FrameError::Text)?,
            },
            PART => Self::Part {
                number: body.varint()?,
                payload: body.0,
            },
            TELL => Self::Tell {
                service: body.u8()?,
                trace: body.trace(has_trace)?,
                payload: body.0,
            },
            CANCEL => Self::Cancel {
                number: body.varint()?,
            },
            CREDIT => Self::Credit {
                number: body.varint()?,
                bytes: body.varint_u32()?,
            },
            PING => Self::Ping {
                sent_us: body.varint()?,
            },
            PONG => Self::Pong {
                sent_us: body.varint()?,
                clock_us: body.u64()?.cast_signed(),
            },
            BEGIN => Self::Begin {
                total_bytes: body.varint_u32()?,
                piece: body.0,
            },
            MORE => Self::More { piece: body.0 },
            other => return Err(FrameError::Kind(other)),
        };
        Ok(frame)
    }
}

fn put_trace(trace: Option<&TraceContext>, out: &mut Vec<u8>) {
    if let Some(trace) = trace {
        out.extend_from_slice(&trace.correlation_id.0.to_le_bytes());
        out.extend_from_slice(&trace.span.0.to_le_bytes());
    }
}

fn trace_bytes(trace: Option<&TraceContext>) -> usize {
    if trace.is_some() { 16 + 8 } else { 0 }
}

/// The frames of a batch, one after the other. Ends with the first error.
#[derive(Debug, Clone)]
pub struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = Frame::split(self.0);
        self.0 = split.as_ref().map_or(&[], |(_, rest)| rest);
        Some(split.map(|(frame, _)| frame))
    }
}

/// Takes integers off the front of a slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(FrameError::Cut)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FrameError::Cut)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    fn varint(&mut self) -> Result<u64, FrameError> {
        let (value, rest) = varint::read(self.0).map_err(|error| match error {
            VarintError::Cut => FrameError::Cut,
            VarintError::TooLarge => FrameError::Number,
        })?;
        self.0 = rest;
        Ok(value)
    }

    fn varint_u32(&mut self) -> Result<u32, FrameError> {
        u32::try_from(self.varint()?).map_err(|_| FrameError::Number)
    }

    fn trace(&mut self, is_there: bool) -> Result<Option<TraceContext>, FrameError> {
        if !is_there {
            return Ok(None);
        }
        Ok(Some(TraceContext {
            correlation_id: CorrelationId(self.array().map(u128::from_le_bytes)?),
            span: SpanId(self.u64()?),
        }))
    }
}

#[cfg(test)]
mod tests;
