//! `troupe bench gateway`: what it costs that Troupe stands between a client and a server.
//!
//! The same call is made directly, through nginx as a plain reverse proxy, and through a node, in turn within one run, so
//! that whatever else the machine does meets all of them. Callers, gateway and server are processes of their own, and
//! their CPU times are counted apart. Promised are ratios: they say more about the code than about the machine.
//!
//! # Layout
//! - here: which parts are measured, and the report
//! - [`calls`]: CPU time, latency and throughput of calls; [`figures`]: of one way
//! - [`memory`]: what sessions hold; [`start`]: from the start of the process to its first answer
//! - [`restart`]: what clients see of a server that is killed and comes back

mod calls;
mod figures;
mod memory;
mod restart;
mod start;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    bars::{self, Bar},
    process::Folder,
};
use crate::cli::{error::CliError, output::Output};

#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// What is measured; absent: everything, which takes about three minutes.
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,
    /// How long each way of each case of calls is measured, in seconds.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    seconds: f64,
    /// Into how many turns that time is divided; the ways of a case are measured in turn.
    #[arg(long, default_value_t = 4, value_name = "NUMBER")]
    turns: u32,
    /// Only cases whose name contains this text (`http-modern`, `http-legacy`, `stdio-modern`, `stdio-legacy`).
    #[arg(long, default_value = "", value_name = "TEXT")]
    cases: String,
    /// Only these numbers of callers at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64], value_name = "NUMBER")]
    callers: Vec<usize>,
    /// How many sessions are open when memory is measured.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 10_000], value_name = "NUMBER")]
    sessions: Vec<usize>,
    /// How often the process is started, and how often the server is killed.
    #[arg(long, default_value_t = 5, value_name = "NUMBER")]
    repeats: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Calls,
    Memory,
    Start,
    Restart,
}

/// What came out; a part that was not measured is absent.
#[derive(Debug, Default, Serialize)]
struct Report {
    debug_build: bool,
    calls: Option<calls::Measured>,
    memory: Option<Vec<memory::Row>>,
    start: Option<start::Measured>,
    restart: Option<Vec<restart::Row>>,
    /// What is promised of the parts that were measured.
    bars: Vec<Bar>,
}

/// Runs the benchmark and prints what came out.
pub async fn run(args: &GatewayArgs, output: Output) -> Result<ExitCode, CliError> {
    args.check()?;
    let folder = Folder::new()?;
    let mut report = Report {
        debug_build: cfg!(debug_assertions),
        ..Report::default()
    };
    if args.wants(Part::Calls) {
        let measured = calls::measure(args, folder.path(), output).await?;
        report.bars.extend(measured.bars());
        report.calls = Some(measured);
    }
    if args.wants(Part::Memory) {
        let rows = memory::measure(&args.sessions, folder.path(), output).await?;
        report.bars.extend(memory::bars(&rows));
        report.memory = Some(rows);
    }
    if args.wants(Part::Start) {
        let measured = start::measure(args.repeats, folder.path(), output).await?;
        report.bars.extend(measured.bars());
        report.start = Some(measured);
    }
    if args.wants(Part::Restart) {
        let rows = restart::measure(args.repeats, folder.path(), output).await?;
        report.bars.extend(restart::bars(&rows));
        report.restart = Some(rows);
    }
    let answer = serde_json::to_value(&report).map_err(|error| CliError::Failed(error.to_string()))?;
    output.show(answer, |_: serde_json::Value| report.in_words())?;
    Ok(ExitCode::SUCCESS)
}

impl GatewayArgs {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn check(&self) -> Result<(), CliError> {
        let time_fits = (0.1..=600.0).contains(&self.seconds) && (1..=100).contains(&self.turns);
        let callers_fit = self.callers.iter().all(|callers| (1..=1_024).contains(callers));
        let sessions_fit = self
            .sessions
            .iter()
            .all(|sessions| (1..=10_000).contains(sessions));
        if time_fits && callers_fit && sessions_fit && (1..=100).contains(&self.repeats) {
            return Ok(());
        }
        Err(CliError::Usage(
            "allowed: --seconds from 0.1 to 600, --turns and --repeats from 1 to 100, --callers from 1 to 1024, \
             --sessions from 1 to 10000"
                .to_owned(),
        ))
    }
}

impl Report {
    /// For people.
    fn in_words(&self) -> String {
        let mut text = String::new();
        if let Some(measured) = &self.calls {
            text.push_str(&measured.in_words());
        }
        if let Some(rows) = &self.memory {
            text.push_str(&memory::in_words(rows));
        }
        if let Some(measured) = &self.start {
            text.push_str(&measured.in_words());
        }
        if let Some(rows) = &self.restart {
            text.push_str(&restart::in_words(rows));
        }
        if !self.bars.is_empty() {
            text.push_str(&format!("\n{}", bars::in_words(&self.bars)));
        }
        if self.debug_build {
            text.push_str("this is a debug build: the figures say nothing about a release\n");
        }
        text
    }
}
