//! The built-in server `troupe`, over the actors of this node.

use std::{sync::Arc, time::Instant};

use serde_json::{Value, json};
use troupe_actors::{
    builtin::{Builtin, BuiltinServices, SERVER_NAME},
    conversation::ToolCaller,
    health::Health,
    registry::RegistryHandle,
    router::RouterHandle,
    runtime::System,
    upstream::UpstreamsHandle,
};
use troupe_protocol::server::ServerName;

use super::StartError;

/// Makes the built-in server reachable like any other.
pub fn register(
    system: &System,
    registry: &RegistryHandle,
    router: &RouterHandle,
    upstreams: &UpstreamsHandle,
    health: impl Fn() -> Arc<Health> + Send + Sync + 'static,
) -> Result<(), StartError> {
    let weak = upstreams.downgrade();
    let caller = move || {
        weak.upgrade()
            .map(|upstreams| Arc::new(upstreams) as Arc<dyn ToolCaller>)
    };
    let services = BuiltinServices {
        registry: registry.clone(),
        health: Arc::new(health),
        router: router.clone(),
        caller: Arc::new(caller),
        status: status(system.clone(), registry.clone(), router.clone(), upstreams),
    };
    let name = ServerName::new(SERVER_NAME).map_err(|error| StartError::Tree(error.to_string()))?;
    upstreams.register_builtin(name, Arc::new(Builtin::new(services)));
    Ok(())
}

fn status(
    system: System,
    registry: RegistryHandle,
    router: RouterHandle,
    upstreams: &UpstreamsHandle,
) -> Arc<dyn Fn() -> Value + Send + Sync> {
    let (started, weak) = (Instant::now(), upstreams.downgrade());
    Arc::new(move || {
        let index = router.status();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_ms": started.elapsed().as_millis() as u64,
            "servers_registered": registry.view().len(),
            "servers_with_tools": index.servers,
            "tools": index.tools,
            "model": index.model.state,
            "planner": index.planner,
            "actors": system.directory().reports().len(),
            "calls_in_flight": weak.upgrade().map_or(0, |upstreams| upstreams.calls_in_flight()),
        })
    })
}
