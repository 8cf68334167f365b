//! Reads every record of every tree and checks its checksum.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::Path;

use serde::Serialize;

use super::StoreError;
use super::engine::Engine;
use super::envelope::{self, Place};
use super::replicated::{RAW_TREES, split_raw_key};

/// Problems that are listed; more are counted.
const PROBLEMS_MAX: usize = 100;

/// What a check of the whole store found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Trees that were read; each replicated tree counts as one.
    pub trees: usize,
    /// Records that were read.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that are damaged.
    pub damaged: u64,
    /// The first of them.
    pub problems: Vec<VerifyProblem>,
}

/// A damaged record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyProblem {
    /// Its tree.
    pub tree: String,
    /// Its key.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

pub(super) fn verify(engine: &dyn Engine, folder: &Path) -> Result<VerifyReport, StoreError> {
    let mut report = VerifyReport::default();
    for name in engine.tree_names() {
        let tree = engine
            .tree(&name)
            .map_err(|error| StoreError::engine(folder, &error))?;
        let is_replicated = RAW_TREES.contains(&name.as_str());
        let mut replicated = BTreeSet::new();
        for record in tree.range(Bound::Unbounded, Bound::Unbounded) {
            let (key, record) = record.map_err(|error| StoreError::engine(folder, &error))?;
            report.records += 1;
            report.bytes += (key.len() + record.len()) as u64;
            let place = match split_raw_key(&key).filter(|_| is_replicated) {
                Some((tree, key)) => Place { tree, key },
                None => Place {
                    tree: &name,
                    key: &key,
                },
            };
            if is_replicated && !place.tree.is_empty() && !replicated.contains(place.tree) {
                replicated.insert(place.tree.to_owned());
            }
            if let Err(error) = envelope::open(place, &record) {
                report.damage(place, error.to_string());
            }
        }
        report.trees += if is_replicated { replicated.len() } else { 1 };
    }
    Ok(report)
}

impl VerifyReport {
    fn damage(&mut self, place: Place<'_>, reason: String) {
        self.damaged += 1;
        if self.problems.len() < PROBLEMS_MAX {
            let key = String::from_utf8_lossy(place.key).into_owned();
            self.problems.push(VerifyProblem {
                tree: place.tree.to_owned(),
                key,
                reason,
            });
        }
    }
}
