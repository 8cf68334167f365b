//! A tool's JSON Schema as the planner sees it, and the validation of arguments.

use serde_json::{Map, Value};

use super::Arguments;

/// Most parameters that are looked at.
const PARAMETERS_MAX: usize = 200;

/// One argument a tool takes.
#[derive(Debug, Clone)]
pub struct Parameter<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is, in its author's words.
    pub description: &'a str,
    /// The type of its value.
    pub kind: ValueKind,
    /// Its `format`.
    pub format: Option<&'a str>,
    /// The values it may have, if they are listed.
    pub choices: Vec<&'a Value>,
    /// The value it has when it is left out.
    pub default: Option<&'a Value>,
    /// The schema of the items, for arrays.
    pub items: Option<&'a Value>,
    /// Whether the tool cannot do without.
    pub required: bool,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A list.
    Array,
    /// An object, or anything that is not said.
    Other,
}

/// The parameters of a tool: the required ones first, else in the schema's order.
pub fn parameters(input_schema: &Value) -> Vec<Parameter<'_>> {
    let Some(properties) = input_schema.get("properties").and_then(Value::as_object) else {
        return Vec::new();
    };
    let required: Vec<&str> = input_schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let mut found: Vec<Parameter<'_>> = properties
        .iter()
        .take(PARAMETERS_MAX)
        .map(|(name, schema)| parameter(name, schema, required.contains(&name.as_str())))
        .collect();
    found.sort_by_key(|parameter| !parameter.required);
    found
}

/// Why arguments are not what the tool's schema wants, one line for each fault; empty when they are.
pub fn faults(input_schema: &Value, arguments: &Arguments) -> Vec<String> {
    const FAULTS_MAX: usize = 5;
    let schema = without_meta_schema(input_schema);
    let validator = match jsonschema::validator_for(&schema) {
        Ok(validator) => validator,
        // A schema that is itself broken can hold nothing against the arguments: the server decides.
        Err(_) => return Vec::new(),
    };
    let instance = Value::Object(arguments.clone());
    validator
        .iter_errors(&instance)
        .take(FAULTS_MAX)
        .map(|error| format!("{}: {error}", place(&error.instance_path().to_string())))
        .collect()
}

fn place(path: &str) -> String {
    if path.is_empty() {
        "arguments".to_owned()
    } else {
        path.trim_start_matches('/').replace('/', ".")
    }
}

/// Without `$schema`: an unknown dialect is read as the newest instead of refused.
fn without_meta_schema(schema: &Value) -> Value {
    let Value::Object(object) = schema else {
        return Value::Object(Map::new());
    };
    let mut object = object.clone();
    object.remove("$schema");
    Value::Object(object)
}

fn parameter<'a>(name: &'a str, schema: &'a Value, required: bool) -> Parameter<'a> {
    let meant = meant_schema(schema);
    let text = |field: &str| {
        meant
            .get(field)
            .or_else(|| schema.get(field))
            .and_then(Value::as_str)
    };
    Parameter {
        name,
        description: text("description").unwrap_or_default(),
        kind: kind(meant),
        format: text("format"),
        choices: choices(meant),
        default: schema.get("default").filter(|value| !value.is_null()),
        items: meant.get("items"),
        required,
    }
}

/// The alternative that is meant where a schema offers several: the first that is not `null`.
fn meant_schema(schema: &Value) -> &Value {
    ["anyOf", "oneOf"]
        .iter()
        .find_map(|field| schema.get(field)?.as_array())
        .and_then(|alternatives| {
            alternatives
                .iter()
                .find(|a| a.get("type").and_then(Value::as_str) != Some("null"))
        })
        .unwrap_or(schema)
}

fn kind(schema: &Value) -> ValueKind {
    let name = match schema.get("type") {
        Some(Value::String(name)) => name.as_str(),
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .find(|n| *n != "null")
            .unwrap_or(""),
        _ if schema.get("enum").is_some() => "string",
        _ => "",
    };
    match name {
        "string" => ValueKind::Text,
        "integer" => ValueKind::Integer,
        "number" => ValueKind::Number,
        "boolean" => ValueKind::Boolean,
        "array" => ValueKind::Array,
        _ => ValueKind::Other,
    }
}

fn choices(schema: &Value) -> Vec<&Value> {
    if let Some(value) = schema.get("const") {
        return vec![value];
    }
    schema
        .get("enum")
        .and_then(Value::as_array)
        .map(|values| values.iter().collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_generators_write() {
        let schema = json!({
            "type": "object",
            "properties": {
                "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": null, "description": "how many"},
                "path": {"type": ["string", "null"]},
                "mode": {"enum": ["fast", "slow"]},
            },
            "required": ["mode"],
        });
        let found = parameters(&schema);
        assert_eq!(found[0].name, "mode");
        assert_eq!(found[0].choices.len(), 2);
        let limit = found.iter().find(|p| p.name == "limit").unwrap();
        assert_eq!(
            (limit.kind, limit.description, limit.default),
            (ValueKind::Integer, "how many", None)
        );
        assert_eq!(
            found.iter().find(|p| p.name == "path").unwrap().kind,
            ValueKind::Text
        );
    }

    #[test]
    fn faults_name_the_argument() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        let arguments = json!({"n": "five"});
        let faults = faults(&schema, arguments.as_object().unwrap());
        assert!(faults[0].starts_with("n: "), "{faults:?}");
        assert!(!super::faults(&schema, &Map::new()).is_empty());
    }
}
