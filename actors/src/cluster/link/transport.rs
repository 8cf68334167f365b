//! The two halves of a stream as the session gets them: counted, and gone when the connection has ended.
//!
//! ractor_cluster keeps a session's writer, its socket and its backlog until the peer closes; here both halves fail as
//! soon as the connection has ended, so that nothing is left of it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::connection::Connection;
use super::messages::NodeStream;

/// What the session reads from.
pub(super) struct Reader {
    stream: ReadHalf<NodeStream>,
    watch: Watch,
}

/// What the session writes to.
pub(super) struct Writer {
    stream: WriteHalf<NodeStream>,
    watch: Watch,
    batches: BatchCounter,
}

/// Both halves of a stream.
pub(super) fn split(stream: NodeStream, connection: &Arc<Connection>) -> (Reader, Writer) {
    let (read, write) = tokio::io::split(stream);
    let reader = Reader {
        stream: read,
        watch: Watch::new(connection),
    };
    let writer = Writer {
        stream: write,
        watch: Watch::new(connection),
        batches: BatchCounter::default(),
    };
    (reader, writer)
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

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        this.watch.connection.traffic().read(read);
        if polled.is_ready() && read == 0 && buffer.remaining() > 0 {
            this.watch.connection.end("the peer closed the connection");
        }
        this.watch.poll(cx, polled)
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        let polled = this.watch.poll(cx, polled);
        if let Poll::Ready(Ok(written)) = polled {
            this.watch.connection.traffic().written(written);
            let batches = this.batches.count(&bytes[..written]);
            if batches > 0 {
                this.watch.connection.batches_written(batches);
            }
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.watch.poll(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch.poll(cx, polled)
    }
}

/// Counts the batches that go by, so that the next one is made when the session can take it.
///
/// A session writes messages as their length (8 bytes, big-endian) and a protobuf message, whose first byte tells casts
/// and calls (field 2) from what sessions say among themselves (fields 1 and 3).
#[derive(Debug, Default)]
struct BatchCounter {
    length: [u8; LENGTH_BYTES],
    length_bytes: usize,
    left: u64,
    is_batch: bool,
}

const LENGTH_BYTES: usize = 8;
const NODE_MESSAGE_TAG: u8 = 0x12;

impl BatchCounter {
    /// How many batches are complete with these further bytes.
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut complete = 0;
        while !bytes.is_empty() {
            if self.length_bytes < LENGTH_BYTES {
                let taken = bytes.len().min(LENGTH_BYTES - self.length_bytes);
                self.length[self.length_bytes..self.length_bytes + taken].copy_from_slice(&bytes[..taken]);
                self.length_bytes += taken;
                bytes = &bytes[taken..];
                if self.length_bytes == LENGTH_BYTES {
                    self.left = u64::from_be_bytes(self.length);
                    self.is_batch = false;
                    self.length_bytes = if self.left == 0 { 0 } else { LENGTH_BYTES };
                }
                continue;
            }
            if self.left == u64::from_be_bytes(self.length) {
                self.is_batch = bytes[0] == NODE_MESSAGE_TAG;
            }
            let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= taken as u64;
            bytes = &bytes[taken..];
            if self.left == 0 {
                complete += usize::from(self.is_batch);
                self.length_bytes = 0;
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_are_counted_however_the_bytes_are_cut(
            messages in proptest::collection::vec((prop_oneof![Just(0x0a_u8), Just(0x12), Just(0x1a)], 0_usize..40), 0..20),
            cut in 1_usize..30,
        ) {
            let mut bytes = Vec::new();
            for (tag, length) in &messages {
                bytes.extend_from_slice(&(*length as u64).to_be_bytes());
                bytes.extend((0..*length).map(|at| if at == 0 { *tag } else { 0x12 }));
            }
            let expected = messages.iter().filter(|(tag, length)| *tag == 0x12 && *length > 0).count();
            let mut counter = BatchCounter::default();
            let counted: usize = bytes.chunks(cut).map(|piece| counter.count(piece)).sum();
            prop_assert_eq!(counted, expected);
        }
    }
}
