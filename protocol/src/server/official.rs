//! What the official registry API (`/v0.1/servers…`) is asked and answers.
//!
//! Source: `docs/reference/api/openapi.yaml` (2025-12-01) of the repository `modelcontextprotocol/registry`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::{IntoParams, ToSchema};

use super::manifest::ServerJson;
use crate::time::Timestamp;

/// How many servers a page has when the caller does not say.
pub const PAGE_SERVERS_DEFAULT: usize = 30;
/// How many servers a page has at most.
pub const PAGE_SERVERS_MAX: usize = 100;
/// The version that stands for the newest.
pub const LATEST: &str = "latest";

/// The life of a version in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum OfficialStatus {
    /// It may be used.
    #[default]
    Active,
    /// It should no longer be used.
    Deprecated,
    /// It is gone; kept for those who follow the registry by `updated_since`.
    Deleted,
}

/// What the registry says of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "camelCase")]
#[ts(export)]
pub struct OfficialMeta {
    /// Its status.
    pub status: OfficialStatus,
    /// When the status last changed.
    pub status_changed_at: Timestamp,
    /// When it was published.
    pub published_at: Timestamp,
    /// When what the registry says of it last changed.
    pub updated_at: Timestamp,
    /// Whether it is the latest version of its server.
    pub is_latest: bool,
}

/// One version of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ServerResponse {
    /// Its manifest.
    #[schema(value_type = ServerJson)]
    pub server: Arc<ServerJson>,
    /// What the registry says of it.
    #[serde(rename = "_meta")]
    pub meta: ResponseMeta,
}

/// The registry's own part of a [`ServerResponse`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ResponseMeta {
    /// What the registry says.
    #[serde(rename = "io.modelcontextprotocol.registry/official")]
    pub official: OfficialMeta,
}

/// A page of versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ServerList {
    /// The versions.
    pub servers: Vec<ServerResponse>,
    /// Where the next page begins.
    pub metadata: ListMetadata,
}

/// Where a page stands in its list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "camelCase")]
#[ts(export, optional_fields)]
pub struct ListMetadata {
    /// The `cursor` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// How many versions this page has.
    pub count: u32,
}

/// The parameters of a list, as they stand in the URL. They are text so that a wrong one can be named.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfficialQuery {
    /// `metadata.nextCursor` of the page before.
    pub cursor: Option<String>,
    /// How many versions to list: 1 to 100. Default: 30.
    pub limit: Option<String>,
    /// Part of the name; letter case does not matter.
    pub search: Option<String>,
    /// Only versions that changed at or after this instant (RFC 3339); includes deleted ones.
    pub updated_since: Option<String>,
    /// `latest`, or one version.
    pub version: Option<String>,
    /// Whether to list deleted versions too: `true` or `false`. Default: false.
    pub include_deleted: Option<String>,
}
