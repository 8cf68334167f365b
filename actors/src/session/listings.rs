//! What each server has to offer, gathered for an aggregate list.
//!
//! Nobody waits longer than the bound. A list that was not there in time is read to its end all the same, so that it
//! is there the next time; until then the clients that ask are not kept waiting for it again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::timeout_at;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::mcp::{Descriptor, ListKind};
use troupe_protocol::server::ServerName;
use troupe_protocol::server::name::BUILTIN_SERVER;
use troupe_protocol::upstream::UpstreamState;

use super::gateway::Gateway;
use super::merge::{Listing, Missing, Position};
use crate::runtime::Deadline;
use crate::upstream::UpstreamsHandle;

/// How long a list may take to be read when nobody waits for it.
const LIST_TIME_MAX: Duration = Duration::from_secs(60);

type Items = Result<(Arc<Vec<Descriptor>>, Option<Duration>), Missing>;

/// The lists that are still being read after a client stopped waiting for them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct LateLists(Arc<Mutex<HashSet<(ServerName, ListKind)>>>);

impl LateLists {
    fn contains(&self, server: &ServerName, kind: ListKind) -> bool {
        self.0.lock().contains(&(server.clone(), kind))
    }

    fn begin(&self, server: &ServerName, kind: ListKind) -> LateList {
        let key = (server.clone(), kind);
        self.0.lock().insert(key.clone());
        LateList {
            key,
            lists: self.clone(),
        }
    }
}

/// One of them, until it is dropped.
struct LateList {
    key: (ServerName, ListKind),
    lists: LateLists,
}

impl Drop for LateList {
    fn drop(&mut self) {
        self.lists.0.lock().remove(&self.key);
    }
}

impl Gateway {
    /// What each server has, sorted by server, from the page's beginning on.
    pub(super) async fn listings(&self, kind: ListKind, start: &Position) -> Vec<Listing> {
        self.listings_of(kind, self.servers_from(start)).await
    }

    /// What each of these servers has, sorted by server.
    pub(super) async fn listings_of(&self, kind: ListKind, servers: Vec<ServerName>) -> Vec<Listing> {
        let mut listings = Vec::new();
        let mut reading: FuturesUnordered<BoxFuture<'static, (ServerName, Items)>> = FuturesUnordered::new();
        let mut awaited = HashSet::new();
        for server in servers {
            match self.missing_for_now(&server, kind) {
                Some(missing) => listings.push(listing(&server, Err(missing))),
                None => {
                    awaited.insert(server.clone());
                    reading.push(Box::pin(read(self.parts.upstreams.clone(), server, kind)));
                }
            }
        }
        let deadline = Deadline::within(self.parts.limits.list_wait);
        while let Ok(Some((server, items))) = timeout_at(deadline.instant(), reading.next()).await {
            awaited.remove(&server);
            listings.push(listing(&server, items));
        }
        listings.extend(
            awaited
                .iter()
                .map(|server| listing(server, Err(self.not_in_time()))),
        );
        self.read_to_the_end(kind, reading, awaited);
        listings.sort_by(|a, b| a.server.cmp(&b.server));
        listings
    }

    fn read_to_the_end(
        &self,
        kind: ListKind,
        mut reading: FuturesUnordered<BoxFuture<'static, (ServerName, Items)>>,
        late: HashSet<ServerName>,
    ) {
        if late.is_empty() {
            return;
        }
        let mut late: Vec<LateList> = late
            .iter()
            .map(|server| self.parts.late_lists.begin(server, kind))
            .collect();
        self.parts.sessions.finish(Box::pin(async move {
            while let Some((server, _kept_by_its_upstream)) = reading.next().await {
                late.retain(|list| list.key.0 != server);
            }
        }));
    }

    /// The servers to ask: those enabled, and the built-in one.
    fn servers_from(&self, start: &Position) -> Vec<ServerName> {
        let view = self.parts.registry.view();
        let enabled = view.enabled().map(|entry| entry.name.clone());
        let mut servers: Vec<ServerName> = enabled
            .filter(|server| server.as_str() >= start.server.as_str())
            .collect();
        if start.server.is_empty() {
            servers.extend(ServerName::new(BUILTIN_SERVER).ok());
        }
        servers
    }

    /// Why a server is not asked now: it is known to be down, or its list is being read already.
    fn missing_for_now(&self, server: &ServerName, kind: ListKind) -> Option<Missing> {
        if self.parts.late_lists.contains(server, kind) {
            return Some(self.not_in_time());
        }
        match self.parts.upstreams.state(server) {
            // When the pause is over it is asked again, which starts the next attempt.
            UpstreamState::Waiting {
                reason,
                attempts,
                retry_in_ms,
            } if attempts > 0 && retry_in_ms > 0 => Some(Missing {
                code: Code::UpstreamUnreachable,
                reason,
            }),
            _ => None,
        }
    }

    fn not_in_time(&self) -> Missing {
        let reason = format!(
            "its list was not there within {} ms",
            self.parts.limits.list_wait.as_millis()
        );
        Missing {
            code: Code::UpstreamTimeout,
            reason,
        }
    }
}

async fn read(upstreams: UpstreamsHandle, server: ServerName, kind: ListKind) -> (ServerName, Items) {
    let deadline = Deadline::within(LIST_TIME_MAX);
    let items = match upstreams.get(&server, deadline).await {
        Ok(upstream) => upstream.list(kind, deadline).await,
        Err(error) => Err(error),
    };
    let items = items.map_err(|error| Missing {
        code: Coded::code(&error),
        reason: error.to_string(),
    });
    let ttl = upstreams.list_ttl(&server, kind);
    (server, items.map(|items| (items, ttl)))
}

fn listing(server: &ServerName, items: Items) -> Listing {
    let shown = if server.as_str() == BUILTIN_SERVER {
        ""
    } else {
        server.as_str()
    };
    match items {
        Ok((items, ttl)) => Listing {
            ttl,
            ..Listing::of(shown, Ok(items))
        },
        Err(missing) => Listing::of(shown, Err(missing)),
    }
}
