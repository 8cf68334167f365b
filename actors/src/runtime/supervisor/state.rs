//! What a supervisor decides when a child ends. Pure: the time and the dice are given.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use troupe_protocol::id::ActorPath;
use troupe_protocol::observe::ExitReason;

/// Whose lives hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Only the child that ended is started again.
    OneForOne,
    /// All children are stopped and started again.
    OneForAll,
    /// The child that ended and those started after it are stopped and started again.
    RestForOne,
}

/// When a child is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whenever it ends.
    Permanent,
    /// When it did not end by its own will.
    Transient,
    /// Never.
    Temporary,
}

/// How many restarts a supervisor bears before it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// One more within the time below is too many.
    pub restarts_max: u32,
    /// The time that counts.
    pub within: Duration,
}

impl Intensity {
    /// For children whose misfortunes say nothing about the node, such as conversations: never give up.
    pub const UNLIMITED: Self = Self {
        restarts_max: u32::MAX,
        within: Duration::from_secs(1),
    };
}

impl Default for Intensity {
    fn default() -> Self {
        Self {
            restarts_max: 10,
            within: Duration::from_secs(30),
        }
    }
}

/// How long to wait before a restart: doubling with each death of the same child that follows within a minute, and
/// spread by up to half, so that actors that died together do not come back in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first restart.
    pub first: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(20),
            max: Duration::from_secs(10),
        }
    }
}

/// Deaths longer ago than this do not lengthen the wait.
const BACKOFF_FORGIVEN_AFTER: Duration = Duration::from_secs(60);

impl Backoff {
    /// The wait before the restart that follows the given number of earlier deaths; `dice` is in `0.0..1.0`.
    pub fn delay(&self, earlier_deaths: u32, dice: f64) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1u32.checked_shl(earlier_deaths).unwrap_or(u32::MAX));
        doubled.min(self.max).mul_f64(1.0 - dice / 2.0)
    }
}

#[derive(Debug)]
struct Child {
    path: ActorPath,
    restart: Restart,
    deaths: u32,
    last_death: Option<Instant>,
}

/// What a supervisor knows of its children.
#[derive(Debug)]
pub struct State {
    strategy: Strategy,
    intensity: Intensity,
    backoff: Backoff,
    children: Vec<Child>,
    restarts: VecDeque<Instant>,
}

/// What is to be done about an end.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start these again, in this order, after the wait; stop the others among them first, in reverse.
    Restart {
        /// In the order of their start.
        children: Vec<ActorPath>,
        /// The wait.
        after: Duration,
    },
    /// The child's work is done: forget it.
    Forget,
    /// An operator ended it: leave it, but remember it.
    Leave,
    /// Too many restarts: stop everything and end with this reason.
    GiveUp(ExitReason),
}

impl State {
    pub fn new(strategy: Strategy, intensity: Intensity, backoff: Backoff) -> Self {
        Self {
            strategy,
            intensity,
            backoff,
            children: Vec::new(),
            restarts: VecDeque::new(),
        }
    }

    pub fn add(&mut self, path: ActorPath, restart: Restart) {
        self.remove(&path);
        self.children.push(Child {
            path,
            restart,
            deaths: 0,
            last_death: None,
        });
    }

    pub fn remove(&mut self, path: &ActorPath) {
        self.children.retain(|child| child.path != *path);
    }

    pub fn len(&self) -> usize {
        self.children.len()
    }

    pub fn restarts_in_window(&self) -> usize {
        self.restarts.len()
    }

    /// What to do now that a child has ended; `dice` is in `0.0..1.0`.
    pub fn child_ended(
        &mut self,
        path: &ActorPath,
        reason: &ExitReason,
        now: Instant,
        dice: f64,
    ) -> Decision {
        let Some(index) = self.children.iter().position(|child| child.path == *path) else {
            return Decision::Leave;
        };
        let requested = *reason == ExitReason::RestartRequested;
        if *reason == ExitReason::Drained {
            return Decision::Leave;
        }
        let restart = match self.children[index].restart {
            Restart::Permanent => true,
            Restart::Transient => !reason.is_clean(),
            Restart::Temporary => false,
        };
        if !restart && !requested {
            return Decision::Forget;
        }
        let after = if requested {
            Duration::ZERO
        } else {
            self.backoff_of(index, now, dice)
        };
        // What an operator asks for is no misfortune, so it does not count.
        if !requested && self.is_too_much(now) {
            let reason = Box::new(reason.clone());
            return Decision::GiveUp(ExitReason::RestartIntensityExceeded {
                child: path.clone(),
                reason,
            });
        }
        let affected = match self.strategy {
            Strategy::OneForOne => index..index + 1,
            Strategy::OneForAll => 0..self.children.len(),
            Strategy::RestForOne => index..self.children.len(),
        };
        Decision::Restart {
            children: self.children[affected]
                .iter()
                .map(|child| child.path.clone())
                .collect(),
            after,
        }
    }

    fn backoff_of(&mut self, index: usize, now: Instant, dice: f64) -> Duration {
        let child = &mut self.children[index];
        if child
            .last_death
            .is_some_and(|last| now - last > BACKOFF_FORGIVEN_AFTER)
        {
            child.deaths = 0;
        }
        let earlier_deaths = child.deaths;
        child.deaths += 1;
        child.last_death = Some(now);
        self.backoff.delay(earlier_deaths, dice)
    }

    fn is_too_much(&mut self, now: Instant) -> bool {
        while self
            .restarts
            .front()
            .is_some_and(|restart| now - *restart > self.intensity.within)
        {
            self.restarts.pop_front();
        }
        self.restarts.push_back(now);
        self.restarts.len() > self.intensity.restarts_max as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<ActorPath> {
        names.iter().map(ActorPath::new).collect()
    }

    fn state(strategy: Strategy) -> State {
        let mut state = State::new(strategy, Intensity::default(), Backoff::default());
        for path in paths(&["a", "b", "c"]) {
            state.add(path, Restart::Permanent);
        }
        state
    }

    fn panicked() -> ExitReason {
        ExitReason::Panicked {
            error: "boom".to_owned(),
        }
    }

    fn restarted(decision: Decision) -> Vec<ActorPath> {
        match decision {
            Decision::Restart { children, .. } => children,
            other => panic!("expected a restart, got {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_strategy_restarts_its_own() {
        let b = ActorPath::new("b");
        let cases = [
            (Strategy::OneForOne, vec!["b"]),
            (Strategy::RestForOne, vec!["b", "c"]),
            (Strategy::OneForAll, vec!["a", "b", "c"]),
        ];
        for (strategy, expected) in cases {
            let decision = state(strategy).child_ended(&b, &panicked(), Instant::now(), 0.0);
            assert_eq!(restarted(decision), paths(&expected), "{strategy:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_doubles_up_to_a_limit_and_is_forgiven_after_a_minute() {
        let mut state = State::new(Strategy::OneForOne, Intensity::UNLIMITED, Backoff::default());
        let a = ActorPath::new("a");
        state.add(a.clone(), Restart::Permanent);
        let mut wait = |now| match state.child_ended(&a, &panicked(), now, 0.0) {
            Decision::Restart { after, .. } => after,
            other => panic!("{other:?}"),
        };
        let now = Instant::now();
        let waits: Vec<u128> = (0..12).map(|_| wait(now).as_millis()).collect();
        assert_eq!(
            waits,
            [
                20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_000, 10_000, 10_000
            ]
        );
        assert_eq!(wait(now + Duration::from_secs(61)).as_millis(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn one_restart_too_many_makes_it_give_up_and_time_heals() {
        let mut state = state(Strategy::OneForOne);
        let (a, now) = (ActorPath::new("a"), Instant::now());
        for _ in 0..10 {
            restarted(state.child_ended(&a, &panicked(), now, 0.5));
        }
        let later = now + Duration::from_secs(31);
        restarted(state.child_ended(&a, &panicked(), later, 0.5));
        for _ in 0..9 {
            restarted(state.child_ended(&a, &panicked(), later, 0.5));
        }
        assert!(matches!(
            state.child_ended(&a, &panicked(), later, 0.5),
            Decision::GiveUp(ExitReason::RestartIntensityExceeded { .. })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_of_an_operator_do_not_count() {
        let mut state = state(Strategy::OneForOne);
        let a = ActorPath::new("a");
        for _ in 0..100 {
            restarted(state.child_ended(&a, &ExitReason::RestartRequested, Instant::now(), 0.5));
        }
        assert_eq!(
            state.child_ended(&a, &ExitReason::Drained, Instant::now(), 0.5),
            Decision::Leave
        );
    }

    #[tokio::test(start_paused = true)]
    async fn transient_children_come_back_only_after_misfortune() {
        let mut state = State::new(Strategy::OneForOne, Intensity::default(), Backoff::default());
        let (a, b) = (ActorPath::new("a"), ActorPath::new("b"));
        state.add(a.clone(), Restart::Transient);
        state.add(b.clone(), Restart::Temporary);
        assert_eq!(
            state.child_ended(&a, &ExitReason::Normal, Instant::now(), 0.5),
            Decision::Forget
        );
        restarted(state.child_ended(&a, &ExitReason::Killed, Instant::now(), 0.5));
        assert_eq!(
            state.child_ended(&b, &panicked(), Instant::now(), 0.5),
            Decision::Forget
        );
    }
}
