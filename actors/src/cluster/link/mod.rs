//! Links: how the nodes of a cluster talk.
//!
//! # Layout
//! - [`LinksHandle`]: ask, tell and stream to a service of another node
//! - [`LinkService`]: what a node implements to be asked
//! - `settings`: bounds and times

mod error;
mod messages;
mod service;
mod settings;
mod stream;

pub use error::{LinkError, ServiceError};
pub use messages::{HttpStream, LinkEvent, LinksHandle, NodeStream, Peer};
pub use service::{LinkContext, LinkService, Service};
pub use settings::LinkSettings;
pub use stream::{LinkStream, PartSender, StreamItem};
