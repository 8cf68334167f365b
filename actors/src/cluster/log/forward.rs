//! A write or a linearizable read from any node: to the leader, wherever it is, as often as needed, but never twice.
//!
//! A request keeps its name however often it is handed over, and the log remembers the names of the last requests: so what
//! may have been written already can be handed to the next leader without harm.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::Instant;
use troupe_protocol::id::NodeId;
use troupe_protocol::wire as encoding;

use super::command::{Command, Outcome, Request, RequestId, Written};
use super::core::Core;
use super::error::LogError;
use super::serve;
use super::transport::TransportError;
use super::wire::{LeaderAnswer, Question};
use crate::runtime::Deadline;
use crate::store::replicated::Conflict;

/// The pause before a request is handed over again: half of this and a random part of the other half.
const PAUSE: Duration = Duration::from_millis(40);
/// The longest that one attempt waits for its answer while the leader may be gone without a word.
const ATTEMPT_MAX: Duration = Duration::from_secs(4);

/// Writes a command, and waits until this node has applied it.
pub(super) async fn write(core: &Core, command: Command, deadline: Deadline) -> Result<Written, LogError> {
    if let Command::Records(batch) = &command {
        batch.check()?;
    }
    let mut request = Request {
        id: RequestId(fastrand::u64(..)),
        made_after: *core.views.applied.borrow(),
        command,
    };
    loop {
        let requests = vec![request.clone()];
        let attempt = Attempt::new(core, deadline);
        let (answer, may_repeat) = attempt.run(Ask::Propose(requests)).await?;
        let LeaderAnswer::Done(done) = answer else {
            return Err(unexpected());
        };
        let Some((number, outcome)) = done.into_iter().next() else {
            return Err(unexpected());
        };
        match outcome {
            Outcome::TooOld if !may_repeat => {
                // This node is far behind; the request was surely never written: make it anew.
                request.id = RequestId(fastrand::u64(..));
                request.made_after = number;
            }
            Outcome::TooOld => {
                return Err(LogError::OutcomeUnknown {
                    reason: "it took too long to tell whether it had been written before".to_owned(),
                });
            }
            Outcome::Applied => {
                applied_here(core, number, deadline).await?;
                return Ok(Written { index: number });
            }
            Outcome::Conflict { tree, key } => {
                applied_here(core, number, deadline).await?;
                return Err(Conflict { tree, key }.into());
            }
            Outcome::Refused(refusal) => {
                applied_here(core, number, deadline).await?;
                return Err(refusal.into());
            }
        }
    }
}

/// Afterwards reads on this node show everything that was acknowledged, anywhere, before this was called.
pub(super) async fn linearize(core: &Core, deadline: Deadline) -> Result<u64, LogError> {
    let answer = Attempt::new(core, deadline).run(Ask::ReadIndex).await;
    let (answer, _) = answer.map_err(|error| match error {
        LogError::OutcomeUnknown { reason } => LogError::NoQuorum { reason }, // nothing was written anyway
        error => error,
    })?;
    let LeaderAnswer::ReadIndex(number) = answer else {
        return Err(unexpected());
    };
    applied_here(core, number, deadline).await?;
    Ok(number)
}

async fn applied_here(core: &Core, number: u64, deadline: Deadline) -> Result<(), LogError> {
    let mut applied = core.views.applied.clone();
    let reached = applied.wait_for(|applied| *applied >= number);
    match tokio::time::timeout_at(deadline.instant(), reached).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(LogError::OutcomeUnknown {
            reason: format!("entry {number} is committed, but this node has not applied it yet"),
        }),
    }
}

fn unexpected() -> LogError {
    LogError::OutcomeUnknown {
        reason: "the leader answered something else than was asked".to_owned(),
    }
}

/// What the leader is asked.
enum Ask {
    Propose(Vec<Request>),
    ReadIndex,
}

/// The attempts to have the leader do something.
struct Attempt<'a> {
    core: &'a Core,
    deadline: Deadline,
    /// Whether an attempt may have been carried out without our knowing, and what was last heard.
    may_have: Option<String>,
    /// Who leads, as a node said that does not.
    hint: Option<NodeId>,
}

impl<'a> Attempt<'a> {
    fn new(core: &'a Core, deadline: Deadline) -> Self {
        Self {
            core,
            deadline,
            may_have: None,
            hint: None,
        }
    }

    /// The leader's answer, and whether it may be about a repetition.
    async fn run(mut self, ask: Ask) -> Result<(LeaderAnswer, bool), LogError> {
        loop {
            if let Err(stopped) = self.core.refuse_stopped() {
                return Err(self.refused(stopped));
            }
            let leader = self.leader().await?;
            let answer = if leader == self.core.own {
                self.ask_here(&ask).await
            } else {
                self.ask_there(leader, &ask).await?
            };
            match answer {
                Some(LeaderAnswer::NotLeader { leader: other }) => {
                    self.hint = other.filter(|other| *other != leader);
                }
                Some(LeaderAnswer::NoQuorum { reason }) => return Err(self.no_quorum(reason)),
                Some(LeaderAnswer::Overloaded { waiting }) => {
                    return Err(self.refused(LogError::Overloaded {
                        waiting: usize::try_from(waiting).unwrap_or(usize::MAX),
                    }));
                }
                Some(LeaderAnswer::Unknown { reason }) => self.may_have = Some(reason),
                Some(LeaderAnswer::Stopped { reason }) if leader == self.core.own => {
                    return Err(self.refused(LogError::Stopped { reason }));
                }
                Some(LeaderAnswer::Stopped { .. }) | None => self.core.reach.lock().missed(leader),
                Some(answer) => {
                    self.core.reach.lock().reached();
                    return Ok((answer, self.may_have.is_some()));
                }
            }
            let pause = PAUSE / 2 + PAUSE.mul_f64(fastrand::f64() / 2.0);
            tokio::time::sleep(pause.min(self.deadline.remaining())).await;
        }
    }

    async fn ask_here(&self, ask: &Ask) -> Option<LeaderAnswer> {
        let core = self.core;
        let asked = async {
            Ok(match ask {
                Ask::Propose(requests) => serve::propose_all(core, requests.clone(), self.deadline).await,
                Ask::ReadIndex => serve::read_index(core, self.deadline).await,
            })
        };
        let answer = self.unless_it_ends(core.own, asked).await;
        let unknown = |error: TransportError| LeaderAnswer::Unknown {
            reason: error.to_string(),
        };
        Some(answer.unwrap_or_else(unknown))
    }

    /// Nothing when the leader could not be asked.
    async fn ask_there(&mut self, leader: NodeId, ask: &Ask) -> Result<Option<LeaderAnswer>, LogError> {
        let deadline = self.deadline.earlier(Deadline::within(ATTEMPT_MAX));
        let within_ms = u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX);
        let question = match ask {
            Ask::Propose(requests) => Question::Propose {
                requests: requests.clone(),
                within_ms,
            },
            Ask::ReadIndex => Question::ReadIndex { within_ms },
        };
        let question = encoding::encode(&question).map_err(|error| LogError::Misunderstood {
            from: self.core.own,
            reason: error.to_string(),
        })?;
        let asked = self.core.network.transport.ask(leader, question.into(), deadline);
        let answer = self.unless_it_ends(leader, asked).await;
        match answer {
            Ok(answer) => Ok(Some(decoded(&answer)?)),
            Err(TransportError::NotSent(_) | TransportError::Refused(_)) => Ok(None),
            Err(TransportError::NoAnswer(reason)) => {
                self.may_have = Some(reason);
                Ok(None)
            }
        }
    }

    /// Waits for an answer, but not for that of a leader whose turn is over: the next one may be asked at once.
    async fn unless_it_ends<T>(
        &self,
        leader: NodeId,
        asked: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let mut leaders = self.core.leader.subscribe();
        let other = leaders.wait_for(|now| now.is_some_and(|(now, _)| now != leader));
        tokio::select! {
            biased;
            answer = asked => answer,
            _ = other => Err(TransportError::NoAnswer("another node leads now".to_owned())),
        }
    }

    /// Who leads; waits for an election, but no longer than one takes.
    async fn leader(&mut self) -> Result<NodeId, LogError> {
        if self.deadline.is_over() {
            return Err(self.no_quorum("no leader took it in time".to_owned()));
        }
        let known = self.core.leader_now().map(|(leader, _)| leader);
        let wait = Duration::from_millis(self.core.settings.leaderless_ms_max);
        let give_up_at = self.core.reach.lock().give_up_at(wait);
        if give_up_at.is_some_and(|at| at <= Instant::now()) && self.may_have.is_none() {
            // Long without a leader that can be reached; one attempt, if there is somebody to ask, tells when that is over.
            return match known {
                Some(leader) if self.hint.is_none() => {
                    self.hint = Some(leader);
                    Ok(leader)
                }
                Some(_) => Err(self.no_quorum("the leader cannot be reached".to_owned())),
                None => Err(self.no_quorum("no leader is elected".to_owned())),
            };
        }
        if let Some(leader) = self.hint.take().or(known) {
            return Ok(leader);
        }
        let until = give_up_at.unwrap_or_else(|| Instant::now() + wait);
        let until = until.max(Instant::now() + PAUSE).min(self.deadline.instant());
        let mut leaders = self.core.leader.subscribe();
        let elected = leaders.wait_for(Option::is_some);
        let found = tokio::time::timeout_at(until, elected).await;
        match found {
            Ok(Ok(leader)) => match *leader {
                Some((leader, _)) => Ok(leader),
                None => Err(unexpected()),
            },
            _ => Err(self.no_quorum("no leader is elected".to_owned())),
        }
    }

    /// Nothing was written, unless an earlier attempt did.
    fn no_quorum(&mut self, reason: String) -> LogError {
        self.refused(LogError::NoQuorum { reason })
    }

    fn refused(&mut self, error: LogError) -> LogError {
        match self.may_have.take() {
            Some(reason) => LogError::OutcomeUnknown { reason },
            None => error,
        }
    }
}

fn decoded<T: DeserializeOwned>(answer: &[u8]) -> Result<T, LogError> {
    encoding::decode(answer).map_err(|error| LogError::OutcomeUnknown {
        reason: format!("the leader's answer cannot be read: {error}"),
    })
}
