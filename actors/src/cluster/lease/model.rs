//! Plays tenants and lessors against delays, losses, pauses, elections and changes of the membership, and looks at every
//! moment whether two nodes act for one address.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use proptest::prelude::*;
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

    /// Whether a node is there for another.
    fn answers(&self, node: usize, to: usize) -> bool {
        !self.is_cut(node, to) && !self.is_cut(to, node) && !self.is_paused(node)
    }

    /// Anybody leads that is able to, whatever the voters say.
    fn elect(&mut self) {
        let able: Vec<usize> = (0..NODES)
            .filter(|node| self.nodes[*node].paused_until != u64::MAX)
            .collect();
        let elected = able[self.rng.usize(..able.len())];
        let term = self.term + 1;
        for node in able {
            self.hears_of(node, term);
        }
        self.leads(elected, term);
    }

    fn leads(&mut self, at: usize, term: u64) {
        (self.leader, self.term) = (at, term);
        self.nodes[at].voter.leads = true;
        self.after(0, self.catching_up_ms_max, Event::Elected { at, term });
    }

    /// A node hears of a term. If it led in an earlier one, it finds out a little later that it leads no more.
    fn hears_of(&mut self, node: usize, term: u64) {
        let voter = &mut self.nodes[node].voter;
        let former = std::mem::replace(&mut voter.term, term);
        if former < term && std::mem::take(&mut voter.leads) {
            let deposed = Event::Deposed {
                at: node,
                term: former,
            };
            self.after(0, 50, deposed);
        }
    }

    /// Whether a node may vote: it has followed no leader for a while, nor was it followed.
    fn is_free(&self, node: usize) -> bool {
        let silence = self.timing.silence_before_election.as_millis() as u64;
        let voter = &self.nodes[node].voter;
        self.now >= voter.heard_at.max(voter.followed_at) + silence
    }

    /// A node wants to lead. It stands as soon as it knows of no leader, and asks for votes when it is free.
    fn stand(&mut self, node: usize) {
        let silence = self.timing.silence_before_election.as_millis() as u64;
        let voter = &self.nodes[node].voter;
        if voter.leads || self.is_paused(node) || self.now < voter.heard_at + silence {
            return;
        }
        let term = voter.term + 1;
        self.hears_of(node, term);
        if !self.is_free(node) {
            return;
        }
        let mut votes = 1;
        for other in (0..VOTERS).filter(|other| *other != node) {
            let theirs = self.nodes[other].voter.term;
            if !self.answers(other, node) {
                continue;
            }
            if theirs < term && self.is_free(other) {
                self.hears_of(other, term);
                votes += 1;
            } else if theirs > term {
                return self.hears_of(node, theirs);
            }
        }
        if votes > VOTERS / 2 {
            self.leads(node, term);
        }
    }

    /// Those who can follow a leader's round do so; one that knows a later term deposes it.
    fn follow(&mut self, leader: usize, term: u64, sent_ms: u64) -> bool {
        let mut followers = usize::from(leader < VOTERS);
        for other in (0..NODES).filter(|other| *other != leader) {
            if !self.answers(other, leader) {
                continue;
            }
            let theirs = self.nodes[other].voter.term;
            if theirs > term {
                self.hears_of(leader, theirs);
                return false;
            }
            self.hears_of(other, term);
            self.nodes[other].voter.heard_at = self.now;
            let followed_at = &mut self.nodes[leader].voter.followed_at;
            *followed_at = sent_ms.max(*followed_at);
            followers += usize::from(other < VOTERS);
        }
        followers > VOTERS / 2
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

    fn disturb(&mut self) {
        for node in 0..VOTERS {
            if self.rng.u32(..150) == 0 {
                self.stand(node);
            }
        }
        if self.rng.u32(..1_500) == 0 {
            self.restart_lessor();
        }
        if self.rng.u32(..1_000) == 0 {
            self.cut_off();
        }
        if self.rng.u32(..800) == 0 {
            self.change_membership();
            if self.rng.bool() {
                self.change_membership();
            }
        }
        if self.rng.u32(..500) == 0 {
            let (from, to) = (self.rng.usize(..NODES), self.rng.usize(..NODES));
            let until = self.now + self.rng.u64(100..2_000);
            self.cuts.push_back((from, to, until));
            self.cuts.retain(|cut| cut.2 > self.now);
        }
        if self.with_pauses && self.rng.u32(..700) == 0 {
            let at = self.rng.usize(..NODES);
            self.nodes[at].paused_until = self.now + self.rng.u64(10..2_000);
            self.nodes[at].was_paused = true;
        }
    }

    /// One node can talk to nobody; whoever could not before can.
    fn cut_off(&mut self) {
        let alone = self.rng.usize(..NODES);
        let until = self.now + self.rng.u64(100..2_000);
        let others = (0..NODES).filter(|other| *other != alone);
        self.cuts = others
            .flat_map(|other| [(alone, other, until), (other, alone, until)])
            .collect();
    }

    /// The leader's actor ends, and begins its turn anew.
    fn restart_lessor(&mut self) {
        let at = self.leader;
        if let Some((term, _)) = self.nodes[at].turn.take() {
            self.after(0, self.catching_up_ms_max, Event::Elected { at, term });
        }
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

const RUN_MS: u64 = 8_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn no_address_ever_has_two_who_act(seed: u64, with_pauses: bool) {
        let mut world = World::new(seed, with_pauses);
        while world.now < RUN_MS {
            world.step();
        }
    }
}

#[test]
fn in_all_that_disturbance_questions_are_answered_and_addresses_change_hands() {
    let (mut asks_answered, mut hand_overs) = (0, 0);
    for seed in 0..6 {
        let mut world = World::new(seed, seed % 2 == 0);
        while world.now < RUN_MS {
            world.step();
        }
        asks_answered += world.asks_answered;
        hand_overs += world.hand_overs;
    }
    assert!(
        asks_answered > 6 * RUN_MS,
        "only {asks_answered} questions were answered"
    );
    assert!(hand_overs > 10, "only {hand_overs} addresses changed hands");
}

#[test]
fn without_disturbance_everything_is_owned_and_a_loss_is_made_good_soon() {
    let mut world = World::new(7, false);
    world.is_rough = false;
    let everybody: BTreeSet<usize> = (0..NODES).collect();
    let undisturbed = |world: &mut World, until: u64| {
        while world.now < until {
            world.step_undisturbed();
        }
    };
    undisturbed(&mut world, 1_500);
    let actors = world.actors();
    assert_eq!(actors.len(), ADDRESSES, "all addresses are acted for");
    let lost = (world.leader + 1) % NODES;
    world.nodes[lost].paused_until = u64::MAX;
    let without: BTreeSet<usize> = everybody.into_iter().filter(|node| *node != lost).collect();
    world.memberships.push(membership(2, &without));
    for at in 0..NODES {
        world.after(0, 5, Event::Apply { at, epoch: 2 });
    }
    // The lease of the lost one, which may be confirmed two words of the leader later, the time it has to stop, and a round.
    let lease_ms = (world.timing.lasts + world.timing.grace).as_millis() as u64;
    let soon = 1_500 + 2 * world.heartbeat_ms + lease_ms + 100;
    undisturbed(&mut world, soon);
    let actors = world.actors();
    assert_eq!(
        actors.len(),
        ADDRESSES,
        "all addresses are acted for by the others"
    );
}

/// As one that was the only voter.
#[test]
fn who_was_elected_without_a_silence_before_lets_whole_leases_run_out() {
    let timing = LeaseTiming::default();
    let start = Instant::now();
    let elected_at = start + Duration::from_secs(60);
    let clears_after = |after_silence: bool| {
        let begin = TurnBegin {
            elected_at,
            after_silence,
            own_round_at: start,
        };
        let members = membership(1, &(0..NODES).collect());
        let mut lessor: Lessor<()> = Lessor::new(timing, begin, &members);
        (0..).find(|ms| !lessor.tick(elected_at + Duration::from_millis(*ms)).is_empty())
    };
    let whole = (timing.lasts + timing.grace).as_millis() as u64;
    let silence = timing.silence_before_election.as_millis() as u64;
    assert_eq!(clears_after(false), Some(whole));
    assert_eq!(clears_after(true), Some(whole - silence));
}

/// It still acts when it is declared down, as long as its lease lasts; whoever leads meanwhile must know that.
struct CutOff {
    world: World,
    leader: usize,
    node: usize,
}

impl CutOff {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed, false);
        world.is_rough = false;
        while world.now < 1_500 {
            world.step_undisturbed();
        }
        let leader = world.leader;
        let node = (0..VOTERS).find(|node| *node != leader).unwrap();
        let others: Vec<usize> = (0..NODES).filter(|other| *other != node).collect();
        for other in &others {
            world.cuts.push_back((node, *other, u64::MAX));
            world.cuts.push_back((*other, node, u64::MAX));
        }
        world
            .memberships
            .push(membership(2, &others.iter().copied().collect()));
        for at in others {
            world.after(400, 410, Event::Apply { at, epoch: 2 });
        }
        Self { world, leader, node }
    }

    fn play(mut self, mut meanwhile: impl FnMut(&mut World)) {
        while self.world.now < 4_500 {
            meanwhile(&mut self.world);
            self.world.step_undisturbed();
        }
        assert!(self.world.nodes[self.node].tenant.until().is_none());
        let actors = self.world.actors();
        assert_eq!(
            actors.len(),
            ADDRESSES,
            "the others act for everything in the end"
        );
    }
}

#[test]
fn a_lessor_that_begins_anew_knows_of_the_leases_of_its_former_life() {
    for seed in 0..20 {
        let mut cut_off = CutOff::new(seed);
        cut_off.world.restart_lessor();
        cut_off.play(|_| {});
    }
}

#[test]
fn a_leader_that_is_deposed_and_elects_another_at_once_does_not_shorten_its_leases() {
    for seed in 0..20 {
        let mut cut_off = CutOff::new(seed);
        let (leader, node) = (cut_off.leader, cut_off.node);
        let deposer = (0..VOTERS)
            .find(|voter| *voter != leader && *voter != node)
            .unwrap();
        // It had heard nothing for a while, and stood in vain.
        let term = cut_off.world.term;
        cut_off.world.nodes[deposer].voter.term = term + 1;
        cut_off.world.nodes[deposer].voter.heard_at = 0;
        cut_off.play(|world| {
            if world.term == term && !world.nodes[leader].voter.leads {
                world.stand(deposer);
            }
        });
    }
}

/// Voters are free to vote after the silence, and stand a moment later. Then the leases which the dead leader gave must
/// last until the next one gives some.
#[test]
fn the_death_of_a_leader_takes_no_lease_from_those_who_live() {
    const STANDS_AFTER_MS: u64 = 30;
    const VOTES_MS_MAX: u64 = 30;
    for seed in 0..100 {
        let mut world = World::new(seed, false);
        (world.is_rough, world.delay_ms_max, world.catching_up_ms_max) = (false, 5, 40);
        let death = 1_500 + world.rng.u64(0..300);
        while world.now < death {
            world.step_undisturbed();
        }
        let dead = world.leader;
        let living = (0..NODES).filter(|node| *node != dead);
        let lapses: Vec<(usize, u64)> = living
            .map(|node| (node, world.nodes[node].tenant.view().lapses))
            .collect();
        world.nodes[dead].paused_until = u64::MAX;
        // At the latest: that was its last word.
        let silence = world.timing.silence_before_election.as_millis() as u64;
        let election = death + silence + STANDS_AFTER_MS + world.rng.u64(0..=VOTES_MS_MAX);
        while world.now < election {
            world.step_undisturbed();
        }
        world.elect();
        while world.now < election + 2_000 {
            world.step_undisturbed();
        }
        for (node, lapses) in lapses {
            let view = world.nodes[node].tenant.view();
            assert_eq!(view.lapses, lapses, "seed {seed}: node {node} has lost its lease");
            assert!(world.nodes[node].tenant.until().is_some());
        }
    }
}

impl World {
    fn step_undisturbed(&mut self) {
        for at in 0..NODES {
            let now = self.instant(self.now);
            if self.nodes[at].paused_until > self.now {
                continue;
            }
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
            if self.nodes[at_node(&event)].paused_until <= self.now {
                self.happen(event);
            }
        }
        self.act();
        self.now += 1;
    }

    fn actors(&self) -> BTreeSet<usize> {
        let now = self.instant(self.now);
        let acts = |node: &Node, key: usize| {
            let held = node.tenant.until().is_some_and(|until| until > now);
            let whereabouts = node.tenant.view().whereabouts(&address(key), held);
            node.paused_until <= self.now && matches!(whereabouts, Whereabouts::Here(_))
        };
        (0..ADDRESSES)
            .filter(|key| self.nodes.iter().any(|node| acts(node, *key)))
            .collect()
    }
}
