//! Which sessions are open: pure, the time is given.
//!
//! The number of sessions is bounded, and opening one never fails for want of room: whoever holds the most loses
//! those of theirs that have been silent longest. So a client that initialises and vanishes a hundred thousand times
//! pushes out only its own leavings, and a client whose session was pushed out gets 404 and initialises again, as
//! the specification has it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::record::SessionRecord;
use super::replay::ReplayBudget;
use super::session::{NewSession, Session};
use super::session_id::SessionId;

/// The bounds on sessions.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// How many may be open.
    pub sessions_max: usize,
    /// How long a session may be idle (no request, no open stream), in milliseconds.
    pub idle_ms_max: u64,
    /// How long after `initialize` the client must have come back, in milliseconds.
    pub handshake_ms_max: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            sessions_max: 10_000,
            idle_ms_max: 30 * 60 * 1_000,
            handshake_ms_max: 60 * 1_000,
        }
    }
}

/// What is counted, for the console.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SessionCounts {
    /// Opened since the start.
    pub opened: u64,
    /// Taken up when another node had them.
    pub resumed: u64,
    /// Given to other nodes.
    pub released: u64,
    /// Closed by their clients.
    pub closed: u64,
    /// Ended because they were idle or never confirmed.
    pub expired: u64,
    /// Ended to make room.
    pub evicted: u64,
}

/// The table of open sessions.
#[derive(Debug)]
pub struct Sessions {
    limits: SessionLimits,
    by_id: HashMap<SessionId, Arc<Session>>,
    counts: SessionCounts,
    replay_budget: Arc<ReplayBudget>,
    /// Sessions that ended and of which other nodes still know.
    to_forget: Vec<SessionId>,
    /// Those of which the records are being removed: what was read of them before is no session any more.
    forgetting: HashSet<SessionId>,
}

impl Sessions {
    /// An empty table.
    pub fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            by_id: HashMap::new(),
            to_forget: Vec::new(),
            forgetting: HashSet::new(),
            counts: SessionCounts::default(),
            replay_budget: Arc::default(),
        }
    }

    /// Opens a session, making room where there is none.
    pub fn open(&mut self, id: SessionId, settled: NewSession, now_ms: u64) -> Arc<Session> {
        let session = Arc::new(Session::new(id, settled, now_ms).within(&self.replay_budget));
        self.insert(Arc::clone(&session), now_ms);
        self.counts.opened += 1;
        session
    }

    /// Opens the session of a stream, under the stream's name; if it is here already, that is it.
    pub fn open_bound(&mut self, id: SessionId, settled: NewSession, now_ms: u64) -> Arc<Session> {
        if let Some(known) = self.by_id.get(&id) {
            return Arc::clone(known);
        }
        let session = Session::new(id, settled, now_ms).within(&self.replay_budget);
        let session = Arc::new(session.bound());
        self.insert(Arc::clone(&session), now_ms);
        self.counts.opened += 1;
        session
    }

    /// Takes up a session that another node had; if it is here already, that is it. Nothing when it is over.
    pub fn resume(&mut self, id: SessionId, record: SessionRecord, now_ms: u64) -> Option<Arc<Session>> {
        if let Some(known) = self.by_id.get(&id) {
            return Some(Arc::clone(known));
        }
        if self.forgetting.contains(&id) {
            return None;
        }
        let session = Arc::new(Session::resumed(id, record, now_ms).within(&self.replay_budget));
        self.insert(Arc::clone(&session), now_ms);
        self.counts.resumed += 1;
        Some(session)
    }

    fn insert(&mut self, session: Arc<Session>, now_ms: u64) {
        if self.by_id.len() >= self.limits.sessions_max {
            self.expire(now_ms);
        }
        if self.by_id.len() >= self.limits.sessions_max {
            self.evict();
        }
        self.by_id.insert(session.id.clone(), session);
    }

    /// Lets go of sessions that other nodes have now.
    pub fn release(&mut self, ids: &[SessionId]) {
        for id in ids {
            if let Some(session) = self.by_id.remove(id) {
                session.release();
                self.counts.released += 1;
            }
        }
    }

    /// All sessions.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.by_id.values()
    }

    /// Whether there is a session of this name.
    pub fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// The sessions that have ended since this was last asked and of which other nodes still know.
    pub fn take_to_forget(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.to_forget)
    }

    /// The records of these are gone.
    pub fn forgotten(&mut self, ids: &[SessionId]) {
        for id in ids {
            self.forgetting.remove(id);
        }
    }

    fn ended(to_forget: &mut Vec<SessionId>, forgetting: &mut HashSet<SessionId>, session: &Session) {
        session.end();
        if session.has_record() {
            to_forget.push(session.id.clone());
            forgetting.insert(session.id.clone());
        }
    }

    /// The session with this name, if it is this owner's.
    pub fn find(&self, id: &str, owner: &str) -> Option<&Arc<Session>> {
        self.by_id
            .get(id)
            .filter(|session| &*session.settled.owner == owner)
    }

    /// Ends a session at its owner's wish. Whether there was one.
    pub fn close(&mut self, id: &str, owner: &str) -> bool {
        if self.find(id, owner).is_none() {
            return false;
        }
        if let Some(session) = self.by_id.remove(id) {
            Self::ended(&mut self.to_forget, &mut self.forgetting, &session);
            self.counts.closed += 1;
        }
        true
    }

    /// Ends the sessions that were idle for too long, or whose clients never came back after `initialize`.
    pub fn expire(&mut self, now_ms: u64) {
        let SessionLimits {
            idle_ms_max,
            handshake_ms_max,
            ..
        } = self.limits;
        let before = self.by_id.len();
        self.by_id.retain(|_, session| {
            session.forget_old_events();
            let silent_ms = now_ms.saturating_sub(session.last_used_ms());
            let silent_ms_max = if session.is_confirmed() {
                idle_ms_max
            } else {
                handshake_ms_max
            };
            let is_over = silent_ms > silent_ms_max && !session.is_busy();
            if is_over {
                Self::ended(&mut self.to_forget, &mut self.forgetting, session);
            }
            !is_over
        });
        self.counts.expired += (before - self.by_id.len()) as u64;
        if self.by_id.capacity() > 4 * self.by_id.len().max(64) {
            self.by_id.shrink_to_fit();
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// What was counted since the start.
    pub fn counts(&self) -> SessionCounts {
        self.counts
    }

    /// Makes room at the expense of whoever holds the most. Some room at once, so that the search is paid rarely.
    fn evict(&mut self) {
        let mut held: HashMap<&str, usize> = HashMap::new();
        for session in self.by_id.values() {
            *held.entry(&session.settled.owner).or_default() += 1;
        }
        let Some((owner, count)) = held.into_iter().max_by_key(|(_, count)| *count) else {
            return;
        };
        let room = (self.limits.sessions_max / 64).clamp(1, count);
        let mut candidates: Vec<&Arc<Session>> = self
            .by_id
            .values()
            .filter(|session| *session.settled.owner == *owner)
            .collect();
        // Those that do something go last, and among the others those that never came back go first.
        candidates.select_nth_unstable_by_key(room - 1, |session| {
            (session.is_busy(), session.is_confirmed(), session.last_used_ms())
        });
        let evicted: Vec<SessionId> = candidates[..room]
            .iter()
            .map(|session| session.id.clone())
            .collect();
        for id in evicted {
            if let Some(session) = self.by_id.remove(&id) {
                Self::ended(&mut self.to_forget, &mut self.forgetting, &session);
                self.counts.evicted += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::session::settled_for_test as settled;
    use super::*;

    const LIMITS: SessionLimits = SessionLimits {
        sessions_max: 100,
        idle_ms_max: 1_000,
        handshake_ms_max: 100,
    };

    fn id(n: usize) -> SessionId {
        SessionId::for_test(&n.to_string())
    }

    #[test]
    fn a_session_is_its_owners_alone() {
        let mut sessions = Sessions::new(LIMITS);
        sessions.open(id(1), settled("ann"), 0);
        assert!(sessions.find("1", "ann").is_some());
        assert!(sessions.find("1", "bob").is_none());
        assert!(sessions.find("2", "ann").is_none());
        assert!(!sessions.close("1", "bob"));
        assert!(sessions.close("1", "ann"));
        assert!(!sessions.close("1", "ann"), "closed twice");
    }

    #[test]
    fn those_who_never_come_back_go_early_the_idle_later_and_the_busy_stay() {
        let mut sessions = Sessions::new(LIMITS);
        sessions.open(id(1), settled("ann"), 0);
        sessions.open(id(2), settled("ann"), 0).touch(0);
        let busy = sessions.open(id(3), settled("ann"), 0);
        let stream = busy.open_stream();
        sessions.expire(100);
        assert_eq!(sessions.len(), 3, "nothing is over its time yet");
        sessions.expire(101);
        assert!(sessions.find("1", "ann").is_none());
        sessions.expire(1_001);
        assert!(sessions.find("2", "ann").is_none());
        assert!(sessions.find("3", "ann").is_some());
        drop(stream);
        sessions.expire(1_001);
        assert!(sessions.is_empty());
        assert_eq!(sessions.counts().expired, 3);
    }

    #[test]
    fn who_vanishes_a_hundred_thousand_times_pushes_out_only_its_own() {
        let mut sessions = Sessions::new(LIMITS);
        sessions.open(id(0), settled("bob"), 0).touch(0);
        for n in 1..=100_000 {
            sessions.open(id(n), settled("ann"), 1);
        }
        assert!(sessions.len() <= LIMITS.sessions_max);
        assert!(sessions.find("0", "bob").is_some(), "bob's session was taken");
        assert!(sessions.find("100000", "ann").is_some(), "the newest is there");
        sessions.expire(102);
        assert_eq!(sessions.len(), 1);
        assert!(
            sessions.by_id.capacity() <= 256,
            "memory was kept: {}",
            sessions.by_id.capacity()
        );
    }

    #[test]
    fn who_works_is_evicted_last() {
        let mut sessions = Sessions::new(LIMITS);
        let worker = sessions.open(id(0), settled("ann"), 0);
        let call = worker.begin_call("1").unwrap();
        sessions.open(id(1), settled("ann"), 0).touch(0);
        for n in 2..=150 {
            sessions.open(id(n), settled("ann"), 1);
        }
        assert!(
            sessions.find("0", "ann").is_some(),
            "a session with a call in flight was evicted"
        );
        assert!(
            sessions.find("1", "ann").is_some(),
            "a confirmed session went before those that never came back"
        );
        drop(call);
    }
}
