//! The operations of a document as tools. Pure.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use reqwest::Method;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};
use troupe_protocol::mcp::ToolDescriptor;

use super::document::{Document, DocumentError};
use super::schema::{SCHEMA_BYTES_MAX, Schemas, is_bytes};
use super::security::Demands;
use super::style::{Place, Style};

/// The most tools of one document.
const TOOLS_MAX: usize = 2_000;
/// The most bytes of the schemas of all tools, about.
const SCHEMAS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most parameters of one operation, and members of a form that are bytes.
const PARAMETERS_MAX: usize = 500;
/// The most characters of a tool's name.
const NAME_CHARS_MAX: usize = 64;
/// The most bytes of a description.
const DESCRIPTION_BYTES_MAX: usize = 4 * 1024;
/// Headers that a document cannot make a parameter (OpenAPI 3.1, parameter object).
const NOT_PARAMETERS: [&str; 3] = ["accept", "content-type", "authorization"];
const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];

/// An operation that is a tool.
#[derive(Debug)]
pub(super) struct Operation {
    pub descriptor: ToolDescriptor,
    pub method: Method,
    pub path: String,
    pub parameters: Vec<Parameter>,
    pub body: Option<Body>,
    pub demands: Demands,
}

/// A parameter of an operation.
#[derive(Debug)]
pub(super) struct Parameter {
    /// What it is called among the tool's arguments.
    pub argument: String,
    /// What it is called in the request.
    pub name: String,
    pub place: Place,
    pub style: Style,
    pub required: bool,
}

/// What an operation takes as its body.
#[derive(Debug)]
pub(super) struct Body {
    /// What it is called among the tool's arguments.
    pub argument: String,
    pub media_type: String,
    pub required: bool,
    /// Its members that are bytes.
    pub bytes_members: BTreeSet<String>,
    /// Whether the whole of it is bytes.
    pub is_bytes: bool,
}

/// The tools of a document, and what had to be left out.
#[derive(Debug)]
pub(super) struct Tools {
    pub operations: Vec<Operation>,
    pub notes: Vec<String>,
}

impl Tools {
    /// Reads the tools of a document.
    ///
    /// # Errors
    /// [`DocumentError::NoOperations`].
    pub fn of(document: &Document) -> Result<Self, DocumentError> {
        let mut tools = Self {
            operations: Vec::new(),
            notes: Vec::new(),
        };
        let mut names = HashSet::new();
        let mut bytes_left = SCHEMAS_BYTES_MAX;
        for (path, item) in document.paths() {
            let Some(item) = document.meant(item) else {
                tools.notes.push(format!("{path} is described elsewhere"));
                continue;
            };
            for method in METHODS {
                let Some(operation) = item.get(method).filter(|operation| operation.is_object()) else {
                    continue;
                };
                if tools.operations.len() == TOOLS_MAX {
                    tools
                        .notes
                        .push(format!("only the first {TOOLS_MAX} operations are tools"));
                    return Ok(tools);
                }
                let reading = Reading { document, path, item };
                let mut schemas = Schemas::new(document, SCHEMA_BYTES_MAX.min(bytes_left));
                let bytes_max = schemas.bytes_left();
                let read = reading.operation(method, operation, &mut schemas, &mut names);
                bytes_left -= bytes_max - schemas.bytes_left();
                if schemas.bytes_left() == 0 {
                    let verb = method.to_uppercase();
                    let note = format!("{verb} {path}: its schema is too large, and described in part");
                    tools.notes.push(note);
                }
                match read {
                    Ok(operation) => tools.operations.push(operation),
                    Err(why) => tools
                        .notes
                        .push(format!("{} {path}: {why}", method.to_uppercase())),
                }
            }
        }
        if tools.operations.is_empty() {
            return Err(DocumentError::NoOperations);
        }
        Ok(tools)
    }
}

/// One path of a document.
struct Reading<'a> {
    document: &'a Document,
    path: &'a str,
    item: &'a Value,
}

impl<'a> Reading<'a> {
    fn operation(
        &self,
        method: &str,
        operation: &'a Value,
        schemas: &mut Schemas<'a>,
        names: &mut HashSet<String>,
    ) -> Result<Operation, String> {
        let mut properties = Map::new();
        let mut required = Vec::new();
        let mut parameters = Vec::new();
        for parameter in self.parameters(operation)? {
            let name = parameter["name"].as_str().ok_or("a parameter has no name")?;
            let place: Place = parameter["in"]
                .as_str()
                .and_then(|place| place.parse().ok())
                .ok_or_else(|| format!("the parameter {name} is in no known place"))?;
            if place == Place::Header && NOT_PARAMETERS.contains(&name.to_ascii_lowercase().as_str()) {
                continue;
            }
            let is_required = place == Place::Path || parameter["required"] == Value::Bool(true);
            let argument = free_argument(name, place.into(), &properties);
            let json_content = parameter["content"]
                .as_object()
                .and_then(|content| content.values().next());
            let schema = json_content.map_or(&parameter["schema"], |content| &content["schema"]);
            let mut schema = schemas.inlined(schema);
            describe(&mut schema, parameter["description"].as_str());
            if is_required {
                required.push(Value::String(argument.clone()));
            }
            properties.insert(argument.clone(), schema);
            parameters.push(Parameter {
                argument,
                name: name.to_owned(),
                place,
                style: Style::read(parameter, place, json_content.is_some()),
                required: is_required,
            });
        }
        let body = self.body(operation, schemas, &mut properties)?;
        if let Some(body) = body.as_ref().filter(|body| body.required) {
            required.push(Value::String(body.argument.clone()));
        }
        let mut input = Map::new();
        input.insert("type".to_owned(), json!("object"));
        input.insert("properties".to_owned(), Value::Object(properties));
        if !required.is_empty() {
            input.insert("required".to_owned(), Value::Array(required));
        }
        input.insert("additionalProperties".to_owned(), json!(false));
        let definitions = schemas.definitions();
        if !definitions.is_empty() {
            input.insert("$defs".to_owned(), Value::Object(definitions));
        }
        let name = free_name(operation["operationId"].as_str(), method, self.path, names);
        let verb = Method::from_bytes(method.to_uppercase().as_bytes()).map_err(|error| error.to_string())?;
        let descriptor = self.descriptor(&name, &verb, operation, input)?;
        Ok(Operation {
            descriptor,
            method: verb,
            path: self.path.to_owned(),
            parameters,
            body,
            demands: Demands::read(
                operation
                    .get("security")
                    .unwrap_or_else(|| self.document.security()),
            ),
        })
    }

    /// The operation's parameters, and those of its path that it does not say itself.
    fn parameters(&self, operation: &'a Value) -> Result<Vec<&'a Value>, String> {
        let lists = [&operation["parameters"], &self.item["parameters"]];
        let mut parameters: Vec<&Value> = Vec::new();
        for parameter in lists.into_iter().filter_map(Value::as_array).flatten() {
            let parameter = self
                .document
                .meant(parameter)
                .ok_or("a parameter is described elsewhere")?;
            let is_said =
                |other: &&Value| other["name"] == parameter["name"] && other["in"] == parameter["in"];
            if !parameters.iter().any(is_said) {
                parameters.push(parameter);
            }
            if parameters.len() > PARAMETERS_MAX {
                return Err(format!("it has more than {PARAMETERS_MAX} parameters"));
            }
        }
        Ok(parameters)
    }

    fn body(
        &self,
        operation: &'a Value,
        schemas: &mut Schemas<'a>,
        properties: &mut Map<String, Value>,
    ) -> Result<Option<Body>, String> {
        let Some(request_body) = operation.get("requestBody") else {
            return Ok(None);
        };
        let request_body = self
            .document
            .meant(request_body)
            .ok_or("its body is described elsewhere")?;
        let content = request_body["content"].as_object();
        let Some((media_type, content)) = content.and_then(preferred) else {
            return Ok(None);
        };
        let schema = &content["schema"];
        let (bytes_members, is_bytes) = self.bytes_in(schema, media_type);
        let mut inlined = schemas.inlined(schema);
        if is_bytes {
            inlined = json!({ "type": "string", "contentEncoding": "base64" });
        }
        describe(&mut inlined, request_body["description"].as_str());
        let argument = free_argument("body", "request", properties);
        properties.insert(argument.clone(), inlined);
        Ok(Some(Body {
            argument,
            media_type: media_type.to_owned(),
            required: request_body["required"] == Value::Bool(true),
            bytes_members,
            is_bytes,
        }))
    }

    /// Which members of a form are bytes, and whether the whole body is.
    fn bytes_in(&self, schema: &Value, media_type: &str) -> (BTreeSet<String>, bool) {
        let stands_for_bytes = |schema: &Value| self.members_of(schema).is_some_and(is_bytes);
        let members = self
            .members_of(schema)
            .and_then(|schema| schema.get("properties")?.as_object());
        let is_bytes_list = |schema: &Value| {
            let items = self.members_of(schema).and_then(|schema| schema.get("items"));
            items.is_some_and(stands_for_bytes)
        };
        let bytes_members = members
            .into_iter()
            .flatten()
            .filter(|(_, schema)| stands_for_bytes(schema) || is_bytes_list(schema))
            .map(|(name, _)| name.clone())
            .take(PARAMETERS_MAX)
            .collect();
        let is_opaque = media_type == "application/octet-stream"
            || ["image/", "audio/", "video/"]
                .iter()
                .any(|kind| media_type.starts_with(kind));
        (bytes_members, is_opaque || stands_for_bytes(schema))
    }

    /// The keywords of a schema, or of what it refers to.
    fn members_of<'b>(&'b self, schema: &'b Value) -> Option<&'b Map<String, Value>> {
        self.document.meant(schema)?.as_object()
    }

    fn descriptor(
        &self,
        name: &str,
        method: &Method,
        operation: &Value,
        input: Map<String, Value>,
    ) -> Result<ToolDescriptor, String> {
        let text = |member: &str| {
            operation[member]
                .as_str()
                .map(str::trim)
                .filter(|text| !text.is_empty())
        };
        let (summary, details) = (text("summary"), text("description"));
        let mut description = match (summary, details) {
            (Some(summary), Some(details)) if details.starts_with(summary) => details.to_owned(),
            (Some(summary), Some(details)) => format!("{summary}\n\n{details}"),
            (Some(only), None) | (None, Some(only)) => only.to_owned(),
            (None, None) => format!("{method} {}", self.path),
        };
        cut(&mut description, DESCRIPTION_BYTES_MAX);
        if operation["deprecated"] == Value::Bool(true) {
            description.insert_str(0, "Deprecated. ");
        }
        let is_safe = method.is_safe();
        let mut tool = json!({
            "name": name,
            "description": description,
            "inputSchema": input,
            "annotations": {
                "readOnlyHint": is_safe,
                "destructiveHint": *method == Method::DELETE,
                "idempotentHint": is_safe || matches!(*method, Method::PUT | Method::DELETE),
                "openWorldHint": true,
            },
        });
        if let (Some(summary), Value::Object(tool)) = (summary, &mut tool) {
            let title = summary.chars().take(100).collect();
            tool.insert("title".to_owned(), Value::String(title));
        }
        let raw = to_raw_value(&tool).map_err(|error| error.to_string())?;
        Ok(ToolDescriptor {
            name: name.to_owned(),
            raw: Arc::from(raw),
        })
    }
}

/// The media type that is easiest to give: JSON before forms before all others.
fn preferred(content: &Map<String, Value>) -> Option<(&str, &Value)> {
    let rank = |media_type: &str| match essence(media_type).as_str() {
        "application/json" => 0,
        json if json.ends_with("+json") => 1,
        "application/x-www-form-urlencoded" => 2,
        "multipart/form-data" => 3,
        text if text.starts_with("text/") => 4,
        _ => 5,
    };
    let named = content
        .iter()
        .map(|(media_type, content)| (media_type.as_str(), content));
    named.min_by_key(|(media_type, _)| rank(media_type))
}

/// A media type without its parameters.
pub(super) fn essence(media_type: &str) -> String {
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

fn describe(schema: &mut Value, description: Option<&str>) {
    let Some(description) = description.filter(|description| !description.trim().is_empty()) else {
        return;
    };
    if schema.is_boolean() {
        *schema = json!({});
    }
    let mut description = description.trim().to_owned();
    cut(&mut description, DESCRIPTION_BYTES_MAX);
    schema["description"] = Value::String(description);
}

/// What a parameter is called among the arguments: models' interfaces allow few characters in these names.
fn free_argument(name: &str, place: &str, taken: &Map<String, Value>) -> String {
    let clean = cleaned(name);
    let candidates = [clean.clone(), format!("{clean}_{place}")];
    let numbered = (2..).map(|number| format!("{clean}_{number}"));
    let mut candidates = candidates.into_iter().chain(numbered);
    let free = candidates.find(|candidate| !taken.contains_key(candidate));
    free.unwrap_or(clean)
}

/// What an operation's tool is called: its `operationId`, else its method and path.
fn free_name(operation_id: Option<&str>, method: &str, path: &str, taken: &mut HashSet<String>) -> String {
    let operation_id = operation_id.filter(|id| id.contains(|c: char| c.is_ascii_alphanumeric()));
    let name = operation_id.map_or_else(|| cleaned(&format!("{method}_{path}")), cleaned);
    let numbered = (2..).map(|number: u32| {
        let suffix = format!("_{number}");
        let kept = name.len().min(NAME_CHARS_MAX - suffix.len());
        format!("{}{suffix}", &name[..kept])
    });
    let mut candidates = std::iter::once(name.clone()).chain(numbered);
    let free = candidates
        .find(|candidate| !taken.contains(candidate))
        .unwrap_or(name);
    taken.insert(free.clone());
    free
}

/// A text of letters, digits, hyphens and underscores, at most [`NAME_CHARS_MAX`] of them.
fn cleaned(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(NAME_CHARS_MAX));
    for c in text.chars() {
        let is_kept = c.is_ascii_alphanumeric() || c == '-';
        match (is_kept, clean.ends_with('_')) {
            (true, _) => clean.push(c),
            (false, false) if !clean.is_empty() => clean.push('_'),
            (false, _) => {}
        }
        if clean.len() == NAME_CHARS_MAX {
            break;
        }
    }
    clean.truncate(clean.trim_end_matches('_').len());
    if clean.is_empty() {
        "parameter".to_owned()
    } else {
        clean
    }
}

fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let is_end = |at: &usize| text.is_char_boundary(*at);
        let end = (0..=bytes_max).rev().find(is_end).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
}
