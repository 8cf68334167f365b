//! Servers that run at one node of the whole cluster: those that are child processes.
//!
//! There is one process for all clients that can do nothing for it, and one more for each other kind of clients as long
//! as they use it: a legacy server is told once what its client can do ([`Profile`](troupe_protocol::mcp::Profile)).
//!
//! Each has an owner, the node that its address `upstream/NAME` belongs to. There the server has its slot, as before;
//! on every other node a call goes to the owner over the link and back, byte for byte. Servers reached over HTTP are not
//! the business of this module: each node has its own connections to them.
//!
//! # Layout
//! - `server`: [`PlacedServer`], a server wherever it runs: finds its owner, follows it when it moves
//! - `remote`: the way to a server on another node, and what the caller's node keeps of it
//! - `host`: the owner's side: answers other nodes, gives away what is no longer its own
//! - `question`: the words between the two; `between`: what is told and asked before the reply
//! - `news`: what each node lets the others know of the servers it runs
//!
//! No process runs on two nodes: a slot is made, and a process started, only while the cluster says that the address is
//! here ([`ClusterHandle::whereabouts`](crate::cluster::ClusterHandle::whereabouts)), which it does not before the former
//! owner's host has settled or its lease is over.

mod between;
mod host;
mod news;
mod question;
mod remote;
mod server;

use troupe_protocol::cluster::{Address, EntityKind};
use troupe_protocol::mcp::Profile;
use troupe_protocol::server::{ServerName, Transport};

pub(super) use host::UpstreamsHost;
pub(super) use news::{Elsewhere, UpstreamNews, read_others};
pub(super) use remote::Remote;
pub(super) use server::{PlacedServer, logs_of, watch_remotely};

/// The address of a server.
pub(super) fn address_of(name: &ServerName) -> Address {
    Address::new(EntityKind::Upstream, name.as_str())
}

/// Whether there is one connection to such a server in the whole cluster.
pub(super) fn is_placed(transport: &Transport) -> bool {
    matches!(transport, Transport::Stdio { .. })
}

/// What a process that all clients share is told of those who can do this much. Nobody's `roots`: servers let the folders
/// that a client names take the place of those that the administrator gave them, for all who use the process.
pub(super) fn of_process(profile: Profile) -> Profile {
    profile.without_roots()
}
