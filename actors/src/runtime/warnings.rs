//! What a person should look at, worked out from the actors' reports. Pure.

use troupe_protocol::api::{Severity, Warning};
use troupe_protocol::observe::{ActorReport, ActorStatus};
use troupe_protocol::routing::{ModelState, ModelStatus};

/// A mailbox this full is growing faster than it is worked off: a quarter of its bound.
const MAILBOX_SHARE: u32 = 4;
/// A message that waits this long, in milliseconds, waits too long.
const WAITING_MS: u64 = 5_000;
/// A handler that runs this long, in milliseconds, keeps its actor from everything else.
const HANDLING_MS: u64 = 10_000;
/// So many restarts are no accident.
const RESTARTS: u32 = 3;

/// The warnings, worst first.
pub fn warnings(reports: &[ActorReport], model: &ModelStatus) -> Vec<Warning> {
    let mut found: Vec<Warning> = reports.iter().flat_map(of_actor).collect();
    found.extend(of_model(model));
    found.sort_by(|a, b| {
        b.severity
            .cmp(&a.severity)
            .then_with(|| a.subject.cmp(&b.subject))
    });
    found
}

fn of_actor(report: &ActorReport) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut warn = |code: &str, severity, text: String| {
        found.push(Warning {
            code: code.to_owned(),
            severity,
            text,
            subject: report.path.to_string(),
        });
    };
    let bound = report.mailbox_messages_max;
    if bound > 0 && report.mailbox_depth >= bound.div_ceil(MAILBOX_SHARE).max(8) {
        warn(
            "mailbox_growing",
            Severity::Error,
            format!("{} of {bound} messages wait in its mailbox", report.mailbox_depth),
        );
    }
    if let Some(waiting_ms) = report
        .oldest_waiting_ms
        .filter(|waiting_ms| *waiting_ms >= WAITING_MS)
        && report.status != ActorStatus::Suspended
    {
        warn(
            "message_waiting",
            Severity::Warning,
            format!("its oldest message has waited for {} s", waiting_ms / 1_000),
        );
    }
    if let Some(current) = &report.current
        && current.since_ms >= HANDLING_MS
    {
        warn(
            "slow_handler",
            Severity::Warning,
            format!(
                "{} has been at work for {} s",
                current.message,
                current.since_ms / 1_000
            ),
        );
    }
    if report.status == ActorStatus::Restarting || report.restarts >= RESTARTS {
        let last = report.last_error.as_ref().map_or("", |last| last.error.as_str());
        warn(
            "restarting",
            Severity::Warning,
            format!("restarted {} times; last error: {last}", report.restarts),
        );
    }
    if report.status == ActorStatus::Suspended {
        warn("suspended", Severity::Info, "suspended by an operator".to_owned());
    }
    if report.overloaded > 0 {
        warn(
            "overloaded",
            Severity::Warning,
            format!(
                "{} messages were refused because its mailbox was full",
                report.overloaded
            ),
        );
    }
    found
}

fn of_model(model: &ModelStatus) -> Option<Warning> {
    let severity = match model.state {
        ModelState::Missing => Severity::Info,
        ModelState::Failed => Severity::Warning,
        ModelState::Loading | ModelState::Ready => return None,
    };
    Some(Warning {
        code: "model_absent".to_owned(),
        severity,
        text: model.detail.clone(),
        subject: String::new(),
    })
}
