//! What of a request travels in headers too (revision 2026-07-28, transports): names, and the arguments of tools that
//! are annotated with `x-mcp-header`. Pure.

use std::collections::{BTreeMap, HashSet};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::{edit, string_of};
use troupe_protocol::mcp::{ToolDescriptor, header};

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
        if let Some(text) = mirror.value_in(arguments) {
            headers.insert(mirror.header.clone(), header_value(&text));
        }
    }
    headers
}

/// The headers `Mcp-Param-*` of a client's request: what each stands for, or nothing where it cannot be read.
pub type ParamHeaders = BTreeMap<String, Option<String>>;

/// Sees to it that a client says in headers what it says in the arguments.
///
/// # Errors
/// Which header is missing, cannot be read, or says something else.
pub(crate) fn check(
    mirrors: &[Mirror],
    params: Option<&RawValue>,
    given: &ParamHeaders,
) -> Result<(), String> {
    let arguments = params.and_then(|params| edit::member(params, "arguments"));
    for mirror in mirrors {
        let header = mirror.header.as_str();
        let in_body = arguments.and_then(|arguments| mirror.value_in(arguments));
        match (given.get(header), in_body) {
            (None, None) => {}
            (None, Some(_)) => return Err(format!("the header {header} is required with these arguments")),
            (Some(None), _) => return Err(format!("the header {header} is not valid Base64 of UTF-8")),
            (Some(Some(in_header)), Some(in_body)) if is_same(in_header, &in_body) => {}
            (Some(Some(in_header)), _) => {
                return Err(format!(
                    "the header {header} says {in_header:?}, the arguments do not"
                ));
            }
        }
    }
    Ok(())
}

/// Numbers may be spelt in several ways.
fn is_same(in_header: &str, in_body: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    in_header == in_body
        || number(in_header)
            .zip(number(in_body))
            .is_some_and(|(header, body)| header == body)
}

impl Mirror {
    /// The argument as it stands in the header; nothing if it is absent or null.
    fn value_in(&self, arguments: &RawValue) -> Option<String> {
        let value = self
            .path
            .iter()
            .try_fold(arguments, |object, name| edit::member(object, name))?;
        let is_there = value.get() != "null";
        is_there.then(|| string_of(value).map_or_else(|| value.get().to_owned(), |text| text.into_owned()))
    }
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

/// As [`check`], by the description of the tool that is called.
pub(crate) fn check_call(
    tools: &[ToolDescriptor],
    params: Option<&RawValue>,
    given: &ParamHeaders,
) -> Result<(), String> {
    let name = params.and_then(|params| edit::string_member(params, "name"));
    let tool = tools.iter().find(|tool| Some(&*tool.name) == name.as_deref());
    // Few tools have annotations, and reading a schema takes longer than the rest of a call.
    let Some(tool) = tool.filter(|tool| tool.raw.get().contains(ANNOTATION)) else {
        return Ok(());
    };
    match mirrors_of(&tool.tool().input_schema) {
        Ok(mirrors) => check(&mirrors, params, given),
        // A wrong annotation is its server's fault.
        Err(_) => Ok(()),
    }
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

    #[test]
    fn headers_and_arguments_say_the_same() {
        let schema = serde_json::json!({ "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "count": { "type": "integer", "x-mcp-header": "Count" },
        } });
        let mirrors = mirrors_of(&schema).unwrap();
        let check = |arguments: &str, given: &[(&str, Option<&str>)]| {
            let params = format!(r#"{{"arguments":{arguments}}}"#);
            let params = RawValue::from_string(params).unwrap();
            let given = given
                .iter()
                .map(|(name, value)| (format!("mcp-param-{name}"), value.map(str::to_owned)));
            super::check(&mirrors, Some(&params), &given.collect())
        };
        let (region, count) = (("region", Some("eu")), ("count", Some("42.0")));
        assert!(check(r#"{"region":"eu","count":42}"#, &[region, count]).is_ok());
        assert!(check(r#"{"region":null}"#, &[]).is_ok());
        assert!(check(r#"{"region":"eu"}"#, &[region, ("unknown", None)]).is_ok());
        assert!(check(r#"{"region":"eu"}"#, &[]).is_err(), "left out");
        assert!(check(r#"{"region":"us"}"#, &[region]).is_err(), "another");
        assert!(check("{}", &[region]).is_err(), "only in the header");
        assert!(
            check(r#"{"region":"eu"}"#, &[("region", None)]).is_err(),
            "unreadable"
        );
    }
}
