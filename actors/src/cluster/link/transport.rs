//! The two halves of a stream as the session gets them: counted, and gone when the connection has ended.
//!
//! ractor_cluster keeps a session's writer, its socket and its backlog until the peer closes; here both halves fail as
//! soon as the connection has ended, so that nothing is left of it.
//!
//! Batches are casts to the peer's dispatcher, and travel as the session would send them. But they are put into the
//! stream between the session's own messages, and taken out of it where they are read: the session would pass each
//! through eight mailboxes on its way, every one in a task of its own, and queue it without a bound. That costs more than
//! all the rest of an ask, and nothing could go ahead of what waits there. (A batch that is not recognised, because
//! another version of the library writes it otherwise, goes to the session and comes to the dispatcher the long way.)

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::WaitForCancellationFutureOwned;
use troupe_protocol::cluster::varint;

use super::connection::Connection;
use super::crypt::Crypt;
use super::messages::NodeStream;

/// What the session reads from.
pub(super) struct Reader {
    stream: OwnedReadHalf,
    crypt: Arc<Crypt>,
    watch: Watch,
    /// Room for what comes from the system.
    sealed: Box<[u8]>,
    /// Read, and not yet recognised.
    incoming: BytesMut,
    /// For the session.
    passed: Bytes,
}

/// What the session writes to: its messages wait for the stream's writer.
pub(super) struct Writer {
    watch: Watch,
}

/// Both halves of a stream for the session. The connection owns the task that writes.
pub(super) fn split(stream: NodeStream, connection: &Arc<Connection>) -> io::Result<(Reader, Writer)> {
    let (tcp, crypt) = Crypt::of(stream);
    let crypt = Arc::new(crypt);
    // What came right behind the hello was decrypted with it.
    let mut incoming = BytesMut::new();
    crypt.open(&[], &mut incoming)?;
    let (read, write) = tcp.into_split();
    let writing = write_outgoing(Arc::clone(connection), Arc::clone(&crypt), write);
    connection.serving.lock().own(writing);
    let reader = Reader {
        stream: read,
        crypt,
        watch: Watch::new(connection),
        sealed: vec![0; READ_BYTES].into_boxed_slice(),
        incoming,
        passed: Bytes::new(),
    };
    let writer = Writer {
        watch: Watch::new(connection),
    };
    Ok((reader, writer))
}

/// Writes what the session and the outbox have to say, until the connection ends.
async fn write_outgoing(connection: Arc<Connection>, crypt: Arc<Crypt>, mut stream: OwnedWriteHalf) {
    let (mut plain, mut sealed) = (Vec::with_capacity(READ_BYTES), Vec::with_capacity(READ_BYTES));
    loop {
        connection.next_outgoing(&mut plain).await;
        let written = match crypt.seal(&plain, &mut sealed) {
            Ok(()) => stream.write_all(&sealed).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            return connection.end(&error.to_string());
        }
        connection.traffic().written(sealed.len());
        for buffer in [&mut plain, &mut sealed] {
            buffer.clear();
            buffer.shrink_to(READ_BYTES);
        }
    }
}

/// Fails once the connection has ended.
struct Watch {
    connection: Arc<Connection>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watch {
    fn new(connection: &Arc<Connection>) -> Self {
        Self {
            connection: Arc::clone(connection),
            ended: Box::pin(connection.ended().clone().cancelled_owned()),
        }
    }

    /// Passes on what the stream says unless the connection has ended; waits for its end otherwise.
    fn poll<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(error)) => {
                self.connection.end(&error.to_string());
                Poll::Ready(Err(error))
            }
            Poll::Ready(Ok(value)) if !self.connection.has_ended() => Poll::Ready(Ok(value)),
            Poll::Ready(Ok(_)) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Poll::Pending => {
                let ended = self.ended.as_mut().poll(cx);
                ended.map(|()| Err(io::ErrorKind::ConnectionAborted.into()))
            }
        }
    }
}

impl Reader {
    /// Reads some bytes from the stream. `false` at its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut sealed = ReadBuf::new(&mut self.sealed);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut sealed);
        let polled = polled.map(|read| {
            read?;
            let sealed = sealed.filled();
            self.watch.connection.traffic().read(sealed.len());
            let is_open = !sealed.is_empty() && self.crypt.open(sealed, &mut self.incoming)?;
            if !is_open {
                self.watch.connection.end("the peer closed the connection");
            }
            Ok(is_open)
        });
        self.watch.poll(cx, polled)
    }

    /// Takes the batches that are complete, up to the first message for the session.
    fn take_messages(&mut self) -> io::Result<()> {
        while self.passed.is_empty() {
            let Some(length) = self
                .incoming
                .first_chunk()
                .map(|length| u64::from_be_bytes(*length))
            else {
                return Ok(());
            };
            if length > MESSAGE_BYTES_MAX {
                let reason = format!(
                    "the peer sent a message of {length} bytes, over the limit of {MESSAGE_BYTES_MAX}"
                );
                self.watch.connection.end(&reason);
                return Err(io::ErrorKind::InvalidData.into());
            }
            let whole = LENGTH_BYTES + usize::try_from(length).unwrap_or(usize::MAX);
            if self.incoming.len() < whole {
                self.incoming.reserve(whole - self.incoming.len());
                return Ok(());
            }
            let message = self.incoming.split_to(whole).freeze();
            match batch_within(&message[LENGTH_BYTES..]) {
                Some(batch) => self.watch.connection.receive(&message.slice_ref(batch)),
                None => self.passed = message,
            }
        }
        Ok(())
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.passed.is_empty() {
                let read = this.passed.len().min(buffer.remaining());
                buffer.put_slice(&this.passed.split_to(read));
                return Poll::Ready(Ok(()));
            }
            this.take_messages()?;
            if !this.passed.is_empty() {
                continue;
            }
            match this.poll_fill(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for Writer {
    /// A session writes whole messages, and is told that all of it is written.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let watch = &mut self.get_mut().watch;
        if !watch.connection.session_says(bytes) {
            watch.connection.end("the session says more than the peer takes");
        }
        watch.poll(cx, Poll::Ready(Ok(bytes.len())))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const LENGTH_BYTES: usize = 8;
// A message between sessions is its length (8 bytes, big-endian) and a protobuf message, whose field 2 is what actors
// say; of that field 1 is a cast, with the number of the actor in field 1 and the payload in field 2.
const NODE_MESSAGE_TAG: u8 = 0x12;
const CAST_TAG: u8 = 0x0a;
const CAST_TO_TAG: u8 = 0x08;
const CAST_PAYLOAD_TAG: u8 = 0x12;
/// Read at once: the largest TLS record and some.
const READ_BYTES: usize = 32 * 1024;
/// The largest message between sessions: far more than ever comes, since small frames are bounded by the window.
pub(super) const MESSAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Writes a batch as a cast to an actor of the peer.
pub(super) fn put_cast(to: u64, batch: &[u8], out: &mut Vec<u8>) {
    let cast_bytes =
        1 + varint::encoded_bytes(to) + 1 + varint::encoded_bytes(batch.len() as u64) + batch.len();
    let node_bytes = 1 + varint::encoded_bytes(cast_bytes as u64) + cast_bytes;
    let whole_bytes = 1 + varint::encoded_bytes(node_bytes as u64) + node_bytes;
    out.extend_from_slice(&(whole_bytes as u64).to_be_bytes());
    out.push(NODE_MESSAGE_TAG);
    varint::put(node_bytes as u64, out);
    out.push(CAST_TAG);
    varint::put(cast_bytes as u64, out);
    out.push(CAST_TO_TAG);
    varint::put(to, out);
    out.push(CAST_PAYLOAD_TAG);
    varint::put(batch.len() as u64, out);
    out.extend_from_slice(batch);
}

/// The batch in a message between sessions, if it is one: a protobuf message whose field 2 (between actors) has a field 1
/// (cast) with the payload in its field 2.
fn batch_within(message: &[u8]) -> Option<&[u8]> {
    let between_actors = only_field(message, NODE_MESSAGE_TAG)?;
    let mut cast = only_field(between_actors, CAST_TAG)?;
    if cast.first() == Some(&CAST_TO_TAG) {
        (_, cast) = varint::read(&cast[1..]).ok()?;
    }
    only_field(cast, CAST_PAYLOAD_TAG)
}

/// The content of a message that consists of one field of bytes with this tag.
fn only_field(message: &[u8], tag: u8) -> Option<&[u8]> {
    let (first, rest) = message.split_first()?;
    let (length, content) = varint::read(rest).ok()?;
    (*first == tag && length == content.len() as u64).then_some(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_recognised(to: u64, batch in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let mut bytes = Vec::new();
            put_cast(to, &batch, &mut bytes);
            let (length, message) = bytes.split_first_chunk().unwrap();
            prop_assert_eq!(u64::from_be_bytes(*length), message.len() as u64);
            prop_assert_eq!(batch_within(message), Some(&batch[..]));
            prop_assert_eq!(batch_within(&message[..message.len() - 1]), None);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            let _ = batch_within(&bytes);
        }
    }

    #[test]
    fn a_cast_is_written_as_the_library_does() {
        let mut bytes = Vec::new();
        put_cast(300, b"abc", &mut bytes);
        let expected = [
            &[0, 0, 0, 0, 0, 0, 0, 12][..],
            &[0x12, 10, 0x0a, 8, 0x08, 0xac, 0x02, 0x12, 3],
            b"abc",
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn what_is_no_cast_is_for_the_session() {
        let mut message = Vec::new();
        put_cast(9, b"abc", &mut message);
        let message = &message[LENGTH_BYTES..];
        for (at, other) in [(0, 0x1a), (0, 0x0a), (2, 0x12), (6, 0x1a)] {
            let mut message = message.to_vec();
            message[at] = other;
            assert_eq!(batch_within(&message), None, "byte {at}");
        }
        assert_eq!(batch_within(&[]), None);
    }
}
