//! What goes on in a cluster while things befall it: clients that write, read and call, and keep account of it.
//!
//! # Layout
//! - here: loads that run until they are told to stop; one account for each attempt
//! - [`registry`]: writers and readers of the registry, whose history can be checked
//! - [`calls`]: callers of tools

pub mod calls;
pub mod registry;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than whatever a node promises; an attempt that takes so long hangs.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(10);

/// Clients at work until [`Self::finish`].
pub struct Load<Account> {
    stop: CancellationToken,
    clients: Vec<JoinHandle<Account>>,
}

impl<Account: Send + 'static> Load<Account> {
    /// Starts so many clients; each is given its number and ends soon after the token says so.
    pub fn start<Working>(clients: usize, client: impl Fn(usize, CancellationToken) -> Working) -> Self
    where
        Working: Future<Output = Account> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let clients = (0..clients).map(|number| tokio::spawn(client(number, stop.clone())));
        Self {
            clients: clients.collect(),
            stop,
        }
    }

    /// Stops the clients and answers what each kept.
    pub async fn finish(self) -> Vec<Account> {
        self.stop.cancel();
        let mut accounts = Vec::new();
        for client in self.clients {
            accounts.push(client.await.expect("a client does not panic"));
        }
        accounts
    }
}

/// One attempt of a client.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub began: Instant,
    pub ended: Instant,
    /// Which node it went to first.
    pub node: usize,
    pub outcome: Result<(), String>,
}

impl Attempt {
    /// Makes an attempt at this node, and notes when it began and ended.
    pub async fn at(node: usize, work: impl Future<Output = Result<(), String>>) -> Self {
        let began = Instant::now();
        let outcome = work.await;
        Self {
            began,
            ended: Instant::now(),
            node,
            outcome,
        }
    }

    /// How long it took.
    pub fn length(&self) -> Duration {
        self.ended - self.began
    }
}

/// All attempts of a load, in the order in which they ended.
#[derive(Debug, Default)]
pub struct Account {
    pub attempts: Vec<Attempt>,
}

impl Account {
    /// The accounts of several clients as one.
    pub fn of(accounts: Vec<Vec<Attempt>>) -> Self {
        let mut attempts: Vec<Attempt> = accounts.into_iter().flatten().collect();
        attempts.sort_by_key(|attempt| attempt.ended);
        Self { attempts }
    }

    /// How many succeeded.
    pub fn succeeded(&self) -> usize {
        let succeeded = self.attempts.iter().filter(|attempt| attempt.outcome.is_ok());
        succeeded.count()
    }

    /// What went wrong, each with the moment after `since` and the node.
    pub fn failures(&self, since: Instant) -> Vec<String> {
        let failed = self.attempts.iter().filter_map(|attempt| {
            let reason = attempt.outcome.as_ref().err()?;
            let at = attempt.ended.saturating_duration_since(since);
            Some(format!("after {at:.1?} at node-{}: {reason}", attempt.node))
        });
        failed.collect()
    }

    /// How many failed of each kind: by error code, else by what is said of the connection.
    pub fn kinds_of_failures(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for reason in self
            .attempts
            .iter()
            .filter_map(|attempt| attempt.outcome.as_ref().err())
        {
            *kinds.entry(kind_of_failure(reason)).or_default() += 1;
        }
        kinds
    }

    /// The attempts that began between these moments.
    pub fn between(&self, from: Instant, until: Instant) -> Self {
        let within = |attempt: &&Attempt| (from..until).contains(&attempt.began);
        Self {
            attempts: self.attempts.iter().filter(within).cloned().collect(),
        }
    }

    /// How long those took that succeeded.
    pub fn lengths(&self) -> Vec<Duration> {
        let succeeded = self.attempts.iter().filter(|attempt| attempt.outcome.is_ok());
        succeeded.map(Attempt::length).collect()
    }

    /// The attempts that took so long or longer: what became of each, with the moment after `since` at which it ended.
    pub fn slower_than(&self, limit: Duration, since: Instant) -> Vec<String> {
        let slow = self.attempts.iter().filter(|attempt| attempt.length() >= limit);
        slow.map(|attempt| {
            let at = attempt.ended.saturating_duration_since(since);
            let (node, length, outcome) = (attempt.node, attempt.length(), &attempt.outcome);
            format!("{length:.2?} until {at:.1?} at node-{node}: {outcome:?}")
        })
        .collect()
    }

    /// From `moment` to the end of the first success that began after it.
    pub fn recovered_after(&self, moment: Instant) -> Option<Duration> {
        let next = self
            .attempts
            .iter()
            .find(|attempt| attempt.began > moment && attempt.outcome.is_ok());
        next.map(|attempt| attempt.ended - moment)
    }

    /// Panics if nothing was attempted, or anything failed.
    pub fn assert_all_succeeded(&self, what: &str, since: Instant) {
        let failures = self.failures(since);
        assert!(self.succeeded() > 0, "{what}: nothing succeeded: {failures:#?}");
        assert!(
            failures.is_empty(),
            "{what}: {} of {} failed: {failures:#?}",
            failures.len(),
            self.attempts.len()
        );
    }
}

fn kind_of_failure(reason: &str) -> String {
    let code = reason
        .match_indices('T')
        .map(|(at, _)| &reason[at..])
        .find(|rest| {
            let digits = rest[1..].bytes().take_while(u8::is_ascii_digit);
            digits.count() == 4
        });
    match code {
        Some(code) => code[..5].to_owned(),
        None if reason.contains("onnect") || reason == "NotSent" => "no connection".to_owned(),
        None if reason == "Lost" || reason.contains("answer") => "connection lost".to_owned(),
        None => reason.chars().take(60).collect(),
    }
}
