//! A link to a server that is a child process: one JSON-RPC message a line, over its standard input and output.
//!
//! One task owns the process and pumps all its streams; it ends when the process does, when its output ends, or when
//! it is told to. Callers put lines into its bounded queue and find their answers in the call table.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use troupe_protocol::jsonrpc::{self, Message, RawReply};
use troupe_protocol::upstream::LogSource;

use super::endpoint::{Endpoint, UpstreamSettings};
use super::error::Failure;
use super::questions::AnswerTo;
use super::wires::Wires;

mod lines;
pub(super) mod process;

use lines::{Line, Lines};
use process::{Pipes, ProcessTree, SpawnError};

/// Lines that wait to be written to one server.
const WRITE_QUEUE_LINES_MAX: usize = 1_024;
/// Bytes that wait to be written to one server.
const WRITE_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Lines written with one system call.
const WRITE_BATCH_LINES_MAX: usize = 64;
/// How long the last words on standard error are waited for, once the process has ended.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(100);

/// A line on its way to the server, and the call that it is the request of.
struct Outgoing {
    line: String,
    call: Option<u64>,
}

/// A link to a child process.
pub(super) struct StdioLink {
    queue: mpsc::Sender<Outgoing>,
    queued_bytes: Arc<AtomicUsize>,
    message_bytes_max: usize,
    wires: Arc<Wires>,
    stop: CancellationToken,
    pump: parking_lot::Mutex<Option<AbortOnDropHandle<()>>>,
    process: Option<u32>,
}

impl StdioLink {
    /// Starts the process. The handshake is up to the caller.
    #[expect(
        clippy::disallowed_methods,
        reason = "the task is owned by the link and ends with it"
    )]
    pub fn start(
        endpoint: &Endpoint,
        settings: &UpstreamSettings,
        wires: &Arc<Wires>,
    ) -> Result<Self, SpawnError> {
        let Endpoint::Stdio {
            command,
            args,
            cwd,
            env,
        } = endpoint
        else {
            let reason = "not a stdio server".to_owned();
            return Err(SpawnError::Refused {
                command: String::new(),
                reason,
            });
        };
        wires.log.note(&format!("starting {command}"));
        let (tree, pipes) = process::spawn(command, args, cwd.as_deref(), env)?;
        tracing::debug!(server = %wires.calls.server(), process = tree.id(), "started");
        let process = tree.id();
        let (queue, lines) = mpsc::channel(WRITE_QUEUE_LINES_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let pump = Pump {
            wires: Arc::clone(wires),
            queue: queue.downgrade(),
            queued_bytes: Arc::clone(&queued_bytes),
            stop: stop.clone(),
            message_bytes_max: settings.message_bytes_max,
            patience: Duration::from_millis(settings.stop_timeout_ms),
        };
        let pump = AbortOnDropHandle::new(tokio::spawn(pump.run(tree, pipes, lines)));
        Ok(Self {
            queue,
            queued_bytes,
            message_bytes_max: settings.message_bytes_max,
            wires: Arc::clone(wires),
            stop,
            pump: parking_lot::Mutex::new(Some(pump)),
            process,
        })
    }

    /// Sends a request and waits for its answer. The call must be in the table.
    pub async fn call(&self, id: u64, line: String) -> Result<RawReply, Failure> {
        let answer = self.wires.calls.arm(id, self.wires.connection);
        self.send(line, Some(id))?;
        let lost = || Failure::Lost(self.wires.reason());
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Queues a line that gets no answer.
    pub fn send(&self, line: String, call: Option<u64>) -> Result<(), Failure> {
        if line.len() > self.message_bytes_max {
            return Err(Failure::TooLarge(self.message_bytes_max));
        }
        enqueue(&self.queue, &self.queued_bytes, line, call).map_err(|refused| match refused {
            Refused::Full => Failure::Overloaded("too much waits to be written to it".to_owned()),
            Refused::Closed => Failure::NotSent(self.wires.reason()),
        })
    }

    /// Closes the process's input and waits until it and all it started are gone.
    pub async fn close(&self) {
        self.stop.cancel();
        let pump = self.pump.lock().take();
        if let Some(pump) = pump {
            // The pump ends by itself within thrice the patience; it is aborted, and the processes killed, otherwise.
            let _ = pump.await;
        }
    }
}

impl StdioLink {
    /// Stops the process and all it started where they are, or lets them go on. Whether that was possible.
    pub fn suspend(&self, is_suspended: bool) -> bool {
        self.process
            .is_some_and(|process| process::suspend(process, is_suspended))
    }

    /// Kills the process and all it started, and waits until that is done.
    pub async fn kill(&self) {
        let pump = self.pump.lock().take();
        if let Some(pump) = pump {
            pump.abort();
            let _ = pump.await;
        }
    }
}

enum Refused {
    Full,
    Closed,
}

fn enqueue(
    queue: &mpsc::Sender<Outgoing>,
    queued_bytes: &AtomicUsize,
    line: String,
    call: Option<u64>,
) -> Result<(), Refused> {
    let bytes = line.len();
    if queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > WRITE_QUEUE_BYTES_MAX {
        queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        return Err(Refused::Full);
    }
    queue.try_send(Outgoing { line, call }).map_err(|error| {
        queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        match error {
            mpsc::error::TrySendError::Full(_) => Refused::Full,
            mpsc::error::TrySendError::Closed(_) => Refused::Closed,
        }
    })
}

/// The task that owns the process.
struct Pump {
    wires: Arc<Wires>,
    queue: mpsc::WeakSender<Outgoing>,
    queued_bytes: Arc<AtomicUsize>,
    stop: CancellationToken,
    message_bytes_max: usize,
    patience: Duration,
}

impl Pump {
    async fn run(self, mut tree: ProcessTree, pipes: Pipes, lines: mpsc::Receiver<Outgoing>) {
        // Should this task itself fail, nobody must wait for it.
        let _lost = LostOnDrop(Arc::clone(&self.wires));
        let Pipes {
            stdin,
            stdout,
            stderr,
        } = pipes;
        let errors = self.keep_stderr(stderr);
        tokio::pin!(errors);
        let mut errors_open = true;
        let reason = {
            // What is dropped at the end of this block closes the process's input and the queue.
            let reading = self.read(stdout);
            let writing = self.write(stdin, lines);
            let ended = tree.ended();
            tokio::pin!(reading, writing, ended);
            loop {
                tokio::select! {
                    reason = &mut reading => break reason,
                    reason = &mut writing => break reason,
                    reason = &mut ended => break reason,
                    () = self.stop.cancelled() => break "the connection was closed".to_owned(),
                    () = &mut errors, if errors_open => errors_open = false,
                }
            }
        };
        if errors_open && !self.stop.is_cancelled() {
            // An early end is best explained by what the server said last.
            let _ = tokio::time::timeout(LAST_WORDS_WAIT, &mut errors).await;
        }
        let status = tokio::time::timeout(LAST_WORDS_WAIT, tree.ended()).await.ok();
        let mut reason = status.unwrap_or(reason);
        let last_words = self.wires.log.last_words(4);
        if !last_words.is_empty() && !self.stop.is_cancelled() {
            reason = format!("{reason}; it said: {last_words}");
        }
        self.wires.lost(&reason);
        tree.stop(self.patience).await;
    }

    /// Reads messages until the process closes its output.
    async fn read(&self, stdout: ChildStdout) -> String {
        let mut lines = FramedRead::with_capacity(stdout, Lines::new(self.message_bytes_max), 16 * 1024);
        loop {
            match lines.next().await {
                Some(Ok(Line::Whole(line))) => self.received(&line),
                Some(Ok(Line::TooLong { id })) => self.passed_over(id),
                Some(Err(error)) => return format!("its output could not be read: {error}"),
                None => return "it closed its output".to_owned(),
            }
        }
    }

    /// A message was too long. Its caller is told, where it is known who that is.
    fn passed_over(&self, id: Option<u64>) {
        let (wires, bytes_max) = (&self.wires, self.message_bytes_max);
        wires
            .log
            .note(&format!("a message of more than {bytes_max} bytes was dropped"));
        let failure = Failure::TooLarge(bytes_max);
        match id {
            Some(id) => {
                // Nobody may wait any more.
                wires.calls.complete(id, Err(failure));
            }
            None => wires.calls.fail_only_waiting(failure),
        }
    }

    fn received(&self, line: &Bytes) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match Message::parse_within(line, self.message_bytes_max) {
            Ok(message) => {
                if let Some(answer) = self.wires.received(&message, None, || self.answer_to()) {
                    (self.answer_to())(answer);
                }
            }
            // Servers that print to standard output are common and mostly harmless.
            Err(error) => {
                let beginning = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                self.wires.log.push(
                    LogSource::Stderr,
                    None,
                    &format!("not a message ({error}): {beginning}"),
                );
            }
        }
    }

    /// The way back for the answer to a request of the server's.
    fn answer_to(&self) -> AnswerTo {
        let (queue, queued_bytes) = (self.queue.clone(), Arc::clone(&self.queued_bytes));
        Box::new(move |line| {
            if let Some(queue) = queue.upgrade() {
                // A server whose requests pile up while it does not read its input gets no answer.
                let _ = enqueue(&queue, &queued_bytes, line, None);
            }
        })
    }

    /// Writes queued lines, several with one system call.
    async fn write(&self, mut stdin: ChildStdin, mut lines: mpsc::Receiver<Outgoing>) -> String {
        let mut batch = Vec::with_capacity(WRITE_BATCH_LINES_MAX);
        let mut buffer = Vec::with_capacity(8 * 1024);
        loop {
            if lines.recv_many(&mut batch, WRITE_BATCH_LINES_MAX).await == 0 {
                return "the connection was dropped".to_owned();
            }
            buffer.clear();
            for outgoing in &batch {
                jsonrpc::push_line(&mut buffer, &outgoing.line);
                self.queued_bytes
                    .fetch_sub(outgoing.line.len(), Ordering::Relaxed);
            }
            // From here on the server may act upon the requests, even if writing fails half-way.
            self.wires
                .calls
                .mark_sent(batch.iter().filter_map(|outgoing| outgoing.call));
            batch.clear();
            if let Err(error) = stdin.write_all(&buffer).await {
                return format!("its input could not be written: {error}");
            }
            buffer.shrink_to(64 * 1024);
        }
    }

    async fn keep_stderr(&self, stderr: ChildStderr) {
        let mut lines = BufReader::new(stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            // Bounded: a server that never ends its line is cut where the log would cut it.
            let mut limited =
                tokio::io::AsyncReadExt::take(&mut lines, super::log::LOG_LINE_BYTES_MAX as u64);
            match limited.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line);
                    self.wires.log.push(LogSource::Stderr, None, text.trim_end());
                }
            }
        }
    }
}

/// Ends the calls of a connection whose task has ended, however it has.
struct LostOnDrop(Arc<Wires>);

impl Drop for LostOnDrop {
    fn drop(&mut self) {
        self.0.lost("the task that served it has ended");
    }
}
