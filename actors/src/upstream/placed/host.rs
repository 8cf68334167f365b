//! The node that runs a server: answers the others, takes over servers that come to it, gives away those that go.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use troupe_protocol::cluster::{EntityKind, Epoch};
use troupe_protocol::error::Code;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{ClientCapabilities, Profile};
use troupe_protocol::server::ServerName;

use super::between::{Asked, Asking, Between};
use super::news::TOPIC;
use super::question::{Answer, Answered, Part, Question, Text, array_of};
use super::{address_of, of_process};
use crate::cluster::dispatcher::{Owned, decode, encode};
use crate::cluster::pieces::send_ahead;
use crate::cluster::{EntityContext, EntityHost, Parts, ServiceError, Whereabouts};
use crate::runtime::Deadline;
use crate::upstream::error::UpstreamError;
use crate::upstream::messages::{CallOptions, StarterMessage};
use crate::upstream::questions::QuestionsTo;
use crate::upstream::shared::Shared;
use crate::upstream::slot::Slot;

/// How long calls in flight may go on when their server moves away.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(4);
/// How often it is looked whether they are done.
const DRAIN_LOOK: Duration = Duration::from_millis(5);
/// How long the end of a server's process may take.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// How long what the starter has in hand may take when servers are given away.
const STARTER_TIME_MAX: Duration = Duration::from_secs(2);
/// Notifications of one request that wait to be sent to the node it came from.
const NOTIFICATIONS_MAX: usize = 64;
/// What all texts that arrive in pieces may take together, in bytes, and how long they may take to arrive.
const UPLOADS_BYTES_MAX: usize = 128 * 1024 * 1024;
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(60);

/// This node's part in running servers of which the cluster has one.
pub(in crate::upstream) struct UpstreamsHost {
    /// The cluster holds this, and the family holds the cluster.
    shared: Weak<Shared>,
    uploads: Arc<Uploads>,
    asked: Arc<Asked>,
}

impl UpstreamsHost {
    /// Takes the part, and lets other nodes read the news.
    pub fn register(shared: &Arc<Shared>) {
        let host = Self {
            shared: Arc::downgrade(shared),
            uploads: Arc::default(),
            asked: Arc::default(),
        };
        shared.cluster.host(EntityKind::Upstream, Arc::new(host));
        shared.news.serve(&shared.cluster, TOPIC);
    }
}

impl EntityHost for UpstreamsHost {
    fn ask(
        &self,
        key: String,
        question: Bytes,
        context: EntityContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let shared = self.shared.upgrade();
        let (uploads, asked) = (Arc::clone(&self.uploads), Arc::clone(&self.asked));
        Box::pin(async move {
            let shared = shared.ok_or_else(ServiceError::stopping)?;
            let server = ServerName::new(&key)
                .map_err(|error| ServiceError::new(Code::InvalidServerName, error.to_string()))?;
            let question = decode(&question)?;
            let desk = Desk {
                uploads: &uploads,
                asked: &asked,
            };
            let answered = answer(&shared, &desk, &server, question, &context).await;
            encode(&answered)
        })
    }

    fn settle(&self, _: Epoch, owned: Owned) -> BoxFuture<'static, ()> {
        let shared = self.shared.upgrade();
        Box::pin(async move {
            if let Some(shared) = shared {
                give_away(&shared, &owned).await;
                // A refusal is on record as a dead letter; the first call starts a server as well.
                let _ = shared.starter.tell(StarterMessage::TakeOver);
            }
        })
    }

    fn count(&self) -> usize {
        let Some(shared) = self.shared.upgrade() else {
            return 0;
        };
        shared
            .slots
            .load()
            .values()
            .filter(|slot| slot.is_placed())
            .count()
    }
}

/// What lies here between two questions of another node.
struct Desk<'a> {
    uploads: &'a Uploads,
    asked: &'a Arc<Asked>,
}

async fn answer(
    shared: &Arc<Shared>,
    desk: &Desk<'_>,
    server: &ServerName,
    question: Question,
    context: &EntityContext,
) -> Answered {
    let deadline = context.deadline;
    let raw = |text: Option<Text>| desk.uploads.raw(server, text);
    // What belongs to a request that is under way here needs no server.
    let question = match question {
        Question::Piece { upload, text } => {
            return desk.uploads.add(server, upload, &text).map(|()| Answer::Done);
        }
        Question::Answered {
            request,
            number,
            line,
        } => {
            if let (Some(line), Some(question)) = (raw(Some(line))?, desk.asked.take(request, number)) {
                question.answer_with_line(text_of(line));
            }
            return Ok(Answer::Done);
        }
        Question::Watch { uris, profile } => {
            let uris = raw(Some(uris))?.map(text_of).unwrap_or_default();
            let uris = serde_json::from_str(&uris).unwrap_or_default();
            let watching = shared.watch_for_node(server, profile, context.from, uris, deadline);
            let refused = serde_json::to_string(&watching.await?).unwrap_or_default();
            return Ok(Answer::Text(pieces(refused, &context.parts).await));
        }
        other => other,
    };
    let profile = match &question {
        Question::Request { profile, .. } => of_process(*profile),
        _ => Profile::NONE,
    };
    let slot = shared.slot_for(server, profile, deadline).await?;
    match question {
        Question::Ready => {
            let connection = slot.ready(deadline).await?;
            let info = serde_json::to_string(&*connection.info).unwrap_or_default();
            Ok(Answer::Text(pieces(info, &context.parts).await))
        }
        Question::Request {
            method,
            params,
            principal,
            client,
            wants_notifications,
            profile: _,
            asked_in,
        } => {
            let params = raw(params)?;
            let client = RawValue::from_string(client)
                .map(ClientCapabilities::new)
                .unwrap_or_default();
            let (sender, notifications) = mpsc::channel(NOTIFICATIONS_MAX);
            let (to, questions) = QuestionsTo::channel(profile);
            let options = CallOptions {
                deadline,
                principal: principal.0,
                progress: wants_notifications.then_some(sender),
                client,
                questions: asked_in.map(|_| to),
            };
            let request = slot.request(&method, params.as_deref(), options);
            let between = Between {
                notifications,
                questions,
                asking: asked_in.map(|request| Asking::new(desk.asked, request)),
            };
            match between.until(request, &context.parts).await? {
                RawReply::Result(result) => Ok(Answer::Result(pieces(text_of(result), &context.parts).await)),
                RawReply::Error(error) => Ok(Answer::Error(pieces(text_of(error), &context.parts).await)),
            }
        }
        Question::Notify { method, params } => {
            let params = raw(params)?;
            slot.notify(&method, params.as_deref(), deadline).await?;
            Ok(Answer::Done)
        }
        Question::List { kind } => {
            let items = slot.list(kind, deadline).await?;
            let array = array_of(items.iter().map(|item| &*item.raw));
            Ok(Answer::Text(pieces(array, &context.parts).await))
        }
        Question::Logs => {
            let lines = serde_json::to_string(&slot.log.lines()).unwrap_or_default();
            Ok(Answer::Text(pieces(lines, &context.parts).await))
        }
        Question::Piece { .. } | Question::Answered { .. } | Question::Watch { .. } => Ok(Answer::Done),
    }
}

/// Sends a long text ahead in pieces; gives back the rest, which fits into the answer.
async fn pieces(text: String, parts: &Parts) -> String {
    send_ahead(text, parts, Part::Piece).await
}

fn text_of(raw: Box<RawValue>) -> String {
    Box::<str>::from(raw).into_string()
}

/// Stops the servers that are not this node's any more.
///
/// A node that holds no lease may get it back a moment later, with nothing changed; or it may not, and others run its
/// servers meanwhile. So its servers stand still, and go on or end when it is known.
async fn give_away(shared: &Arc<Shared>, owned: &Owned) {
    if !shared.cluster.holds_lease() {
        // Others start theirs a moment after the end of the lease: nothing is waited for before this.
        part_with_foreign(shared, owned).await;
    }
    // What the starter has in hand came before the change; what comes after it, it refuses by itself.
    let fence = shared
        .starter
        .ask(StarterMessage::Settled, Deadline::within(STARTER_TIME_MAX));
    if let Err(error) = fence.await {
        tracing::debug!(%error, "the starter did not answer while servers are given away");
    }
    let all_slots = shared.all_slots();
    let standing_still = all_slots.iter().filter(|slot| slot.is_suspended());
    for slot in standing_still.filter(|slot| owned(slot.name.as_str()) && slot.may_run()) {
        slot.suspend(false);
    }
    part_with_foreign(shared, owned).await;
}

/// Has servers stand still while it is not known who runs them, and ends those that others run.
async fn part_with_foreign(shared: &Arc<Shared>, owned: &Owned) {
    let is_foreign = |slot: &Slot| {
        if !slot.is_placed() || owned(slot.name.as_str()) {
            return false;
        }
        match shared.cluster.whereabouts(&address_of(&slot.name)) {
            Whereabouts::Here(_) => false,
            Whereabouts::At(..) => true,
            Whereabouts::Nowhere(_) => !slot.is_suspended() && !slot.suspend(true),
        }
    };
    let mut foreign = shared.all_slots();
    foreign.retain(|slot| is_foreign(slot));
    if foreign.is_empty() {
        return;
    }
    let stays = |slot: &Arc<Slot>| !foreign.iter().any(|gone| Arc::ptr_eq(gone, slot));
    shared.change_slots(|slots| slots.retain(|_, slot| stays(slot)));
    shared.change_lanes(|lanes| lanes.retain(|_, lane| stays(lane)));
    join_all(foreign.iter().map(|slot| release(shared, slot))).await;
}

/// Ends a server's process here: at once without a lease or when it stands still, else when its calls have ended.
pub(in crate::upstream) async fn release(shared: &Shared, slot: &Slot) {
    slot.move_away();
    tracing::info!(server = %slot.name, "this node runs it no longer");
    let may_drain = || shared.cluster.holds_lease() && !slot.is_suspended();
    let until = Instant::now() + DRAIN_TIME_MAX;
    // Who waits for a client's answer may wait for minutes: such calls end with the process.
    while may_drain() && slot.calls.at_work() > 0 && Instant::now() < until {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    if let Some(connection) = slot.connection() {
        // Calls that are still in flight end with an error that says they can be repeated.
        connection.wires.closing();
        connection.wires.lost("the server moves to another node");
        if !may_drain() {
            connection.kill().await;
        }
    }
    let stopped = shared
        .supervisor
        .stop_child(slot.mailbox.path(), Deadline::within(STOP_TIME_MAX));
    if let Err(error) = stopped.await {
        tracing::warn!(server = %slot.name, %error, "the server's actor did not stop in time");
    }
}

/// Texts that arrive in pieces.
#[derive(Default)]
struct Uploads(Mutex<HashMap<u128, Upload>>);

struct Upload {
    text: String,
    began: Instant,
}

impl Uploads {
    fn add(&self, server: &ServerName, upload: u128, piece: &str) -> Result<(), UpstreamError> {
        let mut uploads = self.0.lock();
        uploads.retain(|_, upload| upload.began.elapsed() < UPLOAD_TIME_MAX);
        let bytes: usize = uploads.values().map(|upload| upload.text.len()).sum();
        if bytes + piece.len() > UPLOADS_BYTES_MAX {
            return Err(UpstreamError::Overloaded {
                server: server.clone(),
                reason: "too many long requests are on their way to its node".to_owned(),
            });
        }
        let upload = uploads.entry(upload).or_insert_with(|| Upload {
            text: String::new(),
            began: Instant::now(),
        });
        upload.text.push_str(piece);
        Ok(())
    }

    /// A text of a question as JSON.
    fn raw(&self, server: &ServerName, text: Option<Text>) -> Result<Option<Box<RawValue>>, UpstreamError> {
        let text = match text {
            None => return Ok(None),
            Some(Text::Whole(text)) => text,
            Some(Text::Uploaded(upload)) => {
                let upload = self.0.lock().remove(&upload);
                // Its pieces went to the owner before this one: they are sent again.
                let upload = upload.ok_or_else(|| UpstreamError::Stopped(server.clone()))?;
                upload.text
            }
        };
        let raw = RawValue::from_string(text).map_err(|error| UpstreamError::Protocol {
            server: server.clone(),
            reason: format!("the request's parameters were garbled on their way: {error}"),
        });
        raw.map(Some)
    }
}
