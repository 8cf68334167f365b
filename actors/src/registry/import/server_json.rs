//! The official shape: one `server.json`, a list of them, or a page of the official registry API.

use serde_json::{Map, Value};
use troupe_protocol::server::ServerJson;

use super::super::derive::{self, Given};
use super::super::error::RegistryError;
use super::{Item, Read, parse_json};

pub(super) fn read(content: &str) -> Result<Read, RegistryError> {
    let (entries, is_single) = match parse_json(content)? {
        Value::Array(entries) => (entries, false),
        Value::Object(mut object) => match object.remove("servers") {
            Some(Value::Array(entries)) => (entries, false),
            Some(_) => return Err(RegistryError::import("`servers` must be a list")),
            None => (vec![Value::Object(object)], true),
        },
        _ => {
            return Err(RegistryError::import(
                "expected a server.json, a list of them, or {\"servers\": […]}",
            ));
        }
    };
    let mut read = Read::default();
    for (index, entry) in entries.into_iter().enumerate() {
        // A page of the registry's API wraps each manifest.
        let manifest = match entry {
            Value::Object(mut wrapper) if wrapper.get("server").is_some_and(Value::is_object) => {
                wrapper.remove("server").unwrap_or_default()
            }
            manifest => manifest,
        };
        let name = manifest["name"].as_str().unwrap_or_default().to_owned();
        read.take(index, &name, item(index, manifest, is_single));
    }
    Ok(read)
}

fn item(index: usize, manifest: Value, is_single: bool) -> Result<Item, String> {
    let manifest = ServerJson::from_value(manifest).map_err(|error| error.to_string())?;
    Ok(from_manifest(index, manifest, is_single))
}

/// The entry of a manifest, reached as the manifest says.
pub(super) fn from_manifest(index: usize, manifest: ServerJson, enable: bool) -> Item {
    let derived = derive::transport(&manifest, &Given::default());
    let mut notes = derived.notes;
    if !derived.missing.is_empty() {
        notes.push(format!(
            "disabled until it is given {}",
            derived.missing.join(", ")
        ));
    }
    let enabled = enable && derived.missing.is_empty();
    let name_hints = name_hints(&manifest.name);
    Item {
        index,
        name_hints,
        transport: derived.transport,
        enabled,
        labels: Vec::new(),
        originals: Map::new(),
        notes,
        manifest,
    }
}

/// For `io.github.user/weather`: `weather`, `user-weather`, `io.github.user-weather`.
pub(super) fn name_hints(manifest_name: &str) -> Vec<String> {
    let (namespace, short) = manifest_name.rsplit_once('/').unwrap_or(("", manifest_name));
    let owner = namespace.rsplit('.').next().unwrap_or_default();
    vec![
        short.to_owned(),
        format!("{owner}-{short}"),
        format!("{namespace}-{short}"),
    ]
}
