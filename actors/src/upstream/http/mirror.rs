//! What of a request travels in headers too (revision 2026-07-28, transports): names, and the arguments of tools that
//! are annotated with `x-mcp-header`. Pure.

use std::collections::HashSet;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::{edit, string_of};
use troupe_protocol::mcp::header;

/// The annotation in a property's schema.
const ANNOTATION: &str = "x-mcp-header";
/// Keywords whose values are data and not schemas.
const DATA_KEYWORDS: [&str; 4] = ["const", "default", "enum", "examples"];

/// An argument that travels in a header too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    header: HeaderName,
    /// From the arguments to the value: names of properties.
    path: Vec<String>,
}

/// The mirrored arguments that a tool's input schema names.
///
/// # Errors
/// What is wrong with an annotation: a tool with such a one must not be used over HTTP.
pub(crate) fn mirrors_of(schema: &Value) -> Result<Vec<Mirror>, String> {
    let mut mirrors = Vec::new();
    visit(schema, &mut Vec::new(), true, &mut mirrors)?;
    let mut seen = HashSet::new();
    match mirrors.iter().find(|mirror| !seen.insert(mirror.header.clone())) {
        Some(twice) => Err(format!("two properties are annotated with {}", twice.header)),
        None => Ok(mirrors),
    }
}

/// The headers for the arguments of one call.
pub(crate) fn headers_for(mirrors: &[Mirror], params: &RawValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(arguments) = edit::member(params, "arguments") else {
        return headers;
    };
    for mirror in mirrors {
        let value = mirror
            .path
            .iter()
            .try_fold(arguments, |object, name| edit::member(object, name));
        let text = value
            .filter(|value| value.get() != "null")
            .map(|value| string_of(value).map_or_else(|| value.get().to_owned(), |text| text.into_owned()));
        if let Some(text) = text {
            headers.insert(mirror.header.clone(), header_value(&text));
        }
    }
    headers
}

/// `path` leads to the schema if it is reachable through `properties` alone.
fn visit(
    schema: &Value,
    path: &mut Vec<String>,
    reachable: bool,
    mirrors: &mut Vec<Mirror>,
) -> Result<(), String> {
    let members = match schema {
        Value::Object(members) => members,
        Value::Array(items) => {
            return items
                .iter()
                .try_for_each(|item| visit(item, path, false, mirrors));
        }
        _ => return Ok(()),
    };
    if let Some(annotation) = members.get(ANNOTATION) {
        if !reachable || path.is_empty() {
            return Err(format!("{ANNOTATION} stands where no argument can be found"));
        }
        mirrors.push(mirror(annotation, members.get("type"), path)?);
    }
    for (keyword, value) in members {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    path.push(name.clone());
                    visit(property, path, reachable, mirrors)?;
                    path.pop();
                }
            }
            (keyword, _) if DATA_KEYWORDS.contains(&keyword) => {}
            (_, value) => visit(value, path, false, mirrors)?,
        }
    }
    Ok(())
}

fn mirror(annotation: &Value, kind: Option<&Value>, path: &[String]) -> Result<Mirror, String> {
    if !matches!(
        kind.and_then(Value::as_str),
        Some("string" | "integer" | "boolean")
    ) {
        return Err(format!("{ANNOTATION} needs a string, an integer or a boolean"));
    }
    let name = annotation.as_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| format!("{ANNOTATION} must be a name"))?;
    let header = format!("{}{}", header::PARAM_PREFIX, name.to_ascii_lowercase());
    let header =
        HeaderName::try_from(header).map_err(|_| format!("{name:?} cannot be part of a header's name"))?;
    Ok(Mirror {
        header,
        path: path.to_vec(),
    })
}

/// A value as the modern revision writes it into a header.
pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(&header::encode_value(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn annotated_arguments_travel_in_headers_too() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "x-mcp-header": {"type": "string"},
            "options": {"type": "object", "properties": {"limit": {"type": "integer", "x-mcp-header": "Limit"}}},
            "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        }});
        let mirrors = mirrors_of(&schema).unwrap();
        let params = r#"{"name":"t","arguments":{"region":"us-west1","options":{"limit":42},"dry":null}}"#;
        let headers = headers_for(&mirrors, &RawValue::from_string(params.to_owned()).unwrap());
        assert_eq!(
            (
                headers.len(),
                &headers["mcp-param-region"],
                &headers["mcp-param-limit"]
            ),
            (2, &header_value("us-west1"), &header_value("42"))
        );
    }

    #[test]
    fn wrong_annotations_are_found() {
        let property = |schema: Value| mirrors_of(&json!({"properties": {"a": schema}}));
        for wrong in [
            json!({"type": "number", "x-mcp-header": "A"}),
            json!({"type": "string", "x-mcp-header": ""}),
            json!({"type": "string", "x-mcp-header": "a b"}),
            json!({"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}),
            json!({"anyOf": [{"type": "string", "x-mcp-header": "A"}]}),
        ] {
            assert!(property(wrong.clone()).is_err(), "{wrong}");
        }
        let twice = json!({"properties": {
            "a": {"type": "string", "x-mcp-header": "Same"},
            "b": {"type": "string", "x-mcp-header": "same"},
        }});
        assert!(mirrors_of(&twice).is_err());
    }
}
