//! Input that a modern server wants of a legacy client.
//!
//! A modern server that needs something of the user does not ask: it answers that input is required, and wants the
//! same call again with the input in it (2026-07-28, basic/patterns/mrtr). A legacy client knows the other way only:
//! requests that come on the stream of its call. So the gateway asks the client, one request for each input, and makes
//! the call again with the answers, until the server has what it needs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::timeout;
use troupe_protocol::jsonrpc::edit::{self, ObjectEdits};
use troupe_protocol::jsonrpc::{ErrorObject, RawMessage, RawReply};
use troupe_protocol::server::ServerName;

use super::refusal::Refusal;
use super::session::Session;

/// How often one call may want input. A server that wants more does not know what it wants.
pub(super) const INPUT_ROUNDS_MAX: usize = 10;
/// How many inputs one round may want.
const INPUTS_MAX: usize = 16;
/// How long a person has to answer.
const INPUT_TIME_MAX: Duration = Duration::from_secs(300);

/// A result that says that input is required.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InputRequired {
    #[serde(default)]
    input_requests: BTreeMap<String, InputRequest>,
    #[serde(default)]
    request_state: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
pub(super) struct InputRequest {
    method: String,
    #[serde(default)]
    params: Option<Box<RawValue>>,
}

impl InputRequest {
    pub fn method(&self) -> &str {
        &self.method
    }

    pub fn params(&self) -> Option<&RawValue> {
        self.params.as_deref()
    }
}

/// What a member `inputRequests` has, within bounds; what cannot be read is as if it were not there.
pub(super) fn requests_of(input_requests: &RawValue) -> Vec<(String, InputRequest)> {
    let all: BTreeMap<String, InputRequest> = serde_json::from_str(input_requests.get()).unwrap_or_default();
    all.into_iter().take(INPUTS_MAX).collect()
}

/// Asks the client for what the server wants; answers the parameters of the next attempt.
///
/// # Errors
/// If the client refuses, is gone, or takes too long, or if the server's wish cannot be read.
pub(super) async fn gather(
    server: &ServerName,
    session: &Session,
    to_client: &mpsc::Sender<RawMessage>,
    params: Option<&RawValue>,
    result: &RawValue,
) -> Result<Box<RawValue>, Refusal> {
    let wanted: InputRequired = serde_json::from_str(result.get())
        .map_err(|error| refused(server, format!("its wish cannot be read: {error}")))?;
    if wanted.input_requests.len() > INPUTS_MAX {
        return Err(refused(
            server,
            format!("it wants more than {INPUTS_MAX} inputs at once"),
        ));
    }
    let asked = wanted.input_requests.iter().map(|(key, request)| async move {
        let (method, params) = (request.method.as_str(), request.params.as_deref());
        if !session.profile.admits(method, params) {
            let reason = format!("the client has not declared that it can answer {method}");
            return Err(refused(server, reason));
        }
        let reply = ask_client(session, to_client, method, params).await;
        let answer = reply.and_then(|reply| granted(method, reply));
        answer
            .map(|answer| (key.as_str(), answer))
            .map_err(|reason| refused(server, reason))
    });
    let answers = try_join_all(asked).await?;
    with_input(params, &answers, wanted.request_state.as_deref())
        .ok_or_else(|| refused(server, "the call's parameters are not an object".to_owned()))
}

fn refused(server: &ServerName, reason: String) -> Refusal {
    Refusal::InputRefused {
        server: server.clone(),
        reason,
    }
}

fn granted(method: &str, reply: RawReply) -> Result<Box<RawValue>, String> {
    match reply {
        RawReply::Result(result) => Ok(result),
        RawReply::Error(error) => {
            let said = ErrorObject::read(&error).map_or_else(String::new, |error| error.message);
            Err(format!("the client refused {method}: {said}"))
        }
    }
}

/// Puts a request to the client, on the stream of its call; answers with what it answered, or why there is no answer.
pub(super) async fn ask_client(
    session: &Session,
    to_client: &mpsc::Sender<RawMessage>,
    method: &str,
    params: Option<&RawValue>,
) -> Result<RawReply, String> {
    let question = session.ask().ok_or("the client is asked too much already")?;
    let text = edit::call(Some(question.id()), method, params, &ObjectEdits::default());
    let message = RawMessage::new(text).map_err(|error| error.to_string())?;
    let answered = async {
        to_client.send(message).await.map_err(|_| "the client is gone")?;
        question.answer().await.ok_or("the session is over")
    };
    match timeout(INPUT_TIME_MAX, answered).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(gone)) => Err(gone.to_owned()),
        Err(_) => Err(format!(
            "nobody answered {method} within {} s",
            INPUT_TIME_MAX.as_secs()
        )),
    }
}

/// The parameters of the call with the answers in them, and the server's state as it gave it. What an earlier round
/// added is replaced.
fn with_input(
    params: Option<&RawValue>,
    answers: &[(&str, Box<RawValue>)],
    state: Option<&RawValue>,
) -> Option<Box<RawValue>> {
    let mut responses = String::from("{");
    for (index, (key, answer)) in answers.iter().enumerate() {
        if index > 0 {
            responses.push(',');
        }
        edit::push_string(&mut responses, key);
        responses.push(':');
        responses.push_str(answer.get());
    }
    responses.push('}');
    let mut edits = ObjectEdits {
        set: vec![("inputResponses", Cow::Owned(responses))],
        remove: Vec::new(),
    };
    match state {
        Some(state) => edits.set.push(("requestState", Cow::Borrowed(state.get()))),
        None => edits.remove.push("requestState"),
    }
    let empty = RawValue::from_string("{}".to_owned()).ok()?;
    RawValue::from_string(edit::with_members(params.unwrap_or(&empty), &edits)?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::session::{NewSession, settled_for_test};
    use super::super::session_id::SessionId;
    use super::*;
    use std::sync::Arc;

    use troupe_protocol::mcp::ClientCapabilities;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn session() -> Arc<Session> {
        session_of(r#"{"elicitation":{},"roots":{}}"#)
    }

    /// The session of a client that can do this.
    fn session_of(capabilities: &str) -> Arc<Session> {
        let settled = NewSession {
            client_capabilities: ClientCapabilities::new(raw(capabilities)),
            ..settled_for_test("ann")
        };
        Arc::new(Session::new(SessionId::for_test("s"), settled, 0))
    }

    fn server() -> ServerName {
        ServerName::new("forms").unwrap()
    }

    const WISH: &str = r#"{"resultType":"input_required","requestState":"s1","inputRequests":{
        "name":{"method":"elicitation/create","params":{"message":"who?"}},"dirs":{"method":"roots/list"}}}"#;

    /// Answers every request with its method as the result.
    async fn client(session: Arc<Session>, mut requests: mpsc::Receiver<RawMessage>) {
        while let Some(request) = requests.recv().await {
            let request = request.message().unwrap();
            let result = raw(&format!("{{\"for\":\"{}\"}}", request.method()));
            session.deliver(request.id.unwrap().get(), RawReply::Result(result));
        }
    }

    #[tokio::test]
    async fn the_client_is_asked_and_its_answers_go_into_the_next_attempt() {
        let (forms, (to_client, requests)) = (server(), mpsc::channel(4));
        let session = session();
        let answering = client(Arc::clone(&session), requests);
        let params = raw(r#"{"name":"greet","n":1e400}"#);
        let asking = async {
            let next = gather(&forms, &session, &to_client, Some(&params), &raw(WISH))
                .await
                .unwrap();
            drop(to_client);
            next
        };
        let (next, ()) = tokio::join!(asking, answering);
        assert_eq!(
            next.get(),
            r#"{"name":"greet","n":1e400,"inputResponses":{"dirs":{"for":"roots/list"},"name":{"for":"elicitation/create"}},"requestState":"s1"}"#
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_refuses_or_says_nothing_ends_the_call() {
        let session = session();
        let (forms, (to_client, mut requests)) = (server(), mpsc::channel(4));
        let refusing = async {
            let request: RawMessage = requests.recv().await.unwrap();
            let id = request.message().unwrap().id.unwrap().get().to_owned();
            session.deliver(&id, RawReply::Error(raw(r#"{"code":-1,"message":"no"}"#)));
        };
        let wish = raw(WISH);
        let (refused, ()) = tokio::join!(gather(&forms, &session, &to_client, None, &wish), refusing);
        assert!(refused.unwrap_err().to_string().contains("refused"));
        let silent = gather(&forms, &session, &to_client, None, &wish)
            .await
            .unwrap_err();
        assert!(silent.to_string().contains("300 s"), "{silent}");
    }

    #[tokio::test]
    async fn nothing_is_asked_that_the_client_has_not_declared() {
        let session = session_of(r#"{"elicitation":{}}"#);
        let (to_client, _requests) = mpsc::channel(4);
        let refused = gather(&server(), &session, &to_client, None, &raw(WISH)).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("roots/list"), "{refused}");
    }

    #[test]
    fn a_later_round_replaces_what_an_earlier_one_added() {
        let params = raw(r#"{"name":"x","inputResponses":{"a":1},"requestState":"old"}"#);
        let next = with_input(Some(&params), &[("b", raw("2"))], None).unwrap();
        assert_eq!(next.get(), r#"{"name":"x","inputResponses":{"b":2}}"#);
    }
}
