//! Who votes for whom, who is elected, whom voters follow.

use super::*;

impl World {
    /// Whether a node is there for another.
    pub(super) fn answers(&self, node: usize, to: usize) -> bool {
        !self.is_cut(node, to) && !self.is_cut(to, node) && !self.is_paused(node)
    }

    /// Anybody leads that is able to, whatever the voters say.
    pub(super) fn elect(&mut self) {
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

    pub(super) fn leads(&mut self, at: usize, term: u64) {
        (self.leader, self.term) = (at, term);
        self.nodes[at].voter.leads = true;
        self.after(0, self.catching_up_ms_max, Event::Elected { at, term });
    }

    /// A node hears of a term. If it led in an earlier one, it finds out a little later that it leads no more.
    pub(super) fn hears_of(&mut self, node: usize, term: u64) {
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
    pub(super) fn is_free(&self, node: usize) -> bool {
        let silence = self.timing.silence_before_election.as_millis() as u64;
        let voter = &self.nodes[node].voter;
        self.now >= voter.heard_at.max(voter.followed_at) + silence
    }

    /// A node wants to lead. It stands as soon as it knows of no leader, and asks for votes when it is free.
    pub(super) fn stand(&mut self, node: usize) {
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
    pub(super) fn follow(&mut self, leader: usize, term: u64, sent_ms: u64) -> bool {
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
}
