//! What texts, numbers and addresses an operation may have.
//!
//! Everything has a bound, and each refusal names its field.

use url::Url;

use super::draft::{DraftTransport, DraftValue, DraftValues};
use super::error::RegistryError;

/// The most arguments of a command, and the most headers or variables of a server.
const VALUES_MAX: usize = 256;
/// The most bytes of an argument, header or variable.
const VALUE_BYTES_MAX: usize = 32 * 1024;
/// The most labels of a server.
const LABELS_MAX: usize = 32;
/// The most characters of a label.
const LABEL_CHARS_MAX: usize = 64;
/// The longest time a call may be allowed, in milliseconds.
const CALL_TIMEOUT_MS_MAX: u64 = 3_600_000;

impl DraftTransport {
    /// Checks what it is made of.
    pub fn check(&self) -> Result<(), RegistryError> {
        match self {
            Self::Stdio {
                command,
                args,
                cwd,
                env,
            } => {
                checked_text("command", command)?;
                if command.trim().is_empty() {
                    return Err(RegistryError::field("command", "must not be empty"));
                }
                checked_count("args", args.len())?;
                args.iter().try_for_each(|arg| checked_text("args", arg))?;
                cwd.iter().try_for_each(|cwd| checked_text("cwd", cwd))?;
                checked_values("env", env, |name| !name.is_empty() && !name.contains(['=', '\0']))
            }
            Self::StreamableHttp { url, headers } | Self::Sse { url, headers } => {
                checked_url(url)?;
                checked_values("headers", headers, is_header_name)
            }
            Self::OpenApi {
                base_url,
                headers,
                security,
                ..
            } => {
                checked_url(base_url)?;
                checked_values("headers", headers, is_header_name)?;
                checked_values("openapi.security", security, |name| !name.is_empty())
            }
        }
    }
}

fn checked_text(field: &str, text: &str) -> Result<(), RegistryError> {
    if text.contains('\0') {
        return Err(RegistryError::field(field, "must not contain NUL"));
    }
    if text.len() > VALUE_BYTES_MAX {
        return Err(RegistryError::field(
            field,
            format!("has {} bytes, at most {VALUE_BYTES_MAX}", text.len()),
        ));
    }
    Ok(())
}

fn checked_count(field: &str, count: usize) -> Result<(), RegistryError> {
    if count > VALUES_MAX {
        return Err(RegistryError::field(
            field,
            format!("has {count} entries, at most {VALUES_MAX}"),
        ));
    }
    Ok(())
}

fn checked_values(
    field: &str,
    values: &DraftValues,
    is_name: impl Fn(&str) -> bool,
) -> Result<(), RegistryError> {
    checked_count(field, values.len())?;
    for (key, value) in values {
        let here = format!("{field}.{}", key.chars().take(80).collect::<String>());
        if key.len() > 200 || !is_name(key) {
            return Err(RegistryError::field(here, "is not a name that can be used there"));
        }
        let DraftValue::Seal(text) = value else { continue };
        checked_text(&here, text.expose())?;
        if field == "headers" && text.expose().contains(['\r', '\n']) {
            return Err(RegistryError::field(here, "must not contain line ends"));
        }
    }
    Ok(())
}

/// Whether a text is a token of HTTP (RFC 9110, section 5.6.2).
fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

fn checked_url(url: &str) -> Result<(), RegistryError> {
    checked_text("url", url)?;
    let parsed = Url::parse(url)
        .map_err(|error| RegistryError::field("url", format!("is not an absolute address: {error}")))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(RegistryError::field(
            "url",
            format!("must begin with http or https, not {}", parsed.scheme()),
        ));
    }
    Ok(())
}

pub(crate) fn checked_labels(labels: Vec<String>) -> Result<Vec<String>, RegistryError> {
    let mut kept: Vec<String> = Vec::with_capacity(labels.len().min(LABELS_MAX));
    for label in labels.iter().map(|label| label.trim()) {
        if label.is_empty() || label.chars().count() > LABEL_CHARS_MAX {
            return Err(RegistryError::field(
                "labels",
                format!("each has 1 to {LABEL_CHARS_MAX} characters"),
            ));
        }
        if !kept.iter().any(|other| other == label) {
            kept.push(label.to_owned());
        }
    }
    if kept.len() > LABELS_MAX {
        return Err(RegistryError::field(
            "labels",
            format!("there are {}, at most {LABELS_MAX}", kept.len()),
        ));
    }
    Ok(kept)
}

pub(crate) fn checked_call_timeout(call_timeout_ms: Option<u64>) -> Result<Option<u64>, RegistryError> {
    match call_timeout_ms {
        Some(ms) if ms > CALL_TIMEOUT_MS_MAX => Err(RegistryError::field(
            "call_timeout_ms",
            format!("is {ms}, at most {CALL_TIMEOUT_MS_MAX}"),
        )),
        Some(0) => Ok(None),
        other => Ok(other),
    }
}
