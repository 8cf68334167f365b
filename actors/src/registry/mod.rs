//! The registry: which MCP servers there are, in which versions, and how each is operated.
//!
//! Replicated state of the cluster; here it is kept in the store of the one node. The actor ([`RegistryActor`]) is the
//! only writer: it seals the secrets of what is registered, stores the change, and then publishes a new
//! [`RegistryView`], from which everyone reads without asking it.
//!
//! # Layout
//! - `messages`: what the registry is told, [`RegistryHandle`]
//! - `state`: its decisions, pure; `record`: what is stored; `version`: which version is the latest
//! - `draft`, `check`, `derive`, `seal`: from what a user gives to an operation that holds no secret
//! - `view`, `list`, `search`, `official`: what can be read, as functions
//! - `import`: other forms of registries and desktop clients' files
//!
//! Whether servers answer is the business of [`crate::health`], talking to them that of [`crate::upstream`].

mod check;
mod derive;
mod draft;
mod error;
pub mod import;
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

pub use draft::transport_to_test;
pub use error::RegistryError;
pub use list::Health;
pub use messages::{RegistryEvent, RegistryHandle, RegistryMessage};
pub use secrets::SecretSealer;
pub use shell::{RegistryActor, child};
pub use view::RegistryView;
