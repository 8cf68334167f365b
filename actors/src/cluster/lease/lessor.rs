//! The leader's side of leases, pure: who gets one, and when an epoch is cleared. One for each turn as leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use troupe_protocol::cluster::{Epoch, Membership};
use troupe_protocol::id::NodeId;

use super::LeaseTiming;
use super::wire::{Renewal, Verdict};

/// What the leader is to do. `W` is where an answer goes.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Effect<W> {
    /// Have a majority confirm the leadership; [`Lessor::round_done`] takes the outcome. What waits for an urgent one waits
    /// for nothing else.
    StartRound { is_urgent: bool },
    /// Answer a node.
    Answer(W, Verdict),
    /// Tell all members that this epoch is cleared.
    Announce(Epoch),
}

/// Who may hold a lease.
#[derive(Debug, Clone, Copy)]
struct Holder {
    settled: Epoch,
    /// When it surely has stopped, if it does not renew.
    gone_at: Instant,
}

/// A confirmation of the leadership, under way or done.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// When it was asked for; once it is confirmed, when what the majority confirmed was sent, which was later.
    at: Instant,
    /// What was cleared when it began, and is certain when it is confirmed.
    cleared: Epoch,
}

struct Waiting<W> {
    node: NodeId,
    renewal: Renewal,
    arrived_at: Instant,
    to: W,
}

/// How a turn as leader began.
#[derive(Debug, Clone, Copy)]
pub(in crate::cluster) struct TurnBegin {
    /// The election was before that.
    pub elected_at: Instant,
    /// Whether voters had heard of no leader for [`LeaseTiming::silence_before_election`] then.
    pub after_silence: bool,
    /// No round on the strength of which this node gave leases in earlier turns was later: the last one, or the start of the
    /// process.
    pub own_round_at: Instant,
}

/// The leader's side of leases.
pub(in crate::cluster) struct Lessor<W> {
    timing: LeaseTiming,
    /// When the leases of earlier turns are over and everything has stopped.
    earlier_turns_over_at: Instant,
    /// The epoch when the turn began: no predecessor has cleared a later one.
    floor: Epoch,
    applied: Epoch,
    members: BTreeSet<NodeId>,
    /// Who has got a lease in this turn, so that none of an earlier turn counts any more.
    served: BTreeSet<NodeId>,
    holders: BTreeMap<NodeId, Holder>,
    cleared: Epoch,
    /// The last cleared epoch of which members may know.
    certain: Epoch,
    confirmed: Option<Round>,
    running: Option<(Round, Vec<Waiting<W>>)>,
    waiting: Vec<Waiting<W>>,
}

impl<W> Lessor<W> {
    /// A turn that began as said, by a node that has since applied all that was committed before.
    pub fn new(timing: LeaseTiming, begin: TurnBegin, applied: &Membership) -> Self {
        let silence = match begin.after_silence {
            true => timing.silence_before_election,
            false => Duration::ZERO,
        };
        let others_over_at = begin.elected_at + timing.lasts.saturating_sub(silence);
        let own_former_over_at = begin.own_round_at + timing.lasts;
        Self {
            timing,
            earlier_turns_over_at: others_over_at.max(own_former_over_at) + timing.grace,
            floor: applied.epoch,
            applied: applied.epoch,
            members: applied.members.keys().copied().collect(),
            served: BTreeSet::new(),
            holders: BTreeMap::new(),
            cleared: Epoch(0),
            certain: Epoch(0),
            confirmed: None,
            running: None,
            waiting: Vec::new(),
        }
    }

    /// A node asks for its lease.
    pub fn asked(&mut self, node: NodeId, renewal: Renewal, to: W, now: Instant) -> Vec<Effect<W>> {
        self.cleared = self.cleared.max(renewal.cleared);
        self.certain = self.certain.max(renewal.cleared);
        // What a holder has given up counts at once, so that the round which renews its lease can clear the epoch.
        if let (Some(holder), Some(settled)) = (self.holders.get_mut(&node), renewal.settled) {
            holder.settled = holder.settled.max(settled);
        }
        match self.confirmed.filter(|round| self.still_serves(round, now)) {
            Some(round) => {
                let verdict = self.decide(node, renewal, round, now);
                let mut effects = vec![Effect::Answer(to, verdict)];
                effects.extend(self.advance(now));
                effects
            }
            None => {
                self.waiting.push(Waiting {
                    node,
                    renewal,
                    arrived_at: now,
                    to,
                });
                let clearing = self.advance(now);
                clearing.or_else(|| self.start_round(now)).into_iter().collect()
            }
        }
    }

    /// This node has applied a new membership.
    pub fn applied(&mut self, membership: &Membership, now: Instant) -> Vec<Effect<W>> {
        if membership.epoch > self.applied {
            self.applied = membership.epoch;
            self.members = membership.members.keys().copied().collect();
        }
        self.advance(now).into_iter().collect()
    }

    /// A node has stopped acting for ever and gives its lease back.
    pub fn left(&mut self, node: NodeId, now: Instant) -> Vec<Effect<W>> {
        self.holders.remove(&node);
        self.served.insert(node);
        self.advance(now).into_iter().collect()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Effect<W>> {
        self.advance(now).into_iter().collect()
    }

    /// Whether an epoch waits to be cleared, so that [`tick`](Self::tick) may do something.
    pub fn is_clearing(&self) -> bool {
        self.certain < self.applied
    }

    /// The round is over: when that was sent which a majority has followed, if one has.
    pub fn round_done(&mut self, confirmed: Option<Instant>, now: Instant) -> Vec<Effect<W>> {
        let Some((round, served)) = self.running.take() else {
            return Vec::new();
        };
        let Some(sent_at) = confirmed else {
            let refused = served.into_iter().chain(self.waiting.drain(..));
            return refused
                .map(|waiting| Effect::Answer(waiting.to, Verdict::NotLeader(None)))
                .collect();
        };
        let round = Round {
            at: sent_at.max(round.at),
            ..round
        };
        self.confirmed = Some(round);
        let mut effects = Vec::new();
        if round.cleared > self.certain {
            self.certain = round.cleared;
            effects.push(Effect::Announce(round.cleared));
        }
        // Who came while the round was under way need not wait for another.
        let came_meanwhile = match self.still_serves(&round, now) {
            true => std::mem::take(&mut self.waiting),
            false => Vec::new(),
        };
        for Waiting {
            node,
            renewal,
            arrived_at,
            to,
        } in served.into_iter().chain(came_meanwhile)
        {
            let verdict = self.decide(node, renewal, round, arrived_at);
            effects.push(Effect::Answer(to, verdict));
        }
        effects.extend(self.advance(now));
        if self.running.is_none() && !self.waiting.is_empty() {
            effects.extend(self.start_round(now));
        }
        effects
    }

    fn still_serves(&self, round: &Round, now: Instant) -> bool {
        now.saturating_duration_since(round.at) <= self.timing.round_serves
    }

    /// The lease is told from when the question arrived, because the node counts from when it asked, which was before.
    fn decide(&mut self, node: NodeId, renewal: Renewal, round: Round, arrived_at: Instant) -> Verdict {
        let needed = self.cleared.max(self.floor);
        let Some(settled) = renewal.settled.filter(|settled| *settled >= needed) else {
            return Verdict::Behind(needed);
        };
        let ends = round.at + self.timing.lasts;
        let gone_at = ends + self.timing.grace;
        let holder = self.holders.entry(node).or_insert(Holder { settled, gone_at });
        holder.settled = holder.settled.max(settled);
        holder.gone_at = holder.gone_at.max(gone_at);
        self.served.insert(node);
        let lasts = ends.saturating_duration_since(arrived_at);
        Verdict::Granted {
            lasts_us: u64::try_from(lasts.as_micros()).unwrap_or(0),
            cleared: self.certain,
        }
    }

    /// Clears the current epoch, if that is possible; a round makes it certain.
    fn advance(&mut self, now: Instant) -> Option<Effect<W>> {
        self.holders.retain(|_, holder| holder.gone_at > now);
        let earlier_turns_are_over =
            now >= self.earlier_turns_over_at || self.members.is_subset(&self.served);
        let all_settled = self.holders.values().all(|holder| holder.settled == self.applied);
        if earlier_turns_are_over && all_settled {
            self.cleared = self.cleared.max(self.applied);
        }
        (self.cleared > self.certain)
            .then(|| self.start_round(now))
            .flatten()
    }

    fn start_round(&mut self, now: Instant) -> Option<Effect<W>> {
        if self.running.is_some() {
            return None;
        }
        let round = Round {
            at: now,
            cleared: self.cleared,
        };
        self.running = Some((round, std::mem::take(&mut self.waiting)));
        // The first one of a turn: leases of the turn before run out. One that clears: addresses have nobody who acts.
        let is_urgent = self.confirmed.is_none() || round.cleared > self.certain;
        Some(Effect::StartRound { is_urgent })
    }

    /// Who may hold a lease, and up to which epoch each has settled.
    pub fn holders(&self) -> impl Iterator<Item = (NodeId, Epoch)> {
        self.holders.iter().map(|(node, holder)| (*node, holder.settled))
    }

    /// The last cleared epoch that is certain.
    pub fn certain(&self) -> Epoch {
        self.certain
    }
}
