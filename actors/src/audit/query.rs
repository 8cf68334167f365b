//! Finding audit events: a walk back from the newest, or from where the last page ended.

use troupe_protocol::access::{AuditEvent, AuditId, AuditPage, AuditQuery};

use super::AuditError;
use crate::store::TypedTree;

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 500;
/// Events that one look-up reads at most; the cursor goes on from there.
const SCANNED_EVENTS_MAX: usize = 20_000;
/// Ids are given a moment after the event: how much later at most, for knowing when a walk back has passed `since`.
const TAKEN_IN_WITHIN_MS: i64 = 60_000;

/// A page of events. Reads from the disk.
pub(super) fn list(
    tree: &TypedTree<AuditEvent>,
    query: &AuditQuery,
    total: u64,
) -> Result<AuditPage, AuditError> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(AuditError::Limit {
            limit,
            limit_max: LIMIT_MAX,
        });
    }
    let mut page = AuditPage {
        items: Vec::new(),
        next_cursor: None,
        total,
        unanswered: Vec::new(),
    };
    let mut last_read: Option<AuditId> = None;
    for (scanned, event) in newest_first(tree, query.cursor).enumerate() {
        let (_, event) = event?;
        if page.items.len() >= limit as usize || scanned >= SCANNED_EVENTS_MAX {
            page.next_cursor = last_read;
            break;
        }
        let passed_since = |since: troupe_protocol::time::Timestamp| {
            event.at.unix_ms() < since.unix_ms().saturating_sub(TAKEN_IN_WITHIN_MS)
        };
        if query.since.is_some_and(passed_since) {
            break;
        }
        last_read = Some(event.id);
        if matches(query, &event) {
            page.items.push(event);
        }
    }
    Ok(page)
}

fn newest_first(
    tree: &TypedTree<AuditEvent>,
    before: Option<AuditId>,
) -> Box<dyn Iterator<Item = Result<(String, AuditEvent), crate::store::StoreError>>> {
    match before {
        Some(cursor) => Box::new(tree.scan_before(&cursor.to_string()).rev()),
        None => Box::new(tree.scan_prefix("").rev()),
    }
}

fn matches(query: &AuditQuery, event: &AuditEvent) -> bool {
    let action_matches = |wanted: &String| {
        let rest = event.action.strip_prefix(wanted.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || wanted.ends_with('.'))
    };
    query
        .principal
        .as_ref()
        .is_none_or(|principal| event.principal == *principal)
        && query.action.as_ref().is_none_or(action_matches)
        && query
            .subject
            .as_ref()
            .is_none_or(|text| event.subject.contains(text.as_str()))
        && query.outcome.is_none_or(|outcome| event.outcome == outcome)
        && query.since.is_none_or(|since| event.at >= since)
        && query.until.is_none_or(|until| event.at < until)
}
