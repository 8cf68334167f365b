//! The actor that holds this node's lease, and gives leases to all while this node leads.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;
use troupe_protocol::id::NodeId;
use troupe_protocol::observe::ExitReason;
use troupe_protocol::wire;

use super::LeaseTiming;
use super::lessor::{Effect, Lessor, TurnBegin};
use super::messages::{LeaseHandle, LeaseMessage};
use super::tenant::Tenant;
use super::wire::{Notice, Renewal, Verdict};
use crate::cluster::handle::Shared;
use crate::cluster::link::{LinksHandle, Service};
use crate::cluster::log::{LogHandle, Term};
use crate::cluster::membership::MembershipHandle;
use crate::runtime::{Actor, ActorError, ChildSpec, Context, Deadline, Reply, TimerHandle};

/// How often the actor looks at the clock at least, and while an epoch is being cleared.
const TICK_MAX: Duration = Duration::from_millis(50);
const TICK_CLEARING: Duration = Duration::from_millis(10);
/// How long the leader may take to have its leadership confirmed, or to apply what was committed.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);
/// Most who may wait for the begin of a turn.
const EARLY_MAX: usize = 256;
/// How long the hosts may take to stop everything when the node stops.
const SETTLE_BEFORE_LEAVING: Duration = Duration::from_secs(2);

/// What the lease's actor works with.
#[derive(Clone)]
pub(in crate::cluster) struct LeaseParts {
    pub shared: Arc<Shared>,
    pub log: LogHandle,
    pub links: LinksHandle,
    pub membership: MembershipHandle,
    pub timing: LeaseTiming,
    /// The last round on the strength of which this node gave leases, whichever life of the actor did; when this process
    /// began to take part, if there was none.
    pub own_round_at: Arc<Mutex<Instant>>,
}

/// Owned state, made anew after a restart: a node without a lease that has to settle first.
pub(in crate::cluster) struct LeaseActor {
    parts: LeaseParts,
    own: LeaseHandle,
    tenant: Tenant,
    leader: Option<(NodeId, Term)>,
    lessor: Option<(Term, Lessor<Reply<Verdict>>)>,
    /// Who asked this node for a lease before its turn as leader had begun: they need not ask again.
    early: Vec<Asked>,
    renewed_at: Option<Instant>,
    /// Whether the last answer was a lease: the next renewal has time.
    is_granted: bool,
    timer: Option<TimerHandle>,
    /// When the next tick is due.
    tick_at: Option<Instant>,
}

/// A node asks for its lease.
struct Asked {
    node: NodeId,
    renewal: Renewal,
    reply: Reply<Verdict>,
}

/// The lease's actor, for the cluster's supervisor.
pub(in crate::cluster) fn child(handle: LeaseHandle, parts: LeaseParts) -> ChildSpec {
    ChildSpec::actor(handle.mailbox.clone(), move || {
        let membership = Arc::clone(&parts.log.membership().borrow());
        let lapses_before = parts.shared.view.load().lapses;
        LeaseActor {
            tenant: Tenant::new(parts.shared.node_id, membership).after_lapses(lapses_before + 1),
            own: handle.clone(),
            parts: parts.clone(),
            leader: None,
            lessor: None,
            early: Vec::new(),
            renewed_at: None,
            is_granted: false,
            timer: None,
            tick_at: None,
        }
    })
}

impl Actor for LeaseActor {
    type Message = LeaseMessage;
    const KIND: &'static str = "lease";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        self.publish();
        let mut memberships = self.parts.log.membership();
        let mut leaders = self.parts.log.leader();
        let own = self.own.clone();
        ctx.spawn("follow the log", async move {
            memberships.mark_changed();
            leaders.mark_changed();
            loop {
                tokio::select! {
                    Ok(()) = memberships.changed() => {
                        memberships.mark_unchanged();
                        own.tell_surely(|| LeaseMessage::Applied(Arc::clone(&memberships.borrow()))).await;
                    }
                    Ok(()) = leaders.changed() => {
                        leaders.mark_unchanged();
                        own.tell_surely(|| LeaseMessage::LeaderChanged(*leaders.borrow())).await;
                    }
                    else => break,
                }
            }
        });
        ctx.mailbox().tell(LeaseMessage::Tick)?;
        Ok(())
    }

    async fn handle(&mut self, message: LeaseMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        let now = Instant::now();
        match message {
            LeaseMessage::Tick => self.tick(now, ctx),
            // A tick that found the mailbox full is lost, and those that would have followed it.
            _ if self.tick_at.is_some_and(|tick_at| tick_at + TICK_MAX < now) => self.tick(now, ctx),
            _ => {}
        }
        match message {
            LeaseMessage::Tick => {}
            LeaseMessage::Applied(membership) => {
                let effects = self.with_lessor(|lessor| lessor.applied(&membership, now));
                if self.tenant.adopt(membership) {
                    self.publish();
                }
                self.perform(effects, ctx);
            }
            LeaseMessage::LeaderChanged(leader) => self.leader_changed(leader, now, ctx),
            LeaseMessage::CaughtUp { term, elected_at } => self.caught_up(term, elected_at, ctx),
            LeaseMessage::RoundDone { term, confirmed } => {
                if self.lessor.as_ref().is_some_and(|(turn, _)| *turn == term) {
                    let mut own_round_at = self.parts.own_round_at.lock();
                    *own_round_at = confirmed.map_or(*own_round_at, |at| at.max(*own_round_at));
                    drop(own_round_at);
                    let effects = self.with_lessor(|lessor| lessor.round_done(confirmed, now));
                    self.perform(effects, ctx);
                }
            }
            LeaseMessage::Settled { epoch, lapses } => {
                if self.tenant.has_settled(epoch, lapses) {
                    self.renew(now, ctx);
                }
            }
            LeaseMessage::Answered { asked_at, verdict } => self.answered(asked_at, verdict, now),
            LeaseMessage::Cleared(epoch) => {
                if self.tenant.clear(epoch) {
                    self.publish();
                }
            }
            LeaseMessage::Asked { node, renewal, reply } => {
                self.parts.membership.heard(node, renewal.has_lease);
                self.asked(Asked { node, renewal, reply }, now, ctx);
            }
            LeaseMessage::Left(node) => {
                self.parts.membership.left(node);
                let effects = self.with_lessor(|lessor| lessor.left(node, now));
                self.perform(effects, ctx);
            }
        }
        Ok(())
    }

    /// A node that stops gives its lease back when nothing acts any more, so that others need not wait for its end.
    async fn stopped(&mut self, reason: &ExitReason) {
        if !reason.is_clean() {
            return;
        }
        let shared = &self.parts.shared;
        shared.lease.set(None);
        let view = shared.view.load_full();
        let settled = shared.hosts.settle(&view, false);
        let is_settled = tokio::time::timeout(SETTLE_BEFORE_LEAVING, settled).await.is_ok();
        let Some((leader, _)) = self.leader.filter(|(leader, _)| *leader != shared.node_id) else {
            return;
        };
        if is_settled && let Ok(notice) = wire::encode(&Notice::Leaving) {
            let _ = self.parts.links.tell(leader, Service::Lease, notice.into());
        }
    }

    fn snapshot(&self) -> serde_json::Value {
        let now = Instant::now();
        let remaining = self
            .tenant
            .until()
            .map(|until| until.saturating_duration_since(now));
        let lessor = self.lessor.as_ref().map(|(term, lessor)| {
            let holders = lessor
                .holders()
                .map(|(node, settled)| json!({ "node": node, "settled": settled }));
            json!({ "term": term, "cleared": lessor.certain(), "holders": holders.collect::<Vec<_>>() })
        });
        let view = self.tenant.view();
        json!({
            "remaining_ms": remaining.map(|remaining| remaining.as_millis() as u64),
            "epoch": view.epoch(),
            "cleared": view.cleared,
            "lapses": view.lapses,
            "leader": self.leader.map(|(leader, _)| leader),
            "gives": lessor,
        })
    }
}

impl LeaseActor {
    fn with_lessor<T: Default>(&mut self, change: impl FnOnce(&mut Lessor<Reply<Verdict>>) -> T) -> T {
        self.lessor
            .as_mut()
            .map(|(_, lessor)| change(lessor))
            .unwrap_or_default()
    }

    fn tick(&mut self, now: Instant, ctx: &Context<Self>) {
        if self.tenant.expire(now) {
            tracing::warn!("the lease is over: this node acts for nothing until a majority answers again");
            self.publish();
        }
        let effects = self.with_lessor(|lessor| lessor.tick(now));
        self.perform(effects, ctx);
        if self.renewal_due().is_none_or(|due| due <= now) {
            self.renew(now, ctx);
        }
        let is_clearing = self
            .lessor
            .as_ref()
            .is_some_and(|(_, lessor)| lessor.is_clearing());
        let mut next = if is_clearing { TICK_CLEARING } else { TICK_MAX };
        for due in [self.renewal_due(), self.tenant.until()].into_iter().flatten() {
            next = next.min(due.saturating_duration_since(now) + Duration::from_millis(1));
        }
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
        self.tick_at = Some(now + next);
        self.timer = Some(ctx.send_after(next, LeaseMessage::Tick));
    }

    /// When the leader is to be asked again; nothing before it was asked at all.
    fn renewal_due(&self) -> Option<Instant> {
        let renew_every = match self.is_granted {
            true => self.parts.timing.renew_every,
            false => self.parts.timing.renew_every / 2,
        };
        Some(self.renewed_at? + renew_every)
    }

    fn asked(&mut self, asked: Asked, now: Instant, ctx: &Context<Self>) {
        let leader = self.leader.map(|(leader, _)| leader);
        let Asked { node, renewal, reply } = asked;
        if let Some((_, lessor)) = self.lessor.as_mut() {
            let effects = lessor.asked(node, renewal, reply, now);
            self.perform(effects, ctx);
        } else if leader == Some(self.parts.shared.node_id) && self.early.len() < EARLY_MAX {
            self.early.push(Asked { node, renewal, reply });
        } else {
            reply.send(Verdict::NotLeader(leader));
        }
    }

    fn leader_changed(&mut self, leader: Option<(NodeId, Term)>, now: Instant, ctx: &Context<Self>) {
        if self.leader == leader {
            return;
        }
        self.leader = leader;
        self.lessor = None;
        for early in self.early.drain(..) {
            early
                .reply
                .send(Verdict::NotLeader(leader.map(|(leader, _)| leader)));
        }
        self.is_granted = false;
        let Some((leader, term)) = leader else { return };
        if leader == self.parts.shared.node_id {
            self.catch_up(term, now, ctx);
        } else {
            self.renew(now, ctx);
        }
    }

    /// Begins the turn as leader once everything is applied that was committed before it.
    fn catch_up(&self, term: Term, elected_at: Instant, ctx: &Context<Self>) {
        let (log, own) = (self.parts.log.clone(), self.own.clone());
        ctx.spawn("catch up", async move {
            while log.leader().borrow().is_some_and(|(_, current)| current == term) {
                if log.linearize(Deadline::within(CONFIRM_WITHIN)).await.is_ok() {
                    own.tell_surely(|| LeaseMessage::CaughtUp { term, elected_at })
                        .await;
                    break;
                }
            }
        });
    }

    fn caught_up(&mut self, term: Term, elected_at: Instant, ctx: &Context<Self>) {
        let is_still_leader = self.leader == Some((self.parts.shared.node_id, term));
        if !is_still_leader || self.lessor.is_some() {
            return;
        }
        let applied = Arc::clone(&self.parts.log.membership().borrow());
        let begin = TurnBegin {
            elected_at,
            after_silence: self.parts.log.elected_after_silence(term),
            own_round_at: *self.parts.own_round_at.lock(),
        };
        let mut lessor = Lessor::new(self.parts.timing, begin, &applied);
        let now = Instant::now();
        let effects = lessor.tick(now);
        self.lessor = Some((term, lessor));
        self.perform(effects, ctx);
        for early in std::mem::take(&mut self.early) {
            self.asked(early, now, ctx);
        }
        self.renew(now, ctx);
    }

    fn perform(&mut self, effects: Vec<Effect<Reply<Verdict>>>, ctx: &Context<Self>) {
        for effect in effects {
            match effect {
                Effect::StartRound { is_urgent } => self.start_round(is_urgent, ctx),
                Effect::Answer(reply, verdict) => reply.send(verdict),
                Effect::Announce(epoch) => self.announce(epoch),
            }
        }
    }

    fn start_round(&self, is_urgent: bool, ctx: &Context<Self>) {
        let Some((term, _)) = self.lessor else { return };
        let (log, own) = (self.parts.log.clone(), self.own.clone());
        ctx.spawn("confirm leadership", async move {
            let deadline = Deadline::within(CONFIRM_WITHIN);
            let confirmed = match is_urgent {
                true => log.confirm_leadership_now(deadline).await,
                false => log.confirm_leadership(deadline).await,
            };
            let confirmed = confirmed.ok().filter(|confirmed| confirmed.term == term);
            let confirmed = confirmed.map(|confirmed| confirmed.sent_at);
            own.tell_surely(|| LeaseMessage::RoundDone { term, confirmed })
                .await;
        });
    }

    fn announce(&mut self, epoch: troupe_protocol::cluster::Epoch) {
        if self.tenant.clear(epoch) {
            self.publish();
        }
        let Ok(notice) = wire::encode(&Notice::Cleared(epoch)) else {
            return;
        };
        let notice = bytes::Bytes::from(notice);
        let membership = Arc::clone(&self.parts.shared.view.load().membership);
        let others = membership
            .members
            .keys()
            .filter(|member| **member != self.parts.shared.node_id);
        for member in others {
            // Who does not hear it learns it with the next renewal.
            let _ = self.parts.links.tell(*member, Service::Lease, notice.clone());
        }
    }

    /// Asks the leader. Several questions may be under way: one that is lost must not keep the next waiting.
    fn renew(&mut self, now: Instant, ctx: &Context<Self>) {
        let Some((leader, _)) = self.leader else { return };
        self.renewed_at = Some(now);
        let renewal = self.tenant.renewal();
        let deadline = Deadline::at(now + self.parts.timing.lasts);
        let (own, node) = (self.own.clone(), self.parts.shared.node_id);
        let links = self.parts.links.clone();
        ctx.spawn("renew", async move {
            let verdict = if leader == node {
                own.asked(node, renewal, deadline).await.ok()
            } else {
                ask_leader(&links, leader, &renewal, deadline).await
            };
            own.tell(LeaseMessage::Answered {
                asked_at: now,
                verdict,
            });
        });
    }

    fn answered(&mut self, asked_at: Instant, verdict: Option<Verdict>, now: Instant) {
        let Some(Verdict::Granted { lasts_us, cleared }) = verdict else {
            self.is_granted = false;
            return;
        };
        self.is_granted = true;
        let until = asked_at + Duration::from_micros(lasts_us);
        let lapses_before = self.tenant.view().lapses;
        let is_new = self.tenant.granted(until, now);
        let has_lapsed = self.tenant.view().lapses != lapses_before;
        let is_news = self.tenant.clear(cleared) || is_new || has_lapsed;
        if is_news {
            self.publish();
        } else {
            self.parts.shared.lease.set(self.tenant.until());
        }
    }

    /// Shows everyone what may be acted for now.
    fn publish(&self) {
        let shared = &self.parts.shared;
        let view = self.tenant.view();
        let epoch = view.epoch();
        // A lease that is over ends before the new picture shows, one that begins does so after.
        if self.tenant.until().is_none() {
            shared.lease.set(None);
        }
        shared.view.store(Arc::new(view));
        shared.lease.set(self.tenant.until());
        shared.epochs.send_replace((epoch, shared.lease.is_held()));
    }
}

async fn ask_leader(
    links: &LinksHandle,
    leader: NodeId,
    renewal: &Renewal,
    deadline: Deadline,
) -> Option<Verdict> {
    let question = wire::encode(renewal).ok()?;
    let answer = links.ask(leader, Service::Lease, question.into(), deadline).await;
    wire::decode(&answer.ok()?).ok()
}
