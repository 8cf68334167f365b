//! The console's list of servers as a function of the view and of how the servers fare.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use troupe_protocol::health::{HealthHistory, HealthReport, HealthStatus};
use troupe_protocol::server::list::{LIST_SERVERS_DEFAULT, LIST_SERVERS_MAX, SEARCH_CHARS_MAX, SortKey};
use troupe_protocol::server::{
    ServerDetail, ServerEntry, ServerName, ServerPage, ServerQuery, ServerSort, ServerSummary, StatusCounts,
};

use super::error::RegistryError;
use super::search::{Fit, Search};
use super::view::{Listed, RegistryView};

/// How servers fare, by name.
pub type Health = HashMap<ServerName, Arc<HealthReport>>;

/// A server that fits a query.
struct Hit<'a> {
    listed: &'a Listed,
    report: Option<&'a HealthReport>,
    fit: Fit,
}

impl RegistryView {
    /// A page of the servers that fit a query.
    ///
    /// # Errors
    /// [`RegistryError::Query`] names the parameter that is wrong.
    pub fn list(&self, query: &ServerQuery, health: &Health) -> Result<ServerPage, RegistryError> {
        let limit = checked_limit(query.limit)?;
        let search = checked_search(query.search.as_deref())?;
        let mut hits = self.hits(&search, query.status, health);
        match query.sort {
            Some(sort) => hits.sort_by(|a, b| in_order(sort, a, b)),
            // The servers of a view come by name, and the sort is stable.
            None if !search.is_empty() => hits.sort_by_key(|hit| hit.fit),
            None => {}
        }
        let start = query
            .cursor
            .as_deref()
            .map_or(Ok(0), |cursor| start_after(cursor, &hits))?;
        let end = hits.len().min(start.saturating_add(limit));
        let page = hits.get(start..end).unwrap_or_default();
        let next_cursor = page
            .last()
            .filter(|_| end < hits.len())
            .map(|last| cursor_after(end, &last.listed.entry.name));
        let items = page.iter().map(|hit| summary(hit.listed, hit.report)).collect();
        Ok(ServerPage {
            items,
            next_cursor,
            total: u32::try_from(hits.len()).unwrap_or(u32::MAX),
        })
    }

    /// A server's line in the list.
    pub fn summary(&self, name: &str, health: &Health) -> Option<ServerSummary> {
        let listed = self.servers.get(name)?;
        Some(summary(listed, health.get(name).map(AsRef::as_ref)))
    }

    /// All there is to say of a server.
    pub fn detail(&self, name: &str, health: &Health, history: HealthHistory) -> Option<ServerDetail> {
        let entry = self.get(name)?;
        let report = health
            .get(name)
            .map(|report| (**report).clone())
            .unwrap_or_else(|| HealthReport {
                status: status_of(&entry, None),
                ..HealthReport::default()
            });
        Some(ServerDetail {
            summary: self.summary(name, health)?,
            manifest: Arc::clone(&entry.manifest),
            operation: entry.operation.clone(),
            official: entry.official.clone(),
            versions: self.version_names(name)?,
            revision: entry.revision,
            created_at: entry.created_at,
            updated_at: entry.updated_at,
            health: report,
            history,
        })
    }

    /// How many servers there are of each status.
    pub fn status_counts(&self, health: &Health) -> StatusCounts {
        let mut counts = StatusCounts::default();
        for entry in self.entries() {
            counts.add(status_of(entry, health.get(&entry.name).map(AsRef::as_ref)));
        }
        counts
    }

    fn hits<'a>(&'a self, search: &Search, status: Option<HealthStatus>, health: &'a Health) -> Vec<Hit<'a>> {
        let hit = |listed: &'a Arc<Listed>| {
            let report = health.get(&listed.entry.name).map(AsRef::as_ref);
            if status.is_some_and(|wanted| wanted != status_of(&listed.entry, report)) {
                return None;
            }
            let fit = search.fit(&listed.text, report.map_or("", |report| &report.tool_names))?;
            Some(Hit { listed, report, fit })
        };
        self.servers.values().filter_map(hit).collect()
    }
}

/// How a server fares. One that was disabled or enabled a moment ago may have a report from before.
fn status_of(entry: &ServerEntry, report: Option<&HealthReport>) -> HealthStatus {
    match report {
        _ if !entry.operation.enabled => HealthStatus::Disabled,
        Some(report) if report.status != HealthStatus::Disabled => report.status,
        _ => HealthStatus::Testing,
    }
}

fn summary(listed: &Listed, report: Option<&HealthReport>) -> ServerSummary {
    let entry = &listed.entry;
    let transport = entry.operation.transport.as_ref();
    ServerSummary {
        name: entry.name.clone(),
        title: entry.title().to_owned(),
        description: entry.manifest.description.clone(),
        version: entry.manifest.version.clone(),
        transport: transport.map(|transport| transport.kind().to_owned()),
        endpoint: transport.map(|transport| transport.endpoint()),
        era: report.and_then(|report| report.era),
        capabilities: report
            .map(|report| report.capabilities.clone())
            .unwrap_or_default(),
        tools_count: report
            .and_then(|report| report.tools_count)
            .or(listed.advertised_tools_count),
        enabled: entry.operation.enabled,
        status: status_of(entry, report),
        latency_ms: report.and_then(|report| report.latency_ms),
        uptime_24h: report.and_then(|report| report.uptime_24h),
        last_active: report.and_then(|report| report.last_active),
        last_error: report.and_then(|report| report.last_error.clone()),
        labels: entry.operation.labels.clone(),
        owner: entry.operation.owner.clone(),
    }
}

fn checked_limit(limit: Option<u32>) -> Result<usize, RegistryError> {
    let limit = limit.map_or(LIST_SERVERS_DEFAULT, |limit| limit as usize);
    if (1..=LIST_SERVERS_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(RegistryError::Query {
        parameter: "limit",
        detail: format!("is {limit}, must be 1 to {LIST_SERVERS_MAX}"),
    })
}

fn checked_search(text: Option<&str>) -> Result<Search, RegistryError> {
    let text = text.unwrap_or_default();
    if text.chars().count() > SEARCH_CHARS_MAX {
        let detail = format!("has more than {SEARCH_CHARS_MAX} characters");
        return Err(RegistryError::Query {
            parameter: "search",
            detail,
        });
    }
    Ok(Search::new(text))
}

fn in_order(sort: ServerSort, a: &Hit<'_>, b: &Hit<'_>) -> Ordering {
    let by_key = match sort.key {
        SortKey::Name => a.listed.entry.name.cmp(&b.listed.entry.name),
        SortKey::Title => a.listed.text.title().cmp(b.listed.text.title()),
        SortKey::Status => status_of(&a.listed.entry, a.report).cmp(&status_of(&b.listed.entry, b.report)),
        SortKey::Updated => a.listed.entry.updated_at.cmp(&b.listed.entry.updated_at),
        SortKey::Latency => return nothing_last(sort, a, b, |report| report.latency_ms),
        SortKey::Uptime => return nothing_last(sort, a, b, |report| report.uptime_24h),
        SortKey::LastActive => {
            return nothing_last(sort, a, b, |report| {
                report.last_active.map(|at| at.unix_ms() as f64)
            });
        }
    };
    if sort.descending { by_key.reverse() } else { by_key }
}

/// The order by a number that not every report has; those without come last in both directions.
fn nothing_last(
    sort: ServerSort,
    a: &Hit<'_>,
    b: &Hit<'_>,
    number: impl Fn(&HealthReport) -> Option<f64>,
) -> Ordering {
    match (a.report.and_then(&number), b.report.and_then(&number)) {
        (Some(a), Some(b)) if sort.descending => b.total_cmp(&a),
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

/// The cursor says after which server the next page begins, and where that was: should the server be gone by then,
/// its place is the best that is left.
fn cursor_after(place: usize, name: &ServerName) -> String {
    URL_SAFE_NO_PAD.encode(format!("{place}:{name}"))
}

fn start_after(cursor: &str, hits: &[Hit<'_>]) -> Result<usize, RegistryError> {
    let wrong = || RegistryError::Query {
        parameter: "cursor",
        detail: "is not one of ours: give next_cursor of the page before as it is".to_owned(),
    };
    let decoded = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
    let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
    let (place, name) = decoded.split_once(':').ok_or_else(wrong)?;
    let place: usize = place.parse().map_err(|_| wrong())?;
    let is_last = |hit: &Hit<'_>| hit.listed.entry.name.as_str() == name;
    if place
        .checked_sub(1)
        .and_then(|last| hits.get(last))
        .is_some_and(is_last)
    {
        return Ok(place);
    }
    Ok(hits.iter().position(is_last).map_or(place, |last| last + 1))
}

#[cfg(test)]
mod tests;
