//! The dispatcher: a question finds the placed actor it is for, on whatever node.
//!
//! # Layout
//! - `host`: [`EntityHost`] and [`ObserveHost`], which answer; what a question comes with
//! - `stream`: [`EntityStream`], an answer in parts
//! - `ask`: finds the owner and goes on looking while an address moves; `service`: answers other nodes; `wire`: how
//!   questions travel
//!
//! A question that certainly reached nobody who could act on it is asked again, for a while; one whose node was lost while
//! it worked on it is not: it may have had effects, and the asker is told.

mod ask;
mod host;
mod service;
mod stream;
mod wire;

pub(in crate::cluster) use ask::{observe_stream, observe_there};
pub(in crate::cluster) use host::PARTS_WAITING_MAX;
pub(in crate::cluster) use service::{Answerer, EntityService, ObserveService};

pub use host::{
    EntityContext, EntityHost, NobodyListens, ObserveHost, ObserveTopic, Owned, Parts, decode, encode,
};
pub(in crate::cluster) use stream::decoded;
pub use stream::{EntityStream, Streamed};
