//! A call whose server asks while its modern client is not there to be asked.
//!
//! It runs only while its client waits for it; between two rounds it stands still, with what the server asked.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use troupe_protocol::jsonrpc::{Message, RawMessage, RawReply, edit};
use troupe_protocol::mcp::{LogLevel, Profile, meta, method};

use crate::runtime::Reply;
use crate::upstream::{Question, UpstreamError};

/// A server that asks several things at once sends them one after the other: so long they are waited for.
const ASKED_TOGETHER_WITHIN: Duration = Duration::from_millis(20);
/// The most questions of one round, and of a whole call.
const QUESTIONS_MAX: usize = 16;
const QUESTIONS_OF_CALL_MAX: u32 = 64;
/// The largest question.
const QUESTION_BYTES_MAX: usize = 256 * 1024;

type Replied = Result<RawReply, UpstreamError>;

/// A call that may end before anybody wants its reply.
enum Running {
    Yes(BoxFuture<'static, Replied>),
    /// The reply that nobody has taken; nothing once it was.
    No(Option<Box<Replied>>),
}

impl Running {
    /// The reply, which is then taken.
    async fn reply(&mut self) -> Replied {
        match self {
            Self::Yes(call) => {
                let reply = call.await;
                *self = Self::No(None);
                reply
            }
            Self::No(reply) => match reply.take() {
                Some(reply) => *reply,
                None => std::future::pending().await,
            },
        }
    }
}

/// A call on its way, and what its server has asked.
pub(in crate::session) struct ParkedCall {
    call: Running,
    questions: mpsc::Receiver<Question>,
    notifications: mpsc::Receiver<RawMessage>,
    /// What the client was asked and has not answered, by the key under which it was.
    open: BTreeMap<String, Question>,
    asked: u32,
}

/// How a round of a call ends.
pub(in crate::session) enum Round {
    /// With the server's reply.
    Answered(Replied),
    /// With questions that the client must answer first.
    Asked,
}

/// To whom a round belongs: where its notifications go, under which token.
pub(in crate::session) struct Listener<'a> {
    pub notifications: Option<&'a mpsc::Sender<RawMessage>>,
    pub progress_token: Option<&'a RawValue>,
    /// From which level on the client wants log messages; nothing if it wants none.
    pub log_level: Option<LogLevel>,
    /// What the client can do, as it said with this round.
    pub profile: Profile,
}

impl ParkedCall {
    /// A call that begins now. The server's questions and notifications come through the channels.
    pub fn new(
        call: BoxFuture<'static, Replied>,
        questions: mpsc::Receiver<Question>,
        notifications: mpsc::Receiver<RawMessage>,
    ) -> Self {
        Self {
            call: Running::Yes(call),
            questions,
            notifications,
            open: BTreeMap::new(),
            asked: 0,
        }
    }

    /// Goes on with the call until the server replies or wants an answer.
    pub async fn go_on(&mut self, listener: &Listener<'_>) -> Round {
        self.refuse_beyond(listener.profile);
        let mut together_until: Option<Instant> = (!self.open.is_empty()).then(Instant::now);
        loop {
            let asking_is_over = together_until.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                Some(notification) = self.notifications.recv() => tell(listener, notification),
                reply = self.call.reply() => {
                    while let Ok(notification) = self.notifications.try_recv() {
                        tell(listener, notification);
                    }
                    return Round::Answered(reply);
                }
                Some(question) = self.questions.recv() => {
                    self.ask(question);
                    self.refuse_beyond(listener.profile);
                    if !self.open.is_empty() {
                        together_until.get_or_insert_with(|| Instant::now() + ASKED_TOGETHER_WITHIN);
                    }
                }
                () = sleep_until(asking_is_over), if together_until.is_some() => return Round::Asked,
            }
        }
    }

    /// Stands still until its client is back. Given up when nobody can come for it any more.
    ///
    /// A call that ends meanwhile (its server has lost patience or is gone, somebody has cancelled it) is over at once;
    /// its client learns of it when it comes.
    pub async fn wait(mut self, taken: oneshot::Receiver<Reply<Option<Box<Self>>>>) {
        tokio::select! {
            biased;
            taken = taken => match taken {
                Ok(reply) => reply.send(Some(Box::new(self))),
                Err(_) => self.give_up(),
            },
            () = self.stand_still() => {}
        }
    }

    /// Goes on for ever.
    async fn stand_still(&mut self) {
        loop {
            tokio::select! {
                biased;
                reply = self.call.reply() => self.call = Running::No(Some(Box::new(reply))),
                Some(question) = self.questions.recv() => {
                    self.ask(question);
                    continue;
                }
            }
            return std::future::pending().await;
        }
    }

    /// Refuses what the client has not said that it can do (basic/patterns/mrtr): it may say less than in the first round.
    fn refuse_beyond(&mut self, profile: Profile) {
        let beyond = self.open.extract_if(.., |_, question| {
            !profile.admits(&question.method, question.params.as_deref())
        });
        beyond.for_each(|(_, question)| question.refuse());
    }

    fn ask(&mut self, question: Question) {
        let bytes = question.params.as_ref().map_or(0, |params| params.get().len());
        if self.open.len() >= QUESTIONS_MAX
            || self.asked >= QUESTIONS_OF_CALL_MAX
            || bytes > QUESTION_BYTES_MAX
        {
            question.fail("the client has been asked too much in this call");
            return;
        }
        self.asked += 1;
        self.open.insert(question.key(), question);
    }

    /// Gives the server the client's answers. What is no object is no answer and is asked for again; what was not asked
    /// is passed over.
    pub fn take_answers(&mut self, input_responses: Option<&RawValue>) {
        let Some(responses) = input_responses else { return };
        let answered: Vec<(String, Box<RawValue>)> = self
            .open
            .keys()
            .filter_map(|key| Some((key.clone(), edit::member(responses, key)?)))
            .filter(|(_, answer)| answer.get().starts_with('{'))
            .map(|(key, answer)| (key, answer.to_owned()))
            .collect();
        for (key, answer) in answered {
            if let Some(question) = self.open.remove(&key) {
                question.answer(&RawReply::Result(answer));
            }
        }
    }

    /// The result that tells the client what it is asked; the state brings it back here.
    pub fn input_required(&self, state: &str) -> String {
        let mut result = r#"{"resultType":"input_required","inputRequests":{"#.to_owned();
        for (index, (key, question)) in self.open.iter().enumerate() {
            if index > 0 {
                result.push(',');
            }
            edit::push_string(&mut result, key);
            result.push(':');
            question.push_to(&mut result);
        }
        result.push_str("},\"requestState\":");
        edit::push_string(&mut result, state);
        result.push('}');
        result
    }

    /// The client has not come back: its user has, so to say, closed the form.
    pub fn give_up(mut self) {
        for question in std::mem::take(&mut self.open).into_values() {
            if question.method == method::ELICITATION_CREATE
                && let Ok(cancel) = RawValue::from_string(r#"{"action":"cancel"}"#.to_owned())
            {
                question.answer(&RawReply::Result(cancel));
            } else {
                question.fail("the client has not answered in time");
            }
        }
    }
}

/// Passes a notification on. The server knows the token of the call's first round only.
fn tell(listener: &Listener<'_>, notification: RawMessage) {
    let Some(sender) = listener.notifications else {
        return;
    };
    let Ok(message) = notification.message() else {
        return;
    };
    let told = match (message.method(), listener.progress_token) {
        (method::NOTIFICATION_PROGRESS, Some(token)) => with_token(&message, token),
        (method::NOTIFICATION_PROGRESS, None) => None,
        (method::NOTIFICATION_MESSAGE, _) => {
            let wanted = listener.log_level.is_some_and(|wanted| reaches(&message, wanted));
            wanted.then(|| notification.clone())
        }
        _ => Some(notification.clone()),
    };
    if let Some(told) = told {
        // What does not fit is dropped, as progress may be.
        let _ = sender.try_send(told);
    }
}

/// Whether a log message is at least so severe. A level that is not known is taken for severe.
fn reaches(message: &Message<'_>, wanted: LogLevel) -> bool {
    let level = message
        .params
        .and_then(|params| edit::string_member(params, "level"));
    level
        .and_then(|level| LogLevel::of(&level))
        .is_none_or(|level| level >= wanted)
}

fn with_token(message: &Message<'_>, token: &RawValue) -> Option<RawMessage> {
    let text = edit::with_param(message, meta::PROGRESS_TOKEN, token.get())?;
    RawMessage::new(text).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::upstream::question_for_test as question;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use troupe_protocol::mcp::ClientCapabilities;

    /// A client that can answer everything and listens to nothing.
    fn silent() -> Listener<'static> {
        Listener {
            notifications: None,
            progress_token: None,
            log_level: None,
            profile: able(r#"{"elicitation":{},"sampling":{}}"#),
        }
    }

    fn able(capabilities: &str) -> Profile {
        Profile::of(&ClientCapabilities::new(raw(capabilities)))
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    /// A call that never ends by itself, whose client was sent away with a form; and where its answer comes out.
    async fn asked() -> (ParkedCall, Arc<Mutex<Option<String>>>) {
        let (asking, questions) = mpsc::channel(4);
        let (_notifying, notifications) = mpsc::channel(4);
        let mut parked = ParkedCall::new(Box::pin(std::future::pending()), questions, notifications);
        let (form, answer) = question("elicitation/create");
        asking.try_send(form).unwrap();
        assert!(matches!(parked.go_on(&silent()).await, Round::Asked));
        (parked, answer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_stands_still_until_everything_asked_is_answered() {
        let (asking, questions) = mpsc::channel(4);
        let (_notifying, notifications) = mpsc::channel(4);
        let (reply, replied) = tokio::sync::oneshot::channel();
        let call = Box::pin(async move { Ok(replied.await.unwrap()) });
        let mut parked = ParkedCall::new(call, questions, notifications);
        let (form, form_answer) = question("elicitation/create");
        let (model, model_answer) = question("sampling/createMessage");
        asking.try_send(form).unwrap();
        asking.try_send(model).unwrap();
        assert!(matches!(parked.go_on(&silent()).await, Round::Asked));
        let asked: serde_json::Value =
            serde_json::from_str(&parked.input_required("s").replace("1e400", "1")).unwrap();
        for method in ["elicitation/create", "sampling/createMessage"] {
            assert_eq!(asked["inputRequests"][method]["method"], method);
        }
        assert_eq!(asked["requestState"], "s");

        let answers =
            raw(r#"{"elicitation/create":{"action":"accept"},"sampling/createMessage":12345,"other":{}}"#);
        parked.take_answers(Some(&answers));
        assert!(form_answer.lock().as_ref().unwrap().contains("accept"));
        assert!(model_answer.lock().is_none(), "a number is no answer");
        assert!(
            matches!(parked.go_on(&silent()).await, Round::Asked),
            "asked again"
        );
        parked.take_answers(Some(&raw(r#"{"sampling/createMessage":{"model":"m"}}"#)));
        reply.send(RawReply::Result(raw("{}"))).unwrap();
        assert!(matches!(parked.go_on(&silent()).await, Round::Answered(Ok(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_asked_only_what_it_says_it_can_answer_in_this_round() {
        let (asking, questions) = mpsc::channel(4);
        let (_notifying, notifications) = mpsc::channel(4);
        let mut parked = ParkedCall::new(Box::pin(std::future::pending()), questions, notifications);
        let (form, _) = question("elicitation/create");
        let (model, model_answer) = question("sampling/createMessage");
        asking.try_send(form).unwrap();
        asking.try_send(model).unwrap();
        assert!(matches!(parked.go_on(&silent()).await, Round::Asked));
        let forms_only = Listener {
            profile: able(r#"{"elicitation":{}}"#),
            ..silent()
        };
        assert!(matches!(parked.go_on(&forms_only).await, Round::Asked));
        assert!(model_answer.lock().as_ref().unwrap().contains("-32601"));
        assert!(!parked.input_required("s").contains("sampling"));
    }

    #[tokio::test]
    async fn who_does_not_come_back_has_closed_the_form() {
        let (parked, answer) = asked().await;
        parked.give_up();
        assert!(answer.lock().as_ref().unwrap().contains(r#"{"action":"cancel"}"#));
    }

    #[tokio::test]
    async fn progress_comes_under_the_token_of_the_round() {
        let (_asking, questions) = mpsc::channel(1);
        let (notifying, notifications) = mpsc::channel(4);
        let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"first","progress":1}}"#;
        notifying.try_send(RawMessage::new(progress).unwrap()).unwrap();
        for level in ["error", "info"] {
            let log = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#
            );
            notifying.try_send(RawMessage::new(log).unwrap()).unwrap();
        }
        let call = Box::pin(async {
            let result = RawValue::from_string("{}".to_owned()).unwrap();
            Ok(RawReply::Result(result))
        });
        let mut parked = ParkedCall::new(call, questions, notifications);
        let (sender, mut told) = mpsc::channel(4);
        let token = raw("\"second\"");
        let listener = Listener {
            notifications: Some(&sender),
            progress_token: Some(&token),
            log_level: Some(LogLevel::Warning),
            ..silent()
        };
        assert!(matches!(parked.go_on(&listener).await, Round::Answered(_)));
        assert!(told.try_recv().unwrap().as_str().contains("\"second\""));
        assert!(told.try_recv().unwrap().as_str().contains("\"error\""));
        assert!(told.try_recv().is_err(), "less severe than what it wants");
    }

    #[tokio::test]
    async fn a_call_that_is_over_before_its_client_is_back_tells_it_then() {
        let (_asking, questions) = mpsc::channel(1);
        let (_notifying, notifications) = mpsc::channel(1);
        let ended = Arc::new(AtomicBool::new(false));
        let call = {
            let ended = Arc::clone(&ended);
            async move {
                ended.store(true, Ordering::Relaxed);
                Ok(RawReply::Error(raw(r#"{"code":-1,"message":"cancelled"}"#)))
            }
        };
        let parked = ParkedCall::new(Box::pin(call), questions, notifications);
        let (pass, taken) = oneshot::channel();
        let waiting = parked.wait(taken);
        let taking = async {
            tokio::task::yield_now().await;
            assert!(ended.load(Ordering::Relaxed), "it ends without its client");
            let (reply, back) = Reply::channel();
            assert!(pass.send(reply).is_ok());
            back.await.unwrap().unwrap()
        };
        let ((), mut call) = tokio::join!(waiting, taking);
        assert!(matches!(
            call.go_on(&silent()).await,
            Round::Answered(Ok(RawReply::Error(_)))
        ));
    }

    #[tokio::test]
    async fn a_call_for_which_nobody_can_come_any_more_is_given_up() {
        let (parked, answer) = asked().await;
        let (pass, taken) = oneshot::channel();
        drop(pass);
        parked.wait(taken).await;
        assert!(answer.lock().as_ref().unwrap().contains("cancel"));
    }
}
