//! Arguments, variables and headers of the old shape.

use serde::Deserialize;
use troupe_protocol::server::{Argument, ArgumentKind, Input, KeyValueInput};

/// An argument, variable or header.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct OldInput {
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub value: String,
    #[serde(default)]
    pub default: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub format: String,
    pub value_hint: Option<String>,
    pub is_required: Option<bool>,
    pub is_secret: Option<bool>,
    pub is_repeated: Option<bool>,
    #[serde(default)]
    pub choices: Vec<String>,
}

/// Converts an argument. `--flag value` in one text falls apart into flag and value; an example becomes a placeholder
/// for a value that the user must give.
pub(super) fn argument(old: &OldInput) -> Argument {
    let whole = if old.value.is_empty() {
        old.default.trim()
    } else {
        old.value.trim()
    };
    let mut argument = Argument {
        kind: ArgumentKind::Positional,
        is_repeated: old.is_repeated,
        input: Input {
            description: Some(old.description.clone()).filter(|text| !text.is_empty()),
            format: Some(old.format.clone()).filter(|format| !matches!(format.as_str(), "" | "string")),
            is_required: old.is_required,
            is_secret: old.is_secret,
            choices: old.choices.clone(),
            ..Input::default()
        },
        ..Argument::default()
    };
    let is_flag = old.kind == "named" && old.name.starts_with('-') && !old.name.contains(['<', '>', '$']);
    let flag_text = if old.name.trim().is_empty() {
        whole
    } else {
        old.name.trim()
    };
    let splits = old.kind == "named" && flag_text.starts_with('-');
    let value = if is_flag || splits {
        let (flag, value) = flag_text.split_once([' ', '=']).unwrap_or((flag_text, ""));
        argument.kind = ArgumentKind::Named;
        argument.name = Some(flag.to_owned());
        let value = value.trim();
        let own_value = Some(whole)
            .filter(|whole| !whole.starts_with(flag))
            .unwrap_or_default();
        if value.is_empty() { own_value } else { value }
    } else {
        argument.value_hint = old.value_hint.clone().filter(|hint| !hint.is_empty());
        if whole.is_empty() { old.name.trim() } else { whole }
    };
    give_value(&mut argument, value);
    argument
}

fn give_value(argument: &mut Argument, value: &str) {
    if value.is_empty() {
        if argument.kind == ArgumentKind::Positional && argument.value_hint.is_none() {
            argument.value_hint = Some("value".to_owned());
        }
        return;
    }
    if is_example(value) {
        argument.input.placeholder = Some(value.to_owned());
        argument.input.is_required = Some(true);
        if argument.kind == ArgumentKind::Positional && argument.value_hint.is_none() {
            argument.value_hint = Some("value".to_owned());
        }
        return;
    }
    argument.input.value = Some(value.to_owned());
}

/// Whether a value only shows what a value looks like: `<YOUR_TOKEN>`, `/path/to/folder`, `your-api-key`.
fn is_example(value: &str) -> bool {
    let lower = value.to_lowercase();
    let hints = [
        "your",
        "path/to",
        "path-to",
        "absolute",
        "xxx",
        "...",
        "${",
        "example.com",
        "secret-token",
        "optional_",
    ];
    (value.contains('<') && value.contains('>')) || hints.iter().any(|hint| lower.contains(hint))
}

/// Converts a variable or header.
pub(super) fn variable(old: &OldInput) -> KeyValueInput {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    KeyValueInput {
        name: old.name.clone(),
        input: Input {
            description: given(&old.description),
            format: given(&old.format).filter(|format| format != "string"),
            value: given(&old.value).filter(|value| !is_example(value)),
            default: given(&old.default).filter(|default| !is_example(default)),
            is_required: old.is_required,
            is_secret: old.is_secret,
            choices: old.choices.clone(),
            ..Input::default()
        },
    }
}
