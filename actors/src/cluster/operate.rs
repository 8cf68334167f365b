//! Operating the cluster: what people see of it and do to its members.

use std::sync::Arc;
use std::time::Duration;

use troupe_protocol::cluster::{
    ClusterStatus, ClusterWarning, LinkState, LinkStatus, LogStatus, Member, MemberState, MemberStatus,
    Membership, Role,
};
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;

use super::admission::Invited;
use super::dispatcher::ObserveTopic;
use super::error::ClusterError;
use super::handle::{ClusterHandle, Reach};
use super::link::{LinksHandle, ServiceError};
use super::log::{LogError, LogHandle, MemberCommand, voters_wanted};
use super::placement::PlacedCounts;
use crate::runtime::Deadline;

/// How long other nodes may take to say how many placed actors they run.
const COUNT_WITHIN: Duration = Duration::from_millis(400);
/// How often a draining node is asked how many it still runs.
const COUNT_AGAIN: Duration = Duration::from_millis(100);
/// From this difference on, clocks are worth a warning.
const CLOCK_SKEW_MS_MAX: u64 = 1_000;

impl ClusterHandle {
    /// The links to other nodes; nothing when this node is [`alone`](Self::alone).
    pub fn links(&self) -> Option<&LinksHandle> {
        self.shared.reach.get().map(|reach| &reach.links)
    }

    /// The replicated log; nothing when this node is [`alone`](Self::alone).
    pub fn log(&self) -> Option<&LogHandle> {
        self.shared.reach.get().map(|reach| &reach.log)
    }

    /// The cluster as this node sees it. Asks the others how many placed actors they run.
    pub async fn status(&self) -> ClusterStatus {
        let membership = self.membership();
        let node_id = self.node_id();
        let links = self.links().map(LinksHandle::status).unwrap_or_default();
        let log = self.log().map(LogHandle::status).unwrap_or_default();
        let members = membership.members.values();
        let members = members.map(|member| self.member_status(member, &log, &links));
        let mut members = futures::future::join_all(members).await;
        members.sort_by(|a, b| a.member.name.cmp(&b.member.name));
        let has_quorum = self.holds_lease();
        let voters_max = self.shared.reach.get().map_or(1, |reach| reach.voters_max);
        let mut warnings = warnings(&membership, &links, voters_max);
        if let Some(Err(LogError::Stopped { reason })) = self.log().map(LogHandle::check) {
            warnings.insert(0, ClusterWarning::LogStopped { reason });
        } else if !has_quorum {
            warnings.insert(0, missing_quorum(&membership, node_id, &links));
        }
        ClusterStatus {
            node_id,
            epoch: membership.epoch,
            has_quorum,
            log,
            members,
            warnings,
        }
    }

    async fn member_status(&self, member: &Member, log: &LogStatus, links: &[LinkStatus]) -> MemberStatus {
        let is_self = member.id == self.node_id();
        let placed = if is_self {
            Some(self.placed())
        } else if member.state == MemberState::Down {
            None
        } else {
            self.placed_at(member.id, Deadline::within(COUNT_WITHIN))
                .await
                .ok()
        };
        MemberStatus {
            member: member.clone(),
            is_self,
            is_leader: log
                .leader
                .map_or(is_self && self.log().is_none(), |leader| leader == member.id),
            placed: placed.map(|placed| placed.total()),
            link: links.iter().find(|link| link.node == member.id).cloned(),
        }
    }

    async fn placed_at(&self, node: NodeId, deadline: Deadline) -> Result<PlacedCounts, ClusterError> {
        self.ask_node(node, ObserveTopic::PLACED, &(), deadline).await
    }

    /// What names this cluster and no other, for as long as it exists.
    ///
    /// # Errors
    /// When this node is in none.
    pub fn authority(&self) -> Result<String, ClusterError> {
        Ok(self.reach()?.admission.authority())
    }

    /// Invites one newcomer.
    ///
    /// # Errors
    /// When no majority takes the invitation.
    pub async fn invite(&self, deadline: Deadline) -> Result<Invited, ClusterError> {
        let reach = self.reach()?;
        let invited = reach.admission.invite(&reach.cluster_address, deadline).await;
        invited.map_err(ClusterError::Refused)
    }

    /// Has a member give its placed actors away, and waits until it has: what they had in hand is done or ended too.
    ///
    /// # Errors
    /// [`ClusterError::DeadlineExceeded`] while it still runs some; it goes on draining.
    pub async fn drain(&self, node: NodeId, deadline: Deadline) -> Result<(), ClusterError> {
        let membership = self.membership();
        let member = membership
            .members
            .get(&node)
            .ok_or_else(|| ClusterError::NodeNotFound(node.to_string()))?;
        if member.state == MemberState::Up && membership.eligible().count() == 1 {
            let detail = format!(
                "{} is the only member that is up: nobody could take over",
                member.name
            );
            return Err(ClusterError::Refused(ServiceError::new(
                Code::MajorityNeeded,
                detail,
            )));
        }
        self.set_state(node, member.state, MemberState::Draining, deadline)
            .await?;
        let draining_since = self.reach()?.log.membership().borrow().epoch;
        while !deadline.is_over() {
            // That is cleared when all have settled for it, the draining one too: its calls and turns have ended.
            let has_settled = self.shared.view.load().cleared >= draining_since;
            if has_settled && self.runs_nothing(node, deadline).await {
                return Ok(());
            }
            tokio::time::sleep(COUNT_AGAIN).await;
        }
        Err(ClusterError::DeadlineExceeded)
    }

    async fn runs_nothing(&self, node: NodeId, deadline: Deadline) -> bool {
        let within = deadline.earlier(Deadline::within(COUNT_WITHIN));
        match self.placed_at(node, within).await {
            Ok(placed) => placed.total() == 0,
            Err(_) => self.is_down(node),
        }
    }

    fn is_down(&self, node: NodeId) -> bool {
        let membership = self.membership();
        let member = membership.members.get(&node);
        member.is_none_or(|member| member.state == MemberState::Down)
    }

    /// Ends a drain.
    ///
    /// # Errors
    /// When no majority takes the change.
    pub async fn undrain(&self, node: NodeId, deadline: Deadline) -> Result<(), ClusterError> {
        let membership = self.membership();
        let member = membership
            .members
            .get(&node)
            .ok_or_else(|| ClusterError::NodeNotFound(node.to_string()))?;
        let drains_when_back = membership.drain_when_back.contains(&node);
        let state = match member.state {
            MemberState::Draining => MemberState::Up,
            MemberState::Down if drains_when_back => MemberState::Down,
            _ => return Ok(()),
        };
        self.set_state(node, member.state, state, deadline).await
    }

    async fn set_state(
        &self,
        id: NodeId,
        from: MemberState,
        state: MemberState,
        deadline: Deadline,
    ) -> Result<(), ClusterError> {
        self.change(MemberCommand::SetState { id, from, state }, deadline)
            .await
    }

    async fn change(&self, command: MemberCommand, deadline: Deadline) -> Result<(), ClusterError> {
        let written = self.reach()?.log.change(command, deadline).await;
        written.map(drop).map_err(refused)
    }

    /// Makes a member a voter.
    ///
    /// # Errors
    /// When no majority takes the change.
    pub async fn promote(&self, node: NodeId, deadline: Deadline) -> Result<(), ClusterError> {
        let promoted = self.reach()?.log.promote(node, deadline).await;
        promoted.map(drop).map_err(refused)
    }

    /// Makes a voter a learner.
    ///
    /// # Errors
    /// When no majority takes the change, or no voter would be left.
    pub async fn demote(&self, node: NodeId, deadline: Deadline) -> Result<(), ClusterError> {
        let demoted = self.reach()?.log.demote(node, deadline).await;
        demoted.map(drop).map_err(refused)
    }

    /// Removes a member for good, with what it has for itself; drains it first if it is alive.
    ///
    /// # Errors
    /// As [`drain`](Self::drain), and when no voter would be left, or too few that are up.
    pub async fn remove(&self, node: NodeId, deadline: Deadline) -> Result<(), ClusterError> {
        if !self.is_down(node) {
            self.drain(node, deadline).await?;
        }
        let membership = self.membership();
        let member = membership.members.get(&node);
        if member.is_some_and(|member| member.role == Role::Voter) {
            self.demote(node, deadline).await?;
        }
        let reach = self.reach()?;
        // Once it is removed nobody hears it any more: as long as its vote counts, it might be the one that is missing.
        let unneeded = reach.log.is_done_without(node, deadline).await;
        unneeded.map_err(refused)?;
        let forgotten = reach.admission.forget_that_of(node, deadline).await;
        forgotten.map_err(ClusterError::Refused)?;
        if let Some(member) = member {
            self.end_what_is_of(member).await?;
        }
        self.change(MemberCommand::Remove { id: node }, deadline).await
    }

    /// As long as it is a member, nobody else can have its name: so what bears that name is its own.
    async fn end_what_is_of(&self, member: &Member) -> Result<(), ClusterError> {
        let steps = self.shared.before_removal.read().clone();
        for step in steps {
            step(member.name.clone()).await.map_err(ClusterError::Refused)?;
        }
        Ok(())
    }

    fn reach(&self) -> Result<&Reach, ClusterError> {
        let alone = || ClusterError::Refused(ServiceError::new(Code::NoQuorum, "this node has no cluster"));
        self.shared.reach.get().ok_or_else(alone)
    }
}

fn refused(error: super::log::LogError) -> ClusterError {
    ClusterError::Refused(ServiceError::from(&error))
}

/// Why this node holds no lease: because nobody can be reached, or because too few can.
fn missing_quorum(membership: &Arc<Membership>, own: NodeId, links: &[LinkStatus]) -> ClusterWarning {
    let others = membership.members.len() > 1 || !membership.members.contains_key(&own);
    let reaches_nobody = links.iter().all(|link| link.state != LinkState::Up);
    if others && reaches_nobody {
        ClusterWarning::Isolated
    } else {
        ClusterWarning::NoQuorum
    }
}

fn warnings(membership: &Membership, links: &[LinkStatus], voters_max: usize) -> Vec<ClusterWarning> {
    let mut warnings = Vec::new();
    let voters_up = membership
        .members
        .values()
        .filter(|member| member.role == Role::Voter && member.state != MemberState::Down)
        .count();
    let voters_wanted = voters_wanted(membership.members.len(), voters_max);
    if voters_up < voters_wanted {
        warnings.push(ClusterWarning::UnderReplicated {
            voters_up: voters_up as u32,
            voters_wanted: voters_wanted as u32,
        });
    }
    for link in links {
        let skew_ms = link.clock_skew_ms.unwrap_or(0);
        if skew_ms.unsigned_abs() > CLOCK_SKEW_MS_MAX {
            warnings.push(ClusterWarning::ClockSkew {
                node: link.node,
                skew_ms,
            });
        }
    }
    let versions = membership.members.values().map(|member| member.version.clone());
    let versions: std::collections::BTreeSet<String> = versions.collect();
    if versions.len() > 1 {
        warnings.push(ClusterWarning::VersionSkew {
            versions: versions.into_iter().collect(),
        });
    }
    let down = membership
        .members
        .values()
        .filter(|member| member.state == MemberState::Down);
    warnings.extend(down.map(|member| ClusterWarning::MemberDown { node: member.id }));
    warnings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cluster::handle::lone_member;
    use troupe_protocol::cluster::Epoch;

    fn id(node: u128) -> NodeId {
        NodeId::from_ulid(ulid::Ulid(node))
    }

    fn membership(states: &[MemberState]) -> Membership {
        let member = |(number, state): (usize, &MemberState)| {
            let mut member = lone_member(id(number as u128));
            member.state = *state;
            (member.id, member)
        };
        Membership {
            epoch: Epoch(1),
            members: states.iter().enumerate().map(member).collect(),
            ..Membership::default()
        }
    }

    fn link(node: u128, state: LinkState, clock_skew_ms: i64) -> LinkStatus {
        LinkStatus {
            node: id(node),
            state,
            round_trip_us: None,
            clock_skew_ms: Some(clock_skew_ms),
            bytes_out: 0,
            bytes_in: 0,
            in_flight_bytes: 0,
            wire_version: 1,
            opened: 1,
            last_error: None,
        }
    }

    #[test]
    fn a_healthy_cluster_has_no_warnings() {
        let links = [link(1, LinkState::Up, 3), link(2, LinkState::Up, -900)];
        assert_eq!(warnings(&membership(&[MemberState::Up; 3]), &links, 5), []);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut membership = membership(&[MemberState::Up, MemberState::Down, MemberState::Up]);
        membership.members.get_mut(&id(2)).unwrap().version = "9".to_owned();
        let links = [link(2, LinkState::Up, -1_500)];
        let expected = [
            ClusterWarning::UnderReplicated {
                voters_up: 2,
                voters_wanted: 3,
            },
            ClusterWarning::ClockSkew {
                node: id(2),
                skew_ms: -1_500,
            },
            ClusterWarning::VersionSkew {
                versions: vec![env!("CARGO_PKG_VERSION").to_owned(), "9".to_owned()],
            },
            ClusterWarning::MemberDown { node: id(1) },
        ];
        assert_eq!(warnings(&membership, &links, 5), expected);
    }

    #[test]
    fn who_reaches_nobody_is_isolated() {
        let members = Arc::new(membership(&[MemberState::Up; 3]));
        let cut_off = [link(1, LinkState::Down, 0), link(2, LinkState::Connecting, 0)];
        assert_eq!(
            missing_quorum(&members, id(0), &cut_off),
            ClusterWarning::Isolated
        );
        let one_left = [link(1, LinkState::Up, 0), link(2, LinkState::Down, 0)];
        assert_eq!(
            missing_quorum(&members, id(0), &one_left),
            ClusterWarning::NoQuorum
        );
    }
}
