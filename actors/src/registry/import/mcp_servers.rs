//! `mcpServers` as desktop clients write it.
//!
//! | client | root | remote servers |
//! |---|---|---|
//! | Claude Desktop, Cursor, Cline, Windsurf | `mcpServers` | `url` (`serverUrl`), `type`, `headers` |
//! | VS Code | `servers` and `inputs`, also under `mcp` | `type`, `url`, `headers` |
//! | Zed | `context_servers` | `url`, `headers` |
//!
//! `${input:ID}` and `${env:NAME}` in a value become references to secrets that the user sets here; the server stays
//! disabled until then. Comments and trailing commas, which VS Code allows, are read over.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use troupe_protocol::access::SecretTemplate;
use troupe_protocol::server::{ClearText, ServerName};

use super::super::draft::{self, DraftTransport, DraftValue, DraftValues};
use super::super::error::RegistryError;
use super::super::seal::own_secret_name;
use super::{Item, Read};

const ROOTS: [&str; 3] = ["mcpServers", "servers", "context_servers"];

pub(super) fn read(content: &str) -> Result<Read, RegistryError> {
    let plain = without_comments(content);
    let root = super::parse_json(&plain)?;
    let root = root.get("mcp").filter(|mcp| mcp.is_object()).unwrap_or(&root);
    let servers = ROOTS.iter().find_map(|key| root.get(key)).unwrap_or(root);
    let Some(servers) = servers
        .as_object()
        .filter(|servers| servers.values().all(Value::is_object))
    else {
        return Err(RegistryError::import(
            "expected {\"mcpServers\": {NAME: {\"command\": …} or {\"url\": …}, …}}",
        ));
    };
    let inputs = Inputs::new(root.get("inputs"));
    let mut read = Read::default();
    for (index, (name, server)) in servers.iter().enumerate() {
        let server = server.as_object().cloned().unwrap_or_default();
        read.take(index, name, item(index, name, &server, &inputs));
    }
    Ok(read)
}

/// The inputs that VS Code asks its user for.
struct Inputs(BTreeMap<String, Option<String>>);

impl Inputs {
    fn new(inputs: Option<&Value>) -> Self {
        let inputs = inputs
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let input = |input: &Value| {
            let default = input["default"].as_str().filter(|default| !default.is_empty());
            Some((input["id"].as_str()?.to_owned(), default.map(str::to_owned)))
        };
        Self(inputs.iter().filter_map(input).collect())
    }
}

fn item(index: usize, name: &str, server: &Map<String, Value>, inputs: &Inputs) -> Result<Item, String> {
    let slug = ServerName::from_any(name).ok_or("its name has none of the letters a-z and digits")?;
    let mut reading = Reading {
        server: &slug,
        inputs,
        missing: Vec::new(),
        notes: Vec::new(),
    };
    let transport = reading.transport(server)?;
    let Reading {
        missing, mut notes, ..
    } = reading;
    if !missing.is_empty() {
        notes.push(format!("disabled until these are set: {}", missing.join(", ")));
    }
    let is_switched_off = server.get("disabled") == Some(&Value::Bool(true))
        || server.get("enabled") == Some(&Value::Bool(false));
    let title = Some(name.to_owned()).filter(|title| title != slug.as_str());
    let description = server
        .get("description")
        .and_then(Value::as_str)
        .map(str::to_owned);
    Ok(Item {
        index,
        name_hints: vec![slug.to_string()],
        manifest: draft::local_manifest(&slug, title, description),
        enabled: transport.is_some() && missing.is_empty() && !is_switched_off,
        transport,
        labels: Vec::new(),
        originals: Map::new(),
        notes,
    })
}

struct Reading<'a> {
    server: &'a ServerName,
    inputs: &'a Inputs,
    missing: Vec<String>,
    notes: Vec<String>,
}

impl Reading<'_> {
    fn transport(&mut self, server: &Map<String, Value>) -> Result<Option<DraftTransport>, String> {
        let url = ["url", "serverUrl", "httpUrl"]
            .iter()
            .find_map(|key| server.get(*key));
        let kind = server
            .get("type")
            .or_else(|| server.get("transport"))
            .and_then(Value::as_str);
        match (url, server.get("command"), kind) {
            (Some(url), _, Some("sse")) => {
                let url = self.plain("url", url)?;
                let headers = self.values("headers", server)?;
                Ok(Some(DraftTransport::Sse { url, headers }))
            }
            (
                Some(url),
                _,
                None | Some("http" | "streamable-http" | "streamableHttp" | "streamable_http"),
            ) => {
                let url = self.plain("url", url)?;
                let headers = self.values("headers", server)?;
                Ok(Some(DraftTransport::StreamableHttp { url, headers }))
            }
            (None, Some(command), None | Some("stdio")) => self.command(command, server).map(Some),
            (None, None, _) => Err("it has neither a command nor a url".to_owned()),
            (_, _, Some(kind)) => Err(format!(
                "its type {kind:?} is not stdio, http or sse, or does not fit the rest"
            )),
        }
    }

    fn command(&mut self, command: &Value, server: &Map<String, Value>) -> Result<DraftTransport, String> {
        // Zed has the program, its arguments and environment under `command`.
        let (program, fields) = match command {
            Value::Object(nested) => (nested.get("path").or_else(|| nested.get("command")), nested),
            program => (Some(program), server),
        };
        let command = self.plain("command", program.ok_or("its command has no path")?)?;
        let args = match fields.get("args") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(args)) => args
                .iter()
                .map(|arg| self.plain("args", arg))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err("args must be a list of strings".to_owned()),
        };
        let cwd = fields
            .get("cwd")
            .filter(|cwd| !cwd.is_null())
            .map(|cwd| self.plain("cwd", cwd))
            .transpose()?;
        if let Some(file) = fields.get("envFile").and_then(Value::as_str) {
            self.notes.push(format!(
                "its envFile {file:?} is not read: set the variables it has"
            ));
        }
        let env = self.values("env", fields)?;
        Ok(DraftTransport::Stdio {
            command,
            args,
            cwd,
            env,
        })
    }

    /// A text that cannot refer to secrets. Placeholders in it are filled in where there is a default.
    fn plain(&mut self, field: &str, value: &Value) -> Result<String, String> {
        let text = scalar(value).ok_or_else(|| format!("{field} must be a string"))?;
        let mut filled = String::new();
        for piece in pieces(&text) {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Placeholder {
                    kind: "input",
                    name,
                    whole,
                } => match self.inputs.0.get(name) {
                    Some(Some(default)) => filled.push_str(default),
                    _ => self.leave(field, whole, &mut filled),
                },
                Piece::Placeholder { whole, .. } => self.leave(field, whole, &mut filled),
            }
        }
        Ok(filled)
    }

    fn leave(&mut self, field: &str, whole: &str, filled: &mut String) {
        self.missing.push(format!("{whole} in {field}"));
        filled.push_str(whole);
    }

    fn values(&mut self, field: &str, server: &Map<String, Value>) -> Result<DraftValues, String> {
        let values = match server.get(field) {
            None | Some(Value::Null) => return Ok(DraftValues::new()),
            Some(Value::Object(values)) => values,
            Some(_) => return Err(format!("{field} must be an object of strings")),
        };
        let mut drafts = DraftValues::new();
        for (key, value) in values.iter().filter(|(_, value)| !value.is_null()) {
            let text = scalar(value).ok_or_else(|| format!("{field}.{key} must be a string"))?;
            drafts.insert(key.clone(), self.value(key, &text)?);
        }
        Ok(drafts)
    }

    /// The value of a header or variable: a literal to be sealed, or a template for one that has placeholders.
    fn value(&mut self, key: &str, text: &str) -> Result<DraftValue, String> {
        let pieces = pieces(text);
        let has_placeholders = pieces
            .iter()
            .any(|piece| matches!(piece, Piece::Placeholder { .. }));
        if !has_placeholders {
            let is_template = SecretTemplate::is_meant_by(text);
            let template = || SecretTemplate::new(text).map_err(|error| format!("{key}: {error}"));
            return if is_template {
                template().map(DraftValue::Keep)
            } else {
                Ok(DraftValue::Seal(text.into()))
            };
        }
        let mut template = String::new();
        let mut has_default_only = true;
        for piece in pieces {
            match piece {
                Piece::Text(text) => template.push_str(SecretTemplate::literal(text).as_str()),
                Piece::Placeholder {
                    kind: placeholder,
                    name,
                    ..
                } => {
                    if let ("input", Some(Some(default))) = (placeholder, self.inputs.0.get(name)) {
                        template.push_str(SecretTemplate::literal(default).as_str());
                        continue;
                    }
                    has_default_only = false;
                    let secret = own_secret_name(self.server, placeholder, name, None)
                        .map_err(|error| error.to_string())?;
                    self.missing.push(format!("the secret {secret}"));
                    template.push_str(SecretTemplate::of_secret(&secret).as_str());
                }
            }
        }
        if has_default_only {
            let clear: ClearText = template.replace("$$", "$").into();
            return Ok(DraftValue::Seal(clear));
        }
        SecretTemplate::new(template)
            .map(DraftValue::Keep)
            .map_err(|error| format!("{key}: {error}"))
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

enum Piece<'a> {
    Text(&'a str),
    Placeholder {
        kind: &'a str,
        name: &'a str,
        whole: &'a str,
    },
}

/// Splits `a${input:b}c` at its placeholders: `${input:ID}`, `${env:NAME}`, and VS Code's `${workspaceFolder}` and so
/// on. A reference to one of our secrets is text.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut from) = (0, 0);
    while let Some(open) = text[from..].find("${").map(|at| from + at) {
        let Some(close) = text[open..].find('}').map(|at| open + at) else {
            break;
        };
        let inner = &text[open + 2..close];
        from = close + 1;
        let (kind, name) = inner.split_once(':').unwrap_or(("variable", inner));
        let is_placeholder = matches!(kind, "input" | "env" | "variable") && !name.is_empty();
        if is_placeholder {
            if open > start {
                pieces.push(Piece::Text(&text[start..open]));
            }
            pieces.push(Piece::Placeholder {
                kind,
                name,
                whole: &text[open..from],
            });
            start = from;
        }
    }
    if start < text.len() {
        pieces.push(Piece::Text(&text[start..]));
    }
    pieces
}

/// The JSON without `//` and `/* */` comments and without commas before a closing bracket.
fn without_comments(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let taken = match next {
            '"' => string_length(rest),
            '/' if rest.starts_with("//") => {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            '/' if rest.starts_with("/*") => {
                rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
                continue;
            }
            ']' | '}' => {
                let kept = plain.trim_end();
                if kept.ends_with(',') {
                    plain.truncate(kept.len() - 1);
                }
                1
            }
            other => other.len_utf8(),
        };
        plain.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    plain
}

/// How many bytes the string literal at the start of a text has, quotes included.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}
