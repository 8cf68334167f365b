//! One list out of the lists of many servers, in pages. Pure.
//!
//! A page is made from whatever lists are there: servers that did not answer in time are told in `_meta`, they never
//! delay or empty the page. A cursor says where the next page begins (server and place in its list), so it stays
//! good when servers come and go between two pages.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use troupe_protocol::error::Code;
use troupe_protocol::jsonrpc::edit::{self, ObjectEdits, json_string};
use troupe_protocol::mcp::{Descriptor, ListKind};

use super::names;

/// The key in `_meta` under which servers are listed that could not be asked.
pub const UNAVAILABLE_KEY: &str = "troupe/unavailable";
/// The key in `_meta` under which things are listed that their exposed names do not lead to.
pub const SHADOWED_KEY: &str = "troupe/shadowed";

/// The most entries under either key; the rest is only counted.
const NOTES_MAX: usize = 100;

/// The bounds on one page.
#[derive(Debug, Clone, Copy)]
pub struct PageLimits {
    /// How many things.
    pub items_max: usize,
    /// How many bytes; a single larger thing still makes a page.
    pub bytes_max: usize,
}

impl Default for PageLimits {
    fn default() -> Self {
        Self {
            items_max: 1_000,
            bytes_max: 4 * 1024 * 1024,
        }
    }
}

/// What one server has of a kind.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The server's name; the empty text for the built-in server, whose things keep their names.
    pub server: Arc<str>,
    /// Its things in its own order, or why they are missing.
    pub items: Result<Arc<Vec<Descriptor>>, Missing>,
    /// For how long they count; nothing if the server does not say.
    pub ttl: Option<Duration>,
}

impl Listing {
    /// Without saying how long it counts.
    pub fn of(server: &str, items: Result<Arc<Vec<Descriptor>>, Missing>) -> Self {
        Self {
            server: server.into(),
            items,
            ttl: None,
        }
    }
}

/// For how long the shortest-lived of these lists counts; nothing if none says.
pub fn ttl(listings: &[Listing]) -> Option<Duration> {
    listings.iter().filter_map(|listing| listing.ttl).min()
}

/// Why a server's things are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The stable code.
    pub code: Code,
    /// What happened.
    pub reason: String,
}

/// Where a page begins: at this place in this server's list.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The server, as in [`Listing::server`].
    pub server: String,
    /// The place in its list.
    pub index: usize,
}

impl Position {
    /// The position as a cursor, opaque to clients.
    pub fn to_cursor(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}:{}", self.index, self.server))
    }

    /// Reads a cursor; nothing if it is not one of ours.
    pub fn from_cursor(cursor: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (index, server) = text.split_once(':')?;
        Some(Self {
            server: server.to_owned(),
            index: index.parse().ok()?,
        })
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The result object as JSON text: the list, `nextCursor` where there is more, `_meta` where something is missing.
    pub result: String,
    /// Whether something is missing, so that the page should be asked for again soon.
    pub is_incomplete: bool,
}

/// A page that begins at `start`. `listings` are sorted by server; `leads_to` says which server's an exposed name is.
pub fn page(
    kind: ListKind,
    listings: &[Listing],
    start: &Position,
    limits: PageLimits,
    leads_to: impl Fn(&str, &str) -> bool,
) -> Page {
    let mut writer = PageWriter::new(kind, limits);
    for listing in listings.iter().filter(|listing| *listing.server >= *start.server) {
        match &listing.items {
            Err(missing) => writer.note_missing(&listing.server, missing),
            Ok(items) => {
                let first = if *listing.server == *start.server {
                    start.index
                } else {
                    0
                };
                writer.push_items(&listing.server, items, first, &leads_to);
            }
        }
        if writer.next.is_some() {
            break;
        }
    }
    writer.finish()
}

struct PageWriter {
    kind: ListKind,
    limits: PageLimits,
    items: String,
    count: usize,
    unavailable: Vec<String>,
    unavailable_count: usize,
    shadowed: Vec<String>,
    shadowed_count: usize,
    next: Option<Position>,
}

impl PageWriter {
    fn new(kind: ListKind, limits: PageLimits) -> Self {
        Self {
            kind,
            limits,
            items: String::new(),
            count: 0,
            unavailable: Vec::new(),
            unavailable_count: 0,
            shadowed: Vec::new(),
            shadowed_count: 0,
            next: None,
        }
    }

    fn note_missing(&mut self, server: &str, missing: &Missing) {
        self.unavailable_count += 1;
        if self.unavailable.len() >= NOTES_MAX {
            return;
        }
        let mut note = String::from(r#"{"server":"#);
        edit::push_string(&mut note, server);
        let _ = write!(note, r#","code":"{}","reason":"#, missing.code);
        edit::push_string(&mut note, &missing.reason);
        note.push('}');
        self.unavailable.push(note);
    }

    fn push_items(
        &mut self,
        server: &str,
        items: &[Descriptor],
        first: usize,
        leads_to: impl Fn(&str, &str) -> bool,
    ) {
        for (index, item) in items.iter().enumerate().skip(first) {
            if self.count >= self.limits.items_max
                || (self.count > 0 && self.items.len() >= self.limits.bytes_max)
            {
                self.next = Some(Position {
                    server: server.to_owned(),
                    index,
                });
                return;
            }
            self.push_item(server, item, &leads_to);
        }
    }

    fn push_item(&mut self, server: &str, item: &Descriptor, leads_to: impl Fn(&str, &str) -> bool) {
        let is_named = matches!(self.kind, ListKind::Tools | ListKind::Prompts);
        if is_named && !server.is_empty() && !leads_to(&names::exposed_name(server, &item.name), server) {
            self.shadowed_count += 1;
            if self.shadowed.len() < NOTES_MAX {
                let mut note = String::new();
                edit::push_string(&mut note, &names::exposed_name(server, &item.name));
                self.shadowed.push(note);
            }
            return;
        }
        if self.count > 0 {
            self.items.push(',');
        }
        self.items.push_str(&exposed(self.kind, server, item));
        self.count += 1;
    }

    fn finish(self) -> Page {
        let mut result = format!(r#"{{"{}":[{}]"#, self.kind.member(), self.items);
        if let Some(next) = &self.next {
            let _ = write!(result, r#","nextCursor":"{}""#, next.to_cursor());
        }
        let notes = [
            (UNAVAILABLE_KEY, &self.unavailable, self.unavailable_count),
            (SHADOWED_KEY, &self.shadowed, self.shadowed_count),
        ];
        let notes: Vec<String> = notes
            .into_iter()
            .filter(|(_, _, count)| *count > 0)
            .map(|(key, notes, count)| format!(r#""{key}":[{}],"{key}_count":{count}"#, notes.join(",")))
            .collect();
        if !notes.is_empty() {
            let _ = write!(result, r#","_meta":{{{}}}"#, notes.join(","));
        }
        result.push('}');
        Page {
            result,
            is_incomplete: self.unavailable_count > 0,
        }
    }
}

/// A thing as the aggregate endpoint shows it: renamed, and otherwise as its server wrote it.
pub fn exposed<'a>(kind: ListKind, server: &str, item: &'a Descriptor) -> Cow<'a, str> {
    if server.is_empty() {
        return Cow::Borrowed(item.raw.get());
    }
    let mut edits = ObjectEdits::default();
    let uri_member = match kind {
        ListKind::Tools | ListKind::Prompts => None,
        ListKind::Resources => Some("uri"),
        ListKind::ResourceTemplates => Some("uriTemplate"),
    };
    if let Some(member) = uri_member {
        edits.set.push((
            member,
            Cow::Owned(json_string(&names::exposed_uri(server, &item.name))),
        ));
    }
    if let Some(name) = edit::string_member(&item.raw, "name") {
        edits.set.push((
            "name",
            Cow::Owned(json_string(&names::exposed_name(server, &name))),
        ));
    }
    edit::with_members(&item.raw, &edits).map_or(Cow::Borrowed(item.raw.get()), Cow::Owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::Value;

    fn tool(name: &str) -> Descriptor {
        let raw = format!(r#"{{"name":"{name}", "inputSchema":{{"type":"object"}},"x":1e400}}"#);
        Descriptor::read(ListKind::Tools, &serde_json::from_str::<Box<_>>(&raw).unwrap()).unwrap()
    }

    fn listing(server: &str, tools: &[&str]) -> Listing {
        let items = tools.iter().map(|name| tool(name)).collect();
        Listing::of(server, Ok(Arc::new(items)))
    }

    fn down(server: &str) -> Listing {
        let missing = Missing {
            code: Code::UpstreamTimeout,
            reason: "no answer \"yet\"".to_owned(),
        };
        Listing::of(server, Err(missing))
    }

    fn limits(items_max: usize) -> PageLimits {
        PageLimits {
            items_max,
            bytes_max: 1 << 20,
        }
    }

    fn names_of(page: &Page) -> (Vec<String>, Option<String>) {
        let result: Value = serde_json::from_str(&page.result.replace("1e400", "1")).unwrap();
        let names = result["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned());
        (names.collect(), result["nextCursor"].as_str().map(str::to_owned))
    }

    #[test]
    fn tools_are_renamed_and_otherwise_untouched() {
        let listings = [listing("", &["find_tools"]), listing("time", &["now"])];
        let page = page(
            ListKind::Tools,
            &listings,
            &Position::default(),
            limits(10),
            |_, _| true,
        );
        assert_eq!(
            page.result,
            r#"{"tools":[{"name":"find_tools", "inputSchema":{"type":"object"},"x":1e400},{"name":"time__now", "inputSchema":{"type":"object"},"x":1e400}]}"#
        );
        assert!(!page.is_incomplete);
    }

    #[test]
    fn resources_are_readdressed() {
        let raw = r#"{"uri":"demo://x/{id}","name":"X","mimeType":"a/b"}"#;
        let item =
            Descriptor::read(ListKind::Resources, &serde_json::from_str::<Box<_>>(raw).unwrap()).unwrap();
        assert_eq!(
            exposed(ListKind::Resources, "demo", &item),
            r#"{"uri":"troupe://demo/demo://x/{id}","name":"demo__X","mimeType":"a/b"}"#
        );
    }

    #[test]
    fn a_missing_server_is_told_and_the_others_are_there() {
        let listings = [listing("a", &["x"]), down("b"), listing("c", &["y"])];
        let page = page(
            ListKind::Tools,
            &listings,
            &Position::default(),
            limits(10),
            |_, _| true,
        );
        assert_eq!(names_of(&page).0, ["a__x", "c__y"]);
        assert!(page.is_incomplete);
        let result: Value = serde_json::from_str(&page.result.replace("1e400", "1")).unwrap();
        assert_eq!(result["_meta"][UNAVAILABLE_KEY][0]["server"], "b");
        assert_eq!(result["_meta"][UNAVAILABLE_KEY][0]["code"], "T3003");
        assert_eq!(result["_meta"]["troupe/unavailable_count"], 1);
    }

    #[test]
    fn pages_hold_everything_once_even_when_servers_come_and_go() {
        let mut listings = vec![
            listing("a", &["1", "2", "3"]),
            listing("b", &[]),
            listing("c", &["4", "5"]),
        ];
        let (mut seen, mut start, mut pages) = (Vec::new(), Position::default(), 0);
        loop {
            let (names, cursor) = names_of(&page(ListKind::Tools, &listings, &start, limits(2), |_, _| true));
            seen.extend(names);
            pages += 1;
            let Some(cursor) = cursor else { break };
            start = Position::from_cursor(&cursor).unwrap();
            listings.retain(|listing| &*listing.server != "b");
        }
        assert_eq!(seen, ["a__1", "a__2", "a__3", "c__4", "c__5"]);
        assert_eq!(pages, 3);
    }

    #[test]
    fn a_page_is_bounded_in_bytes_too() {
        let tiny = PageLimits {
            items_max: 100,
            bytes_max: 1,
        };
        let page = page(
            ListKind::Tools,
            &[listing("a", &["1", "2"])],
            &Position::default(),
            tiny,
            |_, _| true,
        );
        assert_eq!(names_of(&page).0, ["a__1"]);
        assert!(names_of(&page).1.is_some());
    }

    #[test]
    fn what_its_name_does_not_lead_to_is_left_out_and_told() {
        let listings = [listing("a", &["b__c", "d"])];
        let leads_to = |exposed: &str, _: &str| exposed != "a__b__c";
        let page = page(
            ListKind::Tools,
            &listings,
            &Position::default(),
            limits(10),
            leads_to,
        );
        assert_eq!(names_of(&page).0, ["a__d"]);
        assert!(
            page.result.contains(r#""troupe/shadowed":["a__b__c"]"#),
            "{}",
            page.result
        );
    }

    #[test]
    fn only_our_own_cursors_are_read() {
        let position = Position {
            server: "a".to_owned(),
            index: 7,
        };
        assert_eq!(Position::from_cursor(&position.to_cursor()), Some(position));
        for foreign in ["", "x", "!!", "bm8", "LTE6YQ"] {
            assert_eq!(Position::from_cursor(foreign), None, "{foreign:?}");
        }
    }
}
