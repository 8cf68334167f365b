//! A catalogue as JSON lines: `{"server", "name", "author", "description", "repository", "label", "tools"}`.
//!
//! Its entries say nothing about how a server is reached, so they are registered without a transport, disabled; the
//! tools that a server says it has are kept, so that they can be searched.

use serde::Deserialize;
use serde_json::Map;
use troupe_protocol::server::{AdvertisedTool, Repository, ServerJson};

use super::super::error::RegistryError;
use super::{Item, Read, advertise};

#[derive(Debug, Deserialize)]
struct Row {
    server: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    author: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    repository: String,
    #[serde(default)]
    label: String,
    #[serde(default)]
    tools: Vec<AdvertisedTool>,
}

pub(super) fn read(content: &str) -> Result<Read, RegistryError> {
    let mut read = Read::default();
    let lines = content.lines().filter(|line| !line.trim().is_empty());
    for (index, line) in lines.enumerate() {
        match serde_json::from_str::<Row>(line) {
            Ok(row) => {
                let name = row.server.clone();
                read.take(index, &name, Ok(item(index, row)));
            }
            Err(error) => read.reject(index, "", format!("not a row of a catalogue: {error}")),
        }
    }
    if read.items.is_empty() && !read.rejected.is_empty() {
        let reason = &read.rejected[0].reason;
        return Err(RegistryError::import(format!(
            "no line could be read; the first: {reason}"
        )));
    }
    Ok(read)
}

fn item(index: usize, row: Row) -> Item {
    let mut notes = Vec::new();
    let repository = repository(&row.repository);
    if repository.is_none() && !row.repository.is_empty() {
        notes.push(format!(
            "its repository {:?} is not an address and is left out",
            row.repository
        ));
    }
    // The author is `@owner/server` or only the server.
    let short = row.author.rsplit('/').next().unwrap_or(&row.author).to_owned();
    let mut manifest = ServerJson {
        name: format!("catalog/{}", identifier(&row.server)),
        title: Some(row.name.clone()).filter(|title| !title.trim().is_empty()),
        description: row.description,
        version: "0.0.0-catalog".to_owned(),
        repository,
        ..ServerJson::default()
    };
    advertise(&mut manifest, &row.tools);
    let labels = Some(row.label)
        .filter(|label| !label.trim().is_empty())
        .into_iter()
        .collect();
    let name_hints = vec![short, row.author, row.name, row.server];
    Item {
        index,
        name_hints,
        manifest,
        transport: None,
        enabled: false,
        labels,
        originals: Map::new(),
        notes,
    }
}

/// The catalogue's identifier of a server in the characters that a manifest's name may have.
fn identifier(server: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    server
        .chars()
        .filter(|c| *c != '@')
        .map(|c| if fits(c) { c } else { '-' })
        .take(180)
        .collect()
}

fn repository(address: &str) -> Option<Repository> {
    let url = url::Url::parse(address)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let source = match url.host_str()? {
        "github.com" => "github",
        "gitlab.com" => "gitlab",
        _ => "other",
    };
    Some(Repository {
        url: address.to_owned(),
        source: source.to_owned(),
        ..Repository::default()
    })
}
