//! Who is silent and who is back, pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use troupe_protocol::cluster::{Generation, MemberState, Membership};
use troupe_protocol::id::NodeId;

use super::DetectionTiming;

/// How long a member's earlier ends count against it.
const ENDS_COUNT_FOR: Duration = Duration::from_secs(60);
/// A tick that comes so much later than the last one: this process stood still itself, and silence proves nothing.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// What is known of a member.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// Its start, as the log knows it.
    generation: Option<Generation>,
    last: Instant,
    /// Since when it has been heard without a pause.
    well_since: Option<Instant>,
    /// Since when it has asked without ever having a lease.
    deaf_since: Option<Instant>,
    link_ended: bool,
    left: bool,
    /// When it last went down, and how often within a while.
    ends: u32,
    ended_at: Option<Instant>,
}

/// What the leader has heard since it leads.
#[derive(Debug)]
pub(super) struct Silence {
    timing: DetectionTiming,
    own: NodeId,
    since: Instant,
    last_tick: Instant,
    heard: BTreeMap<NodeId, Heard>,
}

impl Silence {
    pub fn new(timing: DetectionTiming, own: NodeId, now: Instant) -> Self {
        Self {
            timing,
            own,
            since: now,
            last_tick: now,
            heard: BTreeMap::new(),
        }
    }

    fn of(&mut self, node: NodeId) -> &mut Heard {
        let fresh = Heard {
            generation: None,
            last: self.since,
            well_since: None,
            deaf_since: None,
            link_ended: false,
            left: false,
            ends: 0,
            ended_at: None,
        };
        self.heard.entry(node).or_insert(fresh)
    }

    /// A member asked for its lease.
    pub fn heard(&mut self, node: NodeId, has_lease: bool, now: Instant) {
        let pause_max = self.timing.pause_max();
        let heard = self.of(node);
        let is_well = has_lease && now.saturating_duration_since(heard.last) <= pause_max;
        heard.well_since = match heard.well_since {
            Some(since) if is_well => Some(since),
            _ => has_lease.then_some(now),
        };
        heard.deaf_since = match heard.deaf_since {
            _ if has_lease => None,
            None => Some(now),
            since => since,
        };
        heard.last = now;
        heard.link_ended = false;
        heard.left = false;
    }

    /// A member to which there was no link when the turn began. The election took longer than any silence that is borne, so
    /// little more is waited for.
    pub fn is_missing(&mut self, node: NodeId, now: Instant) {
        let silent_after = self.timing.silent_after_link_end;
        let heard = self.of(node);
        heard.link_ended = true;
        heard.last = now.checked_sub(silent_after / 2).unwrap_or(now);
    }

    /// The link to a member has ended.
    pub fn link_ended(&mut self, node: NodeId) {
        self.of(node).link_ended = true;
    }

    /// A member said that it stops.
    pub fn left(&mut self, node: NodeId) {
        self.of(node).left = true;
    }

    /// Whose state is to be changed now, and to what.
    pub fn judge(&mut self, membership: &Membership, now: Instant) -> Vec<(NodeId, MemberState)> {
        let stood_still = now.saturating_duration_since(self.last_tick);
        self.last_tick = now;
        if stood_still > STOOD_STILL {
            self.since += stood_still;
            self.heard
                .values_mut()
                .for_each(|heard| heard.last += stood_still);
        }
        self.heard.retain(|node, _| membership.members.contains_key(node));
        let mut judgements = Vec::new();
        for member in membership.members.values() {
            self.note_start(member.id, member.generation, now);
            let next = match member.state {
                // Whoever leads is up, whatever an earlier leader said.
                _ if member.id == self.own => (member.state == MemberState::Down).then_some(MemberState::Up),
                MemberState::Down => self.is_back(member.id, now).then_some(MemberState::Up),
                MemberState::Up | MemberState::Draining => {
                    self.is_silent(member.id, now).then_some(MemberState::Down)
                }
            };
            judgements.extend(next.map(|state| (member.id, state)));
        }
        judgements
    }

    /// A member that has started anew is listened to anew: what was heard, or not, of its former life says nothing.
    fn note_start(&mut self, node: NodeId, generation: Generation, now: Instant) {
        let heard = self.of(node);
        if heard.generation.is_some_and(|known| known != generation) {
            heard.last = now;
            heard.link_ended = false;
            heard.left = false;
        }
        heard.generation = Some(generation);
    }

    /// A judgement was written.
    pub fn judged(&mut self, node: NodeId, state: MemberState, now: Instant) {
        let heard = self.of(node);
        if state == MemberState::Down {
            let counts = heard
                .ended_at
                .is_some_and(|ended_at| now.duration_since(ended_at) < ENDS_COUNT_FOR);
            heard.ends = if counts { heard.ends + 1 } else { 1 };
            heard.ended_at = Some(now);
        }
        heard.well_since = None;
        heard.deaf_since = None;
    }

    fn is_silent(&mut self, node: NodeId, now: Instant) -> bool {
        let timing = self.timing;
        let heard = *self.of(node);
        let silent_for = now.saturating_duration_since(heard.last);
        let silent_after = if heard.link_ended {
            timing.silent_after_link_end
        } else {
            timing.silent_after
        };
        let is_deaf = heard
            .deaf_since
            .is_some_and(|since| now.saturating_duration_since(since) > timing.deaf_after);
        heard.left || silent_for > silent_after || is_deaf
    }

    fn is_back(&mut self, node: NodeId, now: Instant) -> bool {
        let timing = self.timing;
        let heard = *self.of(node);
        let doublings = heard.ends.saturating_sub(1).min(16);
        let back_after = (timing.back_after * (1 << doublings)).min(timing.back_after_max);
        let is_heard = now.saturating_duration_since(heard.last) < timing.pause_max();
        let well_for = heard.well_since.map(|since| now.saturating_duration_since(since));
        is_heard && !heard.left && well_for.is_some_and(|well_for| well_for >= back_after)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use troupe_protocol::cluster::{Epoch, Member, Role};
    use troupe_protocol::time::Timestamp;

    fn id(node: u128) -> NodeId {
        NodeId::from_ulid(ulid::Ulid(node))
    }

    /// Nodes 1 (who leads) and 2, with the state of 2.
    struct Bed {
        silence: Silence,
        membership: Arc<Membership>,
        start: Instant,
        now_ms: u64,
    }

    impl Bed {
        fn new() -> Self {
            let start = Instant::now();
            let mut bed = Self {
                silence: Silence::new(DetectionTiming::default(), id(1), start),
                membership: Arc::new(Membership::default()),
                start,
                now_ms: 0,
            };
            bed.set(MemberState::Up);
            bed
        }

        fn set(&mut self, state: MemberState) {
            let member = |node: u128, state| Member {
                id: id(node),
                name: format!("node-{node}").parse().unwrap(),
                generation: Generation(1),
                role: Role::Voter,
                state,
                cluster_address: String::new(),
                edge_address: String::new(),
                version: String::new(),
                joined_at: Timestamp::from_unix_ms(0),
            };
            self.membership = Arc::new(Membership {
                epoch: Epoch(self.membership.epoch.0 + 1),
                members: [(id(1), member(1, MemberState::Up)), (id(2), member(2, state))].into(),
                ..Membership::default()
            });
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_millis(self.now_ms)
        }

        /// Lets time pass; node 2 is heard at each multiple of `heard_every_ms`. Gives the first judgement and when.
        fn run(
            &mut self,
            ms: u64,
            heard_every_ms: Option<u64>,
            has_lease: bool,
        ) -> Option<(u64, MemberState)> {
            let end = self.now_ms + ms;
            while self.now_ms < end {
                self.now_ms += 50;
                if heard_every_ms.is_some_and(|every| self.now_ms.is_multiple_of(every)) {
                    self.silence.heard(id(2), has_lease, self.now());
                }
                let judged = self.silence.judge(&Arc::clone(&self.membership), self.now());
                if let Some((node, state)) = judged.first() {
                    self.silence.judged(*node, *state, self.now());
                    self.set(*state);
                    return Some((self.now_ms, *state));
                }
            }
            None
        }
    }

    #[test]
    fn a_member_that_falls_silent_is_down_within_a_second_and_up_when_it_is_back() {
        let mut bed = Bed::new();
        assert_eq!(bed.run(2_000, Some(150), true), None);
        let (down_at, state) = bed.run(5_000, None, true).unwrap();
        assert_eq!(state, MemberState::Down);
        assert!(down_at - 1_950 <= 1_000, "{down_at}");
        let (up_at, state) = bed.run(5_000, Some(150), true).unwrap();
        assert_eq!(state, MemberState::Up);
        assert!(up_at - down_at <= 600, "{up_at}");
    }

    #[test]
    fn the_end_of_a_link_hastens_the_judgement_and_does_not_make_it() {
        let mut bed = Bed::new();
        assert_eq!(bed.run(1_500, Some(150), true), None);
        bed.silence.link_ended(id(2));
        assert_eq!(bed.run(1_500, Some(150), true), None, "it was heard again");
        bed.silence.link_ended(id(2));
        let (down_at, _) = bed.run(5_000, None, true).unwrap();
        assert!(down_at - 3_000 <= 400, "{down_at}");
    }

    #[test]
    fn whoever_is_missing_when_a_turn_begins_is_down_soon_unless_it_is_heard() {
        let mut bed = Bed::new();
        bed.silence.is_missing(id(2), bed.now());
        let (down_at, _) = bed.run(5_000, None, true).unwrap();
        assert!(down_at <= 250, "{down_at}");
        let mut bed = Bed::new();
        bed.silence.is_missing(id(2), bed.now());
        assert_eq!(bed.run(5_000, Some(150), true), None);
    }

    #[test]
    fn a_member_that_has_started_anew_is_listened_to_anew() {
        let mut bed = Bed::new();
        bed.run(1_000, Some(150), true);
        bed.run(5_000, None, true).unwrap();
        bed.now_ms += 200;
        bed.set(MemberState::Up);
        let mut membership = Membership::clone(&bed.membership);
        membership.members.get_mut(&id(2)).unwrap().generation = Generation(2);
        bed.membership = Arc::new(membership);
        assert_eq!(bed.run(500, None, true), None);
        assert_eq!(bed.run(5_000, Some(150), true), None);
    }

    #[test]
    fn slow_signs_of_life_are_signs_of_life() {
        let mut bed = Bed::new();
        assert_eq!(bed.run(60_000, Some(600), true), None);
    }

    #[test]
    fn a_member_that_never_hears_us_is_down_and_stays_so() {
        let mut bed = Bed::new();
        bed.run(1_000, Some(150), true);
        let (_, state) = bed.run(5_000, Some(150), false).unwrap();
        assert_eq!(state, MemberState::Down);
        assert_eq!(bed.run(20_000, Some(150), false), None);
    }

    #[test]
    fn whoever_comes_and_goes_has_to_prove_itself_ever_longer() {
        let mut bed = Bed::new();
        let mut absences = Vec::new();
        for _ in 0..4 {
            let (down_at, _) = bed.run(5_000, None, true).unwrap();
            let (up_at, _) = bed.run(20_000, Some(150), true).unwrap();
            absences.push(up_at - down_at);
        }
        assert!(absences.windows(2).all(|pair| pair[0] < pair[1]), "{absences:?}");
    }

    #[test]
    fn a_leader_that_stood_still_itself_judges_nobody() {
        let mut bed = Bed::new();
        bed.run(1_000, Some(150), true);
        bed.now_ms += 20_000;
        assert_eq!(bed.run(700, None, true), None);
    }

    #[test]
    fn who_leaves_is_down_at_once() {
        let mut bed = Bed::new();
        bed.run(1_000, Some(150), true);
        bed.silence.left(id(2));
        assert_eq!(bed.run(100, None, true), Some((1_050, MemberState::Down)));
    }
}
