//! The simplest that could do: what a link is measured against.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Times;
use crate::runtime::ActorError;

const QUEUE_MAX: usize = 1_024;
const BUFFER_BYTES: usize = 64 * 1024;

async fn connected() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, (far, _)) = (near?, far?);
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// So many bytes there and back, one after the other.
pub(super) struct PingPong {
    stream: TcpStream,
    bytes: Vec<u8>,
    _echo: JoinSet<()>,
}

impl PingPong {
    pub(super) async fn start(bytes: usize) -> Result<Self, ActorError> {
        let (stream, mut far) = connected().await?;
        let mut echo = JoinSet::new();
        echo.spawn(async move {
            let mut buffer = vec![0; bytes];
            while far.read_exact(&mut buffer).await.is_ok() && far.write_all(&buffer).await.is_ok() {}
        });
        Ok(Self {
            stream,
            bytes: vec![7; bytes],
            _echo: echo,
        })
    }

    pub(super) async fn measure(&mut self, each: Duration) -> Result<Times, ActorError> {
        let began = Instant::now();
        let mut each_us = Vec::new();
        while began.elapsed() < each {
            let sent = Instant::now();
            self.stream.write_all(&self.bytes).await?;
            self.stream.read_exact(&mut self.bytes).await?;
            each_us.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        Ok(Times {
            each_us,
            took: began.elapsed(),
        })
    }
}

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>;

/// A minimal multiplexed RPC: frames of length, number and payload; what has gathered is written at once; the other side
/// answers each where it reads it.
pub(super) struct MinimalRpc {
    outgoing: mpsc::Sender<(u64, Bytes)>,
    pending: Pending,
    last_number: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl MinimalRpc {
    pub(super) async fn start() -> Result<Self, ActorError> {
        let (near, far) = connected().await?;
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let (outgoing, to_write) = mpsc::channel(QUEUE_MAX);
        let (answers, to_answer) = mpsc::channel(QUEUE_MAX);
        let pending = Pending::default();
        let answered = Arc::clone(&pending);
        let mut tasks = JoinSet::new();
        tasks.spawn(write(near_write, to_write));
        tasks.spawn(write(far_write, to_answer));
        tasks.spawn(async move {
            let mut far_read = BufReader::with_capacity(BUFFER_BYTES, far_read);
            while let Some(frame) = read(&mut far_read).await {
                if answers.send(frame).await.is_err() {
                    return;
                }
            }
        });
        tasks.spawn(async move {
            let mut near_read = BufReader::with_capacity(BUFFER_BYTES, near_read);
            while let Some((number, answer)) = read(&mut near_read).await {
                let waiting = answered.lock().remove(&number);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(answer);
                }
            }
        });
        Ok(Self {
            outgoing,
            pending,
            last_number: Arc::default(),
            _tasks: tasks,
        })
    }

    pub(super) fn asker(
        &self,
        request: Bytes,
    ) -> impl Fn() -> BoxFuture<'static, Result<usize, ActorError>> + Clone + Send + 'static {
        let (outgoing, pending) = (self.outgoing.clone(), Arc::clone(&self.pending));
        let last_number = Arc::clone(&self.last_number);
        move || {
            let (outgoing, pending, request) = (outgoing.clone(), Arc::clone(&pending), request.clone());
            let number = last_number.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let (sender, answer) = oneshot::channel();
                pending.lock().insert(number, sender);
                outgoing.send((number, request)).await?;
                Ok(tokio::time::timeout(super::ASK_WITHIN, answer).await??.len())
            })
        }
    }
}

async fn write(mut stream: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<(u64, Bytes)>) {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    while let Some(first) = frames.recv().await {
        let mut next = Some(first);
        while let Some((number, payload)) = next {
            buffer.extend_from_slice(&(payload.len() as u32).to_be_bytes());
            buffer.extend_from_slice(&number.to_be_bytes());
            buffer.extend_from_slice(&payload);
            let has_room = buffer.len() < 4 * BUFFER_BYTES;
            next = if has_room { frames.try_recv().ok() } else { None };
        }
        if stream.write_all(&buffer).await.is_err() {
            return;
        }
        buffer.clear();
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u64, Bytes)> {
    let length = stream.read_u32().await.ok()?;
    let number = stream.read_u64().await.ok()?;
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((number, Bytes::from(payload)))
}
