//! What a legacy server asks its client in the middle of a call, and the way back for the answer.
//!
//! Troupe has nobody to ask, so such a request goes to the client whose call the server is at work on. Over HTTP it
//! comes on that call's stream; over stdio it does not say whose it is, and is passed on only while it can be no other's.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use troupe_protocol::jsonrpc::{self, Message, RawReply, edit, string_of};
use troupe_protocol::mcp::{Profile, method};

/// Questions of one call that wait to be put to the client; further ones are refused.
const QUESTIONS_WAITING_MAX: usize = 16;

/// Where the questions of one call go.
#[derive(Debug, Clone)]
pub struct QuestionsTo {
    /// What the client can answer; nothing else is passed on.
    profile: Profile,
    sender: mpsc::Sender<Question>,
    /// How many have no answer yet.
    open: Arc<AtomicUsize>,
}

impl QuestionsTo {
    /// For a client that can do this much, and where its questions come out.
    pub fn channel(profile: Profile) -> (Self, mpsc::Receiver<Question>) {
        let (sender, questions) = mpsc::channel(QUESTIONS_WAITING_MAX);
        let open = Arc::default();
        let to = Self {
            profile,
            sender,
            open,
        };
        (to, questions)
    }

    /// What the client can answer.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Whether the client can be asked this.
    pub(super) fn admits(&self, question: &Question) -> bool {
        self.profile.admits(&question.method, question.params.as_deref())
    }

    /// Whether the server waits for an answer, and so does not work.
    pub(super) fn is_waited_for(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Puts a question; it comes back if there are too many before it, or nobody listens.
    pub(super) fn put(&self, mut question: Question) -> Result<(), Question> {
        question.open = Some(Open::new(&self.open));
        let refused = |error: mpsc::error::TrySendError<Question>| {
            let mut question = error.into_inner();
            question.open = None;
            question
        };
        self.sender.try_send(question).map_err(refused)
    }
}

/// Counts a question as long as it has no answer.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes the line that answers a question to its server.
pub(super) type AnswerTo = Box<dyn FnOnce(String) + Send>;

/// A request that a legacy server makes of its client. One that is dropped unanswered is answered with an error.
pub struct Question {
    /// Its method.
    pub method: String,
    /// Its parameters, as the server wrote them.
    pub params: Option<Box<RawValue>>,
    /// The id that the server gave it.
    id: Box<RawValue>,
    answer_to: Option<AnswerTo>,
    open: Option<Open>,
}

impl Question {
    /// Takes a server's request for one; nothing if the message is none.
    pub(super) fn read(message: &Message<'_>, answer_to: AnswerTo) -> Option<Self> {
        Some(Self {
            method: message.is_request().then(|| message.method().to_owned())?,
            params: message.params.map(RawValue::to_owned),
            id: message.id?.to_owned(),
            answer_to: Some(answer_to),
            open: None,
        })
    }

    /// A question that came to another node.
    pub(super) fn from_afar(
        method: String,
        params: Option<Box<RawValue>>,
        id: Box<RawValue>,
        answer_to: AnswerTo,
    ) -> Self {
        Self {
            method,
            params,
            id,
            answer_to: Some(answer_to),
            open: None,
        }
    }

    /// The id that the server gave it.
    pub(super) fn id(&self) -> &RawValue {
        &self.id
    }

    /// Answers it with the whole line, as it was made where the client is.
    pub(super) fn answer_with_line(mut self, line: String) {
        self.send(line);
    }

    /// Writes it as a member of `inputRequests` (2026-07-28, basic/patterns/mrtr).
    pub fn push_to(&self, out: &mut String) {
        out.push_str("{\"method\":");
        edit::push_string(out, &self.method);
        if let Some(params) = &self.params {
            out.push_str(",\"params\":");
            out.push_str(params.get());
        }
        out.push('}');
    }

    /// The id that the server gave it, as text: no two questions of a connection that are open have the same.
    pub fn key(&self) -> String {
        match string_of(&self.id) {
            // `1` and `"1"` are two ids.
            Some(text) if text.parse::<f64>().is_err() => text.into_owned(),
            _ => self.id.get().to_owned(),
        }
    }

    /// Answers it with what the client answered.
    pub fn answer(mut self, reply: &RawReply) {
        let line = reply.to_response(&self.id);
        self.send(line);
    }

    /// Nobody can answer it: no client has said that it can.
    pub fn refuse(mut self) {
        let line = if self.method == method::ROOTS_LIST {
            edit::response(self.id.get(), "result", r#"{"roots":[]}"#)
        } else {
            let words = format!("method not found: this client does not answer {}", self.method);
            self.error(jsonrpc::code::METHOD_NOT_FOUND, &words)
        };
        self.send(line);
    }

    /// It was passed on and there is no answer.
    pub fn fail(mut self, reason: &str) {
        let line = self.error(jsonrpc::code::INTERNAL_ERROR, reason);
        self.send(line);
    }

    fn error(&self, code: i64, words: &str) -> String {
        edit::error_response(Some(&self.id), code, words, None)
    }

    fn send(&mut self, line: String) {
        if let Some(answer_to) = self.answer_to.take() {
            answer_to(line);
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if self.answer_to.is_some() {
            let line = self.error(
                jsonrpc::code::INTERNAL_ERROR,
                "the client is gone and has not answered",
            );
            self.send(line);
        }
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Question({} {})", self.method, self.id)
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    use parking_lot::Mutex;

    /// A question with its method as its id, and the line that answers it once there is one.
    pub fn question(method: &str) -> (Question, Arc<Mutex<Option<String>>>) {
        let answered = Arc::new(Mutex::new(None));
        let answer = Arc::clone(&answered);
        let text =
            format!(r#"{{"jsonrpc":"2.0","id":"{method}","method":"{method}","params":{{"n":1e400}}}}"#);
        let message = Message::parse_str(&text).unwrap();
        let question = Question::read(&message, Box::new(move |line| *answer.lock() = Some(line)));
        (question.unwrap(), answered)
    }

    #[test]
    fn ids_that_differ_only_in_their_type_have_keys_of_their_own() {
        let key_of = |id: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"roots/list"}}"#);
            let message = Message::parse_str(&text).unwrap();
            Question::read(&message, Box::new(|_| {})).unwrap().key()
        };
        assert_eq!(key_of("1"), "1");
        assert_eq!(key_of(r#""1""#), r#""1""#);
        assert_eq!(key_of(r#""one""#), "one");
    }

    #[test]
    fn every_question_is_answered_exactly_once() {
        let answer_after = |what: fn(Question), method: &str| {
            let (question, answered) = question(method);
            what(question);
            answered.lock().take().unwrap()
        };
        let reply = |question: Question| {
            let result = RawValue::from_string(r#"{"action":"accept"}"#.to_owned()).unwrap();
            question.answer(&RawReply::Result(result));
        };
        assert_eq!(
            answer_after(reply, "elicitation/create"),
            r#"{"jsonrpc":"2.0","id":"elicitation/create","result":{"action":"accept"}}"#
        );
        let refused = answer_after(Question::refuse, "sampling/createMessage");
        assert!(refused.contains("-32601"), "{refused}");
        assert_eq!(
            answer_after(Question::refuse, "roots/list"),
            r#"{"jsonrpc":"2.0","id":"roots/list","result":{"roots":[]}}"#
        );
        let dropped = answer_after(drop, "elicitation/create");
        assert!(dropped.contains("-32603"), "{dropped}");
    }

    #[test]
    fn a_response_is_no_question() {
        let message = Message::parse_str(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).unwrap();
        assert!(Question::read(&message, Box::new(|_| {})).is_none());
    }
}
