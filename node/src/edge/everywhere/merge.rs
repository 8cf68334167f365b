//! Putting the answers of several nodes together. Pure.

use std::collections::BTreeMap;

use troupe_protocol::{
    access::{AuditEvent, AuditPage},
    api::Page,
    id::{CorrelationId, NodeId},
    observe::{ActorReport, ActorTree, DeadLetter, DeadLetters},
    trace::{Span, Trace, TraceSummary},
    upstream::CallInFlight,
};

use super::Gathered;

/// What can say on which node it is.
pub trait Located {
    /// Says on which node it is.
    fn locate(&mut self, node: NodeId);
}

macro_rules! located {
    ($($name:ty),*) => {
        $(impl Located for $name {
            fn locate(&mut self, node: NodeId) {
                self.node = Some(node);
            }
        })*
    };
}

located!(ActorReport, DeadLetter, CallInFlight, AuditEvent, Span);

impl Located for ActorTree {
    fn locate(&mut self, node: NodeId) {
        self.report.locate(node);
        for child in &mut self.children {
            child.locate(node);
        }
    }
}

impl Located for TraceSummary {
    fn locate(&mut self, node: NodeId) {
        self.nodes = vec![node];
    }
}

/// The items, with the node they are on.
pub fn located<T: Located>(mut items: Vec<T>, node: NodeId) -> Vec<T> {
    for item in &mut items {
        item.locate(node);
    }
    items
}

/// Lists that stand one after the other.
pub fn joined<T>(here: Vec<T>, others: Gathered<Page<T>>) -> Page<T> {
    let mut items = here;
    let mut total = items.len() as u64;
    for (_, page) in others.answers {
        total += page.total;
        items.extend(page.items);
    }
    Page {
        items,
        next_cursor: None,
        total,
        unanswered: others.unanswered,
    }
}

/// Traces by correlation id, newest first: one that went over several nodes is one line.
pub fn traces(here: Vec<TraceSummary>, others: Vec<(NodeId, Page<TraceSummary>)>) -> Vec<TraceSummary> {
    let mut by_id: BTreeMap<CorrelationId, TraceSummary> = BTreeMap::new();
    let elsewhere = others.into_iter().flat_map(|(_, page)| page.items);
    for part in here.into_iter().chain(elsewhere) {
        match by_id.entry(part.correlation_id) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(part);
            }
            std::collections::btree_map::Entry::Occupied(mut known) => {
                let known = known.get_mut();
                *known = together(known, part);
            }
        }
    }
    let mut merged: Vec<TraceSummary> = by_id.into_values().collect();
    merged.sort_by_key(|trace| std::cmp::Reverse(trace.started_at));
    merged
}

fn together(known: &TraceSummary, part: TraceSummary) -> TraceSummary {
    let end_us = |trace: &TraceSummary| {
        trace.started_at.as_jiff().as_microsecond() + i64::try_from(trace.duration_us).unwrap_or(i64::MAX)
    };
    let (first, second) = if part.started_at < known.started_at {
        (&part, known)
    } else {
        (known, &part)
    };
    let ended_us = end_us(first).max(end_us(second));
    let mut nodes = first.nodes.clone();
    nodes.extend(second.nodes.iter().filter(|node| !first.nodes.contains(node)));
    TraceSummary {
        correlation_id: first.correlation_id,
        title: first.title.clone(),
        started_at: first.started_at,
        duration_us: u64::try_from(ended_us - first.started_at.as_jiff().as_microsecond()).unwrap_or(0),
        spans: first.spans + second.spans,
        failed: first.failed || second.failed,
        nodes,
    }
}

/// One tree of the steps that several nodes recorded; nothing when nobody knows the trace.
pub fn trace(id: CorrelationId, parts: Vec<Trace>, unanswered: Vec<NodeId>) -> Option<Trace> {
    if parts.is_empty() {
        return None;
    }
    let dropped = parts.iter().map(|part| part.spans_dropped).sum();
    let spans = parts.into_iter().flat_map(Trace::into_spans).collect();
    let mut merged = Trace::from_spans(id, spans, dropped);
    merged.unanswered = unanswered;
    Some(merged)
}

/// Dead letters, newest first.
pub fn dead_letters(here: DeadLetters, others: Gathered<DeadLetters>, items_max: usize) -> DeadLetters {
    let mut merged = here;
    for (_, letters) in others.answers {
        merged.total += letters.total;
        merged.items.extend(letters.items);
    }
    merged.items.sort_by_key(|letter| std::cmp::Reverse(letter.at));
    merged.items.truncate(items_max);
    merged.unanswered = others.unanswered;
    merged
}

/// Audit events, newest first. What is older than where one of the nodes broke off waits for the next page.
pub fn audit(here: AuditPage, others: Gathered<AuditPage>, limit: usize) -> AuditPage {
    let mut pages = vec![here];
    pages.extend(others.answers.into_iter().map(|(_, page)| page));
    let broken_off = pages.iter().filter_map(|page| page.next_cursor).max();
    let total = pages.iter().map(|page| page.total).sum();
    let mut items: Vec<AuditEvent> = pages.into_iter().flat_map(|page| page.items).collect();
    items.retain(|event| broken_off.is_none_or(|oldest| event.id >= oldest));
    items.sort_by_key(|event| std::cmp::Reverse(event.id));
    let next_cursor = if items.len() > limit {
        items.truncate(limit);
        items.last().map(|event| event.id)
    } else {
        broken_off
    };
    AuditPage {
        items,
        next_cursor,
        total,
        unanswered: others.unanswered,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_protocol::{
        access::{AuditId, AuditOutcome, Role},
        id::SpanId,
        time::Timestamp,
        trace::Outcome,
    };
    use ulid::Ulid;

    use super::*;

    fn node(number: u128) -> NodeId {
        NodeId::from_ulid(Ulid(number))
    }

    fn span(number: u64, parent: Option<u64>, at_ms: i64, on: NodeId) -> Span {
        Span {
            span: SpanId(number),
            parent: parent.map(SpanId),
            node: Some(on),
            actor: troupe_protocol::id::ActorPath::new("node/registry"),
            kind: "registry".to_owned(),
            message: "Put".to_owned(),
            queued_at: Timestamp::from_unix_ms(at_ms),
            waited_us: 10,
            handled_us: 20,
            outcome: Outcome::Done,
        }
    }

    #[test]
    fn a_trace_over_two_nodes_is_one_tree() {
        let id = CorrelationId(7);
        let (here, there) = (node(1), node(2));
        let asked = Trace::from_spans(id, vec![span(1, None, 100, here), span(2, Some(1), 101, here)], 0);
        let answered = Trace::from_spans(id, vec![span(3, Some(2), 102, there)], 1);
        let merged = trace(id, vec![answered, asked], vec![node(3)]).unwrap();
        assert_eq!(merged.roots.len(), 1, "{merged:?}");
        let far = &merged.roots[0].children[0].children[0];
        assert_eq!((far.span.span, far.span.node), (SpanId(3), Some(there)));
        assert_eq!((merged.spans_dropped, merged.unanswered), (1, vec![node(3)]));
        assert_eq!(trace(id, Vec::new(), Vec::new()), None);
    }

    fn summary(id: u128, at_ms: i64, duration_us: u64, on: NodeId) -> TraceSummary {
        TraceSummary {
            correlation_id: CorrelationId(id),
            title: format!("on {on}"),
            started_at: Timestamp::from_unix_ms(at_ms),
            duration_us,
            spans: 2,
            failed: false,
            nodes: vec![on],
        }
    }

    #[test]
    fn a_trace_over_two_nodes_is_one_line_from_its_first_step_to_its_last() {
        let (here, there) = (node(1), node(2));
        let elsewhere = Page::whole(vec![summary(7, 101, 5_000, there), summary(8, 200, 1, there)]);
        let merged = traces(vec![summary(7, 100, 2_000, here)], vec![(there, elsewhere)]);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[0].correlation_id, CorrelationId(8), "newest first");
        assert_eq!(merged[1].title, format!("on {here}"));
        assert_eq!(merged[1].duration_us, 6_000);
        assert_eq!(
            (merged[1].spans, merged[1].nodes.as_slice()),
            (4, [here, there].as_slice())
        );
    }

    fn event(number: u128) -> AuditEvent {
        AuditEvent {
            id: AuditId::from_ulid(Ulid(number)),
            at: Timestamp::from_unix_ms(0),
            node: None,
            principal: "admin".to_owned(),
            role: Role::Admin,
            action: "key.create".to_owned(),
            subject: String::new(),
            outcome: AuditOutcome::Succeeded,
            correlation_id: None,
            detail: None,
        }
    }

    fn page(numbers: &[u128], next: Option<u128>) -> AuditPage {
        AuditPage {
            items: numbers.iter().map(|number| event(*number)).collect(),
            next_cursor: next.map(|number| AuditId::from_ulid(Ulid(number))),
            total: numbers.len() as u64,
            unanswered: Vec::new(),
        }
    }

    fn merged(here: AuditPage, there: AuditPage, limit: usize) -> (Vec<u128>, Option<u128>) {
        let others = Gathered {
            answers: vec![(node(2), there)],
            unanswered: Vec::new(),
        };
        let page = audit(here, others, limit);
        let number = |id: AuditId| id.as_ulid().0;
        (
            page.items.iter().map(|event| number(event.id)).collect(),
            page.next_cursor.map(number),
        )
    }

    #[test]
    fn audit_events_of_several_nodes_come_in_order_and_none_is_skipped() {
        // One node has more below 7: what the other has below 7 waits.
        let (items, next) = merged(page(&[9, 7], Some(7)), page(&[8, 3], None), 10);
        assert_eq!((items, next), (vec![9, 8, 7], Some(7)));
        let (items, next) = merged(page(&[9, 7], None), page(&[8, 3], None), 3);
        assert_eq!((items, next), (vec![9, 8, 7], Some(7)));
        let (items, next) = merged(page(&[9], None), page(&[8], None), 3);
        assert_eq!((items, next), (vec![9, 8], None));
    }

    #[test]
    fn dead_letters_are_added_up() {
        let letters = |total| DeadLetters {
            total,
            ..DeadLetters::default()
        };
        let others = Gathered {
            answers: vec![(node(2), letters(5))],
            unanswered: vec![node(3)],
        };
        let merged = dead_letters(letters(2), others, 10);
        assert_eq!((merged.total, merged.unanswered), (7, vec![node(3)]));
    }
}
