//! The requests of the last entries, so that one which is handed over again does not happen again.
//!
//! Part of the replicated state: whether a request is a repetition must have the same answer on every node, also on one
//! that has just been started, or got its state from a snapshot.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::command::{Outcome, RequestId};

/// Entries whose requests are remembered.
pub(super) const REMEMBERED_ENTRIES: u64 = 4_096;

/// How much is remembered of the tree and of the key of a conflict.
const CONFLICT_LETTERS_MAX: usize = 20;

/// The requests of one entry as they are kept in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RequestRecord {
    /// The entry.
    number: u64,
    /// Those that happened.
    applied: Vec<RequestId>,
    /// Those that did not.
    refused: Vec<(RequestId, Outcome)>,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Requests {
    outcomes: HashMap<RequestId, (u64, Outcome)>,
    entries: BTreeMap<u64, Vec<RequestId>>,
}

/// The key under which the requests of an entry are kept: that of the entry which is forgotten with it.
pub(super) fn record_key(number: u64) -> String {
    format!("{:04}", number % REMEMBERED_ENTRIES)
}

impl Requests {
    /// What became of a request that was in an earlier entry, as seen by entry `number`.
    pub(super) fn outcome(&self, id: RequestId, number: u64) -> Option<&Outcome> {
        let (at, outcome) = self.outcomes.get(&id)?;
        is_remembered(*at, number).then_some(outcome)
    }

    /// Whether a request made after entry `made_after` may be a repetition of one that entry `number` no longer knows.
    pub(super) fn is_too_old(made_after: u64, number: u64) -> bool {
        !is_remembered(made_after, number)
    }

    /// Remembers what became of the requests of an entry; gives the record to keep, if there is anything to keep.
    pub(super) fn remember(
        &mut self,
        number: u64,
        outcomes: &[(RequestId, Outcome)],
    ) -> Option<RequestRecord> {
        self.forget_before(number);
        if outcomes.is_empty() {
            return None;
        }
        let mut record = RequestRecord {
            number,
            ..RequestRecord::default()
        };
        for (id, outcome) in outcomes {
            match outcome {
                Outcome::Applied => record.applied.push(*id),
                other => record.refused.push((*id, shortened(other.clone()))),
            }
        }
        self.take(&record);
        Some(record)
    }

    /// What the records say, as seen by entry `number`.
    pub(super) fn load(records: impl Iterator<Item = RequestRecord>, number: u64) -> Self {
        let mut requests = Self::default();
        for record in records.filter(|record| is_remembered(record.number, number)) {
            requests.take(&record);
        }
        requests
    }

    fn take(&mut self, record: &RequestRecord) {
        let applied = record.applied.iter().map(|id| (*id, Outcome::Applied));
        for (id, outcome) in applied.chain(record.refused.iter().cloned()) {
            self.outcomes.insert(id, (record.number, outcome));
            self.entries.entry(record.number).or_default().push(id);
        }
    }

    fn forget_before(&mut self, number: u64) {
        while let Some(oldest) = self.entries.first_entry() {
            if is_remembered(*oldest.key(), number) {
                return;
            }
            for id in oldest.remove() {
                self.outcomes.remove(&id);
            }
        }
    }
}

/// Of a conflict the beginning of its key is enough: all requests of an entry must fit one record.
fn shortened(outcome: Outcome) -> Outcome {
    let beginning = |text: String| match text.char_indices().nth(CONFLICT_LETTERS_MAX) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    };
    match outcome {
        Outcome::Conflict { tree, key } => Outcome::Conflict {
            tree: beginning(tree),
            key: beginning(key),
        },
        other => other,
    }
}

fn is_remembered(at: u64, number: u64) -> bool {
    number.saturating_sub(at) < REMEMBERED_ENTRIES
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_protocol::id::NodeId;

    use super::super::command::MemberRefusal;
    use super::super::propose::ENTRY_REQUESTS_MAX;
    use super::*;
    use crate::store::{KEY_BYTES_MAX, RecordBatch, Store};

    #[test]
    fn a_request_is_remembered_for_so_many_entries() {
        let mut requests = Requests::default();
        let id = RequestId(7);
        requests.remember(1, &[(id, Outcome::Applied)]).unwrap();
        assert_eq!(requests.outcome(id, REMEMBERED_ENTRIES), Some(&Outcome::Applied));
        assert_eq!(requests.outcome(id, REMEMBERED_ENTRIES + 1), None);
        requests.remember(REMEMBERED_ENTRIES + 1, &[]);
        assert!(requests.outcomes.is_empty() && requests.entries.is_empty());
    }

    #[test]
    fn what_is_loaded_answers_as_what_was_remembered() {
        let mut requests = Requests::default();
        let mut kept = BTreeMap::new();
        for number in 1..=3 * REMEMBERED_ENTRIES {
            let outcome = if number % 3 == 0 {
                Outcome::TooOld
            } else {
                Outcome::Applied
            };
            let record = requests
                .remember(number, &[(RequestId(number), outcome)])
                .unwrap();
            kept.insert(record_key(number), record);
        }
        assert_eq!(kept.len() as u64, REMEMBERED_ENTRIES);
        let now = 3 * REMEMBERED_ENTRIES + 1;
        let loaded = Requests::load(kept.into_values(), now);
        for number in 1..now {
            let id = RequestId(number);
            assert_eq!(loaded.outcome(id, now), requests.outcome(id, now));
        }
    }

    #[test]
    fn the_requests_of_an_entry_fit_one_record_whatever_became_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let tree = store.replicated("requests", 1);
        let long = "\u{1}".repeat(KEY_BYTES_MAX);
        let name = "n".repeat(40);
        let holder = NodeId::from_ulid(ulid::Ulid(u128::MAX));
        let conflict = Outcome::Conflict {
            tree: long.clone(),
            key: long,
        };
        let refusal = Outcome::Refused(MemberRefusal::NameTaken { name, holder });
        for outcome in [conflict, refusal] {
            let ids = (0..ENTRY_REQUESTS_MAX as u64).map(|number| RequestId(u64::MAX - number));
            let outcomes: Vec<_> = ids.map(|id| (id, outcome.clone())).collect();
            let record = Requests::default().remember(u64::MAX, &outcomes).unwrap();
            assert_eq!(record.refused.len(), ENTRY_REQUESTS_MAX);
            tree.put_into(&mut RecordBatch::default(), "0", &record).unwrap();
        }
    }

    #[test]
    fn whatever_is_not_too_old_is_remembered() {
        for number in [1, 2, REMEMBERED_ENTRIES, REMEMBERED_ENTRIES + 5, 1 << 40] {
            for age in [0, 1, REMEMBERED_ENTRIES - 1, REMEMBERED_ENTRIES] {
                let made_after = number - age.min(number);
                // The earliest entry that can hold the request is the one after.
                let mut requests = Requests::default();
                requests.remember(made_after + 1, &[(RequestId(1), Outcome::Applied)]);
                let is_known = requests.outcome(RequestId(1), number).is_some();
                assert!(Requests::is_too_old(made_after, number) || is_known);
            }
        }
    }
}
