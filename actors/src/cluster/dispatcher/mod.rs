//! The dispatcher: a question finds the placed actor it is for, on whatever node.
//!
//! # Layout
//! - `host`: [`EntityHost`] and [`ObserveHost`], which answer; what a question comes with
//! - `stream`: [`EntityStream`], an answer in parts

mod host;
mod stream;

pub use host::{
    EntityContext, EntityHost, NobodyListens, ObserveHost, ObserveTopic, Owned, Parts, decode, encode,
};
pub(in crate::cluster) use stream::decoded;
pub use stream::{EntityStream, Streamed};
