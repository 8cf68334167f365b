//! The calls in flight to one server: who waits for what, since when, and how to make it stop.
//!
//! The table is shared between the callers' tasks and the connection's, so that a call costs no mailbox hop: the
//! caller puts an entry in and waits, the connection's reader takes it out. It outlives connections: a call that
//! waits for a restart is in it too.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use troupe_protocol::id::CorrelationId;
use troupe_protocol::jsonrpc::{Message, RawMessage, RawReply, edit};
use troupe_protocol::mcp::{meta, method};
use troupe_protocol::server::ServerName;
use troupe_protocol::time::Timestamp;
use troupe_protocol::upstream::{CallId, CallInFlight};

use super::error::Failure;
use super::questions::{Question, QuestionsTo};

/// Ids of calls are unique on the node, so that one number names a call in lists, on the wire and as progress token.
static NEXT_CALL: AtomicU64 = AtomicU64::new(1);

/// How long a server is taken to be at work on a call that was given up and which it does not answer.
const ABANDONED_FOR: Duration = Duration::from_secs(60);
/// How many such calls are kept.
const ABANDONED_MAX: usize = 64;

/// The next id.
pub(super) fn next_call_id() -> u64 {
    NEXT_CALL.fetch_add(1, Ordering::Relaxed)
}

/// Where the notifications of one request go.
#[derive(Debug, Clone)]
pub(super) struct ProgressTo {
    /// The token that the caller gave, as it wrote it; nothing if it gave none.
    pub token: Option<Box<RawValue>>,
    /// Bounded; what does not fit is dropped, as progress may be.
    pub sender: mpsc::Sender<RawMessage>,
}

/// What is known of a call when it begins.
#[derive(Debug, Clone)]
pub(super) struct NewCall {
    pub method: String,
    pub name: Option<String>,
    pub principal: Option<String>,
    pub correlation_id: Option<CorrelationId>,
    pub progress: Option<ProgressTo>,
    /// Where go what the server asks meanwhile; nothing if the caller can answer nothing.
    pub questions: Option<QuestionsTo>,
}

type AnswerSender = oneshot::Sender<Result<RawReply, Failure>>;
/// What the caller waits on once the call was handed to a connection.
pub(super) type AnswerReceiver = oneshot::Receiver<Result<RawReply, Failure>>;

struct Entry {
    call: NewCall,
    since: Timestamp,
    began: Instant,
    cancel: Option<oneshot::Sender<()>>,
    answer: Option<Awaited>,
}

impl Entry {
    /// Whether it waits to be written to a connection that carries all calls: the server cannot be at work on it.
    fn is_queued(&self) -> bool {
        self.answer.as_ref().is_some_and(|awaited| !awaited.sent)
    }
}

/// A call that was handed to a connection.
struct Awaited {
    sender: AnswerSender,
    /// The connection, so that the end of one does not end the calls of the next.
    connection: u64,
    sent: bool,
}

/// The calls in flight to one server.
pub(super) struct CallTable {
    server: ServerName,
    entries: Mutex<HashMap<u64, Entry>>,
    /// Taken after the lock of the entries, or without it.
    abandoned: Mutex<Abandoned>,
    calls_max: usize,
    begun: AtomicU64,
}

/// Calls that were sent and given up: the server may still be at work on them, and ask and tell about them.
#[derive(Default)]
struct Abandoned(HashMap<u64, (u64, Instant)>);

impl Abandoned {
    fn add(&mut self, id: u64, connection: u64) {
        if self.0.len() >= ABANDONED_MAX {
            self.forget_old();
        }
        // Beyond that it matters no more which they are.
        if self.0.len() < ABANDONED_MAX {
            self.0.insert(id, (connection, Instant::now()));
        }
    }

    fn answered(&mut self, id: u64) {
        self.0.remove(&id);
    }

    fn connection_lost(&mut self, lost: u64) {
        self.0.retain(|_, (connection, _)| *connection != lost);
    }

    fn is_empty(&mut self) -> bool {
        self.forget_old();
        self.0.is_empty()
    }

    fn forget_old(&mut self) {
        self.0.retain(|_, (_, since)| since.elapsed() < ABANDONED_FOR);
    }
}

/// A call in flight. It leaves the table when this is dropped.
pub(super) struct OpenCall {
    pub id: u64,
    pub began: Instant,
    /// Resolves when somebody cancels the call.
    pub cancelled: oneshot::Receiver<()>,
    table: Arc<CallTable>,
}

impl CallTable {
    pub fn new(server: ServerName, calls_max: usize) -> Self {
        Self {
            server,
            entries: Mutex::default(),
            abandoned: Mutex::default(),
            calls_max,
            begun: AtomicU64::new(0),
        }
    }

    /// The server.
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// Puts a call into the table.
    pub fn begin(self: &Arc<Self>, call: NewCall) -> Result<OpenCall, Failure> {
        let (cancel, cancelled) = oneshot::channel();
        let (id, began) = (next_call_id(), Instant::now());
        let since = jiff::Timestamp::now().into();
        let entry = Entry {
            call,
            since,
            began,
            cancel: Some(cancel),
            answer: None,
        };
        let mut entries = self.entries.lock();
        if entries.len() >= self.calls_max {
            return Err(Failure::Overloaded(format!(
                "{} calls are in flight",
                self.calls_max
            )));
        }
        entries.insert(id, entry);
        drop(entries);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Ok(OpenCall {
            id,
            began,
            cancelled,
            table: Arc::clone(self),
        })
    }

    /// Makes ready for the answer of a call, before it is sent over this connection.
    pub fn arm(&self, id: u64, connection: u64) -> AnswerReceiver {
        let (sender, receiver) = oneshot::channel();
        if let Some(entry) = self.entries.lock().get_mut(&id) {
            entry.answer = Some(Awaited {
                sender,
                connection,
                sent: false,
            });
        }
        receiver
    }

    /// Notes that calls have been written to the server.
    pub fn mark_sent(&self, ids: impl IntoIterator<Item = u64>) {
        let mut entries = self.entries.lock();
        for id in ids {
            if let Some(awaited) = entries.get_mut(&id).and_then(|entry| entry.answer.as_mut()) {
                awaited.sent = true;
            }
        }
    }

    /// Hands an answer to the caller. False if nobody waits for it any more.
    pub fn complete(&self, id: u64, answer: Result<RawReply, Failure>) -> bool {
        let awaited = self
            .entries
            .lock()
            .get_mut(&id)
            .and_then(|entry| entry.answer.take());
        match awaited {
            Some(awaited) => awaited.sender.send(answer).is_ok(),
            None => {
                self.abandoned.lock().answered(id);
                false
            }
        }
    }

    /// Ends every call that was handed to a connection which is now gone: what was sent is lost, the rest is not.
    pub fn connection_lost(&self, connection: u64, reason: &str) {
        self.abandoned.lock().connection_lost(connection);
        let waiting: Vec<Awaited> = {
            let mut entries = self.entries.lock();
            let of_connection =
                |entry: &mut Entry| entry.answer.take_if(|awaited| awaited.connection == connection);
            entries.values_mut().filter_map(of_connection).collect()
        };
        for Awaited { sender, sent, .. } in waiting {
            let failure = if sent {
                Failure::Lost(reason.to_owned())
            } else {
                Failure::NotSent(reason.to_owned())
            };
            // The caller may have given up at this very moment.
            let _ = sender.send(Err(failure));
        }
    }

    /// Ends the only call that waits for an answer; if several wait it cannot be known whose answer was meant.
    pub fn fail_only_waiting(&self, failure: Failure) {
        let mut entries = self.entries.lock();
        let mut waiting = entries.values_mut().filter(|entry| entry.answer.is_some());
        if let (Some(only), None) = (waiting.next(), waiting.next())
            && let Some(awaited) = only.answer.take()
        {
            let _ = awaited.sender.send(Err(failure));
        }
    }

    /// Passes a progress notification on to the caller, under the caller's own token.
    pub fn progress(&self, id: u64, message: &Message<'_>) {
        let entries = self.entries.lock();
        let Some(progress) = entries.get(&id).and_then(|entry| entry.call.progress.as_ref()) else {
            return;
        };
        let Some(token) = &progress.token else { return };
        let mapped = edit::with_param(message, meta::PROGRESS_TOKEN, token.get());
        if let Some(Ok(mapped)) = mapped.map(RawMessage::new) {
            let _ = progress.sender.try_send(mapped);
        }
    }

    /// Passes a notification that came on the call's own stream on to the caller as it is.
    pub fn forward(&self, id: u64, message: &Message<'_>) {
        let entries = self.entries.lock();
        if let Some(progress) = entries.get(&id).and_then(|entry| entry.call.progress.as_ref()) {
            let _ = progress.sender.try_send(RawMessage::from(message));
        }
    }

    /// Passes a notification on that does not say to which call it belongs, if the server can be at work on one only:
    /// nobody shall read what is about another's.
    pub fn forward_to_only(&self, message: &Message<'_>) {
        let entries = self.entries.lock();
        let only = self.only_begun(&entries);
        if let Some(progress) = only.and_then(|only| only.call.progress.as_ref()) {
            let _ = progress.sender.try_send(RawMessage::from(message));
        }
    }

    /// Passes a server's question on to the client of this call, or, where the server does not say to which call it
    /// belongs, of the only one that the server can be at work on. The question comes back if there is no such client.
    ///
    /// `roots` are given on a call's own stream only: a server that asks for them by the way takes them for everybody's.
    pub fn ask(&self, call: Option<u64>, question: Question) -> Result<(), Question> {
        let to = {
            let entries = self.entries.lock();
            let entry = match call {
                Some(id) => entries.get(&id),
                None if question.method == method::ROOTS_LIST => None,
                None => self.only_begun(&entries).filter(|only| !only.is_queued()),
            };
            let to = entry.and_then(|entry| entry.call.questions.as_ref());
            to.filter(|to| to.admits(&question)).cloned()
        };
        match to {
            Some(to) => to.put(question),
            None => Err(question),
        }
    }

    /// The only call that the server can be at work on, those included for whose answers nobody waits any more.
    fn only_begun<'a>(&self, entries: &'a HashMap<u64, Entry>) -> Option<&'a Entry> {
        let mut all = entries.values();
        let (Some(only), None) = (all.next(), all.next()) else {
            return None;
        };
        self.abandoned.lock().is_empty().then_some(only)
    }

    /// Cancels a call. False if it is not in flight here.
    pub fn cancel(&self, id: CallId) -> bool {
        let cancel = self
            .entries
            .lock()
            .get_mut(&id.0)
            .and_then(|entry| entry.cancel.take());
        cancel.is_some_and(|cancel| cancel.send(()).is_ok())
    }

    /// Cancels every call.
    pub fn cancel_all(&self) {
        for entry in self.entries.lock().values_mut() {
            if let Some(cancel) = entry.cancel.take() {
                let _ = cancel.send(());
            }
        }
    }

    /// How many calls were begun since the node started.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// How many calls are in flight.
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// How many calls the server is at work on: not those that wait for a client's answer, which may take a person's time.
    pub fn at_work(&self) -> usize {
        let waits = |entry: &Entry| {
            let questions = entry.call.questions.as_ref();
            questions.is_some_and(QuestionsTo::is_waited_for)
        };
        let entries = self.entries.lock();
        entries.values().filter(|entry| !waits(entry)).count()
    }

    /// The calls in flight, oldest first.
    pub fn list(&self) -> Vec<CallInFlight> {
        let now = Instant::now();
        let in_flight = |(id, entry): (&u64, &Entry)| CallInFlight {
            node: None,
            id: CallId(*id),
            server: self.server.clone(),
            method: entry.call.method.clone(),
            name: entry.call.name.clone(),
            principal: entry.call.principal.clone(),
            since: entry.since,
            age_ms: u64::try_from((now - entry.began).as_millis()).unwrap_or(u64::MAX),
            correlation_id: entry.call.correlation_id,
        };
        let mut calls: Vec<CallInFlight> = self.entries.lock().iter().map(in_flight).collect();
        calls.sort_by_key(|call| call.id);
        calls
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let entry = self.table.entries.lock().remove(&self.id);
        if let Some(awaited) = entry.and_then(|entry| entry.answer)
            && awaited.sent
        {
            self.table.abandoned.lock().add(self.id, awaited.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::questions::tests::question;
    use super::*;
    use troupe_protocol::mcp::{ClientCapabilities, Profile};

    fn table(calls_max: usize) -> Arc<CallTable> {
        Arc::new(CallTable::new(ServerName::new("time").unwrap(), calls_max))
    }

    fn new_call(progress: Option<ProgressTo>) -> NewCall {
        let (method, name) = ("tools/call".to_owned(), Some("now".to_owned()));
        NewCall {
            method,
            name,
            principal: Some("ada".to_owned()),
            correlation_id: None,
            progress,
            questions: None,
        }
    }

    fn asking(capabilities: &str) -> (NewCall, mpsc::Receiver<Question>) {
        let raw = RawValue::from_string(capabilities.to_owned()).unwrap();
        let (to, questions) = QuestionsTo::channel(Profile::of(&ClientCapabilities::new(raw)));
        let call = NewCall {
            questions: Some(to),
            ..new_call(None)
        };
        (call, questions)
    }

    #[test]
    fn a_call_that_waits_for_an_answer_is_not_at_work() {
        let table = table(9);
        let (form, mut forms) = asking(r#"{"elicitation":{}}"#);
        let form = table.begin(form).unwrap();
        let _plain = table.begin(new_call(None)).unwrap();
        assert_eq!(table.at_work(), 2);
        assert!(table.ask(Some(form.id), question("elicitation/create").0).is_ok());
        let asked = forms.try_recv().unwrap();
        assert_eq!((table.at_work(), table.len()), (1, 2));
        asked.fail("nobody");
        assert_eq!(table.at_work(), 2);
    }

    #[test]
    fn a_question_reaches_the_client_that_can_answer_it_or_comes_back() {
        let table = table(9);
        let (form, mut forms) = asking(r#"{"elicitation":{}}"#);
        let (model, mut models) = asking(r#"{"sampling":{}}"#);
        let ask = |call, method| table.ask(call, question(method).0);
        let form = table.begin(form).unwrap();
        let _answer = table.arm(form.id, 1);
        assert!(ask(None, "elicitation/create").is_err(), "it was not sent");
        table.mark_sent([form.id]);
        assert!(ask(None, "elicitation/create").is_ok());
        assert!(forms.try_recv().is_ok());
        let model = table.begin(model).unwrap();
        assert!(
            ask(None, "elicitation/create").is_err(),
            "it may be about the other call, whose client cannot be asked that"
        );
        assert!(ask(Some(model.id), "elicitation/create").is_err());
        assert!(ask(Some(model.id), "sampling/createMessage").is_ok());
        assert!(models.try_recv().is_ok());
        drop(models);
        assert!(
            ask(Some(model.id), "sampling/createMessage").is_err(),
            "nobody listens"
        );
        drop(model);
        assert!(ask(None, "elicitation/create").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_about_a_call_that_was_given_up_reaches_nobody_else() {
        let table = table(9);
        let begin = |capabilities| {
            let (call, questions) = asking(capabilities);
            let call = table.begin(call).unwrap();
            let answer = table.arm(call.id, 1);
            table.mark_sent([call.id]);
            (call, questions, answer)
        };
        let ask = |method| table.ask(None, question(method).0);
        let (first, ..) = begin(r#"{"elicitation":{},"roots":{}}"#);
        let given_up = first.id;
        drop(first);
        let _second = begin(r#"{"elicitation":{},"roots":{}}"#);
        assert!(ask("elicitation/create").is_err());
        assert!(!table.complete(given_up, Err(Failure::Lost("late".to_owned()))));
        assert!(ask("elicitation/create").is_ok());
        assert!(ask("roots/list").is_err(), "they would be everybody's");

        drop(begin(r#"{"elicitation":{}}"#));
        assert!(ask("elicitation/create").is_err());
        tokio::time::advance(ABANDONED_FOR).await;
        assert!(ask("elicitation/create").is_ok());
    }

    #[test]
    fn a_call_is_listed_until_it_is_dropped_and_their_number_is_bounded() {
        let table = table(1);
        let call = table.begin(new_call(None)).unwrap();
        let listed = table.list();
        assert_eq!(
            (listed[0].id, listed[0].principal.as_deref()),
            (CallId(call.id), Some("ada"))
        );
        assert!(matches!(table.begin(new_call(None)), Err(Failure::Overloaded(_))));
        drop(call);
        assert_eq!(table.len(), 0);
        assert!(table.begin(new_call(None)).is_ok());
    }

    #[tokio::test]
    async fn when_the_connection_is_lost_what_was_sent_is_lost_and_the_rest_may_be_sent_again() {
        let table = table(9);
        let (sent, queued, waiting) = (
            table.begin(new_call(None)).unwrap(),
            table.begin(new_call(None)).unwrap(),
            table.begin(new_call(None)).unwrap(),
        );
        let (sent_answer, queued_answer) = (table.arm(sent.id, 1), table.arm(queued.id, 1));
        table.mark_sent([sent.id]);
        table.connection_lost(2, "another");
        table.connection_lost(1, "killed");
        assert_eq!(
            sent_answer.await.unwrap().unwrap_err(),
            Failure::Lost("killed".to_owned())
        );
        assert_eq!(
            queued_answer.await.unwrap().unwrap_err(),
            Failure::NotSent("killed".to_owned())
        );
        // The third was not yet handed to a connection, so nothing happens to it.
        assert!(table.cancel(CallId(waiting.id)));
        assert!(!table.cancel(CallId(waiting.id)));
    }

    #[tokio::test]
    async fn progress_comes_back_under_the_callers_own_token() {
        let table = table(9);
        let (sender, mut receiver) = mpsc::channel(1);
        let token = RawValue::from_string("\"mine\"".to_owned()).unwrap();
        let call = table
            .begin(new_call(Some(ProgressTo {
                token: Some(token),
                sender,
            })))
            .unwrap();
        let text = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":0.5}}}}"#,
            call.id
        );
        for _ in 0..3 {
            table.progress(call.id, &Message::parse_str(&text).unwrap());
        }
        let expected = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"mine","progress":0.5}}"#;
        assert_eq!(receiver.recv().await.unwrap().as_str(), expected);
        assert!(receiver.try_recv().is_err(), "what does not fit is dropped");
    }
}
