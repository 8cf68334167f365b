//! The cluster: identical nodes that form one system.
//!
//! # Layout
//! - [`identity`]: who a node is: its certificate, the cluster's authority and key, how a node joins
//! - [`link`]: how nodes talk: one session to every other node, asks, tells and streams with deadlines

pub mod identity;
pub mod link;
