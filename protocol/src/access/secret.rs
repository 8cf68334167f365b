//! Names of secrets, and templates that refer to them. The clear text is nowhere in this crate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use ts_rs::TS;
use utoipa::ToSchema;

use crate::id::travels_as_string;
use crate::time::Timestamp;

const SECRET_NAME_BYTES_MAX: usize = 200;
const TEMPLATE_BYTES_MAX: usize = 32 * 1024;
const REFERENCE_OPEN: &str = "${secret:";

/// Why a text is no [`SecretName`] or [`SecretTemplate`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// The name of a secret breaks the rule.
    #[error(
        "{name:?} is no name for a secret: use 1 to {SECRET_NAME_BYTES_MAX} of a-z A-Z 0-9 . _ - /, \
         first a letter or digit, such as github-token"
    )]
    Name {
        /// What was given (shortened).
        name: String,
    },
    /// `${` without its `}`.
    #[error(
        "the reference opened at byte {at} is not closed: write ${{secret:NAME}}, or $$ for a dollar sign"
    )]
    Unclosed {
        /// Where it opens.
        at: usize,
    },
    /// `${…}` that is no reference to a secret.
    #[error("the reference at byte {at} is not to a secret: write ${{secret:NAME}}, or $$ for a dollar sign")]
    UnknownReference {
        /// Where it opens.
        at: usize,
    },
    /// Too long.
    #[error("a template has at most {TEMPLATE_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// The name of a secret: `github-token`, `server/github/header/Authorization`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

impl SecretName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`TemplateError::Name`] when it is empty, too long, or has a character that is not allowed.
    pub fn new(name: impl Into<String>) -> Result<Self, TemplateError> {
        let name = name.into();
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b'/');
        let begins_well = name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if begins_well && name.len() <= SECRET_NAME_BYTES_MAX && name.bytes().all(allowed) {
            return Ok(Self(name));
        }
        Err(TemplateError::Name {
            name: name.chars().take(SECRET_NAME_BYTES_MAX).collect(),
        })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SecretName {
    type Err = TemplateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

travels_as_string!(SecretName);

/// A piece of a [`SecretTemplate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    /// Text that stands for itself (`$$` already turned into `$`).
    Literal(String),
    /// The value of this secret belongs here.
    Secret(SecretName),
}

/// A text in which `${secret:NAME}` stands for the value of a secret and `$$` for a dollar sign: `Bearer ${secret:github-token}`.
///
/// A single `$` that opens nothing stands for itself. The text is checked when it is made, so that a template that exists is
/// well formed; whether its secrets exist is known when it is resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretTemplate(String);

impl SecretTemplate {
    /// Checks a template.
    ///
    /// # Errors
    /// An unclosed or unknown reference, a bad secret name, or a text above 32 KiB.
    pub fn new(text: impl Into<String>) -> Result<Self, TemplateError> {
        let text = text.into();
        parse(&text)?;
        Ok(Self(text))
    }

    /// The template which is exactly this text, whatever dollar signs it holds.
    pub fn literal(text: &str) -> Self {
        Self(text.replace('$', "$$"))
    }

    /// The template which is the value of this secret.
    pub fn of_secret(name: &SecretName) -> Self {
        Self(format!("{REFERENCE_OPEN}{name}}}"))
    }

    /// Whether a text that a person gave means to refer to a secret, and so is a template; else it is a literal (to be sealed).
    pub fn is_meant_by(text: &str) -> bool {
        text.contains(REFERENCE_OPEN)
    }

    /// The template as it was written. It shows no secret.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its pieces in order.
    pub fn parts(&self) -> Vec<TemplatePart> {
        parse(&self.0).unwrap_or_default() // never the default: checked when made
    }

    /// The secrets that it needs, in order, with repetitions.
    pub fn secrets(&self) -> Vec<SecretName> {
        let secret = |part| match part {
            TemplatePart::Secret(name) => Some(name),
            TemplatePart::Literal(_) => None,
        };
        self.parts().into_iter().filter_map(secret).collect()
    }
}

fn parse(text: &str) -> Result<Vec<TemplatePart>, TemplateError> {
    if text.len() > TEMPLATE_BYTES_MAX {
        return Err(TemplateError::TooLong { bytes: text.len() });
    }
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(before_dollar) = rest.find('$') {
        let at = text.len() - rest.len() + before_dollar;
        literal.push_str(&rest[..before_dollar]);
        rest = &rest[before_dollar..];
        if let Some(after) = rest.strip_prefix("$$") {
            literal.push('$');
            rest = after;
        } else if rest.starts_with("${") {
            let (name, after) = reference(rest, at)?;
            if !literal.is_empty() {
                parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
            }
            parts.push(TemplatePart::Secret(name));
            rest = after;
        } else {
            literal.push('$');
            rest = &rest[1..];
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(TemplatePart::Literal(literal));
    }
    Ok(parts)
}

/// Reads the `${secret:NAME}` that `rest` starts with; gives the name and what follows it.
fn reference(rest: &str, at: usize) -> Result<(SecretName, &str), TemplateError> {
    let close = rest.find('}').ok_or(TemplateError::Unclosed { at })?;
    let name = rest[..close]
        .strip_prefix(REFERENCE_OPEN)
        .ok_or(TemplateError::UnknownReference { at })?;
    Ok((SecretName::new(name)?, &rest[close + 1..]))
}

impl fmt::Display for SecretTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SecretTemplate {
    type Err = TemplateError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

travels_as_string!(SecretTemplate);

/// A secret as lists show it: all but its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct SecretInfo {
    /// Its name.
    pub name: SecretName,
    /// When it was first put.
    pub created_at: Timestamp,
    /// When it was last put.
    pub updated_at: Timestamp,
    /// When it was last resolved, to within a minute.
    #[ts(optional)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// What last resolved it, such as `server/github`; the most recent first, a few at most.
    #[serde(default)]
    pub used_by: Vec<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn literal(text: &str) -> TemplatePart {
        TemplatePart::Literal(text.to_owned())
    }

    fn secret(name: &str) -> TemplatePart {
        TemplatePart::Secret(SecretName::new(name).unwrap())
    }

    #[test]
    fn a_template_falls_into_literals_and_secrets() {
        let template =
            SecretTemplate::new("Bearer ${secret:a}${secret:server/x/b} costs $$5 or $6 $").unwrap();
        assert_eq!(
            template.parts(),
            [
                literal("Bearer "),
                secret("a"),
                secret("server/x/b"),
                literal(" costs $5 or $6 $")
            ]
        );
        assert_eq!(template.secrets().len(), 2);
    }

    #[test]
    fn an_escaped_reference_is_literal() {
        assert_eq!(
            SecretTemplate::new("$${secret:a}").unwrap().parts(),
            [literal("${secret:a}")]
        );
    }

    #[test]
    fn a_wrong_reference_says_where() {
        assert_eq!(
            SecretTemplate::new("é ${secret:a").unwrap_err(),
            TemplateError::Unclosed { at: 3 }
        );
        assert_eq!(
            SecretTemplate::new("x${API_KEY}").unwrap_err(),
            TemplateError::UnknownReference { at: 1 }
        );
        assert!(matches!(
            SecretTemplate::new("${secret:a b}").unwrap_err(),
            TemplateError::Name { .. }
        ));
        assert!(matches!(
            SecretTemplate::new("${secret:}").unwrap_err(),
            TemplateError::Name { .. }
        ));
    }

    #[test]
    fn a_name_is_checked_when_it_is_read() {
        assert!(serde_json::from_str::<SecretName>(r#""a/b-c.d_E""#).is_ok());
        for bad in ["", "/a", "-a", "a b", "a\u{e9}", "a}", &"a".repeat(201)] {
            assert!(SecretName::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn a_literal_is_itself(text in ".{0,200}") {
            let template = SecretTemplate::literal(&text);
            prop_assert_eq!(SecretTemplate::new(template.as_str()).unwrap(), template.clone());
            let expected = if text.is_empty() { vec![] } else { vec![literal(&text)] };
            prop_assert_eq!(template.parts(), expected);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[$\\{\\}a-z:é]{0,60}|(\\$\\{secret:[a-z]{0,3}\\}?){0,5}") {
            let _ = SecretTemplate::new(text);
        }
    }
}
