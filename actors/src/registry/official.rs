//! The official registry API as functions of the view.
//!
//! Source: `docs/reference/api/openapi.yaml` (2025-12-01) of `modelcontextprotocol/registry`; order, cursor and
//! defaults as the official registry has them.

use std::sync::Arc;

use troupe_protocol::server::official::{
    LATEST, ListMetadata, PAGE_SERVERS_DEFAULT, PAGE_SERVERS_MAX, ResponseMeta,
};
use troupe_protocol::server::{OfficialQuery, OfficialStatus, ServerList, ServerResponse};
use troupe_protocol::time::Timestamp;

use super::error::RegistryError;
use super::record::PublishedVersion;
use super::view::RegistryView;

/// Where a version stands in the list of all versions: by name in the manifest, then by version, both as text.
pub(super) fn place(published: &PublishedVersion) -> (&str, &str) {
    (&published.manifest.name, &published.manifest.version)
}

/// A checked [`OfficialQuery`].
#[derive(Debug, Default)]
struct Query {
    after: Option<(String, String)>,
    limit: usize,
    search: Option<String>,
    updated_since: Option<Timestamp>,
    version: Option<String>,
    include_deleted: bool,
}

impl Query {
    fn new(query: &OfficialQuery) -> Result<Self, RegistryError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let updated_since = given(&query.updated_since)
            .map(|text| parse_instant(&text))
            .transpose()?;
        Ok(Self {
            after: given(&query.cursor)
                .map(|cursor| parse_cursor(&cursor))
                .transpose()?,
            limit: given(&query.limit).map_or(Ok(PAGE_SERVERS_DEFAULT), |limit| parse_limit(&limit))?,
            search: given(&query.search).map(|search| search.to_lowercase()),
            version: given(&query.version),
            include_deleted: updated_since.is_some()
                || given(&query.include_deleted).map_or(Ok(false), |flag| parse_flag(&flag))?,
            updated_since,
        })
    }

    fn fits(&self, published: &PublishedVersion) -> bool {
        let official = &published.official;
        let is_wanted_version = match self.version.as_deref() {
            None => true,
            Some(LATEST) => official.is_latest,
            Some(version) => published.manifest.version == version,
        };
        let has_name = |search: &String| published.manifest.name.to_lowercase().contains(search);
        is_wanted_version
            && (self.include_deleted || official.status != OfficialStatus::Deleted)
            && self
                .updated_since
                .is_none_or(|since| official.updated_at >= since)
            && self.search.as_ref().is_none_or(has_name)
    }
}

fn query_error(parameter: &'static str, detail: String) -> RegistryError {
    RegistryError::Query { parameter, detail }
}

fn parse_limit(text: &str) -> Result<usize, RegistryError> {
    let limit = text
        .parse()
        .ok()
        .filter(|limit| (1..=PAGE_SERVERS_MAX).contains(limit));
    limit.ok_or_else(|| {
        let given: String = text.chars().take(40).collect();
        query_error(
            "limit",
            format!("{given:?} is not a whole number from 1 to {PAGE_SERVERS_MAX}"),
        )
    })
}

fn parse_cursor(text: &str) -> Result<(String, String), RegistryError> {
    // A name in a manifest has no colon, a version may have one.
    let split = text
        .split_once(':')
        .filter(|(name, version)| name.contains('/') && !version.is_empty());
    split
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .ok_or_else(|| {
            query_error(
                "cursor",
                "is not one of ours: give metadata.nextCursor of the page before as it is".to_owned(),
            )
        })
}

fn parse_instant(text: &str) -> Result<Timestamp, RegistryError> {
    text.parse()
        .map_err(|error| query_error("updated_since", format!("{error}")))
}

fn parse_flag(text: &str) -> Result<bool, RegistryError> {
    text.parse()
        .map_err(|_| query_error("include_deleted", "must be true or false".to_owned()))
}

fn response(published: &PublishedVersion) -> ServerResponse {
    ServerResponse {
        server: Arc::clone(&published.manifest),
        meta: ResponseMeta {
            official: published.official.clone(),
        },
    }
}

impl RegistryView {
    /// `GET /v0.1/servers`.
    ///
    /// # Errors
    /// [`RegistryError::Query`] names the parameter that is wrong.
    pub fn official_list(&self, query: &OfficialQuery) -> Result<ServerList, RegistryError> {
        let query = Query::new(query)?;
        let start = query.after.as_ref().map_or(0, |(name, version)| {
            self.versions
                .partition_point(|published| place(published) <= (name.as_str(), version.as_str()))
        });
        let mut fitting = self.versions[start..]
            .iter()
            .filter(|published| query.fits(published));
        let page: Vec<&PublishedVersion> = fitting.by_ref().take(query.limit).collect();
        let has_more = fitting.next().is_some();
        let last = page.last().filter(|_| has_more);
        let next_cursor = last.map(|last| format!("{}:{}", last.manifest.name, last.manifest.version));
        let servers: Vec<ServerResponse> = page.into_iter().map(response).collect();
        Ok(server_list(servers, next_cursor))
    }

    /// `GET /v0.1/servers/{name}/versions`: newest first.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] when no server has manifests of this name.
    pub fn official_versions(
        &self,
        manifest_name: &str,
        include_deleted: bool,
    ) -> Result<ServerList, RegistryError> {
        let mut versions = self.versions_of(manifest_name, include_deleted)?;
        versions.sort_by(|a, b| {
            b.official
                .published_at
                .cmp(&a.official.published_at)
                .then_with(|| super::version::compare(b, a))
        });
        Ok(server_list(versions.into_iter().map(response).collect(), None))
    }

    /// `GET /v0.1/servers/{name}/versions/{version}`, where the version may be `latest`.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::VersionNotFound`].
    pub fn official_version(
        &self,
        manifest_name: &str,
        version: &str,
        include_deleted: bool,
    ) -> Result<ServerResponse, RegistryError> {
        let versions = self.versions_of(manifest_name, include_deleted)?;
        let is_wanted = |published: &&&PublishedVersion| match version {
            LATEST => published.official.is_latest,
            exact => published.manifest.version == exact,
        };
        versions
            .iter()
            .find(is_wanted)
            .map(|published| response(published))
            .ok_or_else(|| RegistryError::VersionNotFound {
                manifest_name: manifest_name.to_owned(),
                version: version.chars().take(80).collect(),
            })
    }

    fn versions_of(
        &self,
        manifest_name: &str,
        include_deleted: bool,
    ) -> Result<Vec<&PublishedVersion>, RegistryError> {
        let start = self
            .versions
            .partition_point(|published| published.manifest.name.as_str() < manifest_name);
        let same_name = self.versions[start..]
            .iter()
            .take_while(|published| published.manifest.name == manifest_name);
        let is_listed = |published: &&PublishedVersion| {
            include_deleted || published.official.status != OfficialStatus::Deleted
        };
        let versions: Vec<&PublishedVersion> = same_name.filter(is_listed).collect();
        if versions.is_empty() {
            return Err(RegistryError::NotFound {
                name: manifest_name.chars().take(200).collect(),
            });
        }
        Ok(versions)
    }
}

fn server_list(servers: Vec<ServerResponse>, next_cursor: Option<String>) -> ServerList {
    let count = u32::try_from(servers.len()).unwrap_or(u32::MAX);
    ServerList {
        servers,
        metadata: ListMetadata { next_cursor, count },
    }
}

#[cfg(test)]
mod tests;
