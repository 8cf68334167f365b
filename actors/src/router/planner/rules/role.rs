//! What a parameter wants, told by its name, its format and its description.

use std::sync::LazyLock;

use regex::Regex;

use super::pattern::constant;
use super::text::has_word;
use crate::router::index::analysis;
use crate::router::index::document::ToolDocument;
use crate::router::planner::schema::{Parameter, ValueKind};

/// The kind of thing a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An IANA time zone.
    TimeZone,
    /// A time of day.
    ClockTime,
    /// A day.
    Date,
    /// A moment.
    DateTime,
    /// A web address.
    Url,
    /// A mail address.
    Email,
    /// A file or folder.
    Path,
    /// An SQL statement.
    Sql,
    /// A city, a country.
    Place,
    /// Any text.
    Text,
}

impl Role {
    /// Parameters of lower generality choose first.
    pub fn generality(self) -> u8 {
        match self {
            Self::Text => 2,
            Self::Place => 1,
            _ => 0,
        }
    }

    /// Whether a value given once in a conversation holds for later questions that need one and give none: where one
    /// works (a folder), not what one asks.
    pub fn lasts(self) -> bool {
        matches!(self, Self::Path)
    }
}

static NAMED_DEFAULT: LazyLock<Regex> = LazyLock::new(|| {
    constant(r#"(?i)use\s+['"`]([^'"`]{1,60})['"`][^.]{0,60}\bif\s+(?:no|not|none|nothing)\b"#)
});

/// The role of a parameter of a tool.
pub fn of(parameter: &Parameter<'_>, tool: &ToolDocument) -> Role {
    let name = analysis::spaced(parameter.name).to_lowercase();
    let description = parameter.description.to_lowercase();
    let named = |words: &[&str]| words.iter().any(|word| has_word(&name, word));
    match parameter.format {
        Some("uri" | "url" | "iri") => return Role::Url,
        Some("email") => return Role::Email,
        Some("date") => return Role::Date,
        Some("date-time") => return Role::DateTime,
        Some("time") => return Role::ClockTime,
        _ => {}
    }
    if named(&["timezone", "tz"]) || name.contains("time zone") || description.contains("iana timezone") {
        return Role::TimeZone;
    }
    if (named(&["time"]) && !named(&["timeout"]))
        && (description.contains("hh:mm") || description.contains("24-hour"))
    {
        return Role::ClockTime;
    }
    if named(&["url", "uri", "link", "href", "website"]) && !description.contains("resource uri") {
        return Role::Url;
    }
    if named(&["email", "mail"]) {
        return Role::Email;
    }
    if is_path(&name, &description) {
        return Role::Path;
    }
    if named(&["datetime", "timestamp", "since", "until"]) || description.contains("iso 8601") {
        return Role::DateTime;
    }
    if named(&["date", "day"]) && parameter.kind == ValueKind::Text {
        return Role::Date;
    }
    if named(&["sql"]) || (named(&["query", "statement"]) && speaks_of_sql(&description, tool)) {
        return Role::Sql;
    }
    if named(&["city", "location", "place", "country", "town"]) {
        return Role::Place;
    }
    Role::Text
}

/// The value that a description names for when the question has none: `Use 'UTC' … if no timezone is provided`.
pub fn default_in_words(parameter: &Parameter<'_>) -> Option<String> {
    Some(
        NAMED_DEFAULT
            .captures(parameter.description)?
            .get(1)?
            .as_str()
            .to_owned(),
    )
}

fn is_path(name: &str, description: &str) -> bool {
    let by_name = [
        "path",
        "paths",
        "file",
        "filename",
        "filepath",
        "directory",
        "dir",
        "folder",
        "files",
    ];
    if by_name.iter().any(|word| has_word(name, word)) {
        return true;
    }
    let source_or_destination = matches!(name, "source" | "destination" | "src" | "dest");
    source_or_destination && !description.contains("timezone")
}

fn speaks_of_sql(description: &str, tool: &ToolDocument) -> bool {
    has_word(description, "sql")
        || has_word(&tool.description.to_lowercase(), "sql")
        || tool.description.contains("SELECT")
}
