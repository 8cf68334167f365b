//! The leader's way from requests to entries: those that arrive together share an entry, and so one write to the disk and
//! one round to the other voters.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::command::{Command, Entry, Outcome, Request};
use super::core::Core;
use super::entries::REPLICATED_BYTES_MAX;
use super::machine::number;

/// Requests that wait for an entry; more are refused.
pub(super) const WAITING_MAX: usize = 4_096;
/// Requests that share an entry.
pub(super) const ENTRY_REQUESTS_MAX: usize = 256;
/// Entries on their way: one that is written while the one before goes round. More would leave less to share.
const ENTRIES_IN_FLIGHT_MAX: usize = 2;
/// What naming a request takes, about.
const REQUEST_BYTES: usize = 64;

/// What became of a request that was handed to openraft.
#[derive(Debug)]
pub(super) enum Proposed {
    /// Committed and applied, in the entry with this number.
    Done(u64, Outcome),
    /// This node does not lead, or no longer. When it `may` have been written, it may yet be committed.
    NotLeader { may: bool },
    /// Too much waits already.
    Overloaded,
    /// The log has stopped.
    Stopped(String),
}

struct Waiting {
    request: Request,
    reply: oneshot::Sender<Proposed>,
}

/// Requests on their way to entries.
pub(super) struct Proposals {
    queue: mpsc::Sender<Waiting>,
    /// Taken by whoever runs the proposals; by the next life of the actor too.
    waiting: Mutex<mpsc::Receiver<Waiting>>,
    count: AtomicUsize,
}

impl Default for Proposals {
    fn default() -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        Self {
            queue,
            waiting: Mutex::new(waiting),
            count: AtomicUsize::new(0),
        }
    }
}

impl Proposals {
    /// Hands a request to openraft and waits for what becomes of it.
    pub(super) async fn propose(&self, request: Request) -> Proposed {
        let (reply, proposed) = oneshot::channel();
        if self.queue.try_send(Waiting { request, reply }).is_err() {
            return Proposed::Overloaded;
        }
        proposed.await.unwrap_or(Proposed::NotLeader { may: true })
    }

    /// How many requests wait or are on their way.
    pub(super) fn waiting(&self) -> usize {
        self.count.load(Ordering::Relaxed) + (WAITING_MAX - self.queue.capacity())
    }
}

/// Makes entries of requests, until cancelled.
pub(super) async fn run(core: &Core) {
    let mut waiting = core.proposals.waiting.lock().await;
    let mut in_flight = FuturesUnordered::new();
    let mut next = VecDeque::new();
    loop {
        let may_begin = in_flight.len() < ENTRIES_IN_FLIGHT_MAX;
        tokio::select! {
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            received = waiting.recv(), if next.is_empty() && may_begin => match received {
                Some(request) => next.push_back(request),
                None => return,
            },
            () = std::future::ready(()), if !next.is_empty() && may_begin => {
                fill(&mut next, &mut waiting);
                let group = take_group(&mut next);
                core.proposals.count.fetch_add(group.len(), Ordering::Relaxed);
                in_flight.push(write(core, group));
            }
        }
    }
}

fn fill(next: &mut VecDeque<Waiting>, waiting: &mut mpsc::Receiver<Waiting>) {
    while next.len() < ENTRY_REQUESTS_MAX {
        match waiting.try_recv() {
            Ok(request) => next.push_back(request),
            Err(_) => return,
        }
    }
}

/// As many of the first as fit into an entry.
fn take_group(next: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut bytes = 0;
    let mut group = Vec::new();
    while let Some(waiting) = next.front() {
        bytes += bytes_of(&waiting.request);
        if !group.is_empty() && (bytes > REPLICATED_BYTES_MAX || group.len() >= ENTRY_REQUESTS_MAX) {
            break;
        }
        group.extend(next.pop_front());
    }
    group
}

fn bytes_of(request: &Request) -> usize {
    REQUEST_BYTES
        + match &request.command {
            Command::Records(batch) => batch.bytes(),
            Command::Member(_) => 1_024,
        }
}

async fn write(core: &Core, group: Vec<Waiting>) {
    let (requests, replies): (Vec<Request>, Vec<_>) = group
        .into_iter()
        .map(|waiting| (waiting.request, waiting.reply))
        .unzip();
    let count = requests.len();
    let proposed = write_entry(core, Entry { requests }).await;
    core.proposals.count.fetch_sub(count, Ordering::Relaxed);
    for (reply, proposed) in replies.into_iter().zip(proposed) {
        let _ = reply.send(proposed); // who asked may have given up
    }
}

async fn write_entry(core: &Core, entry: Entry) -> Vec<Proposed> {
    let count = entry.len();
    let all = |proposed: fn() -> Proposed| (0..count).map(|_| proposed()).collect();
    let leads = core.leader_now().is_some_and(|(leader, _)| leader == core.own);
    if !leads {
        return all(|| Proposed::NotLeader { may: false });
    }
    let receiver = match core.raft.client_write_ff(entry).await {
        Ok(receiver) => receiver,
        Err(error) => {
            let stopped = || Proposed::Stopped(error.to_string());
            return (0..count).map(|_| stopped()).collect();
        }
    };
    match receiver.await {
        Ok(Ok(written)) => {
            let at = number(Some(&written.log_id));
            let outcomes = written.data.0.into_iter();
            outcomes.map(|outcome| Proposed::Done(at, outcome)).collect()
        }
        // Refused at once, or removed from the log again: then it may be in the logs of others.
        Ok(Err(_)) | Err(_) => all(|| Proposed::NotLeader { may: true }),
    }
}
