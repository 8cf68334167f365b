//! How a server is operated here: is it enabled, how is it reached, which secrets does it use.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ts_rs::TS;
use utoipa::ToSchema;

use crate::error::{Code, Coded};
use crate::id::travels_as_string;

/// How a server is operated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct Operation {
    /// Whether it is connected to, probed, and offered to callers.
    pub enabled: bool,
    /// How it is reached; nothing for an entry that is only catalogued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// Words by which people group servers.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Who registered it.
    #[serde(default)]
    pub owner: String,
    /// How long a call may take, in milliseconds; the node's default when nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(type = "number")]
    pub call_timeout_ms: Option<u64>,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[ts(export, optional_fields)]
pub enum Transport {
    /// A child process that is spoken to over its standard input and output.
    Stdio {
        /// The program: a path, or a name that is looked up on PATH. Never given to a shell.
        command: String,
        /// Its arguments, each passed as it is.
        #[serde(default)]
        args: Vec<String>,
        /// The folder it runs in; the node's when nothing is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        /// What is added to its environment.
        #[serde(default)]
        env: BTreeMap<String, SecretTemplate>,
    },
    /// A server reached over streamable HTTP.
    StreamableHttp {
        /// Its address, `http` or `https`.
        url: String,
        /// HTTP headers that are sent with each request.
        #[serde(default)]
        headers: BTreeMap<String, SecretTemplate>,
    },
}

impl Transport {
    /// The name of the transport, as it is written in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stdio { .. } => "stdio",
            Self::StreamableHttp { .. } => "streamable_http",
        }
    }

    /// Where the server is, for people: the command line, or the address without user, query and fragment.
    pub fn endpoint(&self) -> String {
        match self {
            Self::Stdio { command, args, .. } => {
                let mut line = command.clone();
                for arg in args {
                    line.push(' ');
                    line.push_str(arg);
                }
                line
            }
            Self::StreamableHttp { url, .. } => url::Url::parse(url).map_or_else(|_| url.clone(), address_for_people),
        }
    }

    /// Every value that may refer to secrets, with the name of its header or variable.
    pub fn templates(&self) -> impl Iterator<Item = (&str, &SecretTemplate)> {
        let values = match self {
            Self::Stdio { env, .. } => env,
            Self::StreamableHttp { headers, .. } => headers,
        };
        values.iter().map(|(name, template)| (name.as_str(), template))
    }
}

fn address_for_people(mut url: url::Url) -> String {
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for addresses that cannot have a user, which then have none to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// Text that refers to secrets by name: `Bearer ${secret:github-token}`. `$$` stands for a dollar sign.
///
/// Only the vault puts the secrets in their places. `Debug` shows the references and hides the text around them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretTemplate(String);

/// A piece of a [`SecretTemplate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplatePart<'a> {
    /// Text that is taken as it is.
    Text(&'a str),
    /// The name of a secret whose value is put here.
    Secret(&'a str),
}

/// Text that refers to secrets in a way that cannot be read. The text is not repeated, since it may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid secret reference at byte {at_byte}: {wrong} (write ${{secret:NAME}}; a literal dollar sign is $$)")]
pub struct InvalidSecretTemplate {
    /// Where in the text.
    pub at_byte: usize,
    /// What is wrong there.
    pub wrong: &'static str,
}

impl Coded for InvalidSecretTemplate {
    fn code(&self) -> Code {
        Code::InvalidSecretTemplate
    }
}

const REFERENCE_START: &str = "${secret:";

impl SecretTemplate {
    /// The template that stands for the value of one secret.
    pub fn reference(secret_name: &str) -> Self {
        Self(format!("{REFERENCE_START}{secret_name}}}"))
    }

    /// The template that stands for this very text. Never to be stored when the text is secret.
    pub fn literal(text: &str) -> Self {
        Self(text.replace('$', "$$"))
    }

    /// Whether a user's text is meant as a template and not as a literal value.
    pub fn is_meant_by(text: &str) -> bool {
        text.contains(REFERENCE_START)
    }

    /// The template as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pieces of the template, in order.
    pub fn parts(&self) -> Vec<TemplatePart<'_>> {
        split(&self.0).unwrap_or_default()
    }

    /// The names of the secrets it refers to, in order.
    pub fn secret_names(&self) -> Vec<&str> {
        let names = self.parts().into_iter().filter_map(|part| match part {
            TemplatePart::Secret(name) => Some(name),
            TemplatePart::Text(_) => None,
        });
        names.collect()
    }
}

fn split(text: &str) -> Result<Vec<TemplatePart<'_>>, InvalidSecretTemplate> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let at_byte = text.len() - rest.len() + dollar;
        let invalid = |wrong| InvalidSecretTemplate { at_byte, wrong };
        if dollar > 0 {
            parts.push(TemplatePart::Text(&rest[..dollar]));
        }
        let from_dollar = &rest[dollar..];
        if from_dollar.starts_with("$$") {
            parts.push(TemplatePart::Text("$"));
            rest = &from_dollar[2..];
            continue;
        }
        let reference = from_dollar.strip_prefix(REFERENCE_START).ok_or_else(|| invalid("a lone dollar sign"))?;
        let (name, after) = reference.split_once('}').ok_or_else(|| invalid("the closing brace is missing"))?;
        if !is_secret_name(name) {
            return Err(invalid("the name must be 1 to 200 of A-Z a-z 0-9 . _ / -"));
        }
        parts.push(TemplatePart::Secret(name));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(TemplatePart::Text(rest));
    }
    Ok(parts)
}

fn is_secret_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-');
    !name.is_empty() && name.len() <= 200 && name.bytes().all(fits)
}

impl FromStr for SecretTemplate {
    type Err = InvalidSecretTemplate;
    fn from_str(text: &str) -> Result<Self, InvalidSecretTemplate> {
        split(text).map(|_| Self(text.to_owned()))
    }
}

impl fmt::Display for SecretTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.parts() {
            match part {
                TemplatePart::Text(_) => f.write_str("…")?,
                TemplatePart::Secret(name) => write!(f, "{REFERENCE_START}{name}}}")?,
            }
        }
        Ok(())
    }
}

travels_as_string!(SecretTemplate);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_template_is_split_into_text_and_references() {
        let template: SecretTemplate = "Bearer ${secret:server/a/header/Auth} costs 5$$".parse().unwrap();
        let expected = [
            TemplatePart::Text("Bearer "),
            TemplatePart::Secret("server/a/header/Auth"),
            TemplatePart::Text(" costs 5"),
            TemplatePart::Text("$"),
        ];
        assert_eq!(template.parts(), expected);
        assert_eq!(template.secret_names(), ["server/a/header/Auth"]);
        assert_eq!(format!("{template:?}"), "…${secret:server/a/header/Auth}……");
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_repeating_it() {
        for (wrong, at_byte) in [("a$b", 1), ("${secret:x", 0), ("${secret:}", 0), ("ab${secret:a b}", 2), ("${env:X}", 0)] {
            let error = wrong.parse::<SecretTemplate>().unwrap_err();
            assert_eq!(error.at_byte, at_byte, "{wrong:?}");
            assert!(!error.to_string().contains(wrong));
        }
    }

    #[test]
    fn a_literal_stands_for_itself() {
        let text: String = SecretTemplate::literal("pa$$w${secret:x}")
            .parts()
            .into_iter()
            .map(|part| match part {
                TemplatePart::Text(text) => text,
                TemplatePart::Secret(_) => "LEAK",
            })
            .collect();
        assert_eq!(text, "pa$$w${secret:x}");
    }

    #[test]
    fn an_endpoint_shows_no_credentials() {
        let transport = Transport::StreamableHttp {
            url: "https://user:pass@host.example/mcp?key=abc#x".into(),
            headers: BTreeMap::new(),
        };
        assert_eq!(transport.endpoint(), "https://host.example/mcp");
    }
}
