//! This node's voice in the log: given to a candidate, or to a leader that it says to follow; never to both at a time.
//!
//! Whoever is elected must know that no round of its predecessor began less than `election_max_ms` before. A round is
//! followed by a majority, and an election granted by one, so they share a voter. openraft keeps that voter from granting
//! its vote while it has taken something of a leader not long ago. What is said without asking openraft
//! ([`super::alive`]) must promise the same: it is not said by who may have granted a later vote, and who said it grants
//! none for that long, nor asks for any. Votes come after one another by term, and within a term by node: openraft grants
//! one even to another candidate of the same term, if that node comes later.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use troupe_protocol::id::NodeId;

use super::command::Term;
use super::raft::Vote;

/// Whom a vote is for: who leads in this term, or would.
pub(super) type Candidate = (Term, NodeId);

/// Whom a vote is for.
pub(super) fn candidate_of(vote: &Vote) -> Candidate {
    (Term(vote.leader_id.term), vote.leader_id.node_id.0)
}

/// To whom this node has given its voice.
pub(super) struct Voice {
    /// How long who follows a leader votes for nobody.
    silence: Duration,
    /// Locked while a vote is decided on.
    given: Mutex<Given>,
}

#[derive(Debug)]
struct Given {
    /// When this node last said that it follows a leader.
    followed_at: Option<Instant>,
    /// The latest for whom this node may have voted.
    voted: Option<Candidate>,
}

/// A vote that is being decided on; meanwhile this node says to nobody that it follows.
pub(super) struct Ballot<'a> {
    silence: Duration,
    given: MutexGuard<'a, Given>,
    voted_before: Option<Candidate>,
}

impl Voice {
    /// Of a node that voted last for this one, as its disk says.
    pub(super) fn new(silence: Duration, voted: Option<Candidate>) -> Self {
        Self {
            silence,
            given: Mutex::new(Given {
                followed_at: None,
                voted,
            }),
        }
    }

    /// Gives the voice to this leader, unless it may have been given to a later candidate.
    pub(super) fn follow(&self, leader: Candidate) -> bool {
        let Ok(mut given) = self.given.try_lock() else {
            return false;
        };
        let is_free = given.voted <= Some(leader);
        if is_free {
            given.followed_at = Some(Instant::now());
        }
        is_free
    }

    /// When this node, which has followed a leader, is free to vote.
    pub(super) async fn free_at(&self) -> Option<Instant> {
        self.given.lock().await.free_at(self.silence)
    }

    /// Begins to decide on a vote.
    pub(super) async fn ballot(&self) -> Ballot<'_> {
        let given = self.given.lock().await;
        Ballot {
            silence: self.silence,
            voted_before: given.voted,
            given,
        }
    }

    /// Waits until this node is free to vote, and gives its voice to itself as this candidate.
    pub(super) async fn stand(&self, own: Candidate) {
        loop {
            let mut ballot = self.ballot().await;
            let Some(free_at) = ballot.given.free_at(self.silence) else {
                return ballot.give(own);
            };
            if free_at <= Instant::now() {
                return ballot.give(own);
            }
            drop(ballot);
            tokio::time::sleep_until(free_at).await;
        }
    }

    /// Does this now, unless this node, which leads so, may have voted for a later candidate.
    pub(super) fn unless_voted(&self, own: Candidate, then: impl FnOnce()) {
        if let Ok(given) = self.given.try_lock()
            && given.voted <= Some(own)
        {
            then();
        }
    }
}

impl Given {
    fn free_at(&self, silence: Duration) -> Option<Instant> {
        self.followed_at.map(|at| at + silence)
    }
}

impl Ballot<'_> {
    /// Whether this node has followed no leader for a while.
    pub(super) fn is_free(&self) -> bool {
        let free_at = self.given.free_at(self.silence);
        free_at.is_none_or(|at| at <= Instant::now())
    }

    /// Gives the voice, before openraft is asked: should nobody wait for its answer any more, it may have been given.
    pub(super) fn give(&mut self, candidate: Candidate) {
        self.given.voted = self.given.voted.max(Some(candidate));
    }

    /// openraft has not given it.
    pub(super) fn take_back(mut self) {
        self.given.voted = self.voted_before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first node, in this term.
    fn first(term: u64) -> Candidate {
        (Term(term), NodeId::from_ulid(ulid::Ulid(1)))
    }

    /// A node that comes later.
    fn second(term: u64) -> Candidate {
        (Term(term), NodeId::from_ulid(ulid::Ulid(2)))
    }

    const SILENCE: Duration = Duration::from_millis(600);

    #[tokio::test(start_paused = true)]
    async fn who_follows_votes_for_nobody_for_a_while_itself_neither() {
        let voice = Voice::new(SILENCE, Some(first(3)));
        assert!(voice.ballot().await.is_free());
        assert!(voice.follow(first(3)));
        assert!(!voice.ballot().await.is_free());
        tokio::time::advance(SILENCE / 2).await;
        assert!(voice.follow(first(3)), "again");
        let began = Instant::now();
        voice.stand(first(4)).await;
        assert!(began.elapsed() >= SILENCE, "{:?}", began.elapsed());
        assert!(!voice.follow(first(3)), "it stands in a later term");
        assert!(voice.follow(first(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_have_voted_follows_no_leader_of_an_earlier_term() {
        let voice = Voice::new(SILENCE, Some(first(3)));
        assert!(!voice.follow(first(2)), "it voted before it was restarted");
        let mut ballot = voice.ballot().await;
        assert!(!voice.follow(first(3)), "while it is decided");
        ballot.give(first(5));
        ballot.take_back();
        assert!(voice.follow(first(3)), "it was not granted");
        tokio::time::advance(SILENCE).await;
        let mut ballot = voice.ballot().await;
        assert!(ballot.is_free());
        ballot.give(first(5));
        drop(ballot); // nobody waits for the answer
        assert!(!voice.follow(first(4)));
        let mut ballot = voice.ballot().await;
        ballot.give(first(5));
        ballot.take_back();
        assert!(!voice.follow(first(4)), "the one before may have been granted");
        assert!(voice.follow(first(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_have_voted_follows_no_leader_that_comes_before_in_the_same_term() {
        let voice = Voice::new(SILENCE, None);
        assert!(voice.follow(first(5)));
        tokio::time::advance(SILENCE).await;
        voice.ballot().await.give(second(5)); // later, though of the same term
        assert!(!voice.follow(first(5)));
        assert!(voice.follow(second(5)));
        let mut noted = false;
        voice.unless_voted(first(5), || noted = true);
        assert!(!noted, "it leads no more");
    }

    #[tokio::test]
    async fn a_leader_that_may_have_voted_notes_no_answers() {
        let voice = Voice::new(SILENCE, Some(first(3)));
        let noted = || {
            let mut noted = false;
            voice.unless_voted(first(3), || noted = true);
            noted
        };
        assert!(noted());
        voice.ballot().await.give(first(4));
        assert!(!noted());
    }
}
