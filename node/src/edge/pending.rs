//! What the cluster's handle does not offer yet. Goes away when it does.

use std::time::Duration;

use secrecy::SecretString;
use troupe_actors::{
    cluster::{ClusterError, ClusterHandle},
    runtime::Deadline,
};
use troupe_protocol::{
    cluster::{ClusterStatus, LogStatus, MemberStatus},
    id::NodeId,
};

/// A join string.
pub struct Invited {
    /// The string.
    pub join: SecretString,
    /// How long it works.
    pub expires_in: Duration,
}

type Done = Result<(), ClusterError>;

/// Operating a cluster of one.
#[allow(async_fn_in_trait)]
pub trait Pending {
    fn status(&self) -> impl Future<Output = ClusterStatus> + Send;
    fn invite(&self, within: Deadline) -> impl Future<Output = Result<Invited, ClusterError>> + Send;
    fn drain(&self, node: NodeId, within: Deadline) -> impl Future<Output = Done> + Send;
    fn undrain(&self, node: NodeId, within: Deadline) -> impl Future<Output = Done> + Send;
    fn promote(&self, node: NodeId, within: Deadline) -> impl Future<Output = Done> + Send;
    fn demote(&self, node: NodeId, within: Deadline) -> impl Future<Output = Done> + Send;
    fn remove(&self, node: NodeId, within: Deadline) -> impl Future<Output = Done> + Send;
}

fn nobody_else<T>(node: NodeId) -> Result<T, ClusterError> {
    Err(ClusterError::NodeNotFound(node.to_string()))
}

impl Pending for ClusterHandle {
    async fn status(&self) -> ClusterStatus {
        let membership = self.membership();
        let node_id = self.node_id();
        let members = membership.members.values().map(|member| MemberStatus {
            member: member.clone(),
            is_self: member.id == node_id,
            is_leader: member.id == node_id,
            placed: None,
            link: None,
        });
        ClusterStatus {
            node_id,
            epoch: membership.epoch,
            has_quorum: self.holds_lease(),
            log: LogStatus::default(),
            members: members.collect(),
            warnings: Vec::new(),
        }
    }

    async fn invite(&self, _: Deadline) -> Result<Invited, ClusterError> {
        nobody_else(self.node_id())
    }

    async fn drain(&self, node: NodeId, _: Deadline) -> Done {
        nobody_else(node)
    }

    async fn undrain(&self, node: NodeId, _: Deadline) -> Done {
        nobody_else(node)
    }

    async fn promote(&self, node: NodeId, _: Deadline) -> Done {
        nobody_else(node)
    }

    async fn demote(&self, node: NodeId, _: Deadline) -> Done {
        nobody_else(node)
    }

    async fn remove(&self, node: NodeId, _: Deadline) -> Done {
        nobody_else(node)
    }
}
