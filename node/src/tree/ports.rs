//! The ports of a node: one for people and clients, one for other nodes.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
};

use tokio::net::TcpSocket;
use troupe_actors::{
    cluster::link::NodePort,
    store::{Store, TypedTree},
};

use super::StartError;
use crate::config::{CLUSTER_LISTEN_DEFAULT, ClusterConfig, Config};

/// Connections that wait to be accepted. The standard library's 128 overflow when many clients come at once, and those
/// over it try again only after a second.
const CONNECTIONS_WAITING_MAX: u32 = 4_096;
/// Where other nodes reached this one last, in the store's tree of what concerns this node alone.
const KEPT_KEY: &str = "cluster_listen";

/// Binds the port for people and clients; port 0 becomes the one that the system gave.
pub fn listen(config: &mut Config) -> Result<Arc<StdListener>, StartError> {
    let address = config.edge.listen;
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // As the standard library does: a node that is started again need not wait for old connections to time out.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(CONNECTIONS_WAITING_MAX)?;
        Ok((listener.local_addr()?, listener.into_std()?))
    };
    let (bound, listener) = bind().map_err(|reason| StartError::Listen {
        address,
        reason,
        flag: "--listen",
    })?;
    config.edge.listen = bound;
    Ok(Arc::new(listener))
}

/// Binds the port for other nodes. Where no setting says which, a node keeps the one it had, because the others look for
/// it there; a new one takes the default, or any that is free.
pub async fn node_port(config: &ClusterConfig, store: &Store) -> Result<NodePort, StartError> {
    let kept = store.tree::<SocketAddr>("node_port", 1)?;
    let wished = kept.get(KEPT_KEY)?.unwrap_or(CLUSTER_LISTEN_DEFAULT);
    let port = match config.listen.chosen() {
        Some(address) => bind(address).await?,
        None => match NodePort::bind(wished).await {
            Ok(port) => port,
            Err(taken) => any_port(wished, &taken).await?,
        },
    };
    keep(&kept, port.address()).await?;
    Ok(port)
}

async fn any_port(wished: SocketAddr, taken: &io::Error) -> Result<NodePort, StartError> {
    let port = bind(SocketAddr::new(wished.ip(), 0)).await?;
    tracing::warn!(
        "{wished} is not to be had for other nodes ({taken}): listening on {} instead; --cluster-listen chooses",
        port.address()
    );
    Ok(port)
}

async fn bind(address: SocketAddr) -> Result<NodePort, StartError> {
    let bound = NodePort::bind(address).await;
    bound.map_err(|reason| StartError::Listen {
        address,
        reason,
        flag: "--cluster-listen",
    })
}

async fn keep(kept: &TypedTree<SocketAddr>, address: SocketAddr) -> Result<(), StartError> {
    if kept.get(KEPT_KEY)? != Some(address) {
        kept.put(KEPT_KEY, &address).await?;
    }
    Ok(())
}
