//! What the fixture answers without needing anything of the client: contents of tools, resources and prompts.

use rmcp::model::{CallToolResult, GetPromptResult, JsonObject, ReadResourceResult};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// One pixel.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNQSDgAAAHkAUGcFuGgAAAAAElFTkSuQmCC";
/// A millisecond of silence.
const WAV: &str = "UklGRiwAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQgAAACAgICAgICAgA==";

/// The result of a tool that says the same every time; nothing if it is no such tool.
pub fn of_tool(tool: &str, arguments: &JsonObject) -> Option<CallToolResult> {
    let embedded = |uri: &str, form: &str, text: &str| json!({ "type": "resource", "resource": { "uri": uri, "mimeType": form, "text": text } });
    let content = match tool {
        "test_simple_text" => json!([text("This is a simple text response for testing.")]),
        "test_image_content" => json!([image()]),
        "test_audio_content" => json!([{ "type": "audio", "data": WAV, "mimeType": "audio/wav" }]),
        "test_embedded_resource" => {
            json!([embedded(
                "test://embedded-resource",
                "text/plain",
                "This is an embedded resource content."
            )])
        }
        "test_multiple_content_types" => json!([
            text("Multiple content types test:"),
            image(),
            embedded(
                "test://mixed-content-resource",
                "application/json",
                r#"{"test":"data","value":123}"#
            ),
        ]),
        "test_error_handling" => {
            let content = [text("This tool intentionally returns an error for testing")];
            return Some(read(
                json!({ "resultType": "complete", "content": content, "isError": true }),
            ));
        }
        "test_custom_header" => json!([text(string(arguments, "value"))]),
        "json_schema_2020_12_tool" => json!([text(string(arguments, "name"))]),
        "greet" => json!([text(&format!("Hello, {}!", string(arguments, "name")))]),
        _ => return None,
    };
    Some(read(json!({ "resultType": "complete", "content": content })))
}

/// The contents of a resource, if there is one at this address.
pub fn of_resource(uri: &str) -> Option<ReadResourceResult> {
    let record = uri
        .strip_prefix("test://template/")
        .and_then(|rest| rest.strip_suffix("/data"));
    let contents = match (uri, record) {
        ("test://static-text", _) => plain(uri, "This is the content of the static text resource."),
        ("test://watched-resource", _) => plain(uri, "Nothing has happened yet."),
        ("test://static-binary", _) => json!({ "uri": uri, "mimeType": "image/png", "blob": PNG }),
        (_, Some(id)) => {
            let record = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
            json!({ "uri": uri, "mimeType": "application/json", "text": record.to_string() })
        }
        _ => return None,
    };
    Some(read(json!({ "resultType": "complete", "contents": [contents] })))
}

/// A prompt, if there is one of this name.
pub fn of_prompt(prompt: &str, arguments: &JsonObject) -> Option<GetPromptResult> {
    let messages = match prompt {
        "test_simple_prompt" => vec![text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments" => {
            let (first, second) = (string(arguments, "arg1"), string(arguments, "arg2"));
            vec![text(&format!(
                "Prompt with arguments: arg1='{first}', arg2='{second}'"
            ))]
        }
        "test_prompt_with_embedded_resource" => {
            let contents = plain(
                string(arguments, "resourceUri"),
                "Embedded resource content for testing.",
            );
            vec![
                json!({ "type": "resource", "resource": contents }),
                text("Please process the embedded resource above."),
            ]
        }
        "test_prompt_with_image" => vec![image(), text("Please analyze the image above.")],
        _ => return None,
    };
    Some(of_user(messages))
}

/// A prompt of these contents, all said by the user.
pub fn of_user(contents: Vec<Value>) -> GetPromptResult {
    let messages = contents
        .into_iter()
        .map(|content| json!({ "role": "user", "content": content }));
    read(json!({ "resultType": "complete", "messages": messages.collect::<Vec<_>>() }))
}

/// A text block.
pub fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn image() -> Value {
    json!({ "type": "image", "data": PNG, "mimeType": "image/png" })
}

fn plain(uri: &str, text: &str) -> Value {
    json!({ "uri": uri, "mimeType": "text/plain", "text": text })
}

fn string<'a>(arguments: &'a JsonObject, name: &str) -> &'a str {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A value of the protocol, written as JSON. For legacy clients the SDK takes `resultType` away.
fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a value of the protocol")
}
