//! How the values of parameters are written (OpenAPI 3.1, "style values"; RFC 6570). Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// Everything but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
/// What has to be encoded in a query whose parameter allows reserved characters: what would end or split it.
const SPLITTING: &AsciiSet = &RESERVED
    .remove(b':')
    .remove(b'/')
    .remove(b'?')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b',')
    .remove(b';');

/// Where a parameter goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Place {
    Path,
    Query,
    Header,
    Cookie,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString)]
#[strum(serialize_all = "camelCase")]
enum Kind {
    Simple,
    Label,
    Matrix,
    Form,
    SpaceDelimited,
    PipeDelimited,
    DeepObject,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    kind: Kind,
    explode: bool,
    is_json: bool,
    allows_reserved: bool,
}

impl Style {
    /// As members of forms are written that say nothing else.
    pub const FORM: Self = Self {
        kind: Kind::Form,
        explode: true,
        is_json: false,
        allows_reserved: false,
    };

    /// As the parameter says, or the default of its place.
    pub fn read(parameter: &Value, place: Place, is_json: bool) -> Self {
        let default = match place {
            Place::Path | Place::Header => Kind::Simple,
            Place::Query | Place::Cookie => Kind::Form,
        };
        let kind = parameter["style"].as_str().and_then(|style| style.parse().ok());
        let kind = kind.unwrap_or(default);
        let explode = parameter["explode"].as_bool();
        Self {
            kind,
            explode: explode.unwrap_or(matches!(kind, Kind::Form | Kind::DeepObject)),
            is_json,
            allows_reserved: parameter["allowReserved"] == Value::Bool(true),
        }
    }

    /// Whether the members of an object are written under names of their own.
    pub fn spreads_members(self) -> bool {
        self.explode && !self.is_json && self.kind != Kind::DeepObject
    }

    /// The value as names and values of a query or cookie, encoded.
    pub fn pairs(self, name: &str, value: &Value) -> Vec<(String, String)> {
        let set = if self.allows_reserved { SPLITTING } else { RESERVED };
        let encoded = |text: &str| utf8_percent_encode(text, set).to_string();
        let key = encoded(name);
        let delimiter = match self.kind {
            Kind::SpaceDelimited => "%20",
            Kind::PipeDelimited => "%7C",
            _ => ",",
        };
        match value {
            _ if self.is_json => vec![(key, encoded(&value.to_string()))],
            _ if self.kind == Kind::DeepObject => {
                let mut pairs = Vec::new();
                deep(&key, value, &encoded, &mut pairs);
                pairs
            }
            Value::Array(items) if self.explode => {
                let pair = |item| (key.clone(), encoded(&text_of(item)));
                items.iter().map(pair).collect()
            }
            Value::Object(members) if self.explode => {
                let pair = |(name, value): (&String, &Value)| (encoded(name), encoded(&text_of(value)));
                members.iter().map(pair).collect()
            }
            value => vec![(key, parts(value, &encoded).join(delimiter))],
        }
    }

    /// The value as a part of a path, encoded.
    pub fn in_path(self, name: &str, value: &Value) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
        if self.is_json {
            return encoded(&value.to_string());
        }
        let key = encoded(name);
        let named: Vec<String> = match value {
            Value::Object(members) => members
                .iter()
                .map(|(name, value)| format!("{}={}", encoded(name), encoded(&text_of(value))))
                .collect(),
            Value::Array(items) if self.kind == Kind::Matrix => items
                .iter()
                .map(|item| format!("{key}={}", encoded(&text_of(item))))
                .collect(),
            value => parts(value, &encoded),
        };
        let is_compound = value.is_array() || value.is_object();
        let joined = |delimiter: &str| {
            if self.explode {
                named.join(delimiter)
            } else {
                parts(value, &encoded).join(",")
            }
        };
        match self.kind {
            Kind::Label => format!(".{}", joined(".")),
            Kind::Matrix if is_compound && self.explode => format!(";{}", joined(";")),
            Kind::Matrix => format!(";{key}={}", parts(value, &encoded).join(",")),
            _ => joined(","),
        }
    }

    /// The value as that of a header.
    pub fn in_header(self, value: &Value) -> String {
        match value {
            _ if self.is_json => value.to_string(),
            Value::Object(members) if self.explode => {
                let named = members
                    .iter()
                    .map(|(name, value)| format!("{name}={}", text_of(value)));
                named.collect::<Vec<_>>().join(",")
            }
            value => parts(value, &str::to_owned).join(","),
        }
    }
}

/// `name[member]=value`, for members of members too.
fn deep(key: &str, value: &Value, encoded: &impl Fn(&str) -> String, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                deep(&format!("{key}%5B{}%5D", encoded(name)), value, encoded, pairs);
            }
        }
        Value::Array(items) => {
            for item in items {
                deep(key, item, encoded, pairs);
            }
        }
        value => pairs.push((key.to_owned(), encoded(&text_of(value)))),
    }
}

/// The items of a list, the names and values of an object, or the value itself.
fn parts(value: &Value, encoded: &impl Fn(&str) -> String) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().map(|item| encoded(&text_of(item))).collect(),
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| [encoded(name), encoded(&text_of(value))])
            .collect(),
        value => vec![encoded(&text_of(value))],
    }
}

/// A value as text: what has parts of its own is written as JSON.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn style(kind: &str, explode: bool) -> Style {
        Style::read(&json!({"style": kind, "explode": explode}), Place::Query, false)
    }

    fn query(style: Style, value: &Value) -> String {
        let pairs = style.pairs("color", value).into_iter();
        let written: Vec<String> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
        written.join("&")
    }

    /// The table of examples in the specification, "style examples".
    #[test]
    fn values_are_written_as_the_specification_shows() {
        let array = json!(["blue", "black", "brown"]);
        let object = json!({"R": 100, "G": 200, "B": 150});
        for (kind, explode, in_array, in_object) in [
            (
                "matrix",
                false,
                ";color=blue,black,brown",
                ";color=R,100,G,200,B,150",
            ),
            (
                "matrix",
                true,
                ";color=blue;color=black;color=brown",
                ";R=100;G=200;B=150",
            ),
            ("label", false, ".blue,black,brown", ".R,100,G,200,B,150"),
            ("label", true, ".blue.black.brown", ".R=100.G=200.B=150"),
            ("simple", false, "blue,black,brown", "R,100,G,200,B,150"),
            ("simple", true, "blue,black,brown", "R=100,G=200,B=150"),
        ] {
            let style = style(kind, explode);
            assert_eq!(style.in_path("color", &array), in_array, "{kind} {explode}");
            assert_eq!(style.in_path("color", &object), in_object, "{kind} {explode}");
        }
        for (kind, explode, in_array, in_object) in [
            ("form", false, "color=blue,black,brown", "color=R,100,G,200,B,150"),
            (
                "form",
                true,
                "color=blue&color=black&color=brown",
                "R=100&G=200&B=150",
            ),
            (
                "spaceDelimited",
                false,
                "color=blue%20black%20brown",
                "color=R%20100%20G%20200%20B%20150",
            ),
            (
                "pipeDelimited",
                false,
                "color=blue%7Cblack%7Cbrown",
                "color=R%7C100%7CG%7C200%7CB%7C150",
            ),
            (
                "deepObject",
                true,
                "color=blue&color=black&color=brown",
                "color%5BR%5D=100&color%5BG%5D=200&color%5BB%5D=150",
            ),
        ] {
            let style = style(kind, explode);
            assert_eq!(query(style, &array), in_array, "{kind} {explode}");
            assert_eq!(query(style, &object), in_object, "{kind} {explode}");
        }
        assert_eq!(
            style("matrix", false).in_path("color", &json!("blue")),
            ";color=blue"
        );
        assert_eq!(style("label", false).in_path("color", &json!("blue")), ".blue");
    }

    #[test]
    fn nothing_in_a_value_can_leave_its_place() {
        let simple = style("simple", false);
        assert_eq!(simple.in_path("id", &json!("../a?b#c/d")), "..%2Fa%3Fb%23c%2Fd");
        assert_eq!(query(Style::FORM, &json!("a&b=c d")), "color=a%26b%3Dc%20d");
        let reserved = Style::read(&json!({"allowReserved": true}), Place::Query, false);
        assert_eq!(query(reserved, &json!("a/b&c#d")), "color=a/b%26c%23d");
        let json = Style::read(&json!({}), Place::Query, true);
        assert_eq!(query(json, &json!({"a": [1]})), "color=%7B%22a%22%3A%5B1%5D%7D");
    }
}
