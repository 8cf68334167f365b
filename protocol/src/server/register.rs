//! What a user sends to register, change or import servers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ts_rs::TS;
use utoipa::ToSchema;

use super::manifest::{ServerJson, TransportKind};
use super::name::ServerName;
use crate::access::SecretTemplate;

/// A header's or variable's value as a user gives it: a literal, which is sealed when the server is registered, or a
/// template that refers to secrets (`Bearer ${secret:NAME}`).
///
/// `Debug` hides it. It is only ever sent towards a node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(transparent)]
pub struct ClearText(String);

impl ClearText {
    /// The value, in clear.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it refers to secrets, so that it need not be sealed.
    pub fn is_template(&self) -> bool {
        SecretTemplate::is_meant_by(&self.0)
    }
}

impl From<String> for ClearText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for ClearText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for ClearText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// A server to register: by URL, by command, or by manifest (then the way to reach it is taken from the manifest's
/// remotes and packages unless it is given too).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export, optional_fields)]
pub struct NewServer {
    /// Its name here; taken from the manifest when nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its address, for a server reached over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it speaks at its address: `streamable-http` (the default; a server that refuses it is tried with `sse`) or
    /// `sse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<TransportKind>,
    /// An OpenAPI document, for a service over HTTP whose operations are to be tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openapi: Option<OpenApiSource>,
    /// HTTP headers to send.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[ts(as = "Option<BTreeMap<String, ClearText>>")]
    pub headers: BTreeMap<String, ClearText>,
    /// The program, for a server that is started as a child process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<String>>")]
    pub args: Vec<String>,
    /// The folder it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What is added to its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[ts(as = "Option<BTreeMap<String, ClearText>>")]
    pub env: BTreeMap<String, ClearText>,
    /// Its official manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(as = "Option<ServerJson>")]
    pub manifest: Option<Box<ServerJson>>,
    /// Whether it is enabled at once. Default: when there is a way to reach it and no required input is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Words by which people group servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<String>>")]
    pub labels: Vec<String>,
    /// How long a call may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(type = "number")]
    pub call_timeout_ms: Option<u64>,
}

/// An OpenAPI document 3.0 or 3.1 and what else it takes to call the service that it describes.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export, optional_fields)]
pub struct OpenApiSource {
    /// The document as text, JSON or YAML; JSON may also be given as it is. At most 8 MiB.
    #[serde(
        default,
        deserialize_with = "optional_text_or_json",
        skip_serializing_if = "Option::is_none"
    )]
    #[ts(type = "unknown")]
    #[schema(value_type = Option<Object>)]
    pub document: Option<String>,
    /// Where the document is to be fetched, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where the service is; as the document says when nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The credentials of the document's security schemes, by their names there: a key, a token, or `USER:PASSWORD`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[ts(as = "Option<BTreeMap<String, ClearText>>")]
    pub security: BTreeMap<String, ClearText>,
}

impl fmt::Debug for OpenApiSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.document.as_ref().map(String::len);
        write!(f, "OpenApiSource({bytes:?} bytes, {:?})", self.base_url)
    }
}

/// A change of a server. What is not given stays as it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export, optional_fields)]
pub struct ServerPatch {
    /// A name for people; publishes a new version of a `local/` manifest, refused for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does; as for `title`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A new version of its manifest, which must carry the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(as = "Option<ServerJson>")]
    pub manifest: Option<Box<ServerJson>>,
    /// Whether it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Its address; a server that was started as a child process is from now on reached there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Another OpenAPI document, another address of its service, or credentials to set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openapi: Option<OpenApiSource>,
    /// HTTP headers to set; `null` removes one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[ts(as = "Option<BTreeMap<String, Option<ClearText>>>")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub headers: BTreeMap<String, Option<ClearText>>,
    /// The program; a server that was reached over HTTP is from now on started as a child process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// All its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// The folder it runs in; empty for the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Environment variables to set; `null` removes one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[ts(as = "Option<BTreeMap<String, Option<ClearText>>>")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub env: BTreeMap<String, Option<ClearText>>,
    /// All its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Who it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// How long a call may take, in milliseconds; 0 for the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(type = "number")]
    pub call_timeout_ms: Option<u64>,
}

/// The form of servers to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum ImportFormat {
    /// `mcpServers` (or VS Code's `servers`) as desktop clients write it.
    McpServers,
    /// A `server.json`, a list of them, or a page of the official registry API.
    ServerJson,
    /// A list in the shape that the official registry had in May 2025.
    Seed,
    /// JSON lines of a catalogue: server, name, author, description, repository, label, tools.
    Catalog,
}

/// Servers to import.
#[derive(Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct ImportSource {
    /// Their form.
    pub format: ImportFormat,
    /// The text; JSON may also be given as it is.
    #[serde(deserialize_with = "text_or_json")]
    #[ts(type = "unknown")]
    #[schema(value_type = Object)]
    pub content: String,
}

fn optional_text_or_json<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        json => Some(json.to_string()),
    })
}

fn text_or_json<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        json => json.to_string(),
    })
}

impl fmt::Debug for ImportSource {
    // The content of desktop clients' files holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ImportSource({}, {} bytes)",
            <&str>::from(self.format),
            self.content.len()
        )
    }
}

/// What became of an import.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ImportReport {
    /// How many were registered or got a new version.
    pub imported: u32,
    /// How many were there already, with the same content.
    pub skipped: u32,
    /// Those that could not be imported.
    pub rejected: Vec<RejectedImport>,
    /// What was left out or changed of those that could.
    pub notes: Vec<ImportNote>,
    /// The names that the imported ones have here.
    pub names: Vec<ServerName>,
}

/// An entry that could not be imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct RejectedImport {
    /// Its place in the import, from 0.
    pub index: u32,
    /// Its name there; may be empty.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What was left out or changed of an imported entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ImportNote {
    /// Its place in the import, from 0.
    pub index: u32,
    /// Its name here.
    pub name: ServerName,
    /// What.
    pub note: String,
}
