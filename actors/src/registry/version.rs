//! Which of a server's versions is the latest.
//!
//! As the official registry has it: by semantic version where both are semantic, else by the time of publication.
//! Semantic versions come after all others, so that the order is total.

use std::cmp::Ordering;

use semver::Version;
use troupe_protocol::server::OfficialStatus;

use super::record::PublishedVersion;

/// The order of two versions; the latest is the greatest.
pub(super) fn compare(a: &PublishedVersion, b: &PublishedVersion) -> Ordering {
    let by_time = || a.official.published_at.cmp(&b.official.published_at);
    match (semantic(&a.manifest.version), semantic(&b.manifest.version)) {
        (Some(a), Some(b)) => a.cmp_precedence(&b).then_with(by_time),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => by_time(),
    }
}

/// Reads `1.2.3`, `v1.2.3`, and the short forms `1.2` and `1`, which stand for `1.2.0` and `1.0.0`.
fn semantic(version: &str) -> Option<Version> {
    let version = version.strip_prefix(['v', 'V']).unwrap_or(version);
    if let Ok(exact) = Version::parse(version) {
        return Some(exact);
    }
    let suffix_at = version.find(['-', '+']).unwrap_or(version.len());
    let (release, suffix) = version.split_at(suffix_at);
    let padding = match release.split('.').count() {
        1 => ".0.0",
        2 => ".0",
        _ => return None,
    };
    Version::parse(&format!("{release}{padding}{suffix}")).ok()
}

/// The place of the latest version that is not deleted.
pub(super) fn latest(versions: &[PublishedVersion]) -> Option<usize> {
    let alive = versions
        .iter()
        .enumerate()
        .filter(|(_, version)| version.official.status != OfficialStatus::Deleted);
    alive
        .max_by(|(_, a), (_, b)| compare(a, b))
        .map(|(index, _)| index)
}

/// The version after this one: its last number plus one, for manifests that we keep ourselves.
pub(super) fn next_patch(version: &str) -> String {
    match semantic(version) {
        Some(version) => format!(
            "{}.{}.{}",
            version.major,
            version.minor,
            version.patch.saturating_add(1)
        ),
        None => format!("{version}.1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::record::tests::published;

    #[test]
    fn the_latest_is_found_by_meaning_and_not_by_text() {
        let latest_of = |versions: &[(&str, i64)]| {
            let versions: Vec<_> = versions
                .iter()
                .map(|(version, at)| published(version, *at))
                .collect();
            latest(&versions).map(|index| versions[index].manifest.version.clone())
        };
        assert_eq!(
            latest_of(&[("1.10.0", 1), ("1.9.0", 2)]).as_deref(),
            Some("1.10.0")
        );
        assert_eq!(
            latest_of(&[("2.0.0-rc.1", 1), ("1.9", 2)]).as_deref(),
            Some("2.0.0-rc.1")
        );
        assert_eq!(
            latest_of(&[("2.0.0", 1), ("2.0.0-rc.1", 2)]).as_deref(),
            Some("2.0.0")
        );
        assert_eq!(
            latest_of(&[("monday", 1), ("friday", 2)]).as_deref(),
            Some("friday")
        );
        assert_eq!(latest_of(&[("monday", 9), ("v1", 2)]).as_deref(), Some("v1"));
        assert_eq!(latest_of(&[]), None);
    }

    #[test]
    fn a_local_manifest_counts_on() {
        assert_eq!(next_patch("1.0.0"), "1.0.1");
        assert_eq!(next_patch("1.2"), "1.2.1");
        assert_eq!(next_patch("monday"), "monday.1");
    }
}
