//! The actor that judges, while this node leads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use troupe_protocol::cluster::MemberState;
use troupe_protocol::id::NodeId;

use super::DetectionTiming;
use super::messages::{MembershipHandle, MembershipMessage};
use super::state::Silence;
use crate::cluster::link::{LinkEvent, LinksHandle};
use crate::cluster::log::{LogHandle, MemberCommand, Term};
use crate::runtime::{Actor, ActorError, ChildSpec, Context, Deadline, TimerHandle};

/// How often the leader looks who is silent.
const TICK: Duration = Duration::from_millis(100);
/// How long a judgement may take to be written.
const WRITE_WITHIN: Duration = Duration::from_secs(2);

/// Cached state: a new leader begins by listening.
pub(in crate::cluster) struct MembershipActor {
    own: MembershipHandle,
    node_id: NodeId,
    log: LogHandle,
    links: LinksHandle,
    timing: DetectionTiming,
    turn: Option<(Term, Silence)>,
    being_written: BTreeSet<NodeId>,
    timer: Option<TimerHandle>,
    judgements: u64,
}

/// The membership's actor, for the cluster's supervisor.
pub(in crate::cluster) fn child(
    own: MembershipHandle,
    log: LogHandle,
    links: LinksHandle,
    timing: DetectionTiming,
) -> ChildSpec {
    ChildSpec::actor(own.mailbox.clone(), move || MembershipActor {
        own: own.clone(),
        node_id: log.node_id(),
        log: log.clone(),
        links: links.clone(),
        timing,
        turn: None,
        being_written: BTreeSet::new(),
        timer: None,
        judgements: 0,
    })
}

impl Actor for MembershipActor {
    type Message = MembershipMessage;
    const KIND: &'static str = "membership";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let mut leaders = self.log.leader();
        let mut link_events = self.links.subscribe();
        let (own, log) = (self.own.clone(), self.log.clone());
        ctx.spawn("follow leader and links", async move {
            leaders.mark_changed();
            let mut has_links = true;
            loop {
                tokio::select! {
                    changed = leaders.changed() => {
                        if changed.is_err() {
                            break;
                        }
                        own.tell(MembershipMessage::LeaderChanged(*leaders.borrow_and_update()));
                    }
                    event = link_events.recv(), if has_links => match event {
                        Ok(LinkEvent::Down { node }) => {
                            log.link_ended(node);
                            own.tell(MembershipMessage::LinkEnded(node));
                        }
                        Ok(LinkEvent::Up { .. }) | Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => has_links = false,
                    },
                }
            }
        });
        Ok(())
    }

    async fn handle(&mut self, message: MembershipMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        let now = Instant::now();
        match message {
            MembershipMessage::Tick => self.tick(now, ctx),
            MembershipMessage::LeaderChanged(leader) => self.leader_changed(leader, now, ctx),
            MembershipMessage::Heard { node, has_lease } => {
                if let Some((_, silence)) = &mut self.turn {
                    silence.heard(node, has_lease, now);
                }
            }
            MembershipMessage::LinkEnded(node) => {
                if let Some((_, silence)) = &mut self.turn {
                    silence.link_ended(node);
                }
            }
            MembershipMessage::Left(node) => {
                if let Some((_, silence)) = &mut self.turn {
                    silence.left(node);
                    self.judge(now, ctx);
                }
            }
            MembershipMessage::Judged {
                node,
                state,
                is_written,
            } => {
                self.being_written.remove(&node);
                if let Some((_, silence)) = self.turn.as_mut().filter(|_| is_written) {
                    silence.judged(node, state, now);
                    self.judgements += 1;
                }
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({
            "judges": self.turn.is_some(),
            "judgements": self.judgements,
            "being_written": self.being_written,
        })
    }
}

impl MembershipActor {
    fn leader_changed(&mut self, leader: Option<(NodeId, Term)>, now: Instant, ctx: &Context<Self>) {
        let own_term = leader
            .filter(|(leader, _)| *leader == self.node_id)
            .map(|(_, term)| term);
        if own_term == self.turn.as_ref().map(|(term, _)| *term) {
            return;
        }
        self.turn = own_term.map(|term| (term, self.begin(now)));
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
        if self.turn.is_some() {
            self.timer = Some(ctx.send_after(TICK, MembershipMessage::Tick));
        }
    }

    fn begin(&self, now: Instant) -> Silence {
        let mut silence = Silence::new(self.timing, self.node_id, now);
        let membership = Arc::clone(&self.log.membership().borrow());
        let others = membership
            .members
            .keys()
            .filter(|member| **member != self.node_id);
        for member in others.filter(|member| !self.links.is_up(**member)) {
            silence.is_missing(*member, now);
        }
        silence
    }

    fn tick(&mut self, now: Instant, ctx: &Context<Self>) {
        if self.turn.is_none() {
            return;
        }
        self.judge(now, ctx);
        self.timer = Some(ctx.send_after(TICK, MembershipMessage::Tick));
    }

    fn judge(&mut self, now: Instant, ctx: &Context<Self>) {
        let Some((_, silence)) = &mut self.turn else {
            return;
        };
        let membership = Arc::clone(&self.log.membership().borrow());
        for (node, state) in silence.judge(&membership, now) {
            if self.being_written.insert(node)
                && let Some(member) = membership.members.get(&node)
            {
                self.write(node, member.state, state, ctx);
            }
        }
    }

    fn write(&self, node: NodeId, from: MemberState, state: MemberState, ctx: &Context<Self>) {
        tracing::info!(%node, ?state, "a member is judged");
        let log = self.log.clone();
        ctx.spawn_to_self("write judgement", async move {
            let id = node;
            let command = MemberCommand::SetState { id, from, state };
            let written = log.change(command, Deadline::within(WRITE_WITHIN)).await;
            if let Err(error) = &written {
                tracing::warn!(%node, ?state, %error, "a judgement was not written");
            }
            MembershipMessage::Judged {
                node,
                state,
                is_written: written.is_ok(),
            }
        });
    }
}
