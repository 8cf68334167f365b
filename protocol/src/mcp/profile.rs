//! What a client can do for a legacy server, in a few bits.
//!
//! A legacy server is told once, when the connection is made, what its client can do, and what it offers may depend on
//! that (2025-11-25, basic/lifecycle, "Capability Negotiation"). So only clients that can do the same share a
//! connection and its lists. A modern server is told with each request and needs no such thing.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ClientCapabilities, method};
use crate::jsonrpc::{edit, string_of};

/// What a client can do for a legacy server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Profile(u8);

impl Profile {
    /// Of a client that can do nothing for servers.
    pub const NONE: Self = Self(0);

    const ELICITATION_FORM: u8 = 1;
    const ELICITATION_URL: u8 = 1 << 1;
    const SAMPLING: u8 = 1 << 2;
    const SAMPLING_TOOLS: u8 = 1 << 3;
    const SAMPLING_CONTEXT: u8 = 1 << 4;
    const ROOTS: u8 = 1 << 5;

    /// What these capabilities come to. Wrongly typed ones count as absent.
    pub fn of(capabilities: &ClientCapabilities) -> Self {
        let Ok(all) = serde_json::from_str::<&RawValue>(capabilities.as_str()) else {
            return Self::NONE;
        };
        let object = |of: &RawValue, key: &str| {
            edit::member(of, key)
                .filter(|value| value.get().starts_with('{'))
                .map(ToOwned::to_owned)
        };
        let mut bits = 0;
        if let Some(elicitation) = object(all, "elicitation") {
            let (form, url) = (object(&elicitation, "form"), object(&elicitation, "url"));
            // An empty object is how revisions before 2025-11-25 say that forms are understood.
            if form.is_some() || url.is_none() {
                bits |= Self::ELICITATION_FORM;
            }
            if url.is_some() {
                bits |= Self::ELICITATION_URL;
            }
        }
        if let Some(sampling) = object(all, "sampling") {
            bits |= Self::SAMPLING;
            if object(&sampling, "tools").is_some() {
                bits |= Self::SAMPLING_TOOLS;
            }
            if object(&sampling, "context").is_some() {
                bits |= Self::SAMPLING_CONTEXT;
            }
        }
        if object(all, "roots").is_some() {
            bits |= Self::ROOTS;
        }
        Self(bits)
    }

    /// The same without `roots`.
    #[must_use]
    pub fn without_roots(self) -> Self {
        Self(self.0 & !Self::ROOTS)
    }

    /// Whether a client can do nothing for servers.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The member `capabilities` of `initialize` for clients like this.
    pub fn to_capabilities(self) -> String {
        let group = |is_there: u8, key: &str, members: &[(u8, &str)]| {
            let members: Vec<String> = members
                .iter()
                .filter(|(bit, _)| self.has(*bit))
                .map(|(_, member)| format!("\"{member}\":{{}}"))
                .collect();
            self.has(is_there)
                .then(|| format!("\"{key}\":{{{}}}", members.join(",")))
        };
        let elicitation = [(Self::ELICITATION_FORM, "form"), (Self::ELICITATION_URL, "url")];
        let sampling = [
            (Self::SAMPLING_TOOLS, "tools"),
            (Self::SAMPLING_CONTEXT, "context"),
        ];
        let groups = [
            group(
                Self::ELICITATION_FORM | Self::ELICITATION_URL,
                "elicitation",
                &elicitation,
            ),
            group(Self::SAMPLING, "sampling", &sampling),
            group(Self::ROOTS, "roots", &[]),
        ];
        format!(
            "{{{}}}",
            groups.into_iter().flatten().collect::<Vec<_>>().join(",")
        )
    }

    /// Whether clients like this may be asked this.
    pub fn admits(self, asked: &str, params: Option<&RawValue>) -> bool {
        let has = |key: &str| params.is_some_and(|params| edit::member(params, key).is_some());
        match asked {
            method::ELICITATION_CREATE => {
                let mode = params.and_then(|params| edit::member(params, "mode"));
                let is_url = mode.and_then(string_of).is_some_and(|mode| mode == "url");
                self.has(if is_url {
                    Self::ELICITATION_URL
                } else {
                    Self::ELICITATION_FORM
                })
            }
            method::SAMPLING_CREATE_MESSAGE if has("tools") || has("toolChoice") => {
                self.has(Self::SAMPLING_TOOLS)
            }
            method::SAMPLING_CREATE_MESSAGE => self.has(Self::SAMPLING),
            method::ROOTS_LIST => self.has(Self::ROOTS),
            _ => false,
        }
    }

    /// Names of the bits, in their order.
    const NAMES: [&str; 6] = [
        "form",
        "url",
        "sampling",
        "sampling_tools",
        "sampling_context",
        "roots",
    ];

    fn has(self, any_of: u8) -> bool {
        self.0 & any_of != 0
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().enumerate();
        let able: Vec<&str> = names
            .filter(|(bit, _)| self.has(1 << bit))
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&able.join("+"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn profile(capabilities: &str) -> Profile {
        let raw = RawValue::from_string(capabilities.to_owned()).unwrap();
        Profile::of(&ClientCapabilities::new(raw))
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_profile_announces_what_the_client_declared() {
        for (declared, announced) in [
            ("{}", "{}"),
            (r#"{"elicitation":{}}"#, r#"{"elicitation":{"form":{}}}"#),
            (r#"{"elicitation":{"url":{}}}"#, r#"{"elicitation":{"url":{}}}"#),
            (
                r#"{"roots":{"listChanged":true},"sampling":{"tools":{}},"experimental":{"x":{}}}"#,
                r#"{"sampling":{"tools":{}},"roots":{}}"#,
            ),
            (r#"{"sampling":true,"roots":null}"#, "{}"),
        ] {
            assert_eq!(profile(declared).to_capabilities(), announced, "{declared}");
        }
        assert!(profile("{}").is_none());
        assert_eq!(
            profile(r#"{"elicitation":{},"roots":{}}"#).to_string(),
            "form+roots"
        );
        assert_eq!(profile(r#"{"sampling":{}}"#), profile(r#"{"sampling":{"x":1}}"#));
    }

    #[test]
    fn only_what_was_declared_may_be_asked() {
        let forms = profile(r#"{"elicitation":{}}"#);
        let (form, page) = (raw(r#"{"message":"?"}"#), raw(r#"{"mode":"url","url":"x"}"#));
        assert!(forms.admits("elicitation/create", Some(&form)));
        assert!(!forms.admits("elicitation/create", Some(&page)));
        assert!(!forms.admits("sampling/createMessage", None));
        assert!(!forms.admits("unheard/of", None));
        let model = profile(r#"{"sampling":{}}"#);
        assert!(model.admits("sampling/createMessage", Some(&raw("{}"))));
        assert!(!model.admits("sampling/createMessage", Some(&raw(r#"{"tools":[]}"#))));
        assert!(profile(r#"{"roots":{}}"#).admits("roots/list", None));
    }
}
