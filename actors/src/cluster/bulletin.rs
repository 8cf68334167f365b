//! What one node lets all others know: the latest text under each key, such as the state of each server that it runs.
//!
//! Others ask for what is new since they last asked, and the answer waits until there is something. So a change is known
//! everywhere within a round trip, a node to which nothing happens costs one exchange a minute, and whoever was cut off
//! goes on where it was. State is **cached**: a node that starts anew begins an empty bulletin, which others notice by
//! its `life`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use troupe_protocol::cluster::MemberState;
use troupe_protocol::id::NodeId;

use super::dispatcher::{EntityContext, ObserveTopic, decode, encode};
use super::{ClusterHandle, ServiceError};
use crate::runtime::Deadline;

/// Keys that are kept; the one that has not changed for longest goes first.
const KEYS_MAX: usize = 16_384;
/// The longest key and text together, in bytes.
const ENTRY_BYTES_MAX: usize = 32 * 1024;
/// How many bytes one answer has at most, but for its last entry.
const PAGE_BYTES_MAX: usize = 96 * 1024;
/// How long an answer waits for something new.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How much longer the asker is patient: so long that links take the question for a subscription. They look after a peer
/// that owes the answer to a call several times a second, and this one is always owed.
const WAIT_MARGIN: Duration = Duration::from_secs(600);
/// For how long changes are gathered once there is one: they come in bursts.
const GATHER_TIME: Duration = Duration::from_millis(20);
/// The pause before a node that could not be asked is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// Up to where a reader has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    life: u64,
    version: u64,
}

/// What is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Up to where this reads.
    now: Since,
    /// Whether this is the beginning: what the reader heard before no longer counts.
    pub is_beginning: bool,
    /// Keys with their latest text, in the order of change.
    pub entries: Vec<(String, String)>,
}

/// What this node lets the others know.
#[derive(Debug)]
pub struct Bulletin {
    life: u64,
    kept: Mutex<Kept>,
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    version: u64,
    /// Changes up to this version may have been forgotten.
    forgotten: u64,
    by_version: BTreeMap<u64, (String, String)>,
    by_key: HashMap<String, u64>,
}

impl Default for Bulletin {
    fn default() -> Self {
        Self {
            life: fastrand::u64(1..),
            kept: Mutex::default(),
            latest: watch::Sender::new(0),
        }
    }
}

impl Bulletin {
    /// Lets the others know. A text that is too long is left out.
    pub fn publish(&self, key: impl Into<String>, text: String) {
        let key = key.into();
        if key.len() + text.len() > ENTRY_BYTES_MAX {
            tracing::debug!(key, bytes = text.len(), "too long to be told to the other nodes");
            return;
        }
        let mut kept = self.kept.lock();
        let version = kept.put(key, text);
        // Under the lock: a later version is never followed by an earlier one, for which nobody would wake.
        self.latest.send_replace(version);
    }

    /// As [`publish`](Self::publish), for what has a JSON form.
    pub fn publish_json<T: Serialize>(&self, key: impl Into<String>, value: &T) {
        match serde_json::to_string(value) {
            Ok(text) => self.publish(key, text),
            Err(error) => tracing::warn!(%error, "something is not told to the other nodes"),
        }
    }

    /// What is new; waits until there is something, or until the deadline.
    pub async fn next(&self, since: Since, until: Deadline) -> Page {
        let mut latest = self.latest.subscribe();
        let known = if since.life == self.life { since.version } else { 0 };
        let is_new = since.life != self.life;
        let until = until.instant().min(Instant::now() + WAIT_MAX);
        let something = latest.wait_for(|version| *version > known || is_new);
        let came = matches!(tokio::time::timeout_at(until, something).await, Ok(Ok(_)));
        if came && !is_new {
            tokio::time::sleep(GATHER_TIME).await;
        }
        self.page(since)
    }

    fn page(&self, since: Since) -> Page {
        let kept = self.kept.lock();
        let is_beginning = since.life != self.life || since.version < kept.forgotten;
        let after = if is_beginning { 0 } else { since.version };
        let (mut bytes, mut version, mut entries) = (0, after, Vec::new());
        for (number, (key, text)) in kept.by_version.range(after + 1..) {
            if bytes >= PAGE_BYTES_MAX {
                break;
            }
            bytes += key.len() + text.len();
            version = *number;
            entries.push((key.clone(), text.clone()));
        }
        // A beginning that takes several pages must not be taken for one that missed something.
        let version = version.max(kept.forgotten);
        Page {
            now: Since {
                life: self.life,
                version,
            },
            is_beginning,
            entries,
        }
    }

    /// Answers other nodes under this topic.
    pub fn serve(self: &Arc<Self>, cluster: &ClusterHandle, topic: ObserveTopic) {
        let bulletin = Arc::clone(self);
        let answer = move |question: Bytes,
                           context: EntityContext|
              -> BoxFuture<'static, Result<Bytes, ServiceError>> {
            let bulletin = Arc::clone(&bulletin);
            Box::pin(async move {
                let since = decode(&question)?;
                encode(&bulletin.next(since, context.deadline).await)
            })
        };
        cluster.observe(topic, Arc::new(answer));
    }
}

impl Kept {
    fn put(&mut self, key: String, text: String) -> u64 {
        self.version += 1;
        if let Some(old) = self.by_key.insert(key.clone(), self.version) {
            self.by_version.remove(&old);
        }
        self.by_version.insert(self.version, (key, text));
        while self.by_version.len() > KEYS_MAX
            && let Some((version, (key, _))) = self.by_version.pop_first()
        {
            self.by_key.remove(&key);
            self.forgotten = version;
        }
        self.version
    }
}

/// Hears what other nodes let know. Must not block.
pub trait Reader: Send + Sync + 'static {
    /// A node has something new.
    fn heard(&self, node: NodeId, page: &Page);
    /// A node is no longer heard of: it is down or has left.
    fn lost(&self, node: NodeId);
}

/// Reads the bulletins of all other nodes, as members come and go. Never ends: whoever reads owns the task.
pub async fn read_all(cluster: ClusterHandle, topic: ObserveTopic, reader: Arc<dyn Reader>) {
    let mut epochs = cluster.epochs();
    let mut tasks = JoinSet::new();
    let mut reading: HashMap<NodeId, AbortHandle> = HashMap::new();
    loop {
        epochs.mark_unchanged();
        let others = others_alive(&cluster);
        reading.retain(|node, task| {
            let stays = others.contains(node);
            if !stays {
                task.abort();
                reader.lost(*node);
            }
            stays
        });
        for node in others {
            reading.entry(node).or_insert_with(|| {
                tasks.spawn(read(cluster.clone(), node, topic.clone(), Arc::clone(&reader)))
            });
        }
        while tasks.try_join_next().is_some() {}
        if epochs.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn others_alive(cluster: &ClusterHandle) -> HashSet<NodeId> {
    let (membership, own) = (cluster.membership(), cluster.node_id());
    let alive = membership
        .members
        .values()
        .filter(|member| member.state != MemberState::Down);
    alive
        .map(|member| member.id)
        .filter(|node| *node != own)
        .collect()
}

async fn read(cluster: ClusterHandle, node: NodeId, topic: ObserveTopic, reader: Arc<dyn Reader>) {
    let mut since = Since::default();
    loop {
        let deadline = Deadline::within(WAIT_MAX + WAIT_MARGIN);
        match cluster
            .ask_node::<_, Page>(node, topic.clone(), &since, deadline)
            .await
        {
            Ok(page) => {
                since = page.now;
                if page.is_beginning || !page.entries.is_empty() {
                    reader.heard(node, &page);
                }
            }
            Err(error) => {
                tracing::trace!(%node, topic = topic.as_str(), %error, "asking again what is new");
                tokio::time::sleep(RETRY_AFTER.mul_f64(0.5 + fastrand::f64())).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn soon() -> Deadline {
        Deadline::within(crate::runtime::testkit::PATIENCE)
    }

    fn keys(page: &Page) -> Vec<&str> {
        page.entries.iter().map(|(key, _)| key.as_str()).collect()
    }

    /// Otherwise a later version could be told first, and a reader would wait though there is something to read.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "there is no runtime here")]
    fn a_change_is_told_before_the_next_can_be_made() {
        let bulletin = Bulletin::default();
        let reader = bulletin.latest.subscribe();
        std::thread::scope(|scope| {
            let telling = reader.borrow(); // nothing can be told as long as this is held
            scope.spawn(|| bulletin.publish("key", "text".to_owned()));
            while bulletin.kept.try_lock().is_some_and(|kept| kept.version == 0) {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(50));
            assert!(bulletin.kept.try_lock().is_none());
            drop(telling);
        });
        assert_eq!(*reader.borrow(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_gets_everything_and_then_what_is_new() {
        let bulletin = Bulletin::default();
        for key in ["a", "b", "a"] {
            bulletin.publish(key, "1".to_owned());
        }
        let first = bulletin.next(Since::default(), soon()).await;
        assert_eq!((first.is_beginning, keys(&first)), (true, vec!["b", "a"]));
        let waiting = bulletin.next(first.now, soon());
        let (second, ()) = tokio::join!(waiting, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            bulletin.publish("c", "2".to_owned());
        });
        assert_eq!((second.is_beginning, keys(&second)), (false, vec!["c"]));
        let nothing = bulletin.next(second.now, soon()).await;
        assert_eq!((nothing.now, nothing.entries.len()), (second.now, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_read_another_life_or_missed_too_much_begins_again() {
        let (old, new) = (Bulletin::default(), Bulletin::default());
        old.publish("a", String::new());
        let read = old.next(Since::default(), soon()).await.now;
        assert!(new.next(read, soon()).await.is_beginning);
        for number in 0..=KEYS_MAX {
            old.publish(format!("key-{number}"), String::new());
        }
        let mut page = old.next(read, soon()).await;
        assert!(page.is_beginning);
        let mut read = page.entries.len();
        while !page.entries.is_empty() {
            page = old.next(page.now, Deadline::within(Duration::ZERO)).await;
            assert!(!page.is_beginning);
            read += page.entries.len();
        }
        assert_eq!(read, KEYS_MAX);
    }
}
