//! The prober of one server.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;
use troupe_protocol::health::{HealthReport, HealthStatus};
use troupe_protocol::server::ServerName;

use super::board::Board;
use super::messages::{HealthSettings, ProberMessage, capabilities, implementation};
use super::reach::{Answer, Failure, Reach};
use super::state::{Judge, Sight};
use crate::runtime::{Actor, ActorError, Context, Deadline, Reply, TimerHandle};

/// How soon a server that is well is looked at when it says that something has changed.
const STIRRED_AFTER: Duration = Duration::from_millis(500);
/// The most names of tools that are kept for searching.
const TOOL_NAMES_MAX: usize = 2_000;
/// How many callers may wait for one probe.
const WAITERS_MAX: usize = 64;

/// What all probers share.
pub(super) struct Ground {
    pub board: Arc<Board>,
    pub reach: Arc<dyn Reach>,
    pub settings: HealthSettings,
    /// Probes at once: a start of thousands of servers must not come in one burst.
    pub probes: Arc<Semaphore>,
}

/// Probes one server again and again, and judges it.
pub(super) struct Prober {
    name: ServerName,
    ground: Arc<Ground>,
    judge: Judge,
    first_probe_after: Duration,
    timer: Option<TimerHandle>,
    timer_number: u64,
    is_probing: bool,
    /// What was learned during a probe makes another one due.
    is_stirred: bool,
    /// The next probe was moved forward already.
    is_soon: bool,
    waiters: Vec<Reply<Arc<HealthReport>>>,
}

impl Prober {
    pub fn new(name: ServerName, ground: Arc<Ground>, first_probe_after: Duration) -> Self {
        let judge = Judge::new(ground.settings.slow_from);
        Self {
            name,
            ground,
            judge,
            first_probe_after,
            timer: None,
            timer_number: 0,
            is_probing: false,
            is_stirred: false,
            is_soon: false,
            waiters: Vec::new(),
        }
    }
}

impl Actor for Prober {
    type Message = ProberMessage;
    const KIND: &'static str = "prober";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        // What was found out before, here or on another node, is the best that is known until the first probe.
        self.ground.board.update(&self.name, None, |report| {
            if report.status == HealthStatus::Disabled {
                report.status = HealthStatus::Testing;
                report.failures_in_a_row = 0;
            }
        });
        self.schedule(self.first_probe_after, ctx);
        Ok(())
    }

    async fn handle(&mut self, message: ProberMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            ProberMessage::ProbeDue { timer } if timer == self.timer_number => self.probe(ctx),
            ProberMessage::ProbeDue { .. } => {}
            ProberMessage::ProbeNow { reply } => {
                if self.waiters.len() < WAITERS_MAX {
                    self.waiters.push(reply);
                }
                self.probe(ctx);
            }
            ProberMessage::Probed { outcome } => self.probed(*outcome, ctx),
            ProberMessage::Stirred => self.stirred(ctx),
            ProberMessage::Lost { reason } => self.lost(reason, ctx),
            ProberMessage::Reconfigured => self.reconfigured(ctx),
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        let report = self.ground.board.report(&self.name);
        json!({
            "server": self.name,
            "status": self.judge.status(),
            "failures_in_a_row": self.judge.failures_in_a_row(),
            "is_probing": self.is_probing,
            "waiting": self.waiters.len(),
            "latency_ms": report.as_ref().and_then(|report| report.latency_ms),
            "uptime_24h": report.as_ref().and_then(|report| report.uptime_24h),
            "last_error": report.and_then(|report| report.last_error.clone()),
        })
    }
}

impl Prober {
    /// Begins a probe, unless one is under way: then another follows it.
    fn probe(&mut self, ctx: &Context<Self>) {
        if self.is_probing {
            self.is_stirred = true;
            return;
        }
        self.is_probing = true;
        self.is_stirred = false;
        self.is_soon = false;
        self.timer = None;
        let (name, ground) = (self.name.clone(), Arc::clone(&self.ground));
        ctx.spawn_to_self("probe", async move {
            // The semaphore is never closed; the time spent waiting for it is not the server's.
            let _permit = ground.probes.acquire().await;
            let deadline = Deadline::within(ground.settings.probe_timeout);
            let probing = tokio::time::timeout_at(deadline.instant(), ground.reach.probe(&name, deadline));
            let outcome = probing
                .await
                .unwrap_or_else(|_| Err(timed_out(ground.settings.probe_timeout)));
            ProberMessage::Probed {
                outcome: Box::new(outcome),
            }
        });
    }

    /// Something has changed: a server of which the worst is thought is looked at once, one that is well soon, but not
    /// as often as it says so.
    fn stirred(&mut self, ctx: &Context<Self>) {
        if self.judge.status() != HealthStatus::Online {
            self.probe(ctx);
        } else if !self.is_soon {
            self.is_soon = true;
            self.schedule(STIRRED_AFTER, ctx);
        }
    }

    fn probed(&mut self, outcome: Result<Answer, Failure>, ctx: &Context<Self>) {
        self.is_probing = false;
        let report = match outcome {
            Ok(answer) => self.answered(answer),
            Err(failure) => self.failed(failure),
        };
        self.waiters
            .drain(..)
            .for_each(|waiter| waiter.send(Arc::clone(&report)));
        if self.is_stirred {
            self.probe(ctx);
            return;
        }
        let pause = self.judge.next_probe_after(self.ground.settings.probe_interval);
        self.schedule(
            if self.is_soon {
                STIRRED_AFTER
            } else {
                jittered(pause)
            },
            ctx,
        );
    }

    fn answered(&mut self, answer: Answer) -> Arc<HealthReport> {
        let status = self.judge.see(Sight::Answered {
            latency: answer.latency,
        });
        let latency_ms = answer.latency.as_secs_f64() * 1_000.0;
        let now = self.ground.board.now();
        self.ground
            .board
            .update(&self.name, Some(Some(latency_ms)), |report| {
                report.status = status;
                report.latency_ms = Some(latency_ms);
                report.last_probe = Some(now);
                report.last_active = Some(now);
                report.failures_in_a_row = 0;
                report.era = Some(answer.info.era);
                report.protocol_version = Some(answer.info.protocol_version.clone());
                report.implementation = Some(implementation(&answer.info));
                report.capabilities = capabilities(&answer.info);
                if let Some(names) = answer.tool_names {
                    report.tools_count = Some(u32::try_from(names.len()).unwrap_or(u32::MAX));
                    report.tool_names = for_search(&names, &report.tool_names);
                }
            })
    }

    fn failed(&mut self, failure: Failure) -> Arc<HealthReport> {
        let is_first_start = failure.is_starting && self.judge.status() == HealthStatus::Testing;
        let sight = match failure {
            Failure {
                is_starting: true, ..
            } => Sight::Starting,
            Failure { is_lasting, .. } => Sight::Failed { is_lasting },
        };
        let status = self.judge.see(sight);
        let failures = self.judge.failures_in_a_row();
        let now = self.ground.board.now();
        // A first start that takes long (a package being fetched) is no failed probe.
        let probe = (!is_first_start).then_some(None);
        self.ground.board.update(&self.name, probe, |report| {
            report.status = status;
            report.last_probe = Some(now);
            report.failures_in_a_row = failures;
            if !is_first_start {
                report.last_error = Some(failure.reason);
                report.last_error_code = Some(failure.code.to_string());
                report.last_error_at = Some(now);
            }
        })
    }

    /// The connection was lost: that is seen at once, and looked into at once.
    fn lost(&mut self, reason: String, ctx: &Context<Self>) {
        let status_before = self.judge.status();
        // A probe that is under way will say more; while nothing works, nothing new was lost.
        if matches!(status_before, HealthStatus::Testing | HealthStatus::Offline) {
            return;
        }
        let status = self.judge.see(Sight::Lost);
        let failures = self.judge.failures_in_a_row();
        let now = self.ground.board.now();
        self.ground.board.update(&self.name, None, |report| {
            report.status = status;
            report.failures_in_a_row = failures;
            report.last_error = Some(reason);
            report.last_error_code = None;
            report.last_error_at = Some(now);
        });
        self.probe(ctx);
    }

    fn reconfigured(&mut self, ctx: &Context<Self>) {
        self.judge = Judge::new(self.ground.settings.slow_from);
        self.ground.board.update(&self.name, None, |report| {
            let kept = HealthReport {
                status: HealthStatus::Testing,
                ..HealthReport::default()
            };
            *report = HealthReport {
                since: report.since,
                ..kept
            };
        });
        self.probe(ctx);
    }

    fn schedule(&mut self, pause: Duration, ctx: &Context<Self>) {
        if let Some(replaced) = self.timer.take() {
            replaced.cancel();
        }
        self.timer_number += 1;
        self.timer = Some(ctx.send_after(
            pause,
            ProberMessage::ProbeDue {
                timer: self.timer_number,
            },
        ));
    }
}

fn timed_out(within: Duration) -> Failure {
    Failure {
        reason: format!("no answer within {} ms", within.as_millis()),
        code: troupe_protocol::error::Code::UpstreamTimeout,
        is_lasting: false,
        is_starting: false,
    }
}

/// A pause that is up to a tenth shorter or longer, so that probes of many servers spread out.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// The names in lower case, one a line. The old text is kept when it is the same, which it nearly always is.
fn for_search(names: &[String], old: &Arc<str>) -> Arc<str> {
    let names: Vec<String> = names
        .iter()
        .take(TOOL_NAMES_MAX)
        .map(|name| name.to_lowercase())
        .collect();
    let text = names.join("\n");
    if *text == **old {
        Arc::clone(old)
    } else {
        text.into()
    }
}
