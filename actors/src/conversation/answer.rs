//! A tool's result in words, by templates: text as it is, JSON readably, everything else named. Nothing is added that the
//! tool did not say.

use serde_json::{Map, Value};
use troupe_protocol::error::Problem;
use troupe_protocol::routing::{Candidate, Decision};

use crate::router::selection::OFFERED_TOOLS;

/// Longest answer, in bytes; the rest of the result is in the tool's card.
const ANSWER_BYTES_MAX: usize = 32 * 1024;
/// Most rows of a table.
const TABLE_ROWS_MAX: usize = 50;
/// Deepest object that is shown as a list.
const LIST_DEPTH_MAX: usize = 3;
/// Most lines of an object that is shown as a list.
const LIST_LINES_MAX: usize = 60;
/// Most columns of a table.
const TABLE_COLUMNS_MAX: usize = 8;
/// Longest cell, in characters.
const CELL_CHARS_MAX: usize = 120;
/// Longest description of a tool that is offered, in characters.
const OFFER_CHARS_MAX: usize = 140;

/// Longest title that is made of a question, in characters.
const TITLE_CHARS_MAX: usize = 60;
/// Size of the pieces in which an answer is told, in characters.
const CHUNK_CHARS: usize = 120;

/// What a tool's result (a `CallToolResult`) says.
pub fn of_result(result: &Value) -> String {
    let blocks = result
        .get("content")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut parts: Vec<String> = blocks.iter().filter_map(of_block).collect();
    if parts.is_empty()
        && let Some(structured) = result.get("structuredContent")
    {
        parts.push(of_json(structured));
    }
    let text = if parts.is_empty() {
        "The tool returned nothing.".to_owned()
    } else {
        parts.join("\n\n")
    };
    let failed = result.get("isError").and_then(Value::as_bool) == Some(true);
    cut(if failed {
        format!("The tool reports an error: {text}")
    } else {
        text
    })
}

/// Whether a result says that the tool failed.
pub fn is_error(result: &Value) -> bool {
    result.get("isError").and_then(Value::as_bool) == Some(true)
}

/// That a call failed.
pub fn of_failure(server: &str, tool: &str, problem: &Problem, may_have_had_effects: bool) -> String {
    let mut text = format!(
        "{server}/{tool} could not be called: {} ({}).",
        problem.detail, problem.code
    );
    if may_have_had_effects {
        text.push_str(" It may have been at work all the same: check before you ask again.");
    }
    text
}

/// That no tool was called, with the nearest ones.
pub fn of_no_call(decision: Decision, candidates: &[(Candidate, String)]) -> String {
    if candidates.is_empty() {
        return "Nothing that is registered fits this question. Register an MCP server that can answer it."
            .to_owned();
    }
    let opening = match decision {
        Decision::Ask => "More than one tool fits. Which one do you mean?",
        Decision::OfferNearest => "Nothing fits well enough to be called unasked. The nearest are:",
        Decision::Call | Decision::Nothing => {
            "Nothing that is registered fits this question. The nearest are:"
        }
    };
    let lines = candidates
        .iter()
        .take(OFFERED_TOOLS)
        .enumerate()
        .map(|(place, (candidate, description))| {
            let first_line = description.lines().next().unwrap_or_default();
            format!(
                "{}. {}/{}: {}",
                place + 1,
                candidate.server,
                candidate.tool,
                shortened(first_line, OFFER_CHARS_MAX)
            )
        });
    let list: Vec<String> = lines.collect();
    let closing = match decision {
        Decision::Ask | Decision::OfferNearest => "\n\nAnswer with a number to use one of them.",
        Decision::Call | Decision::Nothing => "",
    };
    format!("{opening}\n{}{closing}", list.join("\n"))
}

fn of_block(block: &Value) -> Option<String> {
    let text = |field: &str| block.get(field).and_then(Value::as_str);
    match text("type")? {
        "text" => Some(of_text(text("text")?)),
        "image" => Some(format!(
            "[an image, {}{}]",
            text("mimeType").unwrap_or("of unknown type"),
            size_of(block)
        )),
        "audio" => Some(format!(
            "[audio, {}{}]",
            text("mimeType").unwrap_or("of unknown type"),
            size_of(block)
        )),
        "resource_link" => {
            let uri = text("uri")?;
            let title = text("title").or_else(|| text("name")).unwrap_or(uri);
            Some(format!("{title}: {uri}"))
        }
        "resource" => {
            let resource = block.get("resource")?;
            let uri = resource.get("uri").and_then(Value::as_str).unwrap_or_default();
            match resource.get("text").and_then(Value::as_str) {
                Some(text) => Some(format!("{uri}:\n{}", of_text(text))),
                None => Some(format!("[a resource: {uri}]")),
            }
        }
        other => Some(format!("[{other}]")),
    }
}

/// The size of base64 data, for people.
fn size_of(block: &Value) -> String {
    let Some(data) = block.get("data").and_then(Value::as_str) else {
        return String::new();
    };
    format!(", {} KB", (data.len() * 3 / 4).div_ceil(1024))
}

/// Text as it is, unless it is JSON.
fn of_text(text: &str) -> String {
    let trimmed = text.trim();
    if trimmed.starts_with(['{', '['])
        && let Ok(value) = serde_json::from_str::<Value>(trimmed)
    {
        return of_json(&value);
    }
    text.to_owned()
}

fn of_json(value: &Value) -> String {
    match value {
        Value::Array(rows) if rows.is_empty() => "The result is an empty list.".to_owned(),
        Value::Array(rows) => table(rows).or_else(|| list(rows)).unwrap_or_else(|| code(value)),
        Value::Object(object) if object.is_empty() => "The result is empty.".to_owned(),
        Value::Object(object) => outline(object).unwrap_or_else(|| code(value)),
        scalar => plain(scalar),
    }
}

/// An object as a list of its members, those of members below them; nothing if it is too deep, too long or holds lists.
fn outline(object: &Map<String, Value>) -> Option<String> {
    let mut lines = Vec::new();
    outline_into(&mut lines, object, 0)?;
    Some(lines.join("\n"))
}

fn outline_into(lines: &mut Vec<String>, object: &Map<String, Value>, depth: usize) -> Option<()> {
    for (name, value) in object {
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(inner) if depth + 1 < LIST_DEPTH_MAX && !inner.is_empty() => {
                lines.push(format!("{indent}- {name}:"));
                outline_into(lines, inner, depth + 1)?;
            }
            Value::Object(_) | Value::Array(_) => return None,
            scalar => lines.push(format!("{indent}- {name}: {}", plain(scalar))),
        }
    }
    (lines.len() <= LIST_LINES_MAX).then_some(())
}

fn is_flat(object: &Map<String, Value>) -> bool {
    object
        .values()
        .all(|value| !value.is_object() && !value.is_array())
}

fn list(items: &[Value]) -> Option<String> {
    let is_flat = items.iter().all(|item| !item.is_object() && !item.is_array());
    is_flat.then(|| {
        items
            .iter()
            .map(|item| format!("- {}", plain(item)))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

/// Rows with the same few flat columns.
fn table(rows: &[Value]) -> Option<String> {
    let first = rows.first()?.as_object()?;
    let columns: Vec<&String> = first.keys().collect();
    let is_alike = |row: &Value| {
        row.as_object().is_some_and(|object| {
            is_flat(object)
                && object.len() == columns.len()
                && columns.iter().all(|column| object.contains_key(*column))
        })
    };
    if columns.is_empty() || columns.len() > TABLE_COLUMNS_MAX || !rows.iter().all(is_alike) {
        return None;
    }
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let mut lines = vec![line(columns.iter().map(|column| cell(column)).collect())];
    lines.push(format!("|{}", " --- |".repeat(columns.len())));
    for row in rows.iter().take(TABLE_ROWS_MAX) {
        lines.push(line(
            columns
                .iter()
                .map(|column| cell(&plain(&row[column.as_str()])))
                .collect(),
        ));
    }
    let mut text = lines.join("\n");
    if rows.len() > TABLE_ROWS_MAX {
        text.push_str(&format!("\n\n… and {} more rows.", rows.len() - TABLE_ROWS_MAX));
    }
    Some(text)
}

fn cell(text: &str) -> String {
    shortened(text, CELL_CHARS_MAX)
        .replace('|', "\\|")
        .replace('\n', " ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        other => other.to_string(),
    }
}

fn code(value: &Value) -> String {
    let pretty = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
    format!("```json\n{pretty}\n```")
}

fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn cut(text: String) -> String {
    if text.len() <= ANSWER_BYTES_MAX {
        return text;
    }
    let end = (0..=ANSWER_BYTES_MAX)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    format!(
        "{}…\n\n(The result goes on; it is {} bytes long.)",
        &text[..end],
        text.len()
    )
}

/// An answer in pieces that end between words.
pub fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for word in text.split_inclusive(char::is_whitespace) {
        let is_full = pieces
            .last()
            .is_some_and(|piece| !piece.is_empty() && piece.len() + word.len() > CHUNK_CHARS);
        if is_full {
            pieces.push(String::new());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push_str(word);
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// A title made of a question.
pub fn title_of(question: &str) -> String {
    let line = question.lines().next().unwrap_or_default().trim();
    match line.char_indices().nth(TITLE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn of(blocks: Value) -> String {
        of_result(&json!({ "content": blocks }))
    }

    #[test]
    fn text_is_passed_on_and_json_made_readable() {
        assert_eq!(
            of(json!([{"type": "text", "text": "Echo: hello"}])),
            "Echo: hello"
        );
        let time =
            json!({"timezone": "Asia/Tokyo", "datetime": "2026-11-22T21:30:00+09:00", "is_dst": false});
        assert_eq!(
            of(json!([{"type": "text", "text": time.to_string()}])),
            "- timezone: Asia/Tokyo\n- datetime: 2026-11-22T21:30:00+09:00\n- is_dst: false"
        );
        assert_eq!(
            of(json!([{"type": "text", "text": r#"[{"name":"a|b","n":1},{"name":"c","n":null}]"#}])),
            "| name | n |\n| --- | --- |\n| a\\|b | 1 |\n| c | – |"
        );
        assert_eq!(of(json!([{"type": "text", "text": "[1,2]"}])), "- 1\n- 2");
        assert_eq!(
            of(json!([{"type": "text", "text": r#"{"a":{"b":1},"c":2}"#}])),
            "- a:\n  - b: 1\n- c: 2"
        );
        assert_eq!(
            of(json!([{"type": "text", "text": "[]"}])),
            "The result is an empty list."
        );
        assert!(of(json!([{"type": "text", "text": r#"{"a":[{"b":[1]}]}"#}])).starts_with("```json\n{"));
        assert_eq!(of(json!([{"type": "text", "text": "{not json"}])), "{not json");
    }

    #[test]
    fn what_is_not_text_is_named() {
        let text = of(json!([
            {"type": "image", "data": "A".repeat(4096), "mimeType": "image/png"},
            {"type": "resource_link", "uri": "demo://1", "name": "One"},
            {"type": "resource", "resource": {"uri": "demo://2", "text": "two"}},
        ]));
        assert_eq!(
            text,
            "[an image, image/png, 3 KB]\n\nOne: demo://1\n\ndemo://2:\ntwo"
        );
        assert_eq!(
            of_result(&json!({"content": [], "structuredContent": {"a": 1}})),
            "- a: 1"
        );
        assert_eq!(of_result(&json!({})), "The tool returned nothing.");
    }

    #[test]
    fn an_error_is_called_one_and_a_long_answer_is_cut() {
        let failed =
            of_result(&json!({"isError": true, "content": [{"type": "text", "text": "no such zone"}]}));
        assert_eq!(failed, "The tool reports an error: no such zone");
        let long = of(json!([{"type": "text", "text": "ä".repeat(ANSWER_BYTES_MAX)}]));
        assert!(long.len() < ANSWER_BYTES_MAX + 100 && long.contains("goes on"));
    }
}
