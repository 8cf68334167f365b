//! Schemas of a document as JSON Schema 2020-12 that stands for itself: what is referred to is put in place of the
//! reference. What refers to itself, or would make the schema too large, is kept once under `$defs`. Pure.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::document::Document;

/// References within references that are inlined; deeper ones are kept under `$defs`.
const INLINED_DEPTH_MAX: usize = 6;
/// Schemas that one tool's schema is made of before further references are kept under `$defs`.
const INLINED_MAX: usize = 400;
/// Schemas that one tool's schema may be made of at all; what is beyond admits anything.
const SCHEMAS_MAX: usize = 5_000;
/// The most bytes of one tool's schema, about; what is beyond is left out. The same text can be referred to from many
/// places, and each has a copy.
pub(super) const SCHEMA_BYTES_MAX: usize = 256 * 1024;
/// What a value takes beside its text, about.
const VALUE_BYTES: usize = 32;

/// Keywords whose value is a schema.
const SCHEMA: [&str; 10] = [
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value holds schemas by name.
const BY_NAME: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];
/// Keywords of OpenAPI that mean nothing to clients.
const OPENAPI_ONLY: [&str; 4] = ["discriminator", "xml", "externalDocs", "$comment"];

/// Keywords that may refuse more when parts of them, or of what is beside them, are missing.
const REFUSING_IN_PART: [&str; 7] = [
    "additionalProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "not",
    "if",
    "anyOf",
    "oneOf",
];

/// The schemas of one tool.
pub(super) struct Schemas<'a> {
    document: &'a Document,
    count: usize,
    /// Bytes that may still be copied.
    bytes_left: usize,
    /// What each reference that is kept is called under `$defs`.
    names: HashMap<&'a str, String>,
    /// Kept references whose schemas are still to be read.
    waiting: Vec<&'a str>,
}

impl<'a> Schemas<'a> {
    /// Of at most so many bytes, about.
    pub fn new(document: &'a Document, bytes_max: usize) -> Self {
        Self {
            document,
            count: 0,
            bytes_left: bytes_max,
            names: HashMap::new(),
            waiting: Vec::new(),
        }
    }

    /// The schema with what it refers to.
    pub fn inlined(&mut self, schema: &'a Value) -> Value {
        self.at(schema, &mut Vec::new())
    }

    /// How many bytes were not needed; none when something had to be left out.
    pub fn bytes_left(&self) -> usize {
        self.bytes_left
    }

    /// Whether so many more bytes may be copied. Once they may not, nothing may.
    fn takes(&mut self, bytes: usize) -> bool {
        self.bytes_left = self.bytes_left.saturating_sub(bytes + VALUE_BYTES);
        self.bytes_left > 0
    }

    /// A copy, if there is room for it.
    fn copied(&mut self, value: &Value) -> Option<Value> {
        self.has_room_for(value).then(|| value.clone())
    }

    fn has_room_for(&mut self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.takes(text.len()),
            Value::Array(list) => self.takes(0) && list.iter().all(|item| self.has_room_for(item)),
            Value::Object(members) => {
                let mut members = members.iter();
                self.takes(0)
                    && members.all(|(name, value)| self.takes(name.len()) && self.has_room_for(value))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.takes(0),
        }
    }

    /// What the schemas so far refer to under `$defs`.
    pub fn definitions(&mut self) -> Map<String, Value> {
        let mut definitions = Map::new();
        while let Some(reference) = self.waiting.pop() {
            let schema = self.document.find(reference);
            let inlined = schema.map_or(json!({}), |schema| self.at(schema, &mut vec![reference]));
            definitions.insert(self.names[reference].clone(), inlined);
        }
        definitions
    }

    fn at(&mut self, schema: &'a Value, within: &mut Vec<&'a str>) -> Value {
        let Value::Object(members) = schema else {
            // `true` and `false` are schemas of 3.1.
            return if schema.is_boolean() {
                schema.clone()
            } else {
                json!({})
            };
        };
        self.count += 1;
        if self.count > SCHEMAS_MAX || !self.takes(0) {
            return json!({});
        }
        let Some(reference) = members.get("$ref").and_then(Value::as_str) else {
            return Value::Object(self.object(members, within));
        };
        let Some(target) = self.document.find(reference) else {
            return json!({ "description": format!("described elsewhere: {reference}") });
        };
        let is_too_much = within.len() >= INLINED_DEPTH_MAX || self.count > INLINED_MAX;
        if is_too_much || within.contains(&reference) {
            return json!({ "$ref": format!("#/$defs/{}", self.kept(reference)) });
        }
        within.push(reference);
        let mut inlined = self.at(target, within);
        within.pop();
        // Version 3.1 allows other keywords beside a reference; only those that say something to people matter.
        if let Value::Object(inlined) = &mut inlined {
            for member in ["description", "default"] {
                if let Some(value) = members.get(member).and_then(|value| self.copied(value)) {
                    inlined.insert(member.to_owned(), value);
                }
            }
        }
        inlined
    }

    fn object(&mut self, members: &'a Map<String, Value>, within: &mut Vec<&'a str>) -> Map<String, Value> {
        let mut object = Map::with_capacity(members.len());
        for (keyword, value) in members {
            let keyword = keyword.as_str();
            if OPENAPI_ONLY.contains(&keyword) || keyword.starts_with("x-") {
                continue;
            }
            if !self.takes(keyword.len()) {
                break;
            }
            let read = match value {
                Value::Object(_) if SCHEMA.contains(&keyword) => self.at(value, within),
                Value::Array(list) if LIST.contains(&keyword) => {
                    let mut read = Vec::new();
                    for schema in list {
                        if self.bytes_left == 0 {
                            break;
                        }
                        read.push(self.at(schema, within));
                    }
                    Value::Array(read)
                }
                Value::Object(named) if BY_NAME.contains(&keyword) => {
                    let mut read = Map::new();
                    for (name, schema) in named {
                        if is_read_only(self.document, schema) {
                            continue;
                        }
                        if !self.takes(name.len()) {
                            break;
                        }
                        read.insert(name.clone(), self.at(schema, within));
                    }
                    Value::Object(read)
                }
                value => match self.copied(value) {
                    Some(value) => value,
                    None => break,
                },
            };
            object.insert(keyword.to_owned(), read);
        }
        if self.bytes_left == 0 {
            // What is described in part must not refuse what the whole admits.
            object.retain(|keyword, _| !REFUSING_IN_PART.contains(&keyword.as_str()));
        }
        self.without_read_only(members, &mut object);
        if self.document.is_3_0() {
            lift(&mut object);
        }
        describe_bytes(&mut object);
        object
    }

    /// What a service only tells cannot be demanded of its caller.
    fn without_read_only(&self, members: &Map<String, Value>, object: &mut Map<String, Value>) {
        let Some(properties) = members.get("properties").and_then(Value::as_object) else {
            return;
        };
        let Some(Value::Array(required)) = object.get_mut("required") else {
            return;
        };
        required.retain(|name| {
            let property = name.as_str().and_then(|name| properties.get(name));
            !property.is_some_and(|schema| is_read_only(self.document, schema))
        });
        if required.is_empty() {
            object.remove("required");
        }
    }

    /// What the referred schema is called under `$defs`.
    fn kept(&mut self, reference: &'a str) -> String {
        if let Some(name) = self.names.get(reference) {
            return name.clone();
        }
        let last = reference.rsplit('/').next().unwrap_or_default();
        let base: String = last
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .take(60)
            .collect();
        let is_taken = |name: &String| self.names.values().any(|taken| taken == name);
        let numbered = (2..).map(|number| format!("{base}_{number}"));
        let name = std::iter::once(base.clone())
            .chain(numbered)
            .find(|name| !is_taken(name));
        let name = name.unwrap_or(base);
        self.names.insert(reference, name.clone());
        self.waiting.push(reference);
        name
    }
}

fn is_read_only(document: &Document, schema: &Value) -> bool {
    let meant = document.meant(schema);
    meant.is_some_and(|schema| schema["readOnly"] == Value::Bool(true))
}

/// Turns what version 3.0 says in its own way into JSON Schema.
fn lift(schema: &mut Map<String, Value>) {
    for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        match schema.get(exclusive) {
            Some(Value::Bool(true)) => {
                let value = schema.remove(bound).unwrap_or(Value::Null);
                schema.remove(exclusive);
                if value.is_number() {
                    schema.insert(exclusive.to_owned(), value);
                }
            }
            Some(Value::Bool(false)) => {
                schema.remove(exclusive);
            }
            _ => {}
        }
    }
    if let Some(example) = schema.remove("example") {
        schema.insert("examples".to_owned(), json!([example]));
    }
    if schema.remove("nullable") != Some(Value::Bool(true)) {
        return;
    }
    if let Some(kind @ Value::String(_)) = schema.get("type").cloned() {
        schema.insert("type".to_owned(), json!([kind, "null"]));
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}

/// Bytes travel as base64 in a tool's arguments.
fn describe_bytes(schema: &mut Map<String, Value>) {
    if is_bytes(schema) {
        schema.remove("format");
        schema.insert("contentEncoding".to_owned(), json!("base64"));
    }
}

/// Whether the schema stands for bytes as they are: `format: binary` (3.0), or a media type without an encoding (3.1).
pub(super) fn is_bytes(schema: &Map<String, Value>) -> bool {
    let is_binary = schema.get("format").and_then(Value::as_str) == Some("binary");
    let media_type = schema.get("contentMediaType").and_then(Value::as_str);
    let is_of_media_type =
        media_type.is_some_and(|kind| !kind.starts_with("text/") && !kind.contains("json"));
    is_binary || (is_of_media_type && !schema.contains_key("contentEncoding"))
}
