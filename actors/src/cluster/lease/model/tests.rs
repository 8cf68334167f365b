//! What is played: at random, and one by one.

use proptest::prelude::*;

use super::*;

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
