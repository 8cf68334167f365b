//! MCP servers as registry entries.
//!
//! # Layout
//! - [`name`]: the slug by which everything here calls a server
//! - [`manifest`]: the official `server.json` (schema 2025-12-11), unknown fields kept
//! - [`operation`]: our part: is it enabled, how is it reached, which secrets does it use
//! - `hidden_args`: command lines without the credentials in them
//! - [`validate`]: what is wrong with a manifest or a name, and in which field
//! - [`official`]: what the official registry API answers
//! - [`list`]: the console's list and detail
//! - [`register`]: what a user sends to register, change or import servers
//!
//! Storing, searching and importing live in `troupe_actors::registry`; how servers fare in [`crate::health`].

mod hidden_args;
pub mod list;
pub mod manifest;
pub mod name;
pub mod official;
pub mod operation;
pub mod register;
pub mod validate;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;

pub use list::{ServerDetail, ServerPage, ServerQuery, ServerSort, ServerSummary, StatusCounts};
pub use manifest::{
    AdvertisedTool, Argument, ArgumentKind, Icon, Input, KeyValueInput, Package, PackageTransport, RawJson,
    Remote, Repository, ServerJson, TransportKind,
};
pub use name::{InvalidServerName, ServerName};
pub use official::{OfficialMeta, OfficialQuery, OfficialStatus, ServerList, ServerResponse};
pub use operation::{OpenApiDocument, Operation, Transport};
pub use register::{
    ClearText, ImportFormat, ImportNote, ImportReport, ImportSource, NewServer, OpenApiSource,
    RejectedImport, ServerPatch,
};
pub use validate::{Fault, FieldError};

use crate::time::Timestamp;

/// A registered server: its latest manifest and how it is operated here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ServerEntry {
    /// The name it has here; also the prefix of its tools (`name__tool`).
    pub name: ServerName,
    /// The latest published version of its `server.json`.
    #[schema(value_type = ServerJson)]
    pub manifest: Arc<ServerJson>,
    /// How it is operated.
    pub operation: Operation,
    /// What the registry says of the latest version.
    pub official: OfficialMeta,
    /// Counts the changes of the entry, from 1.
    #[ts(type = "number")]
    pub revision: u64,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was last changed in any way.
    pub updated_at: Timestamp,
}

impl ServerEntry {
    /// What to call it when talking to people: its title, else its name.
    pub fn title(&self) -> &str {
        self.manifest.title.as_deref().unwrap_or(self.name.as_str())
    }
}
