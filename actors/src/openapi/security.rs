//! Which credentials a request carries, and where.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::document::Document;
use super::style::Place;

/// The most sets of schemes that an operation can be called with, and schemes of a set: each operation has a copy.
const ALTERNATIVES_MAX: usize = 32;

/// What an operation demands: one of several sets of schemes, all of a set. No sets: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Demands(Vec<Vec<String>>);

impl Demands {
    pub fn read(security: &Value) -> Self {
        let sets = security.as_array().map_or(&[][..], Vec::as_slice);
        let names = |set: &Value| {
            let schemes = set.as_object().into_iter().flatten();
            schemes
                .map(|(name, _)| name.clone())
                .take(ALTERNATIVES_MAX)
                .collect()
        };
        Self(sets.iter().map(names).take(ALTERNATIVES_MAX).collect())
    }
}

/// How one scheme's credential is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Carrier {
    /// As it is, under this name.
    Key { place: Place, name: String },
    /// `Authorization: Basic`, of `user:password`.
    Basic,
    /// `Authorization: Bearer`. Tokens of OAuth 2 and OpenID Connect travel so too.
    Bearer,
    /// `Authorization`, with whatever was given: a scheme of HTTP that is not known here.
    Other,
}

impl Carrier {
    fn read(scheme: &Value) -> Option<Self> {
        let text = |member: &str| scheme[member].as_str();
        match text("type")? {
            "apiKey" => {
                let place = text("in")?.parse().ok().filter(|place| *place != Place::Path)?;
                let name = text("name")?.to_owned();
                Some(Self::Key { place, name })
            }
            "http" => Some(match text("scheme")?.to_ascii_lowercase().as_str() {
                "basic" => Self::Basic,
                "bearer" => Self::Bearer,
                _ => Self::Other,
            }),
            "oauth2" | "openIdConnect" => Some(Self::Bearer),
            _ => None,
        }
    }
}

/// A credential where it goes. Not shown: it is in clear.
pub(super) struct Credential {
    pub place: Place,
    pub name: String,
    pub value: SecretString,
}

/// The credentials that were given for a document's schemes.
pub(super) struct Credentials(BTreeMap<String, Credential>);

impl Credentials {
    /// Fits what was given to the schemes of the document; what fits none is named.
    pub fn new(document: &Document, given: &BTreeMap<String, SecretString>) -> (Self, Vec<String>) {
        let mut credentials = BTreeMap::new();
        for (name, scheme) in document.security_schemes() {
            if let (Some(value), Some(carrier)) = (given.get(name), Carrier::read(scheme)) {
                credentials.insert(name.to_owned(), carrier.carry(value));
            }
        }
        let unknown = given.keys().filter(|name| !credentials.contains_key(*name));
        let unknown = unknown.cloned().collect();
        (Self(credentials), unknown)
    }

    /// What a request with these demands carries: the first set that is complete. `Err` names the schemes of the first
    /// set that lack a credential; the request can be made all the same, since its headers may do.
    pub fn for_demands(&self, demands: &Demands) -> Result<Vec<&Credential>, Vec<String>> {
        if demands.0.is_empty() {
            return Ok(Vec::new());
        }
        let complete = |set: &Vec<String>| {
            set.iter()
                .map(|name| self.0.get(name))
                .collect::<Option<Vec<_>>>()
        };
        // A set with credentials before one without, which admits everybody but perhaps to less.
        let mut sets: Vec<&Vec<String>> = demands.0.iter().collect();
        sets.sort_by_key(|set| set.is_empty());
        if let Some(credentials) = sets.iter().find_map(|set| complete(set)) {
            return Ok(credentials);
        }
        let missing = sets[0].iter().filter(|name| !self.0.contains_key(*name));
        Err(missing.cloned().collect())
    }
}

impl Carrier {
    fn carry(self, given: &SecretString) -> Credential {
        let authorization = |value: String| Credential {
            place: Place::Header,
            name: "authorization".to_owned(),
            value: value.into(),
        };
        let clear = given.expose_secret();
        let with_scheme = |scheme: &str, value: &str| {
            let has_scheme = value
                .get(..=scheme.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(&format!("{scheme} ")));
            authorization(if has_scheme {
                value.to_owned()
            } else {
                format!("{scheme} {value}")
            })
        };
        match self {
            Self::Key { place, name } => Credential {
                place,
                name,
                value: given.clone(),
            },
            Self::Basic if clear.contains(':') => with_scheme("Basic", &STANDARD.encode(clear)),
            Self::Basic => with_scheme("Basic", clear),
            Self::Bearer => with_scheme("Bearer", clear),
            Self::Other => authorization(clear.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn document() -> Document {
        Document::read(
            &json!({
                "openapi": "3.1.0", "paths": {},
                "components": {"securitySchemes": {
                    "key": {"type": "apiKey", "in": "query", "name": "api_key"},
                    "basic": {"type": "http", "scheme": "Basic"},
                    "token": {"type": "http", "scheme": "bearer"},
                    "oauth": {"type": "oauth2", "flows": {}},
                    "tls": {"type": "mutualTLS"},
                }},
            })
            .to_string(),
        )
        .unwrap()
    }

    #[test]
    fn credentials_go_where_their_schemes_say() {
        let given = ["key", "basic", "token", "oauth", "tls", "nothing"]
            .map(|name| (name.to_owned(), SecretString::from(format!("u:{name}"))));
        let (credentials, unknown) = Credentials::new(&document(), &BTreeMap::from(given));
        assert_eq!(unknown, ["nothing", "tls"]);
        let carried = |security: Value| {
            let demands = Demands::read(&security);
            let carried = credentials.for_demands(&demands).unwrap();
            let shown = carried.into_iter().map(|credential| {
                let place: &str = credential.place.into();
                format!("{place} {}={}", credential.name, credential.value.expose_secret())
            });
            shown.collect::<Vec<_>>()
        };
        assert_eq!(carried(json!([{"key": []}])), ["query api_key=u:key"]);
        assert_eq!(
            carried(json!([{"basic": []}])),
            ["header authorization=Basic dTpiYXNpYw=="]
        );
        assert_eq!(
            carried(json!([{"oauth": ["a"]}])),
            ["header authorization=Bearer u:oauth"]
        );
        assert_eq!(
            carried(json!([{}, {"tls": []}, {"token": [], "key": []}])),
            ["header authorization=Bearer u:token", "query api_key=u:key"]
        );
        assert_eq!(carried(json!([])), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_named() {
        let (credentials, _) = Credentials::new(&document(), &BTreeMap::new());
        let demands = Demands::read(&json!([{"token": [], "key": []}]));
        let missing = credentials.for_demands(&demands).err().unwrap();
        assert_eq!(missing, ["token", "key"]);
        let optional = Demands::read(&json!([{}, {"token": []}]));
        assert!(credentials.for_demands(&optional).unwrap().is_empty());
    }
}
