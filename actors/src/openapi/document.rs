//! An OpenAPI document, read and looked into. Pure.

use percent_encoding::percent_decode_str;
use serde_json::Value;
use troupe_protocol::error::{Code, Coded};
use url::Url;

use super::bounded::value_of_yaml;

/// The most bytes of a document.
pub const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most references that are followed to reach what is meant.
const REFERENCES_MAX: usize = 16;

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is too large.
    #[error("the OpenAPI document has {0} bytes, at most {DOCUMENT_BYTES_MAX}")]
    TooLarge(usize),
    /// It is neither JSON nor YAML.
    #[error("the OpenAPI document is neither JSON nor YAML: {0}")]
    Unreadable(String),
    /// It is something else.
    #[error("this is not an OpenAPI document: {0}")]
    Other(String),
    /// None of its operations can be a tool.
    #[error("the OpenAPI document has no operation that can be called")]
    NoOperations,
    /// It does not say where its service is.
    #[error(
        "where is the service? the OpenAPI document names no server with an http or https address: give base_url"
    )]
    NoBaseUrl,
    /// The address given for the service is none.
    #[error("base_url must be an absolute http or https address without query: {0}")]
    BaseUrl(String),
    /// A credential is given for a scheme that it does not have.
    #[error("the OpenAPI document has no security scheme {name} that takes a credential; it has: {known}")]
    Scheme {
        /// The scheme.
        name: String,
        /// Those that it has.
        known: String,
    },
    /// It could not be fetched.
    #[error("the OpenAPI document at {url} cannot be had: {reason}")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        reason: String,
    },
    /// Its registration is not complete at this node.
    #[error("the OpenAPI document is not at this node: {0}")]
    Missing(String),
}

impl Coded for DocumentError {
    fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::OpenApiUnreachable,
            Self::Missing(_) => Code::StoreUnavailable,
            _ => Code::OpenApiInvalid,
        }
    }
}

/// A document of version 3.0 or 3.1.
#[derive(Debug)]
pub struct Document {
    root: Value,
    is_3_0: bool,
}

impl Document {
    /// Reads a document, JSON or YAML.
    ///
    /// # Errors
    /// [`DocumentError`] when it is too large, cannot be read, or is not OpenAPI 3.
    pub fn read(text: &str) -> Result<Self, DocumentError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLarge(text.len()));
        }
        let is_json = text.trim_start().starts_with('{');
        let read = if is_json {
            serde_json::from_str::<Value>(text).map_err(|error| error.to_string())
        } else {
            value_of_yaml(text)
        };
        let root = read.map_err(DocumentError::Unreadable)?;
        let version = match (&root["openapi"], &root["swagger"]) {
            (Value::String(version), _) => version.clone(),
            // Unquoted in YAML.
            (Value::Number(version), _) => version.to_string(),
            (_, Value::Null) => {
                return Err(DocumentError::Other("it has no member openapi".to_owned()));
            }
            (_, swagger) => {
                return Err(DocumentError::Other(format!(
                    "it is Swagger {swagger}; OpenAPI 3.0 and 3.1 are understood"
                )));
            }
        };
        let is_3_0 = version.starts_with("3.0");
        if !is_3_0 && !version.starts_with("3.1") && version != "3" {
            return Err(DocumentError::Other(format!(
                "its version is {version}; 3.0 and 3.1 are understood"
            )));
        }
        if !root["paths"].is_object() {
            return Err(DocumentError::Other("it has no paths".to_owned()));
        }
        Ok(Self { root, is_3_0 })
    }

    /// Whether its schemas are those of version 3.0, which are not JSON Schema.
    pub(super) fn is_3_0(&self) -> bool {
        self.is_3_0
    }

    /// What the service is called.
    pub fn title(&self) -> Option<&str> {
        self.info("title")
    }

    /// What it does.
    pub fn description(&self) -> Option<&str> {
        self.info("summary").or_else(|| self.info("description"))
    }

    /// Which version of the service it describes.
    pub fn version(&self) -> &str {
        self.info("version").unwrap_or("0")
    }

    fn info(&self, member: &str) -> Option<&str> {
        let text = self.root["info"][member].as_str()?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// Where the service is: the first of its servers with an absolute address, or with one relative to where the document
    /// was fetched.
    ///
    /// # Errors
    /// [`DocumentError::NoBaseUrl`].
    pub fn base_url(&self, fetched_from: Option<&Url>) -> Result<Url, DocumentError> {
        let servers = self.root["servers"].as_array().map_or(&[][..], Vec::as_slice);
        // Without any, the service is where the document is.
        let here = Value::String("/".to_owned());
        let named = servers
            .iter()
            .map(|server| (&server["url"], &server["variables"]));
        let named = named.chain(servers.is_empty().then_some((&here, &Value::Null)));
        let usable = |(url, variables): (&Value, &Value)| {
            let filled = with_defaults(url.as_str()?, variables);
            let address = match (Url::parse(&filled), fetched_from) {
                (Ok(address), _) => address,
                (Err(_), Some(from)) => from.join(&filled).ok()?,
                (Err(_), None) => return None,
            };
            checked_base(address).ok()
        };
        named.filter_map(usable).next().ok_or(DocumentError::NoBaseUrl)
    }

    /// The object under `paths`.
    pub(super) fn paths(&self) -> impl Iterator<Item = (&str, &Value)> {
        let paths = self.root["paths"].as_object();
        paths
            .into_iter()
            .flatten()
            .map(|(path, item)| (path.as_str(), item))
    }

    /// What its security schemes are called, and what they are.
    pub(super) fn security_schemes(&self) -> impl Iterator<Item = (&str, &Value)> {
        let schemes = self.root["components"]["securitySchemes"].as_object();
        schemes
            .into_iter()
            .flatten()
            .filter_map(|(name, scheme)| Some((name.as_str(), self.meant(scheme)?)))
    }

    /// What an operation needs that says nothing itself.
    pub(super) fn security(&self) -> &Value {
        &self.root["security"]
    }

    /// The part that a reference within the document names.
    pub(super) fn find(&self, reference: &str) -> Option<&Value> {
        let pointer = reference.strip_prefix('#')?;
        let pointer = percent_decode_str(pointer).decode_utf8().ok()?;
        self.root.pointer(&pointer)
    }

    /// The value, or what it refers to.
    pub(super) fn meant<'a>(&'a self, value: &'a Value) -> Option<&'a Value> {
        let mut meant = value;
        for _ in 0..REFERENCES_MAX {
            match meant.get("$ref").and_then(Value::as_str) {
                None => return Some(meant),
                Some(reference) => meant = self.find(reference)?,
            }
        }
        None
    }
}

/// An address in which a service may be.
///
/// # Errors
/// [`DocumentError::BaseUrl`].
pub(super) fn checked_base(mut address: Url) -> Result<Url, DocumentError> {
    let is_usable =
        matches!(address.scheme(), "http" | "https") && address.has_host() && address.query().is_none();
    if !is_usable {
        return Err(DocumentError::BaseUrl(address.into()));
    }
    address.set_fragment(None);
    Ok(address)
}

/// An address with the defaults of its variables.
fn with_defaults(url: &str, variables: &Value) -> String {
    let mut filled = url.to_owned();
    for (name, variable) in variables.as_object().into_iter().flatten() {
        let default = match &variable["default"] {
            Value::String(default) => default.clone(),
            Value::Null => continue,
            other => other.to_string(),
        };
        filled = filled.replace(&format!("{{{name}}}"), &default);
    }
    filled
}
