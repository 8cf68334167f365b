//! What the index knows of a server and its tools, before anything is weighed.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::analysis;

/// Longest description that goes into a vector, in characters: the model reads 256 tokens, and the beginning of a
/// description says what the tool is for.
const EMBEDDED_DESCRIPTION_CHARS_MAX: usize = 400;

/// A server with its tools, as it is put into the index.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerDocument {
    /// The server's name.
    pub name: Arc<str>,
    /// What the server is for.
    pub description: String,
    /// Added to the score of each of its tools: 0 for most; below 0 for a server that others should win against.
    pub prior: f32,
    /// Its tools.
    pub tools: Vec<Arc<ToolDocument>>,
}

/// A tool, as it is put into the index and given to the planner.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolDocument {
    /// The server that offers it.
    pub server: Arc<str>,
    /// Its name on that server.
    pub name: String,
    /// Its title.
    pub title: Option<String>,
    /// What it does.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub input_schema: Value,
    /// What it says of its effects.
    pub hints: ToolHints,
}

/// A tool's annotations, as far as they matter here. Absent means unknown, which is treated as the worse case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ToolHints {
    /// It changes nothing.
    pub read_only: bool,
    /// Calling it twice does no more than calling it once.
    pub idempotent: bool,
    /// It says outright that it is not read-only.
    pub says_it_changes: bool,
}

impl ToolHints {
    /// Whether a call whose outcome is unknown may be made again without asking.
    pub fn is_safe_to_repeat(self) -> bool {
        self.read_only || self.idempotent
    }

    /// Reads `annotations` of a tool (MCP, `ToolAnnotations`).
    pub fn from_annotations(annotations: Option<&Value>) -> Self {
        let flag = |name: &str| annotations.and_then(|a| a.get(name)).and_then(Value::as_bool);
        Self {
            read_only: flag("readOnlyHint") == Some(true),
            idempotent: flag("idempotentHint") == Some(true),
            says_it_changes: flag("readOnlyHint") == Some(false),
        }
    }
}

/// The hash under which a text's vector is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of this text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

impl ServerDocument {
    /// The text whose vector stands for the server as a whole.
    pub fn text_to_embed(&self) -> String {
        let first_tool = self
            .tools
            .first()
            .map(|tool| tool.description.as_str())
            .unwrap_or_default();
        let description = if self.description.is_empty() {
            first_tool
        } else {
            &self.description
        };
        format!("{}. {}", analysis::spaced(&self.name), beginning(description))
    }
}

impl ToolDocument {
    /// The text whose vector stands for the tool.
    pub fn text_to_embed(&self) -> String {
        format!(
            "{}: {}. {}",
            analysis::spaced(&self.server),
            analysis::spaced(&self.name),
            beginning(&self.description)
        )
    }

    /// Names and descriptions of the arguments, joined.
    pub fn parameters_text(&self) -> String {
        let Some(properties) = self.input_schema.get("properties").and_then(Value::as_object) else {
            return String::new();
        };
        let mut text = String::new();
        for (name, schema) in properties {
            text.push_str(name);
            text.push(' ');
            text.push_str(
                schema
                    .get("description")
                    .and_then(Value::as_str)
                    .unwrap_or_default(),
            );
            text.push('\n');
        }
        text
    }
}

fn beginning(text: &str) -> &str {
    match text.char_indices().nth(EMBEDDED_DESCRIPTION_CHARS_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
