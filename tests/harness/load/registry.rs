//! Writers and readers of the registry at all nodes. What they ask and are answered is recorded and can be checked:
//! each entry is linearizable, no acknowledged registration is lost, no view goes back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ATTEMPT_WITHIN, Account, Attempt, Load};
use crate::api::Api;
use crate::history::linear;
use crate::history::order::{self, Seen};
use crate::history::server::{Answer, Entry, Question};
use crate::history::{Outcome, Recorder};

const PAUSE: Duration = Duration::from_millis(25);
/// Entries that are written at the same time; few, so that writers meet.
const ENTRIES: u64 = 3;
/// How long an entry is written before others take its place: a history of bounded length for each.
const ENTRY_LASTS: Duration = Duration::from_secs(3);
/// Written by one client alone, read by all.
const WATCHED: &str = "watched";

/// Whether reads that are asked to be linearizable take part in the histories.
const LINEARIZABLE_READ: &str = "?consistency=linearizable";

/// What all clients of the load write down.
#[derive(Clone)]
struct Record {
    began: Instant,
    history: Recorder<Question, Answer>,
    values: Arc<AtomicU64>,
    attempted: Arc<Mutex<BTreeSet<String>>>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A load on the registry.
pub struct RegistryLoad {
    record: Record,
    clients: Load<Vec<Attempt>>,
}

/// What came of it.
pub struct RegistryRecord {
    record: Record,
    /// The attempts to register another server each, which are what acknowledged means.
    pub writes: Account,
}

impl RegistryLoad {
    /// Starts two clients that contend for entries, one that registers ever more servers, one that changes the watched
    /// entry, and at each node one that watches.
    pub async fn start(apis: &[Api]) -> Self {
        let record = Record {
            began: Instant::now(),
            history: Recorder::default(),
            values: Arc::new(AtomicU64::new(1)),
            attempted: Arc::default(),
            acknowledged: Arc::default(),
            seen: Arc::default(),
        };
        let watched = json!({ "name": WATCHED, "command": "true", "enabled": false, "labels": ["v0"] });
        apis[0].post("/api/v1/servers", &watched).await.ok();
        let (apis, shared) = (apis.to_vec(), record.clone());
        let clients = Load::start(4 + apis.len(), move |client, stop| {
            let (apis, record) = (apis.clone(), shared.clone());
            async move {
                match client {
                    0 | 1 => record.contend(&apis, client, stop).await,
                    2 => return record.register_more(&apis, stop).await,
                    3 => record.change_watched(&apis, stop).await,
                    watcher => record.watch(&apis[watcher - 4], watcher - 4, stop).await,
                }
                Vec::new()
            }
        });
        Self { record, clients }
    }

    /// Stops the clients.
    pub async fn finish(self) -> RegistryRecord {
        let writes = Account::of(self.clients.finish().await);
        RegistryRecord {
            record: self.record,
            writes,
        }
    }
}

impl RegistryRecord {
    /// Panics unless everything that was answered can be true and everything acknowledged is at each of these nodes.
    pub async fn assert_holds(&self, apis: &[Api]) {
        let history = self.record.history.operations();
        let done = history
            .iter()
            .filter(|operation| matches!(operation.outcome, Outcome::Done(_)));
        assert!(done.count() > 0, "nothing was done");
        linear::check::<Entry>(&history).unwrap_or_else(|rejected| panic!("{rejected}"));
        let seen = self.record.seen.lock().expect("no client panics").clone();
        order::never_goes_back(&seen).unwrap_or_else(|wrong| panic!("{wrong}"));
        let attempted = self.record.attempted.lock().expect("no client panics").clone();
        let acknowledged = self.record.acknowledged.lock().expect("no client panics").clone();
        assert!(!acknowledged.is_empty(), "no registration was acknowledged");
        for (node, api) in apis.iter().enumerate() {
            let found = kept(api).await;
            order::nothing_lost(&attempted, &acknowledged, &found)
                .unwrap_or_else(|wrong| panic!("at node-{node}: {wrong}"));
        }
    }

    /// For the report: operations on contended entries, and registrations acknowledged.
    pub fn counts(&self) -> (usize, usize) {
        let acknowledged = self.record.acknowledged.lock().expect("no client panics");
        (self.record.history.operations().len(), acknowledged.len())
    }
}

/// The names of the servers that [`Record::register_more`] registered, as a node lists them.
async fn kept(api: &Api) -> BTreeSet<String> {
    let (mut names, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = api.get(&format!("/api/v1/servers?limit=100{cursor}")).await.ok();
        let items = page["items"].as_array().expect("a list");
        let listed = items.iter().filter_map(|server| server["name"].as_str());
        names.extend(listed.filter(|name| name.starts_with("kept-")).map(str::to_owned));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return names,
        }
    }
}

impl Record {
    /// Registers, changes, removes and reads entries that another client uses too, at a node after the other.
    async fn contend(&self, apis: &[Api], client: usize, stop: CancellationToken) {
        for number in client.. {
            if stop.is_cancelled() {
                return;
            }
            let age = self.began.elapsed().as_millis() / ENTRY_LASTS.as_millis();
            let value = self.values.fetch_add(1, Ordering::Relaxed);
            let key = format!("entry-{age}-{}", value % ENTRIES);
            // a fixed, uneven mix; the two clients are at different places in it
            let question = match (number * 7 + client * 3) % 10 {
                0..=2 => Question::Register(value),
                3..=5 => Question::Change(value),
                6 => Question::Remove,
                _ => Question::Read,
            };
            let pending = self.history.invoke(client, &key, question);
            let outcome = ask(&apis[number % apis.len()], &key, question).await;
            pending.end(outcome);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Registers one server after the other, each once, at a node after the other.
    async fn register_more(&self, apis: &[Api], stop: CancellationToken) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        for number in 0usize.. {
            if stop.is_cancelled() {
                break;
            }
            let (name, node) = (format!("kept-{number}"), number % apis.len());
            self.attempted
                .lock()
                .expect("no client panics")
                .insert(name.clone());
            let body = json!({ "name": name, "command": "true", "enabled": false });
            let register = async {
                match send(apis[node].request(Method::POST, "/api/v1/servers").json(&body)).await {
                    Said::Answer(201, _) => {
                        self.acknowledged.lock().expect("no client panics").insert(name);
                        Ok(())
                    }
                    other => Err(format!("{other:?}")),
                }
            };
            attempts.push(Attempt::at(node, register).await);
            tokio::time::sleep(PAUSE).await;
        }
        attempts
    }

    async fn change_watched(&self, apis: &[Api], stop: CancellationToken) {
        for number in 0usize.. {
            if stop.is_cancelled() {
                return;
            }
            let body = json!({ "labels": [format!("v{number}")] });
            let api = &apis[number % apis.len()];
            send(
                api.request(Method::PATCH, &format!("/api/v1/servers/{WATCHED}"))
                    .json(&body),
            )
            .await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn watch(&self, api: &Api, node: usize, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let read = api.request(Method::GET, &format!("/api/v1/servers/{WATCHED}"));
            if let Said::Answer(200, detail) = send(read).await {
                let version = detail["revision"].as_u64().expect("an entry counts its changes");
                self.seen.lock().expect("no client panics").push(Seen {
                    by: format!("the watcher at node-{node}"),
                    key: WATCHED.to_owned(),
                    version,
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What came back for a request.
#[derive(Debug)]
enum Said {
    /// A status and a JSON body.
    Answer(u16, Value),
    /// No connection: the node never saw the request.
    NotSent,
    /// No answer, or half of one.
    Lost,
}

async fn send(request: RequestBuilder) -> Said {
    let answer = match request.timeout(ATTEMPT_WITHIN).send().await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => return Said::NotSent,
        Err(_) => return Said::Lost,
    };
    let status = answer.status().as_u16();
    match answer.text().await {
        Ok(text) => Said::Answer(status, serde_json::from_str(&text).unwrap_or(Value::Null)),
        Err(_) => Said::Lost,
    }
}

async fn ask(api: &Api, key: &str, question: Question) -> Outcome<Answer> {
    let path = format!("/api/v1/servers/{key}");
    let labelled = |value: u64| json!({ "labels": [format!("v{value}")] });
    let request = match question {
        Question::Register(value) => {
            let mut body = labelled(value);
            body["name"] = json!(key);
            body["command"] = json!("true");
            body["enabled"] = json!(false);
            api.request(Method::POST, "/api/v1/servers").json(&body)
        }
        Question::Change(value) => api.request(Method::PATCH, &path).json(&labelled(value)),
        Question::Remove => api.request(Method::DELETE, &path),
        Question::Read => api.request(Method::GET, &format!("{path}{LINEARIZABLE_READ}")),
    };
    match send(request).await {
        Said::Answer(status, body) => outcome(question, status, &body),
        Said::NotSent => Outcome::Refused,
        Said::Lost => Outcome::Unknown,
    }
}

/// What an answer says of whether the operation happened. Codes that promise that nothing was done are taken at their
/// word, so that a false promise is found.
fn outcome(question: Question, status: u16, body: &Value) -> Outcome<Answer> {
    let code = body["code"].as_str().unwrap_or_default();
    match (question, status, code) {
        (Question::Read, 200, _) => Outcome::Done(Answer::Value(value_of(body))),
        (Question::Read, 404, "T2003") => Outcome::Done(Answer::Value(None)),
        (_, 200 | 201 | 204, _) => Outcome::Done(Answer::Done),
        (Question::Register(_), 409, "T2002") => Outcome::Done(Answer::Exists),
        (Question::Remove, 404, "T2003") => Outcome::Done(Answer::Missing),
        // a change that was made, and its server removed before the answer was put together, is answered so too
        (Question::Change(_), 404, "T2003") => Outcome::Unknown,
        (_, 503, "T8001" | "T1012") | (_, 409, "T8002") | (_, 429, _) => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

fn value_of(detail: &Value) -> Option<u64> {
    let label = detail["operation"]["labels"][0]
        .as_str()
        .or(detail["labels"][0].as_str())?;
    label.strip_prefix('v')?.parse().ok()
}
