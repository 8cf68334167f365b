//! The holder's side of a lease, pure: what this node may act for.

use std::sync::Arc;

use tokio::time::Instant;
use troupe_protocol::cluster::{Epoch, Membership};
use troupe_protocol::id::NodeId;

use super::wire::Renewal;
use crate::cluster::placement::{Owners, View};

/// Epochs that may follow each other while none is cleared; at one more the lease is given up.
const UNCLEARED_EPOCHS_MAX: usize = 64;

/// What a node knows about its own lease.
#[derive(Debug, Clone)]
pub(in crate::cluster) struct Tenant {
    node_id: NodeId,
    membership: Arc<Membership>,
    /// The owners at the epochs seen since the last cleared one, while the lease was held without interruption.
    owners: Vec<Arc<Owners>>,
    cleared: Epoch,
    settled: Option<Epoch>,
    until: Option<Instant>,
    lapses: u64,
}

impl Tenant {
    pub fn new(node_id: NodeId, membership: Arc<Membership>) -> Self {
        Self {
            node_id,
            owners: vec![Arc::new(Owners::of(&membership))],
            membership,
            cleared: Epoch(0),
            settled: None,
            until: None,
            lapses: 0,
        }
    }

    /// As after so many lapses, so that nothing of an earlier life counts.
    #[must_use]
    pub fn after_lapses(mut self, lapses: u64) -> Self {
        self.lapses = lapses;
        self
    }

    /// The log has come to a new membership. Answers whether it is new.
    pub fn adopt(&mut self, membership: Arc<Membership>) -> bool {
        if membership.epoch <= self.membership.epoch {
            return false;
        }
        if self.until.is_none() {
            self.owners.clear();
        }
        self.owners.push(Arc::new(Owners::of(&membership)));
        self.membership = membership;
        self.forget_what_is_cleared();
        if self.owners.len() > UNCLEARED_EPOCHS_MAX {
            self.lapse();
        }
        true
    }

    /// Notices the end of the lease. Answers whether it has just ended.
    pub fn expire(&mut self, now: Instant) -> bool {
        let is_over = self.until.is_some_and(|until| until <= now);
        if is_over {
            self.lapse();
        }
        is_over
    }

    fn lapse(&mut self) {
        self.until = None;
        self.settled = None;
        self.lapses += 1;
        let keep_from = self.owners.len().saturating_sub(1);
        self.owners.drain(..keep_from);
    }

    /// The hosts keep to what was allowed at this epoch, after so many lapses. Answers whether that is news.
    pub fn has_settled(&mut self, epoch: Epoch, lapses: u64) -> bool {
        let is_news = lapses == self.lapses && self.settled.is_none_or(|settled| settled < epoch);
        if is_news {
            self.settled = Some(epoch);
        }
        is_news
    }

    /// What to ask the leader for.
    pub fn renewal(&self) -> Renewal {
        Renewal {
            settled: self.settled,
            cleared: self.cleared,
            has_lease: self.until.is_some(),
        }
    }

    /// The leader granted, until then, what was asked for. Answers whether a lease is held now that was not before.
    pub fn granted(&mut self, until: Instant, now: Instant) -> bool {
        self.expire(now);
        if until <= now || self.settled.is_none() {
            return false;
        }
        let is_new = self.until.is_none();
        self.until = self.until.max(Some(until));
        is_new
    }

    /// An epoch is cleared. Answers whether that is news.
    pub fn clear(&mut self, epoch: Epoch) -> bool {
        let is_news = epoch > self.cleared;
        if is_news {
            self.cleared = epoch;
            self.forget_what_is_cleared();
        }
        is_news
    }

    fn forget_what_is_cleared(&mut self) {
        while self.owners.get(1).is_some_and(|next| next.epoch <= self.cleared) {
            self.owners.remove(0);
        }
    }

    /// Until when the lease lasts.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The picture for everyone else.
    pub fn view(&self) -> View {
        View {
            node_id: self.node_id,
            membership: Arc::clone(&self.membership),
            owners: self.owners.clone(),
            cleared: self.cleared,
            lapses: self.lapses,
        }
    }
}
