//! Which addresses this node may act for, as one immutable picture that the hot path reads.

use std::sync::Arc;

use troupe_protocol::cluster::{Address, Epoch, Membership};
use troupe_protocol::id::NodeId;

/// Where a placed actor is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// On this node, which may act for it.
    Here(Epoch),
    /// On another node.
    At(NodeId, Epoch),
    /// Nobody can be asked now.
    Nowhere(Nowhere),
}

/// Why nobody can be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nowhere {
    /// No member is up.
    NobodyUp,
    /// This node owns the address and holds no lease.
    NoLease,
    /// This node owns the address, and its former owner may still be acting.
    Moving,
}

/// The members that were up at an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cluster) struct Owners {
    pub epoch: Epoch,
    pub up: Vec<NodeId>,
}

impl Owners {
    pub fn of(membership: &Membership) -> Self {
        Self {
            epoch: membership.epoch,
            up: membership.eligible().map(|member| member.id).collect(),
        }
    }

    pub fn owner(&self, address: &Address) -> Option<NodeId> {
        match self.up.as_slice() {
            [] => None,
            [only] => Some(*only),
            up => address.owner_among(up),
        }
    }
}

/// What a node knows about who may act for what. See the [lease](crate::cluster::lease) for the rules.
#[derive(Debug, Clone)]
pub(in crate::cluster) struct View {
    pub node_id: NodeId,
    pub membership: Arc<Membership>,
    /// The owners at the epochs that this node has seen since the last cleared one, the current epoch last.
    pub owners: Vec<Arc<Owners>>,
    /// The last epoch of which this node knows that nobody acts for what he does not own at it.
    pub cleared: Epoch,
    /// How often this node has lost its lease.
    pub lapses: u64,
}

impl View {
    /// Where an address is to be asked, for a node that does or does not hold a lease.
    pub fn whereabouts(&self, address: &Address, lease_held: bool) -> Whereabouts {
        let Some(current) = self.owners.last() else {
            return Whereabouts::Nowhere(Nowhere::NobodyUp);
        };
        match current.owner(address) {
            None => Whereabouts::Nowhere(Nowhere::NobodyUp),
            Some(owner) if owner != self.node_id => Whereabouts::At(owner, current.epoch),
            Some(_) if !lease_held => Whereabouts::Nowhere(Nowhere::NoLease),
            Some(_) if !self.is_entitled_beforehand(address) => Whereabouts::Nowhere(Nowhere::Moving),
            Some(_) => Whereabouts::Here(current.epoch),
        }
    }

    /// Whether this node owned the address at each epoch before the current one that is not cleared yet.
    fn is_entitled_beforehand(&self, address: &Address) -> bool {
        let (Some(oldest), Some((_, earlier))) = (self.owners.first(), self.owners.split_last()) else {
            return false;
        };
        let owned_at = |owners: &Arc<Owners>| owners.owner(address) == Some(self.node_id);
        oldest.epoch <= self.cleared && earlier.iter().all(owned_at)
    }

    /// The current epoch.
    pub fn epoch(&self) -> Epoch {
        self.membership.epoch
    }
}
