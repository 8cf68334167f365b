//! The router with its model, its planner and the servers it learns of.

use std::{path::Path, sync::Arc};

use troupe_actors::{
    pipeline::embedding::{Embedder, files::folders_to_search},
    registry::RegistryHandle,
    router::{
        NodeServers, RouterHandle, RouterServices, VectorTree,
        planner::{
            Planner,
            endpoint::{EndpointPlanner, EndpointSettings},
            rules::RulesPlanner,
        },
    },
    runtime::{ActorPath, ChildSpec, System},
    store::Store,
    upstream::UpstreamsHandle,
};

use super::StartError;
use crate::config::{Config, RouterConfig, read_secret_file};

pub fn build(
    system: &System,
    path: ActorPath,
    config: &Config,
    store: &Store,
    registry: &RegistryHandle,
    upstreams: &UpstreamsHandle,
) -> Result<(RouterHandle, ChildSpec), StartError> {
    let model_dir = Some(config.router.model_dir.as_str())
        .filter(|folder| !folder.is_empty())
        .map(Path::new);
    let services = RouterServices {
        servers: Arc::new(NodeServers {
            registry: registry.clone(),
            upstreams: upstreams.clone(),
        }),
        embedder: Embedder::start(folders_to_search(model_dir, store.folder())),
        vectors: Some(VectorTree::open(store)?),
        planner: planner(&config.router)?,
        // Every role may use every tool; finer policies are for a later issue.
        policy: Arc::new(|_, _| true),
    };
    Ok(RouterHandle::build(system, path, services))
}

fn planner(config: &RouterConfig) -> Result<Arc<dyn Planner>, StartError> {
    let Some(base_url) = config.planner_url.get() else {
        return Ok(Arc::new(RulesPlanner));
    };
    let key_file = Some(config.planner_key_file.as_str()).filter(|file| !file.is_empty());
    let settings = EndpointSettings {
        base_url,
        model: config.planner_model.clone(),
        api_key: key_file
            .map(|file| read_secret_file("router.planner_key_file", file))
            .transpose()?,
        timeout: config.planner_timeout_ms.millis(),
    };
    let planner = EndpointPlanner::new(settings).map_err(|error| StartError::Tree(error.to_string()))?;
    Ok(planner)
}
