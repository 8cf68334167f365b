//! The registry: which MCP servers there are, in which versions, and how each is operated.
//!
//! Replicated state of the cluster. The actor ([`RegistryActor`]) is the only writer of its node: it decides on what this
//! node has read, seals the secrets of what is registered, and writes the change with a guard on what it was decided on;
//! when another node was faster, it decides again. It follows what all nodes write, and publishes a new [`RegistryView`],
//! from which everyone reads without asking it.
//!
//! # Layout
//! - `messages`: what the registry is told, [`RegistryHandle`]
//! - `state`: its decisions, pure; `record`: what is stored; `kept`: the replicated records; `version`: which version is
//!   the latest
//! - `draft`, `check`, `derive`, `seal`: from what a user gives to an operation that holds no secret
//! - `view`, `list`, `search`, `official`: what can be read, as functions
//! - [`virtual_servers`]: parts of several servers offered as one: kept by an actor of their own
//! - `import`: other forms of registries and desktop clients' files
//!
//! Whether servers answer is the business of [`crate::health`], talking to them that of [`crate::upstream`].

mod check;
mod derive;
mod draft;
mod error;
pub mod import;
mod kept;
mod list;
mod messages;
mod official;
mod record;
mod seal;
mod search;
mod secrets;
mod shell;
mod state;
mod version;
mod view;
pub mod virtual_servers;

pub use draft::transport_to_test;
pub use error::RegistryError;
pub use kept::TREES;
pub use list::Health;
pub use messages::{RegistryEvent, RegistryHandle, RegistryMessage};
pub use seal::login_secret;
pub use secrets::SecretSealer;
pub use shell::{RegistryActor, child};
pub use view::RegistryView;
pub use virtual_servers::{VirtualServer, VirtualServerError, VirtualServersHandle};
