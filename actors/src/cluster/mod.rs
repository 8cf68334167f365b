//! The cluster: identical nodes that form one system.
//!
//! One node alone is a cluster of one and works the same way, without a network.
//!
//! # Layout
//! - `handle`: [`ClusterHandle`], what the rest of the node uses; `operate`: what people see and do
//! - `family`: [`start`] puts the parts together; `entrance`: this node is and stays a member; `admission`: newcomers
//! - [`identity`]: who a node is: its certificate, the cluster's authority and key, how a node joins
//! - [`link`]: how nodes talk: one session to every other node, asks, tells and streams with deadlines
//! - [`log`]: what all nodes agree on: records and the membership, in one order
//! - [`dispatcher`]: a question finds the placed actor it is for, on whatever node
//! - [`placement`]: which addresses this node may act for, and telling the hosts of placed actors
//! - [`lease`]: who may act at all, and when a former owner surely does no more
//! - [`pieces`]: texts that are too long for one message
//! - [`bulletin`]: what each node lets all others know
//! - [`membership`]: who is silent, who is back
//! - `error`: why the cluster could not do what it was asked
//!
//! # Who may act for an address
//! Owners follow from the membership at an epoch (rendezvous hashing). A node acts only while it holds a lease, and only
//! for what it owned at every epoch from the last *cleared* one on: an epoch is cleared once every node that may hold a
//! lease has given up what it does not own at that epoch. So an address changes hands without ever having two.

mod admission;
pub mod bulletin;
pub mod dispatcher;
mod entrance;
mod error;
mod family;
mod handle;
pub mod identity;
pub mod lease;
pub mod link;
pub mod log;
pub mod membership;
mod operate;
pub mod patience;
pub mod pieces;
pub mod placement;
#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;

pub use admission::Invited;
pub use dispatcher::{EntityContext, EntityHost, EntityStream, ObserveHost, ObserveTopic, Parts, Streamed};
pub use error::ClusterError;
pub use family::{ClusterParts, ClusterSettings, ClusterStartError, StartedCluster, start};
pub use handle::{BeforeRemoval, ClusterHandle};
pub use link::ServiceError;
pub use placement::{Nowhere, Whereabouts};
