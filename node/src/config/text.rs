//! Texts with a form, checked when they are read so that the error names their place in the file.

use serde::{Deserialize, Deserializer, Serialize, de};
use troupe_protocol::cluster::NodeName;

/// Which log lines are written, as `tracing_subscriber::EnvFilter` reads it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct LogFilter(String);

impl LogFilter {
    /// Reads a filter.
    ///
    /// # Errors
    /// Says what a filter looks like when `text` is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(reason) => Err(format!(
                "{text:?} is no log filter ({reason}); allowed: a level (off, error, warn, info, debug, trace), or `module=level` pairs with commas between"
            )),
        }
    }

    /// The filter's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl<'de> Deserialize<'de> for LogFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// An `http:` or `https:` URL, or nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct HttpUrl(String);

impl HttpUrl {
    /// The URL, unless the setting is empty.
    pub fn get(&self) -> Option<url::Url> {
        url::Url::parse(&self.0).ok()
    }
}

impl<'de> Deserialize<'de> for HttpUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_http = url::Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if text.is_empty() || is_http {
            return Ok(Self(text));
        }
        Err(de::Error::custom(format!(
            "{text:?} is no HTTP address; allowed: a URL that starts with http:// or https://, or nothing"
        )))
    }
}

/// A node's name, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameChoice(Option<NodeName>);

impl NameChoice {
    /// Reads a name.
    ///
    /// # Errors
    /// Says what a name looks like when `text` is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(name) => Ok(Self(Some(name))),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The name that was set, if one was.
    pub fn chosen(&self) -> Option<&NodeName> {
        self.0.as_ref()
    }
}

impl Serialize for NameChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_ref().map_or("", NodeName::as_str))
    }
}

impl<'de> Deserialize<'de> for NameChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}
