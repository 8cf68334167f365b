#![allow(clippy::unwrap_used)]

use serde_json::json;
use troupe_protocol::event::FlowEvent;
use troupe_protocol::id::{ConversationId, CorrelationId};
use troupe_protocol::routing::PlannerKind;
use troupe_protocol::time::Timestamp;
use ulid::Ulid;

use super::*;

fn route(tool: &str, arguments: Value, decision: Decision) -> Route {
    Route {
        server: "s".to_owned(),
        tool: tool.to_owned(),
        arguments,
        confidence: 0.9,
        decision,
        candidates: vec![candidate("first"), candidate("second")],
        planner: PlannerKind::Rules,
        sources: Vec::new(),
        why: "because".to_owned(),
    }
}

fn candidate(tool: &str) -> Candidate {
    Candidate {
        server: "s".to_owned(),
        tool: tool.to_owned(),
        score: 1.0,
        lexical_score: 1.0,
        dense_score: None,
        confidence: 0.5,
    }
}

fn call(tool: &str, arguments: Value, safe_to_repeat: bool) -> Routed {
    Routed::Call {
        route: route(tool, arguments, Decision::Call),
        safe_to_repeat,
        note: None,
    }
}

/// A conversation with what a shell would have written.
struct Played {
    state: ConversationState,
    written: Vec<FlowEvent>,
    turn_id: TurnId,
}

impl Played {
    fn new() -> Self {
        Self {
            state: ConversationState::default(),
            written: Vec::new(),
            turn_id: TurnId::from_ulid(Ulid::nil()),
        }
    }

    fn say(&mut self, text: &str) -> Vec<Effect> {
        self.turn_id = TurnId::from_ulid(Ulid::generate());
        let effects = self.state.said(text);
        self.play(effects)
    }

    /// Writes what is to be written; answers the rest.
    fn play(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut rest = Vec::new();
        for effect in effects {
            let Effect::Write(step) = effect else {
                rest.push(effect);
                continue;
            };
            let event = FlowEvent {
                correlation_id: CorrelationId(1),
                conversation_id: ConversationId::from_ulid(Ulid::nil()),
                turn_id: self.turn_id,
                at: Timestamp::from_unix_ms(1_000 + self.written.len() as i64),
                step,
            };
            self.written.push(event.clone());
            self.state.apply(event);
        }
        rest
    }

    fn routed(&mut self, routed: Routed) -> Vec<Effect> {
        let effects = self.state.routed(routed);
        self.play(effects)
    }

    fn answered(&mut self, text: &str) -> Vec<Effect> {
        let effects = self
            .state
            .call_answered(json!({"content": [{"type": "text", "text": text}]}), 5);
        self.play(effects)
    }

    fn last(&self) -> &Turn {
        self.state.last_turn().unwrap()
    }

    /// The state after a crash now.
    fn crashed(&self) -> Self {
        Self {
            state: ConversationState::rebuild(self.written.clone()),
            written: self.written.clone(),
            turn_id: self.turn_id,
        }
    }
}

fn failure(may_have_had_effects: bool, is_retryable: bool) -> CallFailure {
    CallFailure {
        problem: Problem::new(Code::UpstreamDied, "it died"),
        may_have_had_effects,
        is_retryable,
    }
}

#[test]
fn a_question_goes_through_its_steps_to_the_answer() {
    let mut played = Played::new();
    let effects = played.say("what time is it in Tokyo?");
    assert!(
        matches!(effects.as_slice(), [Effect::Route { question, .. }] if question == "what time is it in Tokyo?")
    );
    let effects = played.routed(call("now", json!({"timezone": "Asia/Tokyo"}), true));
    assert!(
        matches!(effects.as_slice(), [Effect::Call { tool, .. }] if tool == "now"),
        "{effects:?}"
    );
    assert_eq!(played.last().status, TurnStatus::Calling);
    assert!(played.answered("21:30").is_empty());
    let names: Vec<&'static str> = played.written.iter().map(|event| (&event.step).into()).collect();
    assert_eq!(
        names,
        [
            "UserQueryReceived",
            "RouteChosen",
            "McpCallStarted",
            "McpResponseReady",
            "AnswerReady"
        ]
    );
    assert_eq!(
        (played.last().status, played.last().answer.as_str()),
        (TurnStatus::Answered, "21:30")
    );
    assert_eq!(played.last().duration_ms, Some(4));
    assert!(played.state.running_turn().is_none());
    let again = played.crashed();
    assert_eq!(again.last(), played.last(), "read back it is the same");
    assert!(again.state.running_turn().is_none());
}

#[test]
fn a_missing_argument_is_asked_for_and_the_reply_fills_it() {
    let mut played = Played::new();
    played.say("show the log");
    let asked = Routed::Missing {
        route: route("log", json!({"count": 3}), Decision::Call),
        names: vec!["repo_path".to_owned()],
        question: "I need one more thing: the repo path.".to_owned(),
    };
    assert!(played.routed(asked).is_empty());
    assert_eq!(played.last().status, TurnStatus::ArgumentNeeded);
    for mut played in [played.crashed(), played] {
        let effects = played.say("/srv/app");
        let [Effect::Fill(task)] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        assert_eq!(
            (task.tool.as_str(), task.question.as_str(), task.reply.as_str()),
            ("log", "show the log", "/srv/app")
        );
        assert_eq!(
            (&task.missing, task.arguments["count"].as_i64()),
            (&vec!["repo_path".to_owned()], Some(3))
        );
        let effects = played.state.not_an_answer();
        assert!(matches!(effects.as_slice(), [Effect::Route { question, .. }] if question == "/srv/app"));
    }
}

#[test]
fn an_offered_tool_is_picked_by_its_number() {
    let mut played = Played::new();
    played.say("do the thing");
    let nearest = route("first", json!({}), Decision::OfferNearest);
    let offered = vec![
        (candidate("first"), "Does one thing".to_owned()),
        (candidate("second"), String::new()),
    ];
    played.routed(Routed::NoCall {
        route: Some(nearest),
        decision: Decision::OfferNearest,
        offered,
    });
    assert_eq!(played.last().status, TurnStatus::NothingFits);
    assert!(
        played.last().answer.contains("1. s/first: Does one thing"),
        "{}",
        played.last().answer
    );
    let mut other = played.crashed();
    let effects = played.say("2");
    assert!(
        matches!(effects.as_slice(), [Effect::Fill(task)] if task.tool == "second" && task.question == "do the thing")
    );
    let effects = other.say("something else");
    assert!(
        matches!(effects.as_slice(), [Effect::Route { .. }]),
        "{effects:?}"
    );
}

#[test]
fn a_follow_up_keeps_the_tool() {
    let mut played = Played::new();
    played.say("what time is it in Tokyo?");
    played.routed(call("now", json!({"timezone": "Asia/Tokyo"}), true));
    played.answered("21:30");
    let effects = played.say("and in Paris?");
    let [Effect::Fill(task)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert!(task.context.follows_up && task.missing.is_empty());
    assert_eq!(task.context.earlier["timezone"], "Asia/Tokyo");
}

#[test]
fn a_call_that_may_have_had_effects_is_not_made_again_after_a_crash() {
    let mut played = Played::new();
    played.say("send it");
    played.routed(call("send", json!({}), false));
    let mut again = played.crashed();
    let effects = again.state.resume();
    assert!(again.play(effects).is_empty(), "nothing is called");
    assert_eq!(again.last().status, TurnStatus::Failed);
    assert!(
        again.last().answer.contains("check before you ask again"),
        "{}",
        again.last().answer
    );
}

#[test]
fn a_harmless_call_is_made_again_after_a_crash() {
    let mut played = Played::new();
    played.say("look");
    played.routed(call("look", json!({"a": 1}), true));
    let mut again = played.crashed();
    let effects = again.state.resume();
    assert!(
        matches!(effects.as_slice(), [Effect::Call { tool, .. }] if tool == "look"),
        "{effects:?}"
    );
    again.answered("seen");
    assert_eq!(again.last().status, TurnStatus::Answered);
}

#[test]
fn a_crash_at_any_other_step_goes_on_from_there() {
    let mut played = Played::new();
    played.say("look");
    let effects = played.crashed().state.resume();
    assert!(
        matches!(effects.as_slice(), [Effect::Route { .. }]),
        "{effects:?}"
    );

    played.routed(call("look", json!({}), false));
    played.answered("seen");
    let mut cut = played.crashed();
    cut.written.pop();
    let mut cut = cut.crashed();
    let effects = cut.state.resume();
    assert!(cut.play(effects).is_empty());
    assert_eq!(
        (cut.last().status, cut.last().answer.as_str()),
        (TurnStatus::Answered, "seen")
    );
}

#[test]
fn a_failed_call_is_made_once_more_only_where_that_is_safe() {
    let attempts = |safe: bool, failure_: CallFailure| {
        let mut played = Played::new();
        played.say("go");
        played.routed(call("go", json!({}), safe));
        let mut calls = 1;
        loop {
            let effects = played.state.call_failed(failure_.clone());
            let rest = played.play(effects);
            if rest.is_empty() {
                return (calls, played.last().answer.contains("check before"));
            }
            calls += 1;
        }
    };
    assert_eq!(attempts(false, failure(true, true)), (1, true));
    assert_eq!(attempts(true, failure(true, true)), (2, false));
    assert_eq!(attempts(false, failure(false, true)), (2, false));
    assert_eq!(attempts(true, failure(true, false)), (1, false));
}

#[test]
fn cancelling_says_what_may_have_happened() {
    let mut played = Played::new();
    played.say("go");
    played.routed(call("go", json!({}), false));
    let effects = played.state.cancelled();
    assert_eq!(played.play(effects), [Effect::Abort]);
    assert_eq!(played.last().status, TurnStatus::Cancelled);
    assert!(played.last().answer.contains("may have been at work"));
    assert!(
        played.state.cancelled().is_empty(),
        "there is nothing left to cancel"
    );
}

#[test]
fn the_number_of_turns_is_bounded() {
    let mut played = Played::new();
    for number in 0..TURNS_MAX {
        played.say(&format!("question {number}"));
        played.routed(Routed::NoCall {
            route: None,
            decision: Decision::Nothing,
            offered: Vec::new(),
        });
    }
    let first = played.state.turns().next().unwrap().id;
    assert_eq!(played.state.said("one more")[0], Effect::Drop(first));
}

#[test]
fn a_large_result_is_kept_as_what_the_answer_says() {
    let mut played = Played::new();
    played.say("read it all");
    played.routed(call("read", json!({}), true));
    played.answered(&"x".repeat(200_000));
    let kept = serde_json::to_vec(&played.written).unwrap().len();
    assert!(kept < 3 * RESULT_BYTES_MAX, "{kept} bytes");
    assert_eq!(
        played.last().calls[0].result.as_ref().unwrap()["_meta"]["troupe/result_bytes"],
        200_039
    );
}
