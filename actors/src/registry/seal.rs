//! Turns the values of a draft into templates, and says which secrets are to be sealed for that.

use std::collections::BTreeMap;

use troupe_protocol::access::{SecretName, SecretTemplate};
use troupe_protocol::server::{ClearText, OpenApiDocument, ServerName, Transport};

use super::draft::{DraftTransport, DraftValue, DraftValues};
use super::error::RegistryError;

/// A transport that refers to secrets, and the secrets it needs sealed before it may be stored.
#[derive(Debug)]
pub(crate) struct Sealing {
    pub transport: Transport,
    pub secrets: Vec<(SecretName, ClearText)>,
}

/// Splits the secrets off a transport. They are named `server/NAME/header/KEY` and `server/NAME/env/KEY`, when a server
/// is changed with its new revision after that (`….2`): so the old value stays until the change is stored, and whoever
/// compares transports sees that the value is another.
pub(crate) fn seal(
    server: &ServerName,
    draft: DraftTransport,
    revision: Option<u64>,
) -> Result<Sealing, RegistryError> {
    let mut secrets = Vec::new();
    let transport = match draft {
        DraftTransport::Stdio {
            command,
            args,
            cwd,
            env,
        } => {
            let env = seal_values(server, "env", env, revision, &mut secrets)?;
            Transport::Stdio {
                command,
                args,
                cwd,
                env,
            }
        }
        DraftTransport::StreamableHttp { url, headers } => {
            let headers = seal_values(server, "header", headers, revision, &mut secrets)?;
            Transport::StreamableHttp { url, headers }
        }
        DraftTransport::Sse { url, headers } => {
            let headers = seal_values(server, "header", headers, revision, &mut secrets)?;
            Transport::Sse { url, headers }
        }
        DraftTransport::OpenApi {
            document,
            base_url,
            headers,
            security,
        } => {
            let headers = seal_values(server, "header", headers, revision, &mut secrets)?;
            let security = seal_values(server, "scheme", security, revision, &mut secrets)?;
            Transport::OpenApi {
                // The text is kept apart.
                document: OpenApiDocument {
                    text: None,
                    ..document
                },
                base_url,
                headers,
                security,
            }
        }
    };
    Ok(Sealing { transport, secrets })
}

fn seal_values(
    server: &ServerName,
    kind: &str,
    values: DraftValues,
    revision: Option<u64>,
    secrets: &mut Vec<(SecretName, ClearText)>,
) -> Result<BTreeMap<String, SecretTemplate>, RegistryError> {
    let mut templates = BTreeMap::new();
    for (key, value) in values {
        let template = match value {
            DraftValue::Keep(template) => template,
            DraftValue::Seal(text) => {
                let name = own_secret_name(server, kind, &key, revision)?;
                let template = SecretTemplate::of_secret(&name);
                secrets.push((name, text));
                template
            }
        };
        templates.insert(key, template);
    }
    Ok(templates)
}

/// The name of a server's own secret. Characters that names of secrets cannot have become hyphens.
pub(crate) fn own_secret_name(
    server: &ServerName,
    kind: &str,
    key: &str,
    revision: Option<u64>,
) -> Result<SecretName, RegistryError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let key: String = key
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .take(100)
        .collect();
    let suffix = revision
        .map(|revision| format!(".{revision}"))
        .unwrap_or_default();
    let name = format!("server/{server}/{kind}/{key}{suffix}");
    SecretName::new(name).map_err(|source| RegistryError::Template {
        field: format!("{kind}.{key}"),
        source,
    })
}

/// The secret that holds what a login at a server gave.
///
/// # Errors
/// None with the names that servers can have.
pub fn login_secret(server: &ServerName) -> Result<SecretName, RegistryError> {
    own_secret_name(server, "oauth", "login", None)
}

/// The server that a secret of this name is sealed for.
pub(crate) fn server_of(secret: &SecretName) -> Option<ServerName> {
    let name = secret.as_str().strip_prefix("server/")?.split('/').next()?;
    ServerName::new(name).ok()
}

/// The server's own secrets among those that a transport refers to.
pub(crate) fn own_secrets(server: &ServerName, transport: Option<&Transport>) -> Vec<SecretName> {
    let prefix = format!("server/{server}/");
    let mut names: Vec<SecretName> = Vec::new();
    for (_, template) in transport.into_iter().flat_map(Transport::templates) {
        for name in template.secrets() {
            if name.as_str().starts_with(&prefix) && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn literals_are_split_off_and_templates_are_kept() {
        let name = ServerName::new("github").unwrap();
        let headers = BTreeMap::from([
            (
                "Authorization".to_owned(),
                DraftValue::Seal("Bearer planted".into()),
            ),
            (
                "X!Key".to_owned(),
                DraftValue::Keep(SecretTemplate::new("${secret:shared}").unwrap()),
            ),
        ]);
        let sealing = seal(
            &name,
            DraftTransport::StreamableHttp {
                url: "https://h/".into(),
                headers,
            },
            None,
        )
        .unwrap();
        let stored = serde_json::to_string(&sealing.transport).unwrap();
        assert!(!stored.contains("planted"), "{stored}");
        assert!(
            stored.contains("${secret:server/github/header/Authorization}"),
            "{stored}"
        );
        assert!(stored.contains("${secret:shared}"), "{stored}");
        assert_eq!(sealing.secrets.len(), 1);
        assert_eq!(sealing.secrets[0].1.expose(), "Bearer planted");
        assert!(!format!("{sealing:?}").contains("planted"));
        let own = own_secrets(&name, Some(&sealing.transport));
        assert_eq!(
            own.iter().map(SecretName::as_str).collect::<Vec<_>>(),
            ["server/github/header/Authorization"]
        );
    }
}
