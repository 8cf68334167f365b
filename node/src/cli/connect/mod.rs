//! `troupe connect`: the cluster's servers for a client that starts a command and speaks MCP with it (stdio).
//!
//! Lines go to the node as they are, each as a request of its own; what the node answers comes out as lines, in the order
//! in which it comes. Both eras pass. A node that restarts, or is another one, goes unnoticed: the session is made again.
//!
//! # Layout
//! - here: reading and writing lines; `line`: what a line is (pure)
//! - `bridge`: lines to requests, and answers to lines; `session`: what a legacy client's session needs

mod bridge;
mod line;
mod session;

use std::{collections::HashMap, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use troupe_protocol::jsonrpc::{Kind, MESSAGE_BYTES_MAX};

use self::{bridge::Bridge, line::Line};
use super::{Target, error::CliError};

/// Lines that wait to be written.
const LINES_MAX: usize = 256;
/// How long requests in hand may go on when the client has closed its end.
const FINISH_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// One server, as it is; without: all of them behind one, tools named SERVER__TOOL.
    server: Option<String>,
}

/// Runs until the client closes its end.
pub async fn run(target: &Target, args: ConnectArgs) -> Result<ExitCode, CliError> {
    let (out, lines) = mpsc::channel(LINES_MAX);
    let bridge = Arc::new(Bridge::new(target.clone(), args.server, out)?);
    let mut writing = JoinSet::new();
    writing.spawn(write_lines(lines));
    tokio::select! {
        served = serve(Arc::clone(&bridge)) => served?,
        _ = writing.join_next() => return Ok(ExitCode::SUCCESS), // the client reads no more
    }
    bridge.end().await;
    drop(bridge); // the last that writes lines
    while writing.join_next().await.is_some() {}
    Ok(ExitCode::SUCCESS)
}

/// Takes lines until there are no more, and finishes what is in hand.
async fn serve(bridge: Arc<Bridge>) -> Result<(), CliError> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut requests = Requests::default();
    let mut bytes = Vec::new();
    loop {
        tokio::select! {
            is_there = next_line(&mut input, &mut bytes) => {
                if !is_there? {
                    break;
                }
                take_line(&bridge, &mut requests, &bytes).await;
                bytes.clear();
            }
            Some(_) = requests.tasks.join_next() => requests.forget_finished(),
        }
    }
    let all_finished = async { while requests.tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FINISH_WITHIN, all_finished).await; // the rest ends with the session
    Ok(())
}

async fn take_line(bridge: &Arc<Bridge>, requests: &mut Requests, bytes: &[u8]) {
    if bytes.trim_ascii().is_empty() {
        return;
    }
    let line = match Line::read(bytes) {
        Ok(line) => line,
        Err(answer) => return bridge.print(&answer).await,
    };
    if line.kind == Kind::Request {
        requests.start(Arc::clone(bridge), line);
        return;
    }
    // Over HTTP a modern client cancels by leaving.
    if let Some(id) = &line.cancels
        && requests.cancel_modern(id)
    {
        return;
    }
    // In their order, and before what comes after them.
    bridge.notify(&line).await;
}

/// Requests in hand, by the id as the client wrote it.
#[derive(Default)]
struct Requests {
    tasks: JoinSet<()>,
    by_id: HashMap<String, InHand>,
}

struct InHand {
    task: AbortHandle,
    is_modern: bool,
}

impl Requests {
    fn start(&mut self, bridge: Arc<Bridge>, line: Line) {
        let id = line.id.clone().unwrap_or_default();
        let is_modern = line.version.is_some();
        let task = self.tasks.spawn(async move { bridge.ask(&line).await });
        self.by_id.insert(id, InHand { task, is_modern });
    }

    /// Whether there was such a request of a modern client.
    fn cancel_modern(&mut self, id: &str) -> bool {
        let in_hand = self.by_id.get(id).filter(|in_hand| in_hand.is_modern);
        in_hand.inspect(|in_hand| in_hand.task.abort()).is_some()
    }

    fn forget_finished(&mut self) {
        self.by_id.retain(|_, in_hand| !in_hand.task.is_finished());
    }
}

/// Reads a line into `bytes`, going on where it was left. `false` at the end. One that is too long is cut off where it is
/// certainly refused; its rest is then refused as well.
async fn next_line(input: &mut BufReader<tokio::io::Stdin>, bytes: &mut Vec<u8>) -> Result<bool, CliError> {
    let room = (MESSAGE_BYTES_MAX + 2).saturating_sub(bytes.len()) as u64;
    let read = input.take(room).read_until(b'\n', bytes).await;
    let read = read.map_err(|error| CliError::Failed(format!("standard input cannot be read: {error}")))?;
    Ok(read > 0 || !bytes.is_empty())
}

/// Writes lines until there are no more, or nobody reads them.
async fn write_lines(mut lines: mpsc::Receiver<Vec<u8>>) {
    let mut output = tokio::io::stdout();
    while let Some(line) = lines.recv().await {
        let written = output.write_all(&line).await;
        if written.is_err() || output.flush().await.is_err() {
            return;
        }
    }
}
