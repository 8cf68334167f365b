//! Servers in other forms than ours.
//!
//! | file | form |
//! |---|---|
//! | `server_json` | the official shape, one or many |
//! | `seed` | the shape that the official registry had in May 2025 |
//! | `catalog` | JSON lines of a catalogue, with the tools that each server says it has |
//! | `mcp_servers` | what desktop clients write: Claude Desktop, Cursor, VS Code and their likes |
//!
//! Each form is read into [`Item`]s; [`plan`] then decides what becomes of them. A server is enabled at once only when
//! the user brought it on purpose (a desktop client's file, a single manifest) and no required input is missing:
//! importing a registry must not start hundreds of processes.

mod catalog;
mod mcp_servers;
mod seed;
mod server_json;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use troupe_protocol::access::SecretName;
use troupe_protocol::server::manifest::{META_ADVERTISED_TOOLS, META_IMPORTED, SCHEMA_URL};
use troupe_protocol::server::validate::{DESCRIPTION_CHARS_MAX, TITLE_CHARS_MAX};
use troupe_protocol::server::{
    AdvertisedTool, ClearText, ImportFormat, ImportNote, ImportReport, ImportSource, Operation, RawJson,
    RejectedImport, ServerJson, ServerName,
};
use troupe_protocol::time::Timestamp;

use super::draft::DraftTransport;
use super::error::RegistryError;
use super::seal;
use super::state::{Change, Publishing, Registration, RegistryState};

/// The most entries of one import.
const ENTRIES_MAX: usize = 10_000;
/// The most bytes of a manifest, so that it fits a record of the store.
const MANIFEST_BYTES_MAX: usize = 64 * 1024;

/// A server that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    /// Its place in the import, from 0.
    pub index: usize,
    /// Names it might have here, the best first.
    pub name_hints: Vec<String>,
    pub manifest: ServerJson,
    pub transport: Option<DraftTransport>,
    pub enabled: bool,
    pub labels: Vec<String>,
    /// What the official shape has no place for, kept under [`META_IMPORTED`].
    pub originals: Map<String, Value>,
    /// What was left out or changed.
    pub notes: Vec<String>,
}

/// What was read, and what could not be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Read {
    pub items: Vec<Item>,
    pub rejected: Vec<RejectedImport>,
}

impl Read {
    fn reject(&mut self, index: usize, name: impl Into<String>, reason: impl Into<String>) {
        self.rejected.push(RejectedImport {
            index: as_u32(index),
            name: name.into(),
            reason: reason.into(),
        });
    }

    /// Takes an entry that was read, or the reason why it could not be.
    fn take(&mut self, index: usize, name: &str, item: Result<Item, String>) {
        match item.and_then(checked) {
            Ok(item) => self.items.push(item),
            Err(reason) => self.reject(index, name, reason),
        }
    }
}

/// What an import does.
pub(crate) struct Plan {
    pub change: Change,
    pub secrets: Vec<(SecretName, ClearText)>,
    pub report: ImportReport,
}

/// Reads an import.
pub(crate) fn read(source: &ImportSource) -> Result<Read, RegistryError> {
    let content = source.content.trim_start_matches('\u{feff}');
    let read = match source.format {
        ImportFormat::McpServers => mcp_servers::read(content),
        ImportFormat::ServerJson => server_json::read(content),
        ImportFormat::Seed => seed::read(content),
        ImportFormat::Catalog => catalog::read(content),
    }?;
    let entries = read.items.len() + read.rejected.len();
    if entries > ENTRIES_MAX {
        return Err(RegistryError::import(format!(
            "there are {entries} entries, at most {ENTRIES_MAX} at once"
        )));
    }
    Ok(read)
}

/// Decides what becomes of what was read. Entries that are registered already with the same content are skipped.
pub(crate) fn plan(state: &RegistryState, read: Read, owner: &str, now: Timestamp) -> Plan {
    let mut work = state.clone();
    let mut touched = BTreeSet::new();
    let mut forgets = Vec::new();
    let mut secrets = Vec::new();
    let mut report = ImportReport {
        rejected: read.rejected,
        ..ImportReport::default()
    };
    for item in read.items {
        let (index, manifest_name) = (item.index, item.manifest.name.clone());
        let notes = item.notes.clone();
        match plan_item(&work, item, owner, now) {
            Ok(Planned::Known) => report.skipped += 1,
            Ok(Planned::Changed {
                name,
                change,
                sealing,
            }) => {
                forgets.extend(change.forgets.iter().cloned());
                work.apply(change);
                secrets.extend(sealing);
                report.imported += 1;
                let note = |note| ImportNote {
                    index: as_u32(index),
                    name: name.clone(),
                    note,
                };
                report.notes.extend(notes.into_iter().map(note));
                if touched.insert(name.clone()) {
                    report.names.push(name);
                }
            }
            Err(error) => {
                let (index, reason) = (as_u32(index), error.to_string());
                report.rejected.push(RejectedImport {
                    index,
                    name: manifest_name,
                    reason,
                });
            }
        }
    }
    report.rejected.sort_by_key(|rejected| rejected.index);
    let puts = touched
        .iter()
        .filter_map(|name| work.servers().get(name).cloned())
        .collect();
    Plan {
        change: Change {
            puts,
            forgets,
            ..Change::default()
        },
        secrets,
        report,
    }
}

enum Planned {
    Known,
    Changed {
        name: ServerName,
        change: Change,
        sealing: Vec<(SecretName, ClearText)>,
    },
}

fn plan_item(
    state: &RegistryState,
    item: Item,
    owner: &str,
    now: Timestamp,
) -> Result<Planned, RegistryError> {
    if let Some(record) = state.by_manifest_name(&item.manifest.name) {
        let name = record.name.clone();
        return Ok(match state.check_version(record, &item.manifest)? {
            Publishing::Known => Planned::Known,
            Publishing::New => {
                let change = state.publish(&name, item.manifest, now)?;
                Planned::Changed {
                    name,
                    change,
                    sealing: Vec::new(),
                }
            }
        });
    }
    let name = free_name(state, &item.name_hints)
        .ok_or_else(|| RegistryError::import("no name could be made for it from letters a-z and digits"))?;
    let sealed = item
        .transport
        .map(|draft| seal::seal(&name, draft, None))
        .transpose()?;
    let (transport, sealing) = sealed.map_or((None, Vec::new()), |seal| (Some(seal.transport), seal.secrets));
    let operation = Operation {
        enabled: item.enabled && transport.is_some(),
        transport,
        labels: item.labels,
        owner: owner.to_owned(),
        call_timeout_ms: None,
    };
    let registration = Registration {
        name: name.clone(),
        manifest: item.manifest,
        operation,
    };
    let change = state.register(registration, now)?;
    Ok(Planned::Changed {
        name,
        change,
        sealing,
    })
}

/// The first name that is free; when none is, the first with a number.
fn free_name(state: &RegistryState, hints: &[String]) -> Option<ServerName> {
    let is_free = |name: &ServerName| !name.is_builtin() && !state.servers().contains_key(name);
    let names: Vec<ServerName> = hints
        .iter()
        .filter_map(|hint| ServerName::from_any(hint))
        .collect();
    if let Some(name) = names.iter().find(|name| is_free(name)) {
        return Some(name.clone());
    }
    let first = names.first()?.as_str();
    let stem = first.get(..first.len().min(56)).unwrap_or(first);
    (2..=ENTRIES_MAX)
        .filter_map(|number| ServerName::new(&format!("{stem}-{number}")).ok())
        .find(is_free)
}

/// Makes an entry fit the official shape, keeping what had to be cut, and checks it.
fn checked(mut item: Item) -> Result<Item, String> {
    let manifest = &mut item.manifest;
    let mut originals = std::mem::take(&mut item.originals);
    if manifest.description.trim().is_empty() {
        manifest.description = manifest
            .title
            .clone()
            .unwrap_or_else(|| manifest.short_name().to_owned());
        item.notes
            .push("it has no description: its name stands there instead".to_owned());
    }
    cut(
        &mut manifest.description,
        DESCRIPTION_CHARS_MAX,
        "description",
        &mut originals,
    );
    if let Some(title) = &mut manifest.title {
        cut(title, TITLE_CHARS_MAX, "title", &mut originals);
    }
    if !originals.is_empty() {
        manifest.meta.insert(
            META_IMPORTED.to_owned(),
            RawJson::from_value(&Value::Object(originals)),
        );
    }
    manifest.schema = Some(SCHEMA_URL.to_owned());
    manifest.validate().map_err(|error| error.to_string())?;
    if let Some(transport) = &item.transport {
        transport.check().map_err(|error| error.to_string())?;
    }
    shrink_advertised_tools(&mut item);
    let bytes = serde_json::to_string(&item.manifest).map_or(usize::MAX, |text| text.len());
    if bytes > MANIFEST_BYTES_MAX {
        return Err(format!(
            "its manifest has {bytes} bytes, at most {MANIFEST_BYTES_MAX}"
        ));
    }
    Ok(item)
}

/// Cuts a text at the end of a word; the whole text is kept under `key`.
fn cut(text: &mut String, chars_max: usize, key: &str, originals: &mut Map<String, Value>) {
    if text.chars().count() <= chars_max {
        return;
    }
    let whole = std::mem::take(text);
    let kept: String = whole.chars().take(chars_max - 1).collect();
    let end_of_word = kept
        .rfind(char::is_whitespace)
        .filter(|end| *end > chars_max / 2)
        .unwrap_or(kept.len());
    *text = format!(
        "{}…",
        kept[..end_of_word].trim_end_matches([' ', ',', '.', ';', ':', '\n'])
    );
    originals.insert(key.to_owned(), json!(whole));
}

/// Drops schemas, then descriptions, of advertised tools that would make the manifest too large for a record.
fn shrink_advertised_tools(item: &mut Item) {
    type Step = (fn(&mut AdvertisedTool), &'static str);
    let steps: [Step; 2] = [
        (
            |tool| tool.input_schema = None,
            "the schemas of its tools are too large to keep",
        ),
        (
            |tool| tool.description = None,
            "the descriptions of its tools are too large to keep",
        ),
    ];
    for (shrink, note) in steps {
        let advertised = item.manifest.meta.get(META_ADVERTISED_TOOLS);
        if advertised.is_none_or(|raw| raw.as_str().len() <= MANIFEST_BYTES_MAX - 8 * 1024) {
            return;
        }
        let mut tools = item.manifest.advertised_tools();
        tools.iter_mut().for_each(shrink);
        item.notes.push(note.to_owned());
        advertise(&mut item.manifest, &tools);
    }
}

fn advertise(manifest: &mut ServerJson, tools: &[AdvertisedTool]) {
    if let Ok(value) = serde_json::to_value(tools) {
        manifest
            .meta
            .insert(META_ADVERTISED_TOOLS.to_owned(), RawJson::from_value(&value));
    }
}

/// The JSON of a text, or where it is wrong.
fn parse_json(text: &str) -> Result<Value, RegistryError> {
    serde_json::from_str(text)
        .map_err(|error| RegistryError::import(format!("the content is not JSON: {error}")))
}

fn as_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
