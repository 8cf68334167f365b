//! From the start of the process to its first answer to a call, on a data folder with a server in it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;

use crate::{
    bench::{
        bars::Bar,
        fixture::Era,
        peer::{HttpPeer, Peer},
        process::{BenchNode, HttpFixture, NodeSetup, command_of, free_address},
    },
    cli::{client::ADMIN_KEY_FILE, error::CliError, output::Output},
};

const NAME: &str = "outside";
const BAR_MS: f64 = 20.0;
const WITHIN: Duration = Duration::from_secs(30);
/// Between two attempts: the resolution of what is measured.
const PAUSE: Duration = Duration::from_micros(500);

/// How long it took.
#[derive(Debug, Serialize)]
pub struct Measured {
    pub starts: usize,
    pub best_ms: f64,
    pub median_ms: f64,
}

/// Starts and stops a node so often.
pub async fn measure(repeats: usize, folder: &Path, output: Output) -> Result<Measured, CliError> {
    output.note(&format!("start: {repeats} times"));
    let fixture = HttpFixture::start(folder, Era::Modern).await?;
    let setup = NodeSetup {
        data: folder.join("data-of-start"),
        listen: Some(free_address().await?),
        ..NodeSetup::default()
    };
    let node = BenchNode::start_with(folder, setup.clone()).await?;
    let registered = node.register(&json!({ "name": NAME, "url": fixture.url })).await;
    node.stop().await;
    registered?;
    let mut times_ms = Vec::new();
    for _ in 0..repeats {
        times_ms.push(start(folder, &setup).await?.as_secs_f64() * 1e3);
    }
    times_ms.sort_by(f64::total_cmp);
    Ok(Measured {
        starts: repeats,
        best_ms: times_ms.first().copied().unwrap_or(f64::NAN),
        median_ms: times_ms.get(repeats / 2).copied().unwrap_or(f64::NAN),
    })
}

async fn start(folder: &Path, setup: &NodeSetup) -> Result<Duration, CliError> {
    let failed = |reason: String| CliError::Failed(format!("start: {reason}"));
    let key = std::fs::read_to_string(setup.data.join(ADMIN_KEY_FILE))
        .map_err(|error| failed(error.to_string()))?;
    let address = setup.listen.ok_or_else(|| failed("no address".to_owned()))?;
    let url = format!("http://{address}/mcp/servers/{NAME}");
    let peer = Peer::http(HttpPeer::new(&url, Some(key.trim()), Era::Modern)?);
    let mut command = command_of(folder, setup)?;
    let began = Instant::now();
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let answered = tokio::time::timeout(WITHIN, async {
        while call(&peer).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
        began.elapsed()
    });
    let answered = answered
        .await
        .map_err(|_| failed(format!("no answer within {WITHIN:?}")));
    let _ = child.kill().await;
    answered
}

async fn call(peer: &Peer) -> Result<(), CliError> {
    peer.caller().await?.call().await
}

impl Measured {
    /// What is promised, of the best: what else the machine does is not the node's cost.
    pub fn bars(&self) -> Vec<Bar> {
        let what = format!(
            "start of the process to its first answered call, the best of {}",
            self.starts
        );
        vec![Bar::at_most(what, self.best_ms, BAR_MS, "ms")]
    }

    /// For people.
    pub fn in_words(&self) -> String {
        format!(
            "\nstart to first answer, of {}: best {:.1} ms, median {:.1} ms\n",
            self.starts, self.best_ms, self.median_ms
        )
    }
}
