//! A server as somebody wants it registered, checked but with its secrets still in clear.
//!
//! Drafts live only between a request and the sealing of their secrets ([`super::seal`]); they are never stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::{checked_call_timeout, checked_labels};
use super::derive::{self, Given};
use super::error::RegistryError;
use crate::openapi::{DOCUMENT_BYTES_MAX, Documents};
use troupe_protocol::access::SecretTemplate;
use troupe_protocol::server::{
    ClearText, NewServer, OpenApiDocument, OpenApiSource, ServerJson, ServerName, ServerPatch, Transport,
    TransportKind,
};

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
    Sse {
        url: String,
        headers: DraftValues,
    },
    OpenApi {
        document: OpenApiDocument,
        base_url: String,
        headers: DraftValues,
        security: DraftValues,
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
        DraftTransport::Sse { url, headers } => Transport::Sse {
            url,
            headers: in_clear(headers),
        },
        DraftTransport::OpenApi {
            document,
            base_url,
            headers,
            security,
        } => Transport::OpenApi {
            document,
            base_url,
            headers: in_clear(headers),
            security: in_clear(security),
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
    if let Some(source) = new.openapi {
        if new.url.is_some() || new.command.is_some() || !new.env.is_empty() {
            let detail = "stands for itself: leave out url, command and env";
            return Err(RegistryError::field("openapi", detail));
        }
        let document = document_of(&source)?
            .ok_or_else(|| RegistryError::field("openapi.document", "is missing: give document or url"))?;
        let base_url = source.base_url;
        let transport = DraftTransport::OpenApi {
            document,
            base_url: base_url.ok_or_else(|| RegistryError::field("openapi.base_url", "is missing"))?,
            headers: draft_values("headers", new.headers)?,
            security: draft_values("openapi.security", source.security)?,
        };
        transport.check()?;
        return Ok((Some(transport), Vec::new()));
    }
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
            let headers = draft_values("headers", new.headers)?;
            match new.transport.unwrap_or(TransportKind::StreamableHttp) {
                TransportKind::StreamableHttp => DraftTransport::StreamableHttp { url, headers },
                TransportKind::Sse => DraftTransport::Sse { url, headers },
                TransportKind::Stdio => {
                    let detail = "must be streamable-http or sse for a server with a url";
                    return Err(RegistryError::field("transport", detail));
                }
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

/// The document of a source; nothing when it has none.
fn document_of(source: &OpenApiSource) -> Result<Option<OpenApiDocument>, RegistryError> {
    let Some(text) = &source.document else {
        return Ok(None);
    };
    if text.len() > DOCUMENT_BYTES_MAX {
        let detail = format!("has {} bytes, at most {DOCUMENT_BYTES_MAX}", text.len());
        return Err(RegistryError::field("openapi.document", detail));
    }
    Ok(Some(OpenApiDocument {
        digest: Documents::digest(text),
        bytes: text.len() as u64,
        url: source.url.clone(),
        text: Some(Arc::from(text.as_str())),
    }))
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
            Transport::Sse { url, headers } => Self::Sse {
                url: url.clone(),
                headers: kept(headers),
            },
            Transport::OpenApi {
                document,
                base_url,
                headers,
                security,
            } => Self::OpenApi {
                document: document.clone(),
                base_url: base_url.clone(),
                headers: kept(headers),
                security: kept(security),
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
    if let Some(source) = &patch.openapi {
        return patched_openapi(current, source, patch).map(Some);
    }
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
        (Some(url), None, Some(DraftTransport::Sse { headers, .. })) => DraftTransport::Sse {
            url: url.clone(),
            headers,
        },
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
        DraftTransport::StreamableHttp { headers, .. }
        | DraftTransport::Sse { headers, .. }
        | DraftTransport::OpenApi { headers, .. } => {
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

/// A server's document, address or credentials after a patch of them; a server of another kind becomes one of a document.
fn patched_openapi(
    current: Option<DraftTransport>,
    source: &OpenApiSource,
    patch: &ServerPatch,
) -> Result<DraftTransport, RegistryError> {
    if patch.url.is_some() || patch.command.is_some() {
        let detail = "stands for itself: leave out url and command";
        return Err(RegistryError::field("openapi", detail));
    }
    let given = document_of(source)?;
    let missing = |field| RegistryError::field(field, "is missing");
    let (document, base_url, mut headers, mut security) = match current {
        Some(DraftTransport::OpenApi {
            document,
            base_url,
            headers,
            security,
        }) => {
            let base_url = source.base_url.clone().unwrap_or(base_url);
            (given.unwrap_or(document), base_url, headers, security)
        }
        _ => {
            let base_url = source.base_url.clone();
            (
                given.ok_or_else(|| missing("openapi.document"))?,
                base_url.ok_or_else(|| missing("openapi.base_url"))?,
                DraftValues::new(),
                DraftValues::new(),
            )
        }
    };
    merge_values("headers", &mut headers, &patch.headers)?;
    security.extend(draft_values("openapi.security", source.security.clone())?);
    let transport = DraftTransport::OpenApi {
        document,
        base_url,
        headers,
        security,
    };
    transport.check()?;
    Ok(transport)
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

#[cfg(test)]
mod tests;
