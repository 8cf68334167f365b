//! A server as somebody wants it registered, checked but with its secrets still in clear.
//!
//! Drafts live only between a request and the sealing of their secrets ([`super::seal`]); they are never stored.

use std::collections::BTreeMap;

use troupe_protocol::access::SecretTemplate;
use troupe_protocol::server::{ClearText, NewServer, ServerJson, ServerName, ServerPatch, Transport};
use url::Url;

use super::derive::{self, Given};
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

/// The value of a header or variable.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DraftValue {
    /// To be sealed.
    Seal(ClearText),
    /// To be kept as it is: it refers to secrets, or is public.
    Keep(SecretTemplate),
}

/// Headers or variables by name.
pub(crate) type DraftValues = BTreeMap<String, DraftValue>;

/// How a server is reached.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DraftTransport {
    Stdio {
        command: String,
        args: Vec<String>,
        cwd: Option<String>,
        env: DraftValues,
    },
    StreamableHttp {
        url: String,
        headers: DraftValues,
    },
}

/// A server to register.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    pub name: ServerName,
    pub manifest: ServerJson,
    pub transport: Option<DraftTransport>,
    pub enabled: bool,
    pub labels: Vec<String>,
    pub call_timeout_ms: Option<u64>,
}

impl Draft {
    /// Checks what a user wants registered.
    pub fn from_new(new: NewServer) -> Result<Self, RegistryError> {
        let name = draft_name(&new)?;
        let enabled = new.enabled;
        let labels = checked_labels(new.labels.clone())?;
        let call_timeout_ms = checked_call_timeout(new.call_timeout_ms)?;
        let manifest = match &new.manifest {
            Some(manifest) => (**manifest).clone(),
            None => local_manifest(&name, new.title.clone(), new.description.clone()),
        };
        manifest.validate()?;
        let (transport, missing) = transport_of(new)?;
        let is_complete = transport.is_some() && missing.is_empty();
        if enabled == Some(true) && !missing.is_empty() {
            let detail = format!("the server needs {} before it can be enabled", missing.join(", "));
            return Err(RegistryError::field("enabled", detail));
        }
        if enabled == Some(true) && transport.is_none() {
            return Err(RegistryError::NoTransport {
                name: name.to_string(),
            });
        }
        Ok(Self {
            name,
            manifest,
            transport,
            enabled: enabled.unwrap_or(is_complete),
            labels,
            call_timeout_ms,
        })
    }
}

/// The transport of a server that a user wants to try before saving, its values in clear as literal templates.
///
/// Never to be stored or shown: it exists for the duration of a test.
///
/// # Errors
/// As for registering it.
pub fn transport_to_test(new: NewServer) -> Result<Transport, RegistryError> {
    if let Some(manifest) = &new.manifest {
        manifest.validate()?;
    }
    let name = new.name.clone().unwrap_or_else(|| "the server".to_owned());
    let (transport, missing) = transport_of(new)?;
    if !missing.is_empty() {
        return Err(RegistryError::field(
            "manifest",
            format!("the server needs {}", missing.join(", ")),
        ));
    }
    let in_clear = |values: DraftValues| {
        let templates = values.into_iter().map(|(key, value)| match value {
            DraftValue::Seal(text) => (key, SecretTemplate::literal(text.expose())),
            DraftValue::Keep(template) => (key, template),
        });
        templates.collect()
    };
    Ok(match transport.ok_or(RegistryError::NoTransport { name })? {
        DraftTransport::Stdio {
            command,
            args,
            cwd,
            env,
        } => Transport::Stdio {
            command,
            args,
            cwd,
            env: in_clear(env),
        },
        DraftTransport::StreamableHttp { url, headers } => Transport::StreamableHttp {
            url,
            headers: in_clear(headers),
        },
    })
}

fn draft_name(new: &NewServer) -> Result<ServerName, RegistryError> {
    let name = match (&new.name, &new.manifest) {
        (Some(name), _) => ServerName::new(name)?,
        (None, Some(manifest)) => ServerName::from_any(manifest.short_name())
            .ok_or_else(|| RegistryError::field("name", "cannot be made from manifest.name: give one"))?,
        (None, None) => return Err(RegistryError::field("name", "is missing")),
    };
    if name.is_builtin() {
        Err(RegistryError::BuiltIn)
    } else {
        Ok(name)
    }
}

/// The manifest of a server that was registered without one.
pub(crate) fn local_manifest(
    name: &ServerName,
    title: Option<String>,
    description: Option<String>,
) -> ServerJson {
    ServerJson {
        schema: Some(troupe_protocol::server::manifest::SCHEMA_URL.to_owned()),
        name: format!("{LOCAL_NAMESPACE}{name}"),
        title,
        description: description.unwrap_or_else(|| format!("MCP server {name}")),
        version: "1.0.0".to_owned(),
        ..ServerJson::default()
    }
}

/// What the names of manifests begin with that we keep ourselves.
pub(crate) const LOCAL_NAMESPACE: &str = "local/";

fn transport_of(new: NewServer) -> Result<(Option<DraftTransport>, Vec<String>), RegistryError> {
    let transport = match (new.url, new.command) {
        (Some(_), Some(_)) => {
            return Err(RegistryError::field(
                "url",
                "give either url or command, not both",
            ));
        }
        (Some(url), None) => {
            if !new.args.is_empty() || !new.env.is_empty() || new.cwd.is_some() {
                return Err(RegistryError::field(
                    "url",
                    "args, env and cwd are for servers with a command",
                ));
            }
            DraftTransport::StreamableHttp {
                url,
                headers: draft_values("headers", new.headers)?,
            }
        }
        (None, Some(command)) => {
            if !new.headers.is_empty() {
                return Err(RegistryError::field(
                    "headers",
                    "are for servers with a url; a command takes env",
                ));
            }
            DraftTransport::Stdio {
                command,
                args: new.args,
                cwd: new.cwd,
                env: draft_values("env", new.env)?,
            }
        }
        (None, None) => {
            let manifest = new.manifest.ok_or_else(|| {
                RegistryError::field(
                    "url",
                    "is missing: give url, command, or a manifest with remotes or packages",
                )
            })?;
            let given = Given {
                headers: draft_values("headers", new.headers)?,
                env: draft_values("env", new.env)?,
            };
            let derived = derive::transport(&manifest, &given);
            if let Some(transport) = &derived.transport {
                transport.check()?;
            }
            return Ok((derived.transport, derived.missing));
        }
    };
    transport.check()?;
    Ok((Some(transport), Vec::new()))
}

/// Takes values as a user gives them: those that refer to secrets are kept, all others are to be sealed.
pub(crate) fn draft_values(
    field: &str,
    values: BTreeMap<String, ClearText>,
) -> Result<DraftValues, RegistryError> {
    values
        .into_iter()
        .map(|(key, value)| Ok((key.clone(), draft_value(field, &key, value)?)))
        .collect()
}

fn draft_value(field: &str, key: &str, value: ClearText) -> Result<DraftValue, RegistryError> {
    if !value.is_template() {
        return Ok(DraftValue::Seal(value));
    }
    let template = SecretTemplate::new(value.expose());
    template
        .map(DraftValue::Keep)
        .map_err(|source| RegistryError::Template {
            field: format!("{field}.{key}"),
            source,
        })
}

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
            Self::StreamableHttp { url, headers } => {
                checked_url(url)?;
                checked_values("headers", headers, is_header_name)
            }
        }
    }

    fn kept(transport: &Transport) -> Self {
        let kept = |values: &BTreeMap<String, SecretTemplate>| {
            values
                .iter()
                .map(|(key, template)| (key.clone(), DraftValue::Keep(template.clone())))
                .collect()
        };
        match transport {
            Transport::Stdio {
                command,
                args,
                cwd,
                env,
            } => Self::Stdio {
                command: command.clone(),
                args: args.clone(),
                cwd: cwd.clone(),
                env: kept(env),
            },
            Transport::StreamableHttp { url, headers } => Self::StreamableHttp {
                url: url.clone(),
                headers: kept(headers),
            },
        }
    }
}

/// The transport after a patch; nothing when the patch does not touch it.
pub(crate) fn patched_transport(
    current: Option<&Transport>,
    patch: &ServerPatch,
) -> Result<Option<DraftTransport>, RegistryError> {
    let touches_command = patch.args.is_some() || patch.cwd.is_some() || !patch.env.is_empty();
    let touches_url = !patch.headers.is_empty();
    let current = current.map(DraftTransport::kept);
    let mut transport = match (&patch.url, &patch.command, current) {
        (Some(_), Some(_), _) => {
            return Err(RegistryError::field(
                "url",
                "give either url or command, not both",
            ));
        }
        (Some(url), None, Some(DraftTransport::StreamableHttp { headers, .. })) => {
            DraftTransport::StreamableHttp {
                url: url.clone(),
                headers,
            }
        }
        (Some(url), None, _) => DraftTransport::StreamableHttp {
            url: url.clone(),
            headers: DraftValues::new(),
        },
        (None, Some(command), Some(DraftTransport::Stdio { args, cwd, env, .. })) => DraftTransport::Stdio {
            command: command.clone(),
            args,
            cwd,
            env,
        },
        (None, Some(command), _) => DraftTransport::Stdio {
            command: command.clone(),
            args: Vec::new(),
            cwd: None,
            env: DraftValues::new(),
        },
        (None, None, _) if !touches_command && !touches_url => return Ok(None),
        (None, None, Some(current)) => current,
        (None, None, None) => return Err(RegistryError::field("url", "is missing: give url or command")),
    };
    match &mut transport {
        DraftTransport::Stdio { args, cwd, env, .. } => {
            if touches_url {
                return Err(RegistryError::field(
                    "headers",
                    "are for servers with a url; a command takes env",
                ));
            }
            if let Some(new_args) = &patch.args {
                args.clone_from(new_args);
            }
            if let Some(new_cwd) = &patch.cwd {
                *cwd = Some(new_cwd.clone()).filter(|cwd| !cwd.is_empty());
            }
            merge_values("env", env, &patch.env)?;
        }
        DraftTransport::StreamableHttp { headers, .. } => {
            if touches_command {
                return Err(RegistryError::field(
                    "args",
                    "args, env and cwd are for servers with a command",
                ));
            }
            merge_values("headers", headers, &patch.headers)?;
        }
    }
    transport.check()?;
    Ok(Some(transport))
}

fn merge_values(
    field: &str,
    values: &mut DraftValues,
    changes: &BTreeMap<String, Option<ClearText>>,
) -> Result<(), RegistryError> {
    for (key, change) in changes {
        match change {
            Some(value) => {
                values.insert(key.clone(), draft_value(field, key, value.clone())?);
            }
            None => {
                values.remove(key);
            }
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests;
