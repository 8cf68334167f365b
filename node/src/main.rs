//! The `troupe` binary: starts a node, or asks a running one.

#![forbid(unsafe_code)]

mod config;
mod edge;

use config::Flags;

fn main() -> anyhow::Result<()> {
    let config = config::load(&Flags::default(), std::env::vars())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let state = edge::EdgeState::new(config);
        let listener = tokio::net::TcpListener::bind(state.config.edge.listen).await?;
        let limits = edge::listener::ConnectionLimits::new(&state.config.edge);
        let router = edge::router(state.clone());
        edge::listener::serve(listener, router, limits, state.connections.clone(), state.stopping.clone()).await;
        Ok(())
    })
}
