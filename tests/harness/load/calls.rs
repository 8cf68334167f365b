//! Callers of tools: modern clients that retry once, callers of placed servers, legacy sessions that wander.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{ATTEMPT_WITHIN, Account, Attempt, Load};
use crate::api::Api;
use crate::wire::{self, Session};

/// Between two calls of one caller: a load, not a flood, on a machine with two cores.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Modern clients that call `echo` of a server over HTTP. Each stays at a node while that answers; an attempt that
/// fails is made once more at the next node, and only if that fails too the call has failed.
pub fn modern(apis: &[Api], server: &str, clients: usize) -> Load<Vec<Attempt>> {
    let path = format!("/mcp/servers/{server}");
    Load::start(clients, |client, stop| {
        call_with_one_retry(apis.to_vec(), path.clone(), client, stop)
    })
}

async fn call_with_one_retry(
    apis: Vec<Api>,
    path: String,
    client: usize,
    stop: CancellationToken,
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut node = client % apis.len();
    for number in 0u64.. {
        if stop.is_cancelled() {
            break;
        }
        let text = format!("{client}-{number}");
        let arguments = json!({ "text": text });
        let call = |node: usize| wire::call_modern(&apis[node], &path, "echo", &arguments, ATTEMPT_WITHIN);
        let first_node = node;
        let twice = async {
            let mut answer = call(node).await;
            if let Err(first) = answer {
                node = (node + 1) % apis.len();
                let again = call(node).await;
                answer = again.map_err(|second| format!("{first}; then at node-{node}: {second}"));
            }
            match wire::text(&answer?) {
                said if said == text => Ok(()),
                other => Err(format!("asked for {text}, answered {other}")),
            }
        };
        attempts.push(Attempt::at(first_node, twice).await);
        tokio::time::sleep(PAUSE).await;
        // now and then to the next node, so that all are used
        if number % 20 == 19 {
            node = (node + 1) % apis.len();
        }
    }
    attempts
}

/// Callers of a `journal-server` by the API, each attempt at the next of the nodes in turn and without a retry. Each
/// notes another text, so that the journal tells what was called how often.
pub fn placed(apis: &[Api], server: &str, clients: usize, pause: Duration) -> Load<Vec<Attempt>> {
    let path = format!("/api/v1/servers/{server}/tools/note/call");
    Load::start(clients, |client, stop| {
        let (apis, path) = (apis.to_vec(), path.clone());
        async move {
            let mut attempts = Vec::new();
            for number in client.. {
                if stop.is_cancelled() {
                    break;
                }
                let node = number % apis.len();
                let body = json!({ "arguments": { "text": format!("{client}-{number}") } });
                attempts.push(Attempt::at(node, post(&apis[node], &path, &body)).await);
                tokio::time::sleep(pause).await;
            }
            attempts
        }
    })
}

async fn post(api: &Api, path: &str, body: &serde_json::Value) -> Result<(), String> {
    let sent = api.request(reqwest::Method::POST, path).json(body);
    let answer = sent.timeout(ATTEMPT_WITHIN).send().await;
    let answer = answer.map_err(|error| format!("no answer: {error:?}"))?;
    let status = answer.status();
    let text = answer
        .text()
        .await
        .map_err(|error| format!("half an answer: {error:?}"))?;
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("{status}: {text}"))
    }
}

/// Legacy sessions, each begun at another node; then every call goes to the next node, whichever owns the session.
/// A failed call is made again at once at the node after, as long as the test goes on: only an answer that the session
/// is unknown ends it.
pub fn sessions(apis: &[Api], server: &str, clients: usize) -> Load<Vec<Attempt>> {
    let path = format!("/mcp/servers/{server}");
    Load::start(clients, |client, stop| {
        let (apis, path) = (apis.to_vec(), path.clone());
        async move {
            let session = Session::open(&apis[client % apis.len()], &path).await;
            let session = session.expect("a session begins");
            let mut attempts = Vec::new();
            for number in client.. {
                if stop.is_cancelled() {
                    break;
                }
                let node = number % apis.len();
                let arguments = json!({ "text": number.to_string() });
                let call = session.call(&apis[node], "echo", &arguments, ATTEMPT_WITHIN);
                let attempt = Attempt::at(node, async { call.await.map(drop) }).await;
                let is_forgotten = matches!(&attempt.outcome, Err(reason) if reason.starts_with("404"));
                attempts.push(attempt);
                if is_forgotten {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            attempts
        }
    })
}

impl Load<Vec<Attempt>> {
    /// Stops the callers and answers all their attempts.
    pub async fn account(self) -> Account {
        Account::of(self.finish().await)
    }
}
