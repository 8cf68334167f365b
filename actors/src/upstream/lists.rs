//! What a server lists, kept until it announces a change. Cached state: read again when it is gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::time::Instant;
use troupe_protocol::jsonrpc::{self, ErrorObject, RawReply, edit, string_of};
use troupe_protocol::mcp::{Descriptor, ListKind};
use troupe_protocol::upstream::UpstreamInfo;

use crate::runtime::Deadline;

use super::error::UpstreamError;
use super::http::{Mirror, mirrors_of};
use super::messages::CallOptions;
use super::retry;
use super::slot::Slot;

/// Pages read of one list.
const PAGES_MAX: usize = 200;
/// Items kept of one list; the rest is dropped.
const ITEMS_MAX: usize = 20_000;

struct Kept {
    items: Arc<Vec<Descriptor>>,
    until: Option<Instant>,
}

/// The lists of one server.
#[derive(Default)]
pub(super) struct Lists {
    kept: Mutex<HashMap<ListKind, Kept>>,
    /// Counts changes, so that a list read while it changed is not kept.
    epoch: Mutex<HashMap<ListKind, u64>>,
    /// Held while a list is read, so that many who need it read it once.
    reading: [tokio::sync::Mutex<()>; 4],
    /// Arguments that are mirrored into headers, of the tools that have such; nothing until the tools have been read.
    mirrors: ArcSwapOption<HashMap<String, Vec<Mirror>>>,
    /// The tools that may be called again when a call is lost; nothing until the tools have been read.
    repeatable: ArcSwapOption<HashSet<String>>,
}

impl Lists {
    /// Forgets a list.
    pub fn forget(&self, kind: ListKind) {
        *self.epoch.lock().entry(kind).or_default() += 1;
        self.kept.lock().remove(&kind);
    }

    /// Forgets all lists.
    pub fn forget_all(&self) {
        self.mirrors.store(None);
        self.repeatable.store(None);
        for kind in [
            ListKind::Tools,
            ListKind::Resources,
            ListKind::ResourceTemplates,
            ListKind::Prompts,
        ] {
            self.forget(kind);
        }
    }

    /// The arguments of each tool that are mirrored into headers; nothing until the tools have been read.
    pub fn mirrors(&self) -> Option<Arc<HashMap<String, Vec<Mirror>>>> {
        self.mirrors.load_full()
    }

    /// Whether a call of this tool may be made again when it is lost.
    pub fn is_repeatable(&self, tool: &str) -> bool {
        let repeatable = self.repeatable.load();
        repeatable.as_ref().is_some_and(|tools| tools.contains(tool))
    }

    /// Notes which tools may be called again.
    fn note_repeatable(&self, tools: &[Descriptor]) {
        let repeatable = tools.iter().filter(|tool| retry::is_repeatable(tool));
        let names = repeatable.map(|tool| tool.name.clone()).collect();
        self.repeatable.store(Some(Arc::new(names)));
    }

    /// Notes which arguments are mirrored into headers. Leaves out tools whose annotations are wrong, as the revision
    /// demands of clients over HTTP; says which these are.
    fn note_mirrors(&self, tools: &mut Vec<Descriptor>, is_strict: bool) -> Vec<String> {
        let (mut of_tools, mut refused) = (HashMap::new(), Vec::new());
        tools.retain(|tool| {
            if !tool.raw.get().contains("x-mcp-header") {
                return true;
            }
            match mirrors_of(&tool.tool().input_schema) {
                Ok(mirrors) => {
                    of_tools.insert(tool.name.clone(), mirrors);
                    true
                }
                Err(_) if !is_strict => true,
                Err(wrong) => {
                    refused.push(format!("tool {} is left out: {wrong}", tool.name));
                    false
                }
            }
        });
        self.mirrors.store(Some(Arc::new(of_tools)));
        refused
    }

    /// How many items each kept list has.
    pub fn sizes(&self) -> Vec<(ListKind, usize)> {
        self.kept
            .lock()
            .iter()
            .map(|(kind, kept)| (*kind, kept.items.len()))
            .collect()
    }

    pub fn get(&self, kind: ListKind) -> Option<Arc<Vec<Descriptor>>> {
        let kept = self.kept.lock();
        let list = kept.get(&kind)?;
        list.until
            .is_none_or(|until| until > Instant::now())
            .then(|| Arc::clone(&list.items))
    }

    /// For how long a list may still be used; nothing where it is not kept, or until it is announced to have changed.
    pub fn ttl(&self, kind: ListKind) -> Option<Duration> {
        let until = self.kept.lock().get(&kind)?.until?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    pub fn epoch(&self, kind: ListKind) -> u64 {
        self.epoch.lock().get(&kind).copied().unwrap_or_default()
    }

    /// Keeps a list for a while, unless it has changed since `epoch`.
    pub fn keep_for(&self, kind: ListKind, epoch: u64, items: &Arc<Vec<Descriptor>>, age_max: Duration) {
        let (items, until) = (Arc::clone(items), Some(Instant::now() + age_max));
        self.keep(kind, epoch, Kept { items, until });
    }

    fn keep(&self, kind: ListKind, epoch: u64, kept: Kept) {
        if self.epoch(kind) == epoch {
            self.kept.lock().insert(kind, kept);
        }
    }
}

/// A page of a list, as far as it is looked at.
pub(super) struct Page {
    pub items: Vec<Descriptor>,
    next_cursor: Option<String>,
    ttl_ms: Option<u64>,
}

impl Slot {
    /// What the server lists of this kind; kept until it announces a change.
    pub async fn list(
        self: &Arc<Self>,
        kind: ListKind,
        deadline: Deadline,
    ) -> Result<Arc<Vec<Descriptor>>, UpstreamError> {
        if self.connection().is_some()
            && let Some(items) = self.lists.get(kind)
        {
            return Ok(items);
        }
        let _only_one =
            tokio::time::timeout_at(deadline.instant(), self.lists.reading[kind as usize].lock()).await;
        let connection = self.ready(deadline).await?;
        let info = &connection.info;
        if let Some(items) = self.lists.get(kind) {
            return Ok(items);
        }
        // Tools are asked for whatever the server declares: early ones declared nothing.
        if kind != ListKind::Tools && !info.offers(kind) {
            return Ok(Arc::default());
        }
        let epoch = self.lists.epoch(kind);
        let (mut items, ttl_ms) = self.read_pages(kind, deadline).await?;
        if kind == ListKind::Tools {
            self.lists.note_repeatable(&items);
            self.lists
                .note_mirrors(&mut items, connection.mirrors_arguments())
                .iter()
                .for_each(|refused| self.log.note(refused));
        }
        let items = Arc::new(items);
        let kept_for = ttl_ms.map(Duration::from_millis).or_else(|| {
            // Over HTTP an announcement may be missed while the stream is being opened again.
            let may_be_missed = self.transport.lock().kind() != "stdio" || !announces(info, kind);
            may_be_missed.then(|| Duration::from_millis(self.settings.list_age_ms_max))
        });
        let until = kept_for.map(|time| Instant::now() + time);
        self.lists.keep(
            kind,
            epoch,
            Kept {
                items: Arc::clone(&items),
                until,
            },
        );
        Ok(items)
    }

    async fn read_pages(
        self: &Arc<Self>,
        kind: ListKind,
        deadline: Deadline,
    ) -> Result<(Vec<Descriptor>, Option<u64>), UpstreamError> {
        let mut items: Vec<Descriptor> = Vec::new();
        let mut ttl_ms: Option<u64> = None;
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let params = cursor.as_deref().and_then(params_with_cursor);
            let reply = self
                .request(kind.method(), params.as_deref(), CallOptions::own(deadline))
                .await?;
            let page = match reply {
                RawReply::Result(result) => {
                    read_page(kind, &result).ok_or_else(|| UpstreamError::Protocol {
                        server: self.name.clone(),
                        reason: format!("its answer to {} has no array {:?}", kind.method(), kind.member()),
                    })?
                }
                // It declared more than it has, or lists resources but no templates.
                RawReply::Error(error) if is_method_not_found(&error) => break,
                RawReply::Error(error) => {
                    let words = ErrorObject::read(&error)
                        .map_or_else(|| error.get().to_owned(), |error| error.message);
                    let reason = format!("{} failed: {words}", kind.method());
                    return Err(UpstreamError::Protocol {
                        server: self.name.clone(),
                        reason,
                    });
                }
            };
            items.extend(page.items);
            ttl_ms = page
                .ttl_ms
                .map(|page_ttl| ttl_ms.map_or(page_ttl, |ttl| ttl.min(page_ttl)))
                .or(ttl_ms);
            if items.len() > ITEMS_MAX {
                self.log.note(&format!(
                    "{} gave more than {ITEMS_MAX} items; the rest is left out",
                    kind.method()
                ));
                items.truncate(ITEMS_MAX);
                break;
            }
            let is_stuck = page.next_cursor == cursor;
            match page.next_cursor {
                Some(next) if !is_stuck => cursor = Some(next),
                _ => break,
            }
        }
        Ok((items, ttl_ms))
    }
}

/// Whether the server announces changes of this list.
fn announces(info: &UpstreamInfo, kind: ListKind) -> bool {
    info.capabilities[kind.capability()]["listChanged"] == serde_json::Value::Bool(true)
}

fn params_with_cursor(cursor: &str) -> Option<Box<RawValue>> {
    let mut params = r#"{"cursor":"#.to_owned();
    edit::push_string(&mut params, cursor);
    params.push('}');
    RawValue::from_string(params).ok()
}

fn is_method_not_found(error: &RawValue) -> bool {
    ErrorObject::read(error).is_some_and(|error| error.code == jsonrpc::code::METHOD_NOT_FOUND)
}

pub(super) fn read_page(kind: ListKind, result: &RawValue) -> Option<Page> {
    let items: Vec<&RawValue> = serde_json::from_str(edit::member(result, kind.member())?.get()).ok()?;
    Some(Page {
        items: items
            .into_iter()
            .filter_map(|item| Descriptor::read(kind, item))
            .collect(),
        next_cursor: edit::member(result, "nextCursor")
            .and_then(string_of)
            .map(|cursor| cursor.into_owned()),
        ttl_ms: edit::member(result, "ttlMs").and_then(|ttl| ttl.get().parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_page_keeps_items_as_they_are_and_leaves_out_nameless_ones() {
        let text =
            r#"{"tools":[{"name":"a", "x":1e99},{"title":"nameless"}],"nextCursor":"n\"2","ttlMs":5000}"#;
        let page = read_page(ListKind::Tools, &RawValue::from_string(text.to_owned()).unwrap()).unwrap();
        assert_eq!(page.items.len(), 1);
        assert_eq!(page.items[0].raw.get(), r#"{"name":"a", "x":1e99}"#);
        assert_eq!(
            (page.next_cursor.as_deref(), page.ttl_ms),
            (Some("n\"2"), Some(5000))
        );
        assert!(
            read_page(
                ListKind::Prompts,
                &RawValue::from_string(text.to_owned()).unwrap()
            )
            .is_none()
        );
        let params = params_with_cursor("n\"2").unwrap();
        assert_eq!(params.get(), r#"{"cursor":"n\"2"}"#);
    }

    #[test]
    fn a_list_that_changed_while_it_was_read_is_not_kept() {
        let lists = Lists::default();
        let epoch = lists.epoch(ListKind::Tools);
        lists.forget(ListKind::Tools);
        lists.keep(
            ListKind::Tools,
            epoch,
            Kept {
                items: Arc::default(),
                until: None,
            },
        );
        assert!(lists.get(ListKind::Tools).is_none());
        lists.keep(
            ListKind::Tools,
            epoch + 1,
            Kept {
                items: Arc::default(),
                until: None,
            },
        );
        assert!(lists.get(ListKind::Tools).is_some());
    }
}
