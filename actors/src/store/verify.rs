//! Reads every record of every tree and checks its checksum.

use std::ops::Bound;
use std::path::Path;

use serde::Serialize;

use super::StoreError;
use super::engine::Engine;
use super::envelope::{self, Place};

/// Problems that are listed; more are counted.
const PROBLEMS_MAX: usize = 100;

/// What a check of the whole store found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Trees that were read.
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
        report.trees += 1;
        for record in tree.range(Bound::Unbounded, Bound::Unbounded) {
            let (key, record) = record.map_err(|error| StoreError::engine(folder, &error))?;
            report.records += 1;
            report.bytes += (key.len() + record.len()) as u64;
            if let Err(error) = envelope::open(
                Place {
                    tree: &name,
                    key: &key,
                },
                &record,
            ) {
                report.damage(&name, &key, error.to_string());
            }
        }
    }
    Ok(report)
}

impl VerifyReport {
    fn damage(&mut self, tree: &str, key: &[u8], reason: String) {
        self.damaged += 1;
        if self.problems.len() < PROBLEMS_MAX {
            let key = String::from_utf8_lossy(key).into_owned();
            self.problems.push(VerifyProblem {
                tree: tree.to_owned(),
                key,
                reason,
            });
        }
    }
}
