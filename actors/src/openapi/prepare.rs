//! What a user gives to register a document, completed and checked before anything is written.

use std::time::Duration;

use secrecy::SecretString;
use troupe_protocol::server::OpenApiSource;
use url::Url;

use super::document::{DOCUMENT_BYTES_MAX, Document, DocumentError, checked_base};
use super::security::Credentials;
use super::server::{Access, OpenApiServer};
use crate::upstream::http_client::{self, in_words};

/// How long it may take to fetch a document.
const FETCH_WITHIN: Duration = Duration::from_secs(30);
/// The most characters of a title and of a description in a manifest.
const WORDS_CHARS_MAX: usize = 100;

/// What a document says of its service, in the bounds of a manifest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// What it is called.
    pub title: Option<String>,
    /// What it does.
    pub description: Option<String>,
}

/// Fetches the document if only its address is given, checks that it has operations, takes from it where the service is if
/// that is not given, and checks that it has the security schemes for which there are credentials.
///
/// # Errors
/// [`DocumentError`].
pub async fn prepare(source: &mut OpenApiSource) -> Result<Prepared, DocumentError> {
    let fetched_from = match (&source.document, &source.url) {
        (None, Some(url)) => {
            let (text, from) = fetch(url).await?;
            source.document = Some(text);
            Some(from)
        }
        _ => None,
    };
    let Some(text) = source.document.clone() else {
        return Ok(Prepared::default());
    };
    let (base_url, schemes) = (source.base_url.clone(), source.security.keys().cloned().collect());
    let reading =
        tokio::task::spawn_blocking(move || read(&text, base_url, fetched_from.as_ref(), schemes)).await;
    let (base_url, prepared) = reading.map_err(|error| DocumentError::Unreadable(error.to_string()))??;
    source.base_url = Some(base_url.into());
    Ok(prepared)
}

fn read(
    text: &str,
    base_url: Option<String>,
    fetched_from: Option<&Url>,
    schemes: Vec<String>,
) -> Result<(Url, Prepared), DocumentError> {
    let document = Document::read(text)?;
    let base_url = match base_url {
        Some(given) => {
            let url =
                Url::parse(&given).map_err(|error| DocumentError::BaseUrl(format!("{given}: {error}")))?;
            checked_base(url)?
        }
        None => document.base_url(fetched_from)?,
    };
    let given = schemes
        .into_iter()
        .map(|name| (name, SecretString::from("given")))
        .collect();
    if let Some(name) = Credentials::new(&document, &given).1.into_iter().next() {
        let known: Vec<&str> = document.security_schemes().map(|(name, _)| name).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return Err(DocumentError::Scheme { name, known });
    }
    let access = Access {
        base_url: Some(base_url.to_string()),
        ..Access::default()
    };
    OpenApiServer::new(&document, &access)?;
    let words = |text: Option<&str>| {
        let line = text?.lines().find(|line| !line.trim().is_empty())?.trim();
        Some(line.chars().take(WORDS_CHARS_MAX).collect())
    };
    let prepared = Prepared {
        title: words(document.title()),
        description: words(document.description()),
    };
    Ok((base_url, prepared))
}

/// The document at an address, and where that was after redirects.
async fn fetch(address: &str) -> Result<(String, Url), DocumentError> {
    let unreachable = |reason: String| {
        let mut url = Url::parse(address).ok();
        if let Some(url) = &mut url {
            url.set_query(None);
        }
        DocumentError::Unreachable {
            url: url.map_or_else(String::new, String::from),
            reason,
        }
    };
    let url = Url::parse(address).map_err(|error| unreachable(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unreachable(
            "its address must begin with http or https".to_owned(),
        ));
    }
    let client = http_client::for_address(&url).map_err(unreachable)?;
    let fetching = client.get(url).timeout(FETCH_WITHIN).send();
    let mut response = fetching.await.map_err(|error| unreachable(in_words(&error)))?;
    if !response.status().is_success() {
        return Err(unreachable(format!("HTTP {}", response.status())));
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > DOCUMENT_BYTES_MAX => {
                return Err(DocumentError::TooLarge(body.len() + chunk.len()));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Err(unreachable(in_words(&error))),
        }
    }
    let from = response.url().clone();
    let text =
        String::from_utf8(body).map_err(|_| DocumentError::Unreadable("it is not UTF-8".to_owned()))?;
    Ok((text, from))
}
