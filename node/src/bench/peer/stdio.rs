//! Directly to a server over its own standard streams.

use std::{
    collections::HashMap,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin},
    sync::{Mutex, oneshot},
};
use troupe_protocol::jsonrpc::Message;

use super::{Era, call_line, failed};
use crate::{
    bench::{
        fixture::Wire,
        process::{fixture_args, ourselves},
    },
    cli::error::CliError,
};

/// Over the standard streams of a fixture of our own.
pub struct StdioPeer {
    era: Era,
    stdin: Mutex<ChildStdin>,
    waiting: Arc<std::sync::Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>>,
    next_id: AtomicU64,
    reader: tokio::task::JoinHandle<()>,
    _child: Child,
}

impl StdioPeer {
    pub fn start(folder: &Path, era: Era) -> Result<Self, CliError> {
        let mut command = ourselves(folder, &fixture_args(Wire::Stdio, era))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("no standard streams"));
        };
        let waiting: Arc<std::sync::Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>> = Arc::default();
        let answered = Arc::clone(&waiting);
        let mut lines = BufReader::new(stdout);
        let reading = async move {
            let mut line = Vec::new();
            while lines
                .read_until(b'\n', &mut line)
                .await
                .is_ok_and(|bytes| bytes > 0)
            {
                let id = Message::parse(&line).ok().and_then(|message| message.id_u64());
                let caller = id.and_then(|id| answered.lock().ok()?.remove(&id));
                if let Some(caller) = caller {
                    let _ = caller.send(std::mem::take(&mut line));
                }
                line.clear();
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the benchmark is no actor; the peer ends its own task"
        )]
        let reader = tokio::spawn(reading);
        let stdin = Mutex::new(stdin);
        Ok(Self {
            era,
            stdin,
            waiting,
            next_id: AtomicU64::new(1),
            reader,
            _child: child,
        })
    }

    /// Calls the tool once; the answer as it came.
    pub async fn call(&self, result_bytes: usize) -> Result<Vec<u8>, CliError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.insert(id, sender);
        }
        let mut line = call_line(id, self.era, result_bytes);
        line.push('\n');
        self.stdin
            .lock()
            .await
            .write_all(line.as_bytes())
            .await
            .map_err(failed)?;
        answer.await.map_err(failed)
    }
}

impl Drop for StdioPeer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
