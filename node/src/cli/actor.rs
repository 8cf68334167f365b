//! `troupe actor …`

use std::{fmt::Write, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use troupe_protocol::{
    api::{ActorCommandResponse, Page},
    id::ActorPath,
    observe::{ActorDetail, ActorReport, ActorTree, DeadLetters, Latency, Snapshot},
    trace::{Outcome, SpanTree, Trace, TraceSummary},
};

use super::{
    client::Client,
    error::CliError,
    node::NodeNames,
    output::{Output, Table, ago, duration, or_dash, shortened},
};

#[derive(Debug, Subcommand)]
pub enum ActorCommand {
    /// The supervision trees of all nodes.
    Tree(Where),
    /// All actors of all nodes with their figures.
    List(Where),
    /// Everything about one actor: figures, state, last messages and exits.
    Show(Which),
    /// The latest traces, or one of them as a tree.
    Trace {
        /// A correlation id; absent: list the latest traces.
        correlation_id: Option<String>,
    },
    /// Stop an actor after the message in hand and start it again.
    Restart(Which),
    /// Let an actor handle nothing until it is resumed.
    Suspend(Which),
    /// Let a suspended actor go on.
    Resume(Which),
    /// Let an actor finish what is queued, accept no more, and stop.
    Drain(Which),
    /// End an actor in the middle of its work.
    Kill(Which),
    /// Messages that reached nobody.
    DeadLetters(Where),
}

/// One node.
#[derive(Debug, Args)]
pub struct Where {
    /// Only what is on this node: its name or id.
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
}

impl Where {
    fn query(&self) -> Vec<(&'static str, String)> {
        self.on.iter().map(|node| ("node", node.clone())).collect()
    }
}

/// One actor.
#[derive(Debug, Args)]
pub struct Which {
    /// Its path, such as node/registry, or its number.
    actor: String,
    /// The node it is on, by name or id; absent: the node that is asked.
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
}

impl Which {
    fn query(&self) -> Vec<(&'static str, String)> {
        self.on.iter().map(|node| ("node", node.clone())).collect()
    }
}

pub async fn run(client: &Client, command: ActorCommand, output: Output) -> Result<ExitCode, CliError> {
    match command {
        ActorCommand::Tree(place) => {
            let names = NodeNames::of(client, output).await?;
            let trees = client.get(&["actors", "tree"], &place.query()).await?;
            output.show(trees, |page: Page<ActorTree>| {
                tree_in_words(&page.items, &names) + &names.missing(&page.unanswered)
            })?;
        }
        ActorCommand::List(place) => {
            let names = NodeNames::of(client, output).await?;
            let actors = client.get(&["actors"], &place.query()).await?;
            output.show(actors, |page: Page<ActorReport>| {
                list_in_words(&page.items, &names) + &names.missing(&page.unanswered)
            })?;
        }
        ActorCommand::Show(which) => {
            output.show(
                client.get(&["actors", &which.actor], &which.query()).await?,
                |detail: ActorDetail| detail_in_words(&detail),
            )?;
        }
        ActorCommand::Trace {
            correlation_id: Some(id),
        } => {
            let names = NodeNames::of(client, output).await?;
            output.show(client.get(&["traces", &id], &[]).await?, |trace: Trace| {
                trace_in_words(&trace, &names) + &names.missing(&trace.unanswered)
            })?;
        }
        ActorCommand::Trace { correlation_id: None } => {
            let traces = client.get(&["traces"], &[]).await?;
            output.show(traces, |page: Page<TraceSummary>| traces_in_words(&page.items))?;
        }
        ActorCommand::Restart(which) => control(client, &which, "restart", output).await?,
        ActorCommand::Suspend(which) => control(client, &which, "suspend", output).await?,
        ActorCommand::Resume(which) => control(client, &which, "resume", output).await?,
        ActorCommand::Drain(which) => control(client, &which, "drain", output).await?,
        ActorCommand::Kill(which) => control(client, &which, "kill", output).await?,
        ActorCommand::DeadLetters(place) => {
            let names = NodeNames::of(client, output).await?;
            let letters = client.get(&["dead-letters"], &place.query()).await?;
            output.show(letters, |letters: DeadLetters| {
                dead_letters_in_words(&letters) + &names.missing(&letters.unanswered)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Typing the command on a command line is the confirmation that the API asks for.
async fn control(client: &Client, which: &Which, verb: &str, output: Output) -> Result<(), CliError> {
    let query = which.query();
    let detail = client.get(&["actors", &which.actor], &query).await?;
    let confirm = detail["report"]["path"].as_str().unwrap_or(&which.actor);
    let path = ["actors", &which.actor, verb];
    let done: Value = client
        .post_with(&path, &query, &json!({ "confirm": confirm }))
        .await?;
    output.show(done, |done: ActorCommandResponse| match done.children {
        0 => format!("{verb}: {}", done.path),
        children => format!("{verb}: {} and {children} below it", done.path),
    })
}

fn tree_in_words(roots: &[ActorTree], names: &NodeNames) -> String {
    let mut text = String::new();
    for root in roots {
        if let Some(name) = names.name_among_several(root.report.node) {
            let _ = writeln!(text, "{name}:");
        }
        write_branch(&mut text, root, "", "", "");
    }
    text
}

fn write_branch(text: &mut String, branch: &ActorTree, before: &str, corner: &str, below: &str) {
    let report = &branch.report;
    let waiting = if report.mailbox_depth > 0 {
        format!(", {} waiting", report.mailbox_depth)
    } else {
        String::new()
    };
    let restarts = if report.restarts > 0 {
        format!(", {} restarts", report.restarts)
    } else {
        String::new()
    };
    let _ = writeln!(
        text,
        "{before}{corner}{} ({}{waiting}{restarts})",
        name_of(&report.path),
        report.status
    );
    let before = format!("{before}{below}");
    for (at, child) in branch.children.iter().enumerate() {
        let is_last = at + 1 == branch.children.len();
        let (corner, below) = if is_last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        write_branch(text, child, &before, corner, below);
    }
}

fn name_of(path: &ActorPath) -> &str {
    path.name()
}

fn list_in_words(reports: &[ActorReport], names: &NodeNames) -> String {
    let mut table = Table::new(&[
        "id",
        "path",
        "status",
        "waiting",
        "handled",
        "p50",
        "p99",
        "restarts",
        "last error",
    ]);
    for report in reports {
        table.row([
            report.id.to_string(),
            match names.name_among_several(report.node) {
                Some(name) => format!("{name}: {}", report.path),
                None => report.path.to_string(),
            },
            report.status.to_string(),
            report.mailbox_depth.to_string(),
            report.handled.to_string(),
            micros(report.handling.p50_us),
            micros(report.handling.p99_us),
            report.restarts.to_string(),
            report
                .last_error
                .as_ref()
                .map_or_else(|| "-".to_owned(), |error| shortened(&error.error, 50)),
        ]);
    }
    table.or("no actors")
}

fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        _ => duration(us / 1_000),
    }
}

fn detail_in_words(detail: &ActorDetail) -> String {
    let report = &detail.report;
    let latency = |latency: &Latency| {
        format!(
            "p50 {}, p95 {}, p99 {}, longest {}",
            micros(latency.p50_us),
            micros(latency.p95_us),
            micros(latency.p99_us),
            micros(latency.max_us)
        )
    };
    let mut text = format!(
        "{} (actor {}, {}): {}\n",
        report.path, report.id, report.kind, report.status
    );
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:<9} {value}");
    };
    line(
        "mailbox",
        format!("{} of {}", report.mailbox_depth, report.mailbox_messages_max),
    );
    line(
        "handled",
        format!(
            "{}, {} failed, {} refused",
            report.handled, report.failed, report.overloaded
        ),
    );
    line("waiting", latency(&report.waiting));
    line("handling", latency(&report.handling));
    line("restarts", report.restarts.to_string());
    if let Some(error) = &report.last_error {
        line(
            "error",
            format!("{} in {}, {}", error.error, error.message, ago(error.at)),
        );
    }
    for exit in &detail.exits {
        line("exit", format!("{}, {}", exit.reason, ago(exit.at)));
    }
    for child in &detail.children {
        line("child", child.to_string());
    }
    for message in &detail.recent {
        let took = format!(
            "waited {}, took {}",
            micros(message.waited_us),
            micros(message.handled_us)
        );
        line(
            "message",
            format!("{} {}, {took}", message.message, ago(message.at)),
        );
    }
    let (freshness, state) = match &detail.snapshot {
        Snapshot::Alive { state } => ("state", Some(state)),
        Snapshot::Timeout { state } => ("state (last known; it did not answer in time)", state.as_ref()),
        Snapshot::PostMortem { state } => ("state (last known; it is dead)", state.as_ref()),
    };
    if let Some(state) = state {
        let _ = writeln!(text, "  {freshness}\n{state:#}");
    }
    text
}

fn traces_in_words(traces: &[TraceSummary]) -> String {
    let mut table = Table::new(&["correlation id", "began", "took", "steps", "outcome", "what"]);
    for trace in traces {
        table.row([
            trace.correlation_id.to_string(),
            ago(trace.started_at),
            micros(trace.duration_us),
            trace.spans.to_string(),
            if trace.failed { "failed" } else { "done" }.to_owned(),
            trace.title.clone(),
        ]);
    }
    table.or("no traces yet")
}

fn trace_in_words(trace: &Trace, names: &NodeNames) -> String {
    let mut text = String::new();
    for root in &trace.roots {
        write_span(&mut text, root, 0, names);
    }
    text
}

fn write_span(text: &mut String, branch: &SpanTree, depth: usize, names: &NodeNames) {
    let span = &branch.span;
    let indent = depth * 2;
    let node = names
        .name_among_several(span.node)
        .map_or_else(String::new, |name| format!("{name}: "));
    let _ = writeln!(
        text,
        "{:indent$}{node}{} {}: waited {}, took {}, {}",
        "",
        span.actor,
        span.message,
        micros(span.waited_us),
        micros(span.handled_us),
        outcome_in_words(&span.outcome)
    );
    for child in &branch.children {
        write_span(text, child, depth + 1, names);
    }
}

fn outcome_in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Running => "running".to_owned(),
        Outcome::Done => "done".to_owned(),
        Outcome::Failed { error } => format!("failed: {error}"),
        Outcome::Panicked { error } => format!("panicked: {error}"),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Expired => "expired".to_owned(),
    }
}

fn dead_letters_in_words(letters: &DeadLetters) -> String {
    let mut table = Table::new(&["when", "to", "message", "reason", "correlation id"]);
    for letter in &letters.items {
        table.row([
            ago(letter.at),
            letter.actor.to_string(),
            letter.message.clone(),
            letter.reason.to_string(),
            or_dash(letter.correlation_id),
        ]);
    }
    format!("{} since the start\n{}", letters.total, table.or(""))
}
