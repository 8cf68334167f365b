//! Id, name and count of starts of a node, kept in its data folder.

use std::path::Path;

use serde::{Deserialize, Serialize};
use troupe_protocol::cluster::{Generation, NodeName};
use troupe_protocol::id::NodeId;
use ulid::Ulid;

use super::{FOLDER, IdentityError};
use crate::store::files;

const FILE: &str = "node.json";
/// The longest part of a host name in a node's name, in bytes.
const HOST_BYTES_MAX: usize = 24;

/// A node as it knows itself: `cluster/node.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Made at the first start.
    pub id: NodeId,
    /// What people call it: as the setting says, else from the host name and kept.
    pub name: NodeName,
    /// Which of its starts this is, from 1.
    pub generation: Generation,
}

impl NodeRecord {
    /// Begins a start of the node: counts it, durably, before anybody hears of it.
    ///
    /// `known` is the id of a node that had one before this file existed; `name` what the setting says.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is damaged.
    pub fn begin_start(
        data: &Path,
        known: Option<NodeId>,
        name: Option<NodeName>,
    ) -> Result<Self, IdentityError> {
        let file = data.join(FOLDER).join(FILE);
        let damaged = |reason: String| IdentityError::Damaged {
            file: file.clone(),
            reason,
        };
        let kept = files::read_private(&file)?;
        let kept: Option<Self> = kept
            .map(|text| serde_json::from_str(&text).map_err(|error| damaged(error.to_string())))
            .transpose()?;
        let record = match kept {
            Some(kept) => Self {
                id: kept.id,
                name: name.unwrap_or(kept.name),
                generation: Generation(kept.generation.0 + 1),
            },
            None => Self {
                id: known.unwrap_or_else(|| NodeId::from_ulid(Ulid::generate())),
                name: match name {
                    Some(name) => name,
                    None => default_name(&host_name(), fastrand::u16(..)).map_err(damaged)?,
                },
                generation: Generation(1),
            },
        };
        files::create_private_folder(&data.join(FOLDER))?;
        let text = serde_json::to_string_pretty(&record).map_err(|error| damaged(error.to_string()))?;
        files::write_private(&file, format!("{text}\n").as_bytes())?;
        Ok(record)
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
}

/// The host's name as far as a node's name can hold it, and a suffix, because a host may run several nodes.
fn default_name(host: &str, suffix: u16) -> Result<NodeName, String> {
    let first_label = host.trim().split('.').next().unwrap_or_default();
    let allowed = first_label.chars().map(|letter| letter.to_ascii_lowercase());
    let allowed =
        allowed.filter(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || *letter == '-');
    let host: String = allowed
        .skip_while(|letter| *letter == '-')
        .take(HOST_BYTES_MAX)
        .collect();
    let host = if host.is_empty() { "node" } else { &host };
    format!("{host}-{suffix:04x}")
        .parse()
        .map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn starts_are_counted_and_the_name_is_kept_unless_the_setting_changes_it() {
        let data = tempfile::tempdir().unwrap();
        let first = NodeRecord::begin_start(data.path(), None, None).unwrap();
        let second = NodeRecord::begin_start(data.path(), None, None).unwrap();
        assert_eq!(
            (first.generation, second.generation),
            (Generation(1), Generation(2))
        );
        assert_eq!((&first.id, &first.name), (&second.id, &second.name));
        let renamed = NodeRecord::begin_start(data.path(), None, Some("alpha".parse().unwrap())).unwrap();
        assert_eq!((renamed.id, renamed.name.as_str()), (first.id, "alpha"));
    }

    #[test]
    fn any_host_name_gives_a_name() {
        for (host, name) in [
            ("Web-01.example.org\n", "web-01-00ff"),
            ("", "node-00ff"),
            ("--", "node-00ff"),
            ("ÄÖ_x", "x-00ff"),
        ] {
            assert_eq!(default_name(host, 0xff).unwrap().as_str(), name);
        }
        assert!(default_name(&"a".repeat(80), 1).is_ok());
    }
}
