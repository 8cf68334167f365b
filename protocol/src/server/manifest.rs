//! The official `server.json`, schema 2025-12-11.
//!
//! Source: the schema in the repository `modelcontextprotocol/registry`, `docs/reference/server-json/`. Every field
//! of the schema is typed; what it does not know is kept in `extra` and written out again. What a field may hold
//! is checked in [`super::validate`], so that a wrong value can be read and then be named.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use ts_rs::TS;
use utoipa::ToSchema;

use super::validate::FieldError;

/// The schema that manifests follow here.
pub const SCHEMA_URL: &str = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json";

/// The key in a manifest's `_meta` under which tools are kept that a catalogue says a server has.
pub const META_ADVERTISED_TOOLS: &str = "troupe.registry/advertised-tools";

/// The key in a manifest's `_meta` under which an import keeps what it had to change.
pub const META_IMPORTED: &str = "troupe.registry/imported";

/// Describes an MCP server: what it is, and how it can be run or reached.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "camelCase")]
#[ts(export, optional_fields)]
pub struct ServerJson {
    /// The schema it follows.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Its name in reverse-DNS form with one slash (`io.github.user/weather`); 3 to 200 characters.
    pub name: String,
    /// A name for people; at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does; 1 to 100 characters.
    pub description: String,
    /// This version of it: one version, not a range; at most 255 characters.
    pub version: String,
    /// Its home page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub website_url: Option<String>,
    /// Where its source code is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// Pictures for user interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<Icon>>")]
    pub icons: Vec<Icon>,
    /// Packages from which it can be installed and run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<Package>>")]
    pub packages: Vec<Package>,
    /// Where it runs already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<Remote>>")]
    pub remotes: Vec<Remote>,
    /// Extensions, by reverse-DNS key.
    #[serde(rename = "_meta", default, skip_serializing_if = "BTreeMap::is_empty")]
    #[ts(as = "Option<BTreeMap<String, RawJson>>")]
    pub meta: BTreeMap<String, RawJson>,
    /// Fields that the schema does not know.
    #[serde(flatten)]
    #[ts(skip)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

impl ServerJson {
    /// Reads a manifest, naming the field that is wrong.
    ///
    /// # Errors
    /// [`FieldError`] when a field is missing or has the wrong type. What the fields hold is not checked:
    /// see [`ServerJson::validate`].
    pub fn from_value(value: Value) -> Result<Self, FieldError> {
        serde_path_to_error::deserialize(value).map_err(FieldError::unreadable)
    }

    /// The tools that a catalogue says the server has; empty when it says nothing.
    pub fn advertised_tools(&self) -> Vec<AdvertisedTool> {
        let advertised = self.meta.get(META_ADVERTISED_TOOLS);
        advertised
            .and_then(|raw| serde_json::from_str(raw.as_str()).ok())
            .unwrap_or_default()
    }

    /// The names of the tools that a catalogue says the server has. Much cheaper than the tools themselves.
    pub fn advertised_tool_names(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let advertised = self.meta.get(META_ADVERTISED_TOOLS);
        let named = advertised.and_then(|raw| serde_json::from_str::<Vec<Named>>(raw.as_str()).ok());
        named
            .unwrap_or_default()
            .into_iter()
            .map(|tool| tool.name)
            .collect()
    }

    /// The part after the slash of its name.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// A tool as a catalogue lists it, before anyone has connected to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "camelCase")]
#[ts(export, optional_fields)]
pub struct AdvertisedTool {
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON Schema of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<RawJson>,
}

/// Where the source code of a server is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct Repository {
    /// Its address, for browsers and for git.
    pub url: String,
    /// The hosting service, as `github`.
    pub source: String,
    /// The service's identifier of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where in the repository the server is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subfolder: Option<String>,
    /// Fields that the schema does not know.
    #[serde(flatten)]
    #[ts(skip)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

/// A picture of a server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "camelCase")]
#[ts(export, optional_fields)]
pub struct Icon {
    /// Its address: https, at most 255 characters.
    pub src: String,
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// Its sizes, as `48x48` or `any`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<String>>")]
    pub sizes: Vec<String>,
    /// The theme it is for: `light` or `dark`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theme: Option<String>,
    /// Fields that the schema does not know.
    #[serde(flatten)]
    #[ts(skip)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

/// A package from which a server can be installed and run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "camelCase")]
#[ts(export, optional_fields)]
pub struct Package {
    /// The kind of registry that has it: `npm`, `pypi`, `oci`, `nuget`, `mcpb`, or another.
    pub registry_type: String,
    /// The registry's address, when it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_base_url: Option<String>,
    /// The package's name, image reference or download address.
    pub identifier: String,
    /// The package's version: one version, not a range, not `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SHA-256 of the file, 64 lower-case hex digits; required for `mcpb`.
    #[serde(rename = "fileSha256", default, skip_serializing_if = "Option::is_none")]
    pub file_sha256: Option<String>,
    /// The program that runs it: `npx`, `uvx`, `docker`, `dnx`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_hint: Option<String>,
    /// How to talk to it once it runs.
    pub transport: PackageTransport,
    /// Arguments for the program that runs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<Argument>>")]
    pub runtime_arguments: Vec<Argument>,
    /// Arguments for the server itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<Argument>>")]
    pub package_arguments: Vec<Argument>,
    /// Its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<KeyValueInput>>")]
    pub environment_variables: Vec<KeyValueInput>,
    /// Fields that the schema does not know.
    #[serde(flatten)]
    #[ts(skip)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

/// The transports of the official schema.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema, strum::IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
#[ts(export)]
pub enum TransportKind {
    /// Standard input and output of a child process.
    #[default]
    Stdio,
    /// Streamable HTTP.
    StreamableHttp,
    /// HTTP with server-sent events (MCP 2024-11-05, deprecated).
    Sse,
}

/// How to talk to a server that was started from a package.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct PackageTransport {
    /// The transport.
    #[serde(rename = "type")]
    pub kind: TransportKind,
    /// Where it listens; required except for `stdio`. `{name}` stands for an argument or variable of the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// HTTP headers to send.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<KeyValueInput>>")]
    pub headers: Vec<KeyValueInput>,
    /// Fields that the schema does not know.
    #[serde(flatten)]
    #[ts(skip)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

/// Where a server runs already.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct Remote {
    /// The transport: `streamable-http` or `sse`.
    #[serde(rename = "type")]
    pub kind: TransportKind,
    /// Its address; `{name}` stands for one of `variables`.
    pub url: String,
    /// HTTP headers to send.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<KeyValueInput>>")]
    pub headers: Vec<KeyValueInput>,
    /// What the parts of `url` in braces stand for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[ts(as = "Option<BTreeMap<String, Input>>")]
    pub variables: BTreeMap<String, Input>,
    /// Fields that the schema does not know.
    #[serde(flatten)]
    #[ts(skip)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

/// A value that the author of a manifest gives or that the user is asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(no_recursion)]
#[ts(export, optional_fields)]
pub struct Input {
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether there must be a value. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_required: Option<bool>,
    /// Its form: `string` (default), `number`, `boolean` or `filepath`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// A fixed value that the user cannot change; `{name}` stands for one of `variables`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "scalar_as_text"
    )]
    pub value: Option<String>,
    /// Whether it must be kept secret. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_secret: Option<bool>,
    /// The value when the user gives none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "scalar_as_text"
    )]
    pub default: Option<String>,
    /// An example for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder: Option<String>,
    /// The values to choose from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<String>>")]
    pub choices: Vec<String>,
    /// What the parts of `value` in braces stand for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[ts(as = "Option<BTreeMap<String, Input>>")]
    pub variables: BTreeMap<String, Input>,
    /// Fields that the schema does not know.
    #[serde(flatten)]
    #[ts(skip)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

/// A header or environment variable.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct KeyValueInput {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(flatten)]
    pub input: Input,
}

/// Whether an argument is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum ArgumentKind {
    /// Put on the command line as it is.
    #[default]
    Positional,
    /// A flag and its value.
    Named,
}

/// An argument of a command line.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "camelCase")]
#[ts(export, optional_fields)]
pub struct Argument {
    /// Whether it is named.
    #[serde(rename = "type")]
    pub kind: ArgumentKind,
    /// The flag with its dashes; required for named arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A label for the value; positional arguments must have this or `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_hint: Option<String>,
    /// Whether it may occur several times. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_repeated: Option<bool>,
    /// Its value.
    #[serde(flatten)]
    pub input: Input,
}

/// Reads a string; numbers and booleans, which authors write although the schema says string, become their text.
fn scalar_as_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(scalar @ (Value::Bool(_) | Value::Number(_))) => Ok(Some(scalar.to_string())),
        Some(_) => Err(serde::de::Error::custom("expected a string")),
    }
}

/// JSON that is kept as text: a fraction of the memory of a parsed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawJson(Box<str>);

impl RawJson {
    /// The text of a JSON value.
    pub fn from_value(value: &Value) -> Self {
        Self(value.to_string().into_boxed_str())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parsed value.
    pub fn to_value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &serde_json::value::RawValue =
            serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Through `Value` and not `RawValue`, which cannot be read from within flattened or tagged types.
        Value::deserialize(deserializer).map(|value| Self::from_value(&value))
    }
}

impl TS for RawJson {
    type WithoutGenerics = Self;
    type OptionInnerType = Self;
    fn name(_: &ts_rs::Config) -> String {
        "unknown".to_owned()
    }
    fn inline(config: &ts_rs::Config) -> String {
        <Self as TS>::name(config)
    }
}

impl utoipa::PartialSchema for RawJson {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        <Value as utoipa::PartialSchema>::schema()
    }
}

impl ToSchema for RawJson {}
