//! Why a node does not start.

use std::{io, net::SocketAddr};

use troupe_actors::{
    access::AccessError,
    audit::AuditError,
    cluster::{ClusterStartError, identity::IdentityError, log::LogError},
    conversation::ConversationError,
    store::{StoreError, WriteError},
    vault::VaultError,
};
use troupe_protocol::error::{Code, Coded};

use crate::config::ConfigError;

/// What is said of a node that the cluster has removed.
pub const REMOVED: &str = "this node was removed from its cluster, which it can join anew only with a fresh folder: --data DIR --join STRING";

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The replicated records.
    #[error(transparent)]
    Records(#[from] WriteError),
    /// Who this node is.
    #[error("{code}: {error}", code = .0.code(), error = .0)]
    Identity(#[from] IdentityError),
    /// The cluster.
    #[error("{code}: {error}", code = .0.code(), error = .0)]
    Cluster(#[from] ClusterStartError),
    /// What the others have agreed on could not be had.
    #[error("{code}: this node is new and has not got the state of the cluster: {error}", code = .0.code(), error = .0)]
    CatchUp(LogError),
    /// The cluster has removed this node.
    #[error("{}: {REMOVED}", Code::JoinRefused)]
    Removed,
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The keys.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The conversations.
    #[error(transparent)]
    Conversations(#[from] ConversationError),
    /// A port.
    #[error("cannot listen on {address}: {reason}; choose another address with {flag}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The system's words.
        reason: io::Error,
        /// What sets it.
        flag: &'static str,
    },
    /// An actor.
    #[error("cannot start the supervision tree: {0}")]
    Tree(String),
}
