//! What runs placed actors on this node, by kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use troupe_protocol::cluster::{Address, EntityKind};

use super::view::{View, Whereabouts};
use crate::cluster::dispatcher::EntityHost;

/// How many placed actors of each kind a node runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedCounts(pub BTreeMap<EntityKind, u32>);

impl PlacedCounts {
    /// Of all kinds together.
    pub fn total(&self) -> u32 {
        self.0.values().sum()
    }
}

/// The hosts of a node. They come one by one while the node starts.
pub(in crate::cluster) struct Hosts {
    by_kind: RwLock<BTreeMap<EntityKind, Arc<dyn EntityHost>>>,
    changes: watch::Sender<()>,
}

impl Hosts {
    pub fn new() -> Self {
        Self {
            by_kind: RwLock::new(BTreeMap::new()),
            changes: watch::Sender::new(()),
        }
    }

    pub fn add(&self, kind: EntityKind, host: Arc<dyn EntityHost>) {
        self.by_kind.write().insert(kind, host);
        self.changes.send_replace(());
    }

    pub fn get(&self, kind: EntityKind) -> Option<Arc<dyn EntityHost>> {
        self.by_kind.read().get(&kind).cloned()
    }

    /// Tells when a host has come.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub fn counts(&self) -> PlacedCounts {
        let by_kind = self.by_kind.read();
        let counts = by_kind.iter().map(|(kind, host)| (*kind, host.count() as u32));
        PlacedCounts(counts.collect())
    }

    /// Has all hosts keep to what the view allows, and ends when they do.
    pub async fn settle(&self, view: &Arc<View>, lease_held: bool) {
        let hosts: Vec<_> = {
            let by_kind = self.by_kind.read();
            by_kind
                .iter()
                .map(|(kind, host)| (*kind, Arc::clone(host)))
                .collect()
        };
        let settled = hosts.into_iter().map(|(kind, host)| {
            let view = Arc::clone(view);
            let epoch = view.epoch();
            let owned = move |key: &str| {
                let address = Address::new(kind, key);
                matches!(view.whereabouts(&address, lease_held), Whereabouts::Here(_))
            };
            host.settle(epoch, Arc::new(owned))
        });
        futures::future::join_all(settled).await;
    }
}
