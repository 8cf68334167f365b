//! The way to a server that runs on another node.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use troupe_protocol::jsonrpc::{RawMessage, RawReply};
use troupe_protocol::mcp::{Descriptor, ListKind, Profile};
use troupe_protocol::server::ServerName;
use troupe_protocol::upstream::{LogLine, UpstreamInfo};
use troupe_protocol::wire::AsJson;

use super::address_of;
use super::question::{Answer, Answered, Part, Question, Text};
use crate::cluster::pieces::{self, cut};
use crate::cluster::{ClusterError, ClusterHandle, Streamed};
use crate::runtime::Deadline;
use crate::upstream::calls::{CallTable, NewCall};
use crate::upstream::error::UpstreamError;
use crate::upstream::frame;
use crate::upstream::lists::Lists;
use crate::upstream::messages::CallOptions;
use crate::upstream::questions::QuestionsTo;
use crate::upstream::watch::Refused;

/// Answers to one request's questions that wait to be taken to the server's node.
const ANSWERS_MAX: usize = 64;

/// A server that runs on another node, as far as this one has to do with it.
pub(in crate::upstream) struct Remote {
    pub name: ServerName,
    /// The calls in flight from this node.
    pub calls: Arc<CallTable>,
    /// What the server listed; forgotten when its owner lets know that it has changed.
    pub lists: Lists,
    pub cluster: ClusterHandle,
    message_bytes_max: usize,
}

/// Who hears what comes before the end of an answer.
struct Hearer<'a> {
    notifications: Option<&'a mpsc::Sender<RawMessage>>,
    questions: Option<&'a QuestionsTo>,
    /// Where go the answers to questions.
    answers: Option<mpsc::Sender<Given>>,
}

/// The line that answers a question of this number.
struct Given {
    number: u32,
    line: String,
}

impl Hearer<'_> {
    const NOBODY: Hearer<'static> = Hearer {
        notifications: None,
        questions: None,
        answers: None,
    };

    fn told(&self, message: String) {
        if let (Some(sender), Ok(message)) = (self.notifications, RawMessage::new(message)) {
            // Bounded; what does not fit is dropped, as progress may be.
            let _ = sender.try_send(message);
        }
    }

    fn asked(&self, number: u32, method: String, params: Option<Box<RawValue>>, id: Box<RawValue>) {
        let (Some(to), Some(answers)) = (self.questions, self.answers.clone()) else {
            return;
        };
        let answer_to = move |line| {
            // There is room for as many as can be asked at a time; without a call nobody wants the answer.
            let _ = answers.try_send(Given { number, line });
        };
        let question = crate::upstream::Question::from_afar(method, params, id, Box::new(answer_to));
        if let Err(question) = to.put(question) {
            question.refuse();
        }
    }
}

/// Why there is no answer, and what may be done about it.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nobody was asked who could have acted: asking again is harmless.
    NotAsked(UpstreamError),
    /// The owner was lost while it was at work.
    Lost(UpstreamError),
    /// It is so.
    Final(UpstreamError),
}

impl Remote {
    pub fn new(name: ServerName, cluster: ClusterHandle, calls_max: usize, message_bytes_max: usize) -> Self {
        Self {
            calls: Arc::new(CallTable::new(name.clone(), calls_max)),
            lists: Lists::default(),
            name,
            cluster,
            message_bytes_max,
        }
    }

    /// Has the owner connect if need be; what the server said of itself.
    pub(super) async fn ready(&self, deadline: Deadline) -> Result<Arc<UpstreamInfo>, Trouble> {
        let text = self.text("connecting", Question::Ready, deadline).await?;
        let info = serde_json::from_str(&text).map_err(|error| self.garbled(&error))?;
        Ok(Arc::new(info))
    }

    /// Makes a request. It is listed among the calls in flight and can be cancelled here; dropped, it is cancelled at the
    /// server.
    pub(super) async fn request(
        &self,
        method: &str,
        params: Option<&RawValue>,
        profile: Profile,
        options: &CallOptions,
    ) -> Result<RawReply, Trouble> {
        let call = NewCall {
            method: method.to_owned(),
            name: frame::name_of(method, params),
            principal: options.principal.as_ref().map(|principal| principal.name.clone()),
            correlation_id: crate::runtime::trace::current().map(|context| context.correlation_id),
            progress: None,
            questions: None,
        };
        let begun = self.calls.begin(call);
        let mut open = begun.map_err(|failure| Trouble::Final(failure.into_error(&self.name, method)))?;
        let (server, method_name, began) = (self.name.clone(), method.to_owned(), open.began);
        tokio::select! {
            biased;
            reply = self.exchange(method, params, profile, options) => reply,
            Ok(()) = &mut open.cancelled => {
                Err(Trouble::Final(UpstreamError::Cancelled { server, method: method_name }))
            }
            () = tokio::time::sleep_until(options.deadline.instant()) => {
                Err(Trouble::Final(self.too_late(method, began)))
            }
        }
    }

    async fn exchange(
        &self,
        method: &str,
        params: Option<&RawValue>,
        profile: Profile,
        options: &CallOptions,
    ) -> Result<RawReply, Trouble> {
        let asked_in = options.questions.is_some().then(|| fastrand::u128(..));
        let question = Question::Request {
            method: method.to_owned(),
            params: self.text_of(method, params, options.deadline).await?,
            principal: AsJson(options.principal.clone()),
            client: options.client.as_str().to_owned(),
            wants_notifications: options.progress.is_some(),
            profile,
            asked_in,
        };
        let (answers, mut given) = mpsc::channel(ANSWERS_MAX);
        let hearer = Hearer {
            notifications: options.progress.as_ref(),
            questions: options.questions.as_ref(),
            answers: Some(answers),
        };
        let mut asking = pin!(self.ask(method, question, &hearer, options.deadline));
        let mut answering = FuturesUnordered::new();
        let (answer, text) = loop {
            tokio::select! {
                biased;
                Some(given) = given.recv() => {
                    answering.push(self.take_answer(asked_in, given, options.deadline));
                }
                Some(()) = answering.next(), if !answering.is_empty() => {}
                answered = &mut asking => break answered?,
            }
        };
        match answer {
            Answer::Result(_) => Ok(RawReply::Result(self.raw(text)?)),
            Answer::Error(_) => Ok(RawReply::Error(self.raw(text)?)),
            Answer::Text(_) | Answer::Done => Err(self.unexpected(method)),
        }
    }

    /// Takes the answer to a question to the node that has the server.
    async fn take_answer(&self, request: Option<u128>, given: Given, deadline: Deadline) {
        let Some(request) = request else { return };
        let Given { number, line } = given;
        let taking = async {
            let line = RawValue::from_string(line).map_err(|error| self.garbled(&error))?;
            let Some(line) = self.text_of("an answer", Some(&line), deadline).await? else {
                return Ok(());
            };
            let answered = Question::Answered {
                request,
                number,
                line,
            };
            self.ask("an answer", answered, &Hearer::NOBODY, deadline).await?;
            Ok::<(), Trouble>(())
        };
        if let Err(trouble) = taking.await {
            // If its node is gone, so is the call.
            let error = trouble.into_error();
            tracing::debug!(server = %self.name, %error, "an answer to a server's question was not taken");
        }
    }

    /// Sends a notification.
    pub(super) async fn notify(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Deadline,
    ) -> Result<(), Trouble> {
        let params = self.text_of(method, params, deadline).await?;
        let question = Question::Notify {
            method: method.to_owned(),
            params,
        };
        self.ask(method, question, &Hearer::NOBODY, deadline)
            .await
            .map(|_| ())
    }

    /// What the server lists.
    pub(super) async fn list(
        &self,
        kind: ListKind,
        deadline: Deadline,
    ) -> Result<Arc<Vec<Descriptor>>, Trouble> {
        let text = self
            .text(kind.method(), Question::List { kind }, deadline)
            .await?;
        let items: Vec<&RawValue> = serde_json::from_str(&text).map_err(|error| self.garbled(&error))?;
        let items = items.into_iter().filter_map(|item| Descriptor::read(kind, item));
        Ok(Arc::new(items.collect()))
    }

    /// Lets the owner know of which resources clients of this kind want to hear here.
    pub(super) async fn watch(
        &self,
        profile: Profile,
        uris: &BTreeSet<String>,
        deadline: Deadline,
    ) -> Result<Refused, Trouble> {
        const WHAT: &str = "subscribing";
        let uris = serde_json::value::to_raw_value(uris).map_err(|error| self.garbled(&error))?;
        let Some(uris) = self.text_of(WHAT, Some(&uris), deadline).await? else {
            return Ok(Refused::new());
        };
        let text = self
            .text(WHAT, Question::Watch { uris, profile }, deadline)
            .await?;
        serde_json::from_str(&text).map_err(|error| self.garbled(&error))
    }

    /// The last lines of the server's log.
    pub(super) async fn logs(&self, deadline: Deadline) -> Result<Vec<LogLine>, Trouble> {
        let text = self.text("reading its log", Question::Logs, deadline).await?;
        serde_json::from_str(&text).map_err(|error| self.garbled(&error))
    }

    async fn text(&self, what: &str, question: Question, deadline: Deadline) -> Result<String, Trouble> {
        match self.ask(what, question, &Hearer::NOBODY, deadline).await? {
            (Answer::Text(_), text) => Ok(text),
            _ => Err(self.unexpected(what)),
        }
    }

    /// Asks the owner: the kind of the answer, and its whole text.
    async fn ask(
        &self,
        what: &str,
        question: Question,
        hearer: &Hearer<'_>,
        deadline: Deadline,
    ) -> Result<(Answer, String), Trouble> {
        let began = Instant::now();
        let trouble = |error| self.trouble(what, began, error);
        let stream = self
            .cluster
            .stream::<_, Part, Answered>(&address_of(&self.name), &question, deadline);
        let mut stream = stream.map_err(trouble)?;
        let mut text = String::new();
        loop {
            match stream.next().await.map_err(trouble)? {
                Streamed::Part(Part::Notification(message)) => hearer.told(message),
                Streamed::Part(Part::Question {
                    number,
                    method,
                    params,
                    id,
                }) => {
                    let raw =
                        |text: String| RawValue::from_string(text).map_err(|error| self.garbled(&error));
                    let params = params.map(raw).transpose()?;
                    hearer.asked(number, method, params, raw(id)?);
                }
                Streamed::Part(Part::Piece(piece)) => self.append(&mut text, &piece)?,
                Streamed::End(Ok(mut answer)) => {
                    if let Answer::Result(rest) | Answer::Error(rest) | Answer::Text(rest) = &mut answer {
                        if text.is_empty() {
                            text = std::mem::take(rest);
                        } else {
                            self.append(&mut text, rest)?;
                        }
                    }
                    return Ok((answer, text));
                }
                Streamed::End(Err(error)) => {
                    // It gave the server away while this was on its way, or does not have it or know of it yet.
                    let was_not_asked = matches!(
                        error,
                        UpstreamError::Stopped(_)
                            | UpstreamError::NoOwner { .. }
                            | UpstreamError::NotFound(_)
                    );
                    return Err(if was_not_asked {
                        Trouble::NotAsked(error)
                    } else {
                        Trouble::Final(error)
                    });
                }
            }
        }
    }

    fn append(&self, text: &mut String, piece: &str) -> Result<(), Trouble> {
        if pieces::append(text, piece, self.message_bytes_max).is_continue() {
            return Ok(());
        }
        Err(Trouble::Final(UpstreamError::TooLarge {
            server: self.name.clone(),
            bytes_max: self.message_bytes_max,
        }))
    }

    /// The parameters for a question; long ones are sent ahead in pieces.
    async fn text_of(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Deadline,
    ) -> Result<Option<Text>, Trouble> {
        let Some(params) = params else { return Ok(None) };
        let mut rest = params.get();
        if cut(rest) == rest.len() {
            return Ok(Some(Text::Whole(rest.to_owned())));
        }
        let upload = fastrand::u128(..);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(cut(rest));
            let text = piece.to_owned();
            // Boxed: `ask` and this would otherwise hold each other.
            let sending: BoxFuture<'_, _> = Box::pin(self.ask(
                method,
                Question::Piece { upload, text },
                &Hearer::NOBODY,
                deadline,
            ));
            // However it ends, the request itself has not begun.
            sending.await.map_err(|trouble| match trouble {
                Trouble::Lost(error) => Trouble::NotAsked(error),
                other => other,
            })?;
            rest = behind;
        }
        Ok(Some(Text::Uploaded(upload)))
    }

    fn trouble(&self, what: &str, began: Instant, error: ClusterError) -> Trouble {
        let (server, method) = (self.name.clone(), what.to_owned());
        match &error {
            ClusterError::DeadlineExceeded => Trouble::Final(self.too_late(what, began)),
            ClusterError::Lost { .. } => Trouble::Lost(UpstreamError::Died {
                server,
                method,
                reason: error.to_string(),
                retryable: true,
            }),
            ClusterError::Overloaded { .. } => Trouble::Final(UpstreamError::Overloaded {
                server,
                reason: error.to_string(),
            }),
            _ if error.is_harmless_to_repeat() => Trouble::NotAsked(UpstreamError::NoOwner {
                server,
                reason: error.to_string(),
                code: error.code(),
            }),
            _ => Trouble::Final(UpstreamError::NoOwner {
                server,
                reason: error.to_string(),
                code: error.code(),
            }),
        }
    }

    fn too_late(&self, method: &str, began: Instant) -> UpstreamError {
        UpstreamError::DeadlineExceeded {
            server: self.name.clone(),
            method: method.to_owned(),
            waited_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn raw(&self, text: String) -> Result<Box<RawValue>, Trouble> {
        RawValue::from_string(text).map_err(|error| self.garbled(&error))
    }

    fn garbled(&self, error: &serde_json::Error) -> Trouble {
        Trouble::Final(UpstreamError::Protocol {
            server: self.name.clone(),
            reason: format!("what its node passed on cannot be read: {error}"),
        })
    }

    fn unexpected(&self, what: &str) -> Trouble {
        Trouble::Final(UpstreamError::Protocol {
            server: self.name.clone(),
            reason: format!("its node gave another kind of answer to {what} than was asked for"),
        })
    }
}
