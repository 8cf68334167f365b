//! What a history must hold and can be checked without a search.

use std::collections::{BTreeMap, BTreeSet};

/// What one client saw of one key at one node: a version that only grows there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Whose eyes: a client at a node.
    pub by: String,
    pub key: String,
    pub version: u64,
}

/// Whether nobody ever saw an earlier version after a later one. `seen` is in the order in which each client looked.
///
/// # Errors
/// The first step back.
pub fn never_goes_back(seen: &[Seen]) -> Result<(), String> {
    let mut latest: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for one in seen {
        let before = latest.entry((&one.by, &one.key)).or_default();
        if one.version < *before {
            return Err(format!(
                "{} saw version {} of {} after version {before}",
                one.by, one.version, one.key
            ));
        }
        *before = one.version;
    }
    Ok(())
}

/// Whether everything that was acknowledged is there, and nothing that nobody asked for.
///
/// # Errors
/// Names what is lost or came from nowhere.
pub fn nothing_lost(
    attempted: &BTreeSet<String>,
    acknowledged: &BTreeSet<String>,
    found: &BTreeSet<String>,
) -> Result<(), String> {
    let lost: Vec<&String> = acknowledged.difference(found).collect();
    if !lost.is_empty() {
        return Err(format!(
            "{} of {} acknowledged are gone: {lost:?}",
            lost.len(),
            acknowledged.len()
        ));
    }
    let invented: Vec<&String> = found.difference(attempted).collect();
    if !invented.is_empty() {
        return Err(format!("nobody asked for {invented:?}"));
    }
    Ok(())
}

/// A time in which one process of a placed actor was alive, in microseconds on a clock that all processes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub process: u32,
    pub from_us: u64,
    pub until_us: u64,
}

/// Whether no two processes of one placed actor were alive at once.
///
/// # Errors
/// The first two that were.
pub fn one_at_a_time(lives: &[Life]) -> Result<(), String> {
    let mut lives: Vec<&Life> = lives.iter().collect();
    lives.sort_by_key(|life| life.from_us);
    let mut latest: Option<&Life> = None;
    for life in lives {
        if let Some(before) = latest
            && life.from_us < before.until_us
        {
            return Err(format!(
                "process {} began {} ms before the end of process {}",
                life.process,
                (before.until_us - life.from_us) / 1_000,
                before.process
            ));
        }
        latest = Some(match latest {
            Some(before) if before.until_us > life.until_us => before,
            _ => life,
        });
    }
    Ok(())
}
