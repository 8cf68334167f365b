//! Tools that need something of the client: as a pure function from what is known to the next round.
//!
//! A modern client is answered that input is required, and calls again; a legacy client is asked on the call's stream
//! (both in [`super::server`]). The tools know nothing of that: they are asked for their next [`Step`] with all the
//! input that this round brought, until they have an answer.

use rmcp::model::{
    CallToolResult, ClientCapabilities, ContentBlock, GetPromptResult, InputRequest, InputRequests,
    InputResponses, JsonObject,
};
use serde_json::{Value, json};

use super::answers;

/// What a round knows.
pub struct Known<'a> {
    pub is_modern: bool,
    pub arguments: &'a JsonObject,
    pub capabilities: &'a ClientCapabilities,
    /// What the client gave in this round.
    pub input: &'a InputResponses,
    /// What the tool noted in the round before.
    pub stage: Option<&'a str>,
}

/// What comes next.
pub enum Step<Answer> {
    Answer(Answer),
    /// These inputs are needed; the stage is handed to the next round.
    Ask(InputRequests, Option<&'static str>),
}

/// The next step of a tool of this kind; nothing if it is of another.
pub fn next(tool: &str, known: &Known<'_>) -> Option<Step<CallToolResult>> {
    let name_form = || form("What is your name?", &json!({ "name": { "type": "string" } }));
    let step = match tool {
        "test_sampling" => {
            let prompt = text_argument(known, "prompt");
            one(
                known,
                "answer",
                || sampling(&prompt),
                |given| format!("LLM response: {}", sampled(given)),
            )
        }
        "test_elicitation" => {
            let message = text_argument(known, "message");
            let fields = json!({ "username": { "type": "string" }, "email": { "type": "string" } });
            one(
                known,
                "form",
                || form(&message, &fields),
                |given| filled("User response", given),
            )
        }
        "test_elicitation_sep1034_defaults" => {
            let form = || optional_form("Please look through these", &fields_with_defaults());
            one(known, "form", form, |given| {
                filled("Elicitation completed", given)
            })
        }
        "test_elicitation_sep1330_enums" => {
            let form = || optional_form("Please choose", &fields_with_choices());
            one(known, "form", form, |given| {
                filled("Elicitation completed", given)
            })
        }
        "test_streaming_elicitation" => {
            let form = || form("Please give a value", &json!({ "value": { "type": "string" } }));
            one(known, "value", form, |given| filled("Value", given))
        }
        "test_input_required_result_elicitation" => one(known, "user_name", name_form, |given| {
            format!("Hello, {}!", field(given, "name"))
        }),
        "test_input_required_result_sampling" => {
            let question = || sampling("What is the capital of France?");
            one(known, "capital_question", question, |given| {
                format!("It is {}", sampled(given))
            })
        }
        "test_input_required_result_list_roots" => one(known, "client_roots", roots, |given| {
            format!("The roots are {}", given["roots"])
        }),
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            confirmed(known)
        }
        "test_input_required_result_multiple_inputs" => three_at_once(known),
        "test_input_required_result_multi_round" => one_after_the_other(known),
        "test_input_required_result_capabilities" => what_the_client_can(known),
        _ => return None,
    };
    Some(step)
}

/// The next step of a prompt of this kind.
pub fn next_of_prompt(prompt: &str, known: &Known<'_>) -> Option<Step<GetPromptResult>> {
    if prompt != "test_input_required_result_prompt" {
        return None;
    }
    let Some(given) = given(known, "user_context") else {
        let context = form("In which context?", &json!({ "context": { "type": "string" } }));
        return Some(Step::Ask(
            InputRequests::from([("user_context".to_owned(), context)]),
            None,
        ));
    };
    let text = format!("Prompt with context: {}", field(given, "context"));
    Some(Step::Answer(answers::of_user(vec![answers::text(&text)])))
}

/// Wants one input and answers with it. What is no object is no input, and is asked for again.
fn one(
    known: &Known<'_>,
    key: &str,
    request: impl FnOnce() -> InputRequest,
    answer: impl FnOnce(&Value) -> String,
) -> Step<CallToolResult> {
    match given(known, key) {
        Some(value) => done(&answer(value)),
        None => Step::Ask(InputRequests::from([(key.to_owned(), request())]), None),
    }
}

fn confirmed(known: &Known<'_>) -> Step<CallToolResult> {
    const ASKED: &str = "asked";
    if known.stage == Some(ASKED) && given(known, "confirm").is_some() {
        return done("Confirmed: state-ok");
    }
    let confirm = form("Please confirm", &json!({ "ok": { "type": "boolean" } }));
    Step::Ask(
        InputRequests::from([("confirm".to_owned(), confirm)]),
        Some(ASKED),
    )
}

fn three_at_once(known: &Known<'_>) -> Step<CallToolResult> {
    const ASKED: &str = "asked for three";
    let keys = ["user_name", "greeting", "client_roots"];
    if known.stage == Some(ASKED) && keys.iter().all(|key| given(known, key).is_some()) {
        return done("All three were given");
    }
    let requests = [
        form("What is your name?", &json!({ "name": { "type": "string" } })),
        sampling("Say hello"),
        roots(),
    ];
    let requests = keys.map(str::to_owned).into_iter().zip(requests);
    Step::Ask(requests.collect(), Some(ASKED))
}

fn one_after_the_other(known: &Known<'_>) -> Step<CallToolResult> {
    const FIRST: &str = "first";
    const SECOND: &str = "second";
    match known.stage {
        Some(SECOND) if given(known, "step2").is_some() => done("Both were given"),
        Some(FIRST | SECOND) => {
            let color = form("Which colour?", &json!({ "color": { "type": "string" } }));
            Step::Ask(InputRequests::from([("step2".to_owned(), color)]), Some(SECOND))
        }
        _ => {
            let name = form("What is your name?", &json!({ "name": { "type": "string" } }));
            Step::Ask(InputRequests::from([("step1".to_owned(), name)]), Some(FIRST))
        }
    }
}

fn what_the_client_can(known: &Known<'_>) -> Step<CallToolResult> {
    if !known.input.is_empty() {
        return done("Thank you");
    }
    let can = known.capabilities;
    let name = form("What is your name?", &json!({ "name": { "type": "string" } }));
    let all = [
        (can.elicitation.is_some(), "user_name", name),
        (can.sampling.is_some(), "greeting", sampling("Say hello")),
        (can.roots.is_some(), "client_roots", roots()),
    ];
    let possible = all.into_iter().filter(|(is_possible, ..)| *is_possible);
    let requests: InputRequests = possible
        .map(|(_, key, request)| (key.to_owned(), request))
        .collect();
    if requests.is_empty() {
        return done("The client can give nothing");
    }
    Step::Ask(requests, None)
}

/// A form, all of whose fields are required.
pub fn form(message: &str, fields: &Value) -> InputRequest {
    let names = fields.as_object().expect("fields are an object").keys();
    elicitation(message, fields, &names.collect::<Vec<_>>())
}

fn optional_form(message: &str, fields: &Value) -> InputRequest {
    elicitation(message, fields, &[])
}

fn elicitation(message: &str, fields: &Value, required: &[&String]) -> InputRequest {
    let schema = json!({ "type": "object", "properties": fields, "required": required });
    request(
        "elicitation/create",
        &json!({ "mode": "form", "message": message, "requestedSchema": schema }),
    )
}

fn sampling(prompt: &str) -> InputRequest {
    let message = json!({ "role": "user", "content": { "type": "text", "text": prompt } });
    request(
        "sampling/createMessage",
        &json!({ "messages": [message], "maxTokens": 100 }),
    )
}

fn roots() -> InputRequest {
    request("roots/list", &json!({}))
}

fn request(method: &str, params: &Value) -> InputRequest {
    serde_json::from_value(json!({ "method": method, "params": params })).expect("a request of the protocol")
}

fn fields_with_defaults() -> Value {
    json!({
        "name": { "type": "string", "default": "John Doe" },
        "age": { "type": "integer", "default": 30 },
        "score": { "type": "number", "default": 95.5 },
        "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
        "verified": { "type": "boolean", "default": true },
    })
}

fn fields_with_choices() -> Value {
    let options = json!(["option1", "option2", "option3"]);
    let titled = json!([
        { "const": "value1", "title": "First" },
        { "const": "value2", "title": "Second" },
        { "const": "value3", "title": "Third" },
    ]);
    json!({
        "untitledSingle": { "type": "string", "enum": options },
        "titledSingle": { "type": "string", "oneOf": titled },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": { "type": "array", "items": { "type": "string", "enum": options } },
        "titledMulti": { "type": "array", "items": { "anyOf": titled } },
    })
}

/// The client's input under this key, if it is an object.
pub fn given<'a>(known: &'a Known<'_>, key: &str) -> Option<&'a Value> {
    known.input.get(key).filter(|value| value.is_object())
}

fn done(text: &str) -> Step<CallToolResult> {
    Step::Answer(CallToolResult::success(vec![ContentBlock::text(text)]))
}

fn text_argument(known: &Known<'_>, name: &str) -> String {
    let text = known.arguments.get(name).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// A field of the form that the user filled in.
pub fn field<'a>(given: &'a Value, name: &str) -> &'a str {
    given["content"][name].as_str().unwrap_or("whoever you are")
}

fn filled(what: &str, given: &Value) -> String {
    format!(
        "{what}: action={}, content={}",
        given["action"].as_str().unwrap_or("none"),
        given["content"]
    )
}

/// What the client's model said; its content may be one block or several.
fn sampled(given: &Value) -> &str {
    let content = &given["content"];
    let text = content["text"].as_str().or_else(|| content[0]["text"].as_str());
    text.unwrap_or("nothing")
}
