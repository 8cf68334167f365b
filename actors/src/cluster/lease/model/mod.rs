//! Plays tenants and lessors against delays, losses, pauses, elections and changes of the membership, and looks at every
//! moment whether two nodes act for one address.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use troupe_protocol::cluster::{
    Address, EntityKind, Epoch, Generation, Member, MemberState, Membership, Role,
};
use troupe_protocol::id::NodeId;
use troupe_protocol::time::Timestamp;

use super::LeaseTiming;
use super::lessor::{Effect, Lessor, TurnBegin};
use super::tenant::Tenant;
use super::wire::{Renewal, Verdict};
use crate::cluster::placement::{View, Whereabouts};

mod disturbance;
mod elections;
mod tests;

const NODES: usize = 4;
/// The first so many vote; the others follow.
const VOTERS: usize = 3;
const ADDRESSES: usize = 12;

fn id(node: usize) -> NodeId {
    NodeId::from_ulid(ulid::Ulid(node as u128 + 1))
}

fn membership(epoch: u64, up: &BTreeSet<usize>) -> Arc<Membership> {
    let member = |node: usize| {
        let member = Member {
            id: id(node),
            name: format!("node-{node}").parse().unwrap(),
            generation: Generation(1),
            role: Role::Voter,
            state: if up.contains(&node) {
                MemberState::Up
            } else {
                MemberState::Down
            },
            cluster_address: String::new(),
            edge_address: String::new(),
            version: String::new(),
            joined_at: Timestamp::from_unix_ms(0),
        };
        (id(node), member)
    };
    Arc::new(Membership {
        epoch: Epoch(epoch),
        members: (0..NODES).map(member).collect(),
        ..Membership::default()
    })
}

/// What will happen, in milliseconds.
enum Event {
    Renew(usize),
    /// A node learns who leads now, and renews at once.
    LearnsLeader(usize),
    Asked {
        at: usize,
        from: usize,
        renewal: Renewal,
        asked_ms: u64,
    },
    Answered {
        at: usize,
        asked_ms: u64,
        verdict: Verdict,
    },
    Cleared {
        at: usize,
        epoch: Epoch,
    },
    /// The voters answer the leader's round, or not any more.
    RoundReached {
        at: usize,
        term: u64,
        sent_ms: u64,
    },
    RoundDone {
        at: usize,
        term: u64,
        confirmed: Option<Instant>,
    },
    Apply {
        at: usize,
        epoch: usize,
    },
    Elected {
        at: usize,
        term: u64,
    },
    Deposed {
        at: usize,
        term: u64,
    },
    Settled {
        at: usize,
        settling: u64,
        view: Arc<View>,
        held: bool,
    },
}

/// A node as one that votes.
#[derive(Default)]
struct Voter {
    term: u64,
    leads: bool,
    /// When it last followed a leader.
    heard_at: u64,
    /// When others last followed it as a leader: what was sent then.
    followed_at: u64,
}

struct Node {
    tenant: Tenant,
    voter: Voter,
    /// The last round on the strength of which it gave leases.
    own_round_at: u64,
    turn: Option<(u64, Lessor<(usize, u64)>)>,
    /// The addresses for which something acts.
    acting: BTreeSet<usize>,
    settling: u64,
    paused_until: u64,
    was_paused: bool,
}

struct World {
    rng: Rng,
    start: Instant,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    nodes: Vec<Node>,
    memberships: Vec<Arc<Membership>>,
    term: u64,
    leader: usize,
    with_pauses: bool,
    /// Whether messages are lost and late.
    is_rough: bool,
    /// Pairs of nodes whose messages are lost, and until when.
    cuts: VecDeque<(usize, usize, u64)>,
    timing: LeaseTiming,
    /// The longest between two words of the leader to its followers.
    heartbeat_ms: u64,
    /// What messages take that are neither lost nor late.
    delay_ms_max: u64,
    /// From the election of a leader to the begin of its turn.
    catching_up_ms_max: u64,
    asks_answered: u64,
    hand_overs: u64,
    last_actor: BTreeMap<usize, usize>,
}

impl World {
    fn new(seed: u64, with_pauses: bool) -> Self {
        let memberships = vec![membership(1, &(0..NODES).collect())];
        let node = |node: usize| Node {
            tenant: Tenant::new(id(node), Arc::clone(&memberships[0])),
            voter: Voter::default(),
            own_round_at: 0,
            turn: None,
            acting: BTreeSet::new(),
            settling: 0,
            paused_until: 0,
            was_paused: false,
        };
        let mut world = Self {
            rng: Rng::with_seed(seed),
            start: Instant::now(),
            now: 1,
            events: BTreeMap::new(),
            scheduled: 0,
            nodes: (0..NODES).map(node).collect(),
            memberships: memberships.clone(),
            term: 0,
            leader: 0,
            with_pauses,
            is_rough: true,
            cuts: VecDeque::new(),
            timing: LeaseTiming::default(),
            heartbeat_ms: 150,
            delay_ms_max: 20,
            catching_up_ms_max: 150,
            asks_answered: 0,
            hand_overs: 0,
            last_actor: BTreeMap::new(),
        };
        world.elect();
        for node in 0..NODES {
            world.settle(node);
            world.after(0, 150, Event::Renew(node));
        }
        world
    }

    fn instant(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn after(&mut self, min: u64, max: u64, event: Event) {
        let at = self.now + self.rng.u64(min..=max);
        self.scheduled += 1;
        self.events.insert((at, self.scheduled), event);
    }

    fn send(&mut self, from: usize, to: usize, event: Event) {
        if self.is_cut(from, to) || (self.is_rough && self.rng.u8(..) < 10) {
            return;
        }
        let slow = self.is_rough && self.rng.u8(..) < 20;
        let delay_max = if slow { 700 } else { self.delay_ms_max };
        self.after(0, delay_max, event);
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        let is_it = |(a, b, until): &(usize, usize, u64)| *a == from && *b == to && *until > self.now;
        from != to && self.cuts.iter().any(is_it)
    }

    fn is_paused(&self, node: usize) -> bool {
        self.nodes[node].paused_until > self.now
    }

    fn change_membership(&mut self) {
        let up = (0..NODES).filter(|_| self.rng.u8(..) < 190).collect();
        let epoch = self.memberships.len() + 1;
        self.memberships.push(membership(epoch as u64, &up));
        for at in 0..NODES {
            let slow = self.rng.u8(..) < 40;
            self.after(0, if slow { 500 } else { 20 }, Event::Apply { at, epoch });
        }
    }

    /// The hosts are told anew, which supersedes what they were told before.
    fn settle(&mut self, at: usize) {
        let now = self.instant(self.now);
        let node = &mut self.nodes[at];
        node.settling += 1;
        let event = Event::Settled {
            at,
            settling: node.settling,
            view: Arc::new(node.tenant.view()),
            held: node.tenant.until().is_some_and(|until| until > now),
        };
        let grace = self.timing.grace.as_millis() as u64;
        self.after(0, grace - 2, event);
    }

    fn apply(&mut self, at: usize, epoch: usize) {
        let membership = Arc::clone(&self.memberships[epoch - 1]);
        let now = self.instant(self.now);
        let is_new = self.nodes[at].tenant.adopt(Arc::clone(&membership));
        if !is_new {
            return;
        }
        self.settle(at);
        let effects = self.nodes[at]
            .turn
            .as_mut()
            .map(|(_, lessor)| lessor.applied(&membership, now));
        self.perform(at, effects.unwrap_or_default());
    }

    fn perform(&mut self, at: usize, effects: Vec<Effect<(usize, u64)>>) {
        for effect in effects {
            match effect {
                Effect::StartRound { is_urgent } => {
                    let term = self.nodes[at].turn.as_ref().unwrap().0;
                    // What is not urgent waits for the next word of the leader to its followers.
                    let wait_max = if is_urgent { 2 } else { self.heartbeat_ms };
                    let wait = self.rng.u64(0..=wait_max);
                    let sent_ms = self.now + wait;
                    let reach = self.delay_ms_max;
                    self.after(wait, wait + reach, Event::RoundReached { at, term, sent_ms });
                }
                Effect::Answer((to, asked_ms), verdict) => {
                    self.send(
                        at,
                        to,
                        Event::Answered {
                            at: to,
                            asked_ms,
                            verdict,
                        },
                    );
                }
                Effect::Announce(epoch) => {
                    for to in 0..NODES {
                        self.send(at, to, Event::Cleared { at: to, epoch });
                    }
                }
            }
        }
    }

    fn renew(&mut self, at: usize) {
        let renewal = self.nodes[at].tenant.renewal();
        // Sometimes a node believes that an old leader still leads.
        let is_right = !self.is_rough || self.rng.u8(..) < 240;
        let to = if is_right {
            self.leader
        } else {
            self.rng.usize(..NODES)
        };
        let asked_ms = self.now;
        let asked = Event::Asked {
            at: to,
            from: at,
            renewal,
            asked_ms,
        };
        self.send(at, to, asked);
    }

    fn happen(&mut self, event: Event) {
        let now = self.instant(self.now);
        match event {
            Event::Renew(at) => {
                let every = self.timing.renew_every.as_millis() as u64;
                self.after(every, every, Event::Renew(at));
                self.renew(at);
            }
            Event::LearnsLeader(at) => self.renew(at),
            Event::Asked {
                at,
                from,
                renewal,
                asked_ms,
            } => {
                let effects = self.nodes[at]
                    .turn
                    .as_mut()
                    .map(|(_, lessor)| lessor.asked(id(from), renewal, (from, asked_ms), now));
                self.perform(at, effects.unwrap_or_default());
            }
            Event::Answered {
                at,
                asked_ms,
                verdict: Verdict::Granted { lasts_us, cleared },
            } => {
                let until = self.instant(asked_ms) + Duration::from_micros(lasts_us);
                let tenant = &mut self.nodes[at].tenant;
                let is_new = tenant.granted(until, now);
                let has_cleared = tenant.clear(cleared);
                if is_new || has_cleared {
                    self.settle(at);
                }
            }
            Event::Answered { .. } => {}
            Event::Cleared { at, epoch } => {
                if self.nodes[at].tenant.clear(epoch) {
                    self.settle(at);
                }
            }
            Event::RoundReached { at, term, sent_ms } => {
                let leads = self.nodes[at].voter.term == term;
                let confirmed = leads && self.follow(at, term, sent_ms);
                let confirmed = confirmed.then(|| self.instant(sent_ms));
                self.after(0, self.delay_ms_max, Event::RoundDone { at, term, confirmed });
            }
            Event::RoundDone { at, term, confirmed } => {
                let (node, start) = (&mut self.nodes[at], self.start);
                let turn = node.turn.as_mut().filter(|(turn, _)| *turn == term);
                if let Some(sent_at) = confirmed.filter(|_| turn.is_some()) {
                    let sent_ms = sent_at.duration_since(start).as_millis() as u64;
                    node.own_round_at = node.own_round_at.max(sent_ms);
                }
                let effects = turn.map(|(_, lessor)| lessor.round_done(confirmed, now));
                self.perform(at, effects.unwrap_or_default());
            }
            Event::Apply { at, epoch } => self.apply(at, epoch),
            Event::Elected { at, term } if term == self.nodes[at].voter.term => {
                self.apply(at, self.memberships.len());
                let applied = self.memberships.last().unwrap();
                let begin = TurnBegin {
                    elected_at: now,
                    after_silence: true,
                    own_round_at: self.instant(self.nodes[at].own_round_at),
                };
                let lessor = Lessor::new(self.timing, begin, applied);
                self.nodes[at].turn = Some((term, lessor));
                for node in 0..NODES {
                    self.after(0, self.delay_ms_max, Event::LearnsLeader(node));
                }
            }
            Event::Elected { .. } => {}
            Event::Deposed { at, term } => {
                let node = &mut self.nodes[at];
                node.turn = node.turn.take().filter(|(turn, _)| *turn != term);
            }
            Event::Settled {
                at,
                settling,
                view,
                held,
            } if settling == self.nodes[at].settling => {
                let node = &mut self.nodes[at];
                let is_owned =
                    |key: &usize| matches!(view.whereabouts(&address(*key), held), Whereabouts::Here(_));
                node.acting.retain(is_owned);
                node.tenant.has_settled(view.epoch(), view.lapses);
            }
            Event::Settled { .. } => {}
        }
    }

    fn step(&mut self) {
        for at in 0..NODES {
            if self.nodes[at].paused_until > self.now {
                continue;
            }
            let now = self.instant(self.now);
            if self.nodes[at].tenant.expire(now) {
                self.settle(at);
            }
            let effects = self.nodes[at].turn.as_mut().map(|(_, lessor)| lessor.tick(now));
            self.perform(at, effects.unwrap_or_default());
        }
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let event = entry.remove();
            let at = at_node(&event);
            let paused_until = self.nodes[at].paused_until;
            if paused_until > self.now && !matches!(event, Event::RoundReached { .. }) {
                self.after(paused_until - self.now, paused_until - self.now + 1, event);
            } else {
                self.happen(event);
            }
        }
        self.disturb();
        self.act();
        self.now += 1;
    }

    /// Everyone is asked for everything, all the time.
    fn act(&mut self) {
        let now = self.instant(self.now);
        let views: Vec<View> = self.nodes.iter().map(|node| node.tenant.view()).collect();
        for key in 0..ADDRESSES {
            let address = address(key);
            let mut actors = Vec::new();
            for (at, node) in self.nodes.iter_mut().enumerate() {
                if node.paused_until > self.now {
                    continue;
                }
                let held = node.tenant.until().is_some_and(|until| until > now);
                let is_here = matches!(views[at].whereabouts(&address, held), Whereabouts::Here(_));
                if is_here {
                    node.acting.insert(key);
                }
                // A process that was stopped in the middle of its work goes on with it until it notices; the gate is shut.
                if is_here || (node.acting.contains(&key) && !node.was_paused) {
                    actors.push(at);
                }
            }
            assert!(
                actors.len() <= 1,
                "{actors:?} act for {key} at {} ms:\n{:#?}",
                self.now,
                actors
                    .iter()
                    .map(|at| &self.nodes[*at].tenant)
                    .collect::<Vec<_>>()
            );
            if let Some(actor) = actors.first() {
                self.asks_answered += 1;
                let former = self.last_actor.insert(key, *actor);
                self.hand_overs += u64::from(former.is_some_and(|former| former != *actor));
            }
        }
    }
}

fn at_node(event: &Event) -> usize {
    match event {
        Event::Renew(at)
        | Event::LearnsLeader(at)
        | Event::Asked { at, .. }
        | Event::Answered { at, .. }
        | Event::Cleared { at, .. }
        | Event::RoundReached { at, .. }
        | Event::RoundDone { at, .. }
        | Event::Apply { at, .. }
        | Event::Elected { at, .. }
        | Event::Deposed { at, .. }
        | Event::Settled { at, .. } => *at,
    }
}

fn address(key: usize) -> Address {
    Address::new(EntityKind::Session, key.to_string())
}
