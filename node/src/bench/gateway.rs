//! What a proxied `tools/call` costs over a direct one.
//!
//! Direct and proxied calls are measured in turn within one run, so that whatever else the machine does meets both. The
//! fixture, the node and the callers are processes of their own, and their CPU times are counted apart.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::json;

use super::{
    fixture::{Era, Wire},
    load::{self, Cost, Pids},
    peer::{HttpPeer, Peer, StdioPeer},
    process::{BenchNode, Folder, HttpFixture, fixture_args},
    report::{Figures, Report, Row},
};
use crate::cli::{error::CliError, output::Output};

/// How often direct and proxied take turns.
const TURNS: u32 = 4;
/// Calls made before anything is counted.
const WARM_UP: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// How long each way of each case is measured, in seconds.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    seconds: f64,
    /// How many callers call at once; several numbers make several cases.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16], value_name = "NUMBER")]
    callers: Vec<usize>,
}

struct Case {
    name: &'static str,
    wire: Wire,
    era: Era,
}

const CASES: [Case; 4] = [
    Case {
        name: "http-modern",
        wire: Wire::Http,
        era: Era::Modern,
    },
    Case {
        name: "http-legacy",
        wire: Wire::Http,
        era: Era::Legacy,
    },
    Case {
        name: "stdio-modern",
        wire: Wire::Stdio,
        era: Era::Modern,
    },
    Case {
        name: "stdio-legacy",
        wire: Wire::Stdio,
        era: Era::Legacy,
    },
];

/// Runs the benchmark and prints what came out.
pub async fn run(args: &GatewayArgs, output: Output) -> Result<ExitCode, CliError> {
    if !(0.1..=600.0).contains(&args.seconds) || args.callers.is_empty() || args.callers.contains(&0) {
        return Err(CliError::Usage(
            "allowed: --seconds from 0.1 to 600, --callers of 1 or more".to_owned(),
        ));
    }
    let folder = Folder::new()?;
    let node = BenchNode::start(folder.path()).await?;
    let mut rows = Vec::new();
    let mut outcome = Ok(());
    for case in &CASES {
        output.note(&format!("measuring {}", case.name));
        match measure(case, args, &folder, &node).await {
            Ok(of_case) => rows.extend(of_case),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    node.stop().await;
    outcome?;
    let report = Report::new(rows);
    let answer = serde_json::to_value(&report).map_err(|error| CliError::Failed(error.to_string()))?;
    output.show(answer, |_: serde_json::Value| report.in_words())?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(
    case: &Case,
    args: &GatewayArgs,
    folder: &Folder,
    node: &BenchNode,
) -> Result<Vec<Row>, CliError> {
    // Lives until the case is measured.
    let fixture;
    let direct = match case.wire {
        Wire::Http => {
            fixture = HttpFixture::start(folder.path(), case.era).await?;
            node.register(&json!({ "name": case.name, "url": fixture.url }))
                .await?;
            Peer::Http(HttpPeer::connect(&fixture.url, None, case.era).await?)
        }
        Wire::Stdio => {
            let program = std::env::current_exe().map_err(|error| CliError::Failed(error.to_string()))?;
            let args = fixture_args(case.wire, case.era);
            node.register(&json!({ "name": case.name, "command": program, "args": args }))
                .await?;
            Peer::Stdio(StdioPeer::start(folder.path(), case.era)?)
        }
    };
    let url = format!("{}/mcp/servers/{}", node.url, case.name);
    let proxied = Peer::Http(HttpPeer::connect(&url, Some(&node.key), case.era).await?);
    let (direct_pids, proxied_pids) = (pids(&direct, node).await?, pids(&proxied, node).await?);
    let turn = Duration::from_secs_f64(args.seconds / f64::from(TURNS));
    let mut rows = Vec::new();
    for &callers in &args.callers {
        load::round(&direct, callers, WARM_UP, direct_pids).await?;
        load::round(&proxied, callers, WARM_UP, proxied_pids).await?;
        let (mut of_direct, mut of_proxied) = (Cost::default(), Cost::default());
        for _ in 0..TURNS {
            let mut round = load::round(&direct, callers, turn, direct_pids).await?;
            // The node has no part in it; what it does meanwhile is its own.
            round.node = Duration::ZERO;
            of_direct.add(round);
            of_proxied.add(load::round(&proxied, callers, turn, proxied_pids).await?);
        }
        let (direct, proxied) = (Figures::of(&mut of_direct), Figures::of(&mut of_proxied));
        rows.push(Row::new(
            case.name.to_owned(),
            callers,
            case.wire == Wire::Stdio,
            direct,
            proxied,
        ));
    }
    Ok(rows)
}

/// The processes that take part in a call; the fixture says which one it is.
async fn pids(peer: &Peer, node: &BenchNode) -> Result<Pids, CliError> {
    let said = peer.call().await?;
    let upstream = said
        .parse()
        .map_err(|_| CliError::Failed(format!("the fixture said {said:?}, no process id")))?;
    Ok(Pids {
        client: std::process::id(),
        node: node.pid,
        upstream,
    })
}
