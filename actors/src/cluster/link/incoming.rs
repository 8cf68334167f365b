//! What becomes of the batches of a peer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use troupe_protocol::cluster::frame::{BatchHead, Frame, FrameError};
use troupe_protocol::error::Code;

use super::assembly::AssemblyError;
use super::connection::Connection;
use super::error::LinkError;
use super::serving::Asked;
use crate::runtime::trace;

/// Payloads up to this size are copied, so that a short message does not keep its whole batch in memory.
const COPIED_BYTES_MAX: usize = 1024;

/// How a peer breaks the protocol.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error("a batch for another link")]
    Key,
    #[error("a large frame within a large frame")]
    Nested,
    #[error("more parts than were asked for")]
    TooManyParts,
}

/// What was taken of a batch.
#[derive(Debug, Default)]
struct Taken {
    small_bytes: usize,
    bulk_bytes: usize,
}

impl Connection {
    /// Takes a batch. Whoever sends what is none has its connection ended.
    pub(super) fn receive(self: &Arc<Self>, batch: &Bytes) {
        if self.has_ended() {
            return;
        }
        let mut taken = Taken::default();
        self.cork();
        if let Err(broken) = self.take_batch(batch, &mut taken) {
            return self.end(&format!("the peer broke the protocol: {broken}"));
        }
        self.took(taken.small_bytes, taken.bulk_bytes);
    }

    fn take_batch(self: &Arc<Self>, batch: &Bytes, taken: &mut Taken) -> Result<(), Broken> {
        let (head, frames) = BatchHead::split(batch)?;
        if head.key != self.agreement().own_key {
            return Err(Broken::Key);
        }
        self.peer_took(head.small_bytes_taken, head.bulk_bytes_taken);
        for frame in frames {
            let whole = match frame? {
                Frame::Begin { total_bytes, piece } => {
                    taken.bulk_bytes += piece.len();
                    self.assembly.lock().begin(total_bytes, piece)?
                }
                Frame::More { piece } => {
                    taken.bulk_bytes += piece.len();
                    self.assembly.lock().add(piece)?
                }
                frame => {
                    if counts(&frame) {
                        taken.small_bytes += frame.bytes();
                    }
                    self.take_frame(&frame, batch)?;
                    None
                }
            };
            if let Some(whole) = whole {
                let (frame, _) = Frame::split(&whole)?;
                self.take_frame(&frame, &whole)?;
            }
        }
        Ok(())
    }

    fn take_frame(self: &Arc<Self>, frame: &Frame<'_>, within: &Bytes) -> Result<(), Broken> {
        match *frame {
            Frame::Ask {
                number,
                wants_parts,
                service,
                deadline_ms,
                trace,
                payload,
            } => {
                let asked = Asked {
                    number,
                    service,
                    wants_parts,
                    deadline_ms,
                    trace,
                };
                self.serve(asked, owned(payload, within));
            }
            Frame::Answer { number, payload } => self.answered(number, Ok(owned(payload, within))),
            Frame::Refusal { number, code, detail } => self.answered(number, Err(refusal(code, detail))),
            Frame::Part { number, payload } => {
                if !self.part_came(number, owned(payload, within)) {
                    return Err(Broken::TooManyParts);
                }
            }
            Frame::Tell {
                service,
                trace,
                payload,
            } => trace::entered(trace, || self.take_tell(service, owned(payload, within))),
            Frame::Cancel { number } => self.serving.lock().cancel(number),
            Frame::Credit { number, bytes } => self.serving.lock().credit(number, bytes),
            Frame::Ping { sent_us } => self.send_control(&Frame::Pong {
                sent_us,
                clock_us: jiff::Timestamp::now().as_microsecond(),
            }),
            Frame::Pong { sent_us, clock_us } => {
                let own_clock_us = jiff::Timestamp::now().as_microsecond();
                self.pulse().heard(sent_us, clock_us, own_clock_us);
            }
            Frame::Begin { .. } | Frame::More { .. } => return Err(Broken::Nested),
        }
        Ok(())
    }

    fn take_tell(&self, service: u8, message: Bytes) {
        let Some(handler) = self.services.get(service) else {
            tracing::debug!(peer = %self.peer(), service, "a message for a service that this node does not have");
            return;
        };
        let told = std::panic::catch_unwind(AssertUnwindSafe(|| handler.tell(self.peer(), message)));
        if told.is_err() {
            tracing::error!(peer = %self.peer(), service, "a service panicked while it was told something");
        }
    }
}

/// Whether a frame counts against the sender's window.
fn counts(frame: &Frame<'_>) -> bool {
    matches!(
        frame,
        Frame::Ask { .. } | Frame::Answer { .. } | Frame::Part { .. } | Frame::Tell { .. }
    )
}

fn owned(payload: &[u8], within: &Bytes) -> Bytes {
    match payload.len() {
        0..=COPIED_BYTES_MAX => Bytes::copy_from_slice(payload),
        _ => within.slice_ref(payload),
    }
}

fn refusal(code: u16, detail: &str) -> LinkError {
    let known = Code::TABLE.iter().find(|entry| entry.code as u16 == code);
    LinkError::Remote {
        // A later version may have codes that this one does not know.
        code: known.map_or(Code::Internal, |entry| entry.code),
        detail: detail.to_owned(),
    }
}
