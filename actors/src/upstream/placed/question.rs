//! What nodes ask each other about servers that run on one of them: the words.
//!
//! Parameters and results are texts: they pass byte for byte, whatever numbers and spellings are in them; long ones in pieces.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use troupe_protocol::access::Principal;
use troupe_protocol::mcp::{ListKind, Profile};
use troupe_protocol::wire::AsJson;

use crate::upstream::error::UpstreamError;

/// What the node is asked that runs a server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// Connect if need be, and tell what the server said of itself: [`Answer::Text`] with an `UpstreamInfo`.
    Ready,
    /// A request: [`Answer::Result`] or [`Answer::Error`].
    Request {
        method: String,
        params: Option<Text>,
        principal: AsJson<Option<Principal>>,
        /// The capabilities of the client, an object.
        client: String,
        wants_notifications: bool,
        /// What the client can do for a legacy server: such servers have a process for each kind of clients.
        profile: Profile,
        /// The asker's name for the request, where it can be asked meanwhile.
        asked_in: Option<u128>,
    },
    /// The line that answers what a server has asked ([`Part::Question`]): [`Answer::Done`].
    Answered { request: u128, number: u32, line: Text },
    /// A notification: [`Answer::Done`].
    Notify { method: String, params: Option<Text> },
    /// What the server lists: [`Answer::Text`] with an array of the items.
    List { kind: ListKind },
    /// The last lines of the server's log: [`Answer::Text`] with an array of `LogLine`.
    Logs,
    /// A piece of a text that is too long for one message: [`Answer::Done`].
    Piece { upload: u128, text: String },
    /// The resources that clients of this kind at the asker's node want to hear of, an array of all of them:
    /// [`Answer::Text`] with an object of those that are refused.
    Watch { uris: Text, profile: Profile },
}

/// A text in a question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Text {
    /// Here it is.
    Whole(String),
    /// It was sent before, in pieces.
    Uploaded(u128),
}

/// What comes before the end of an answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Part {
    /// A message of the server's that belongs to the request.
    Notification(String),
    /// A piece of the answer's text.
    Piece(String),
    /// What a legacy server asks before it answers, in the words and with the id that it gave it.
    Question {
        number: u32,
        method: String,
        params: Option<String>,
        id: String,
    },
}

/// The end of an answer: the rest of its text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The server's result.
    Result(String),
    /// The server's error.
    Error(String),
    /// What else was asked for.
    Text(String),
    /// It is done.
    Done,
}

/// How the node that runs a server answers.
pub(super) type Answered = Result<Answer, UpstreamError>;

/// The raw items of a list as one array.
pub(super) fn array_of<'a>(items: impl Iterator<Item = &'a RawValue>) -> String {
    let mut array = "[".to_owned();
    for item in items {
        if array.len() > 1 {
            array.push(',');
        }
        array.push_str(item.get());
    }
    array.push(']');
    array
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn items_stay_as_they_are() {
        let items =
            [r#"{"n":1e400}"#, r#"{ "x" : 1 }"#].map(|text| RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(
            array_of(items.iter().map(|item| &**item)),
            r#"[{"n":1e400},{ "x" : 1 }]"#
        );
        assert_eq!(array_of(std::iter::empty()), "[]");
    }
}
