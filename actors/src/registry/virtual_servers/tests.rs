//! Virtual servers over a real store.

#![allow(clippy::unwrap_used)]

use serde_json::json;
use troupe_protocol::access::Principal;
use troupe_protocol::virtual_server::VirtualKind;

use super::*;
use crate::runtime::{Root, SystemConfig, testkit};

async fn start(store: &Store) -> (Root, VirtualServersHandle) {
    let system = System::new(SystemConfig::default());
    let (child, handle) = child(&system, ActorPath::new("node/virtual_servers"), store);
    (testkit::start(&system, vec![child]).await.unwrap(), handle)
}

fn name(text: &str) -> ServerName {
    ServerName::new(text).unwrap()
}

fn of(tool: &str) -> troupe_protocol::virtual_server::VirtualDefinition {
    serde_json::from_value(json!({ "items": [
        { "server": "time", "name": tool },
        { "kind": "resource_template", "server": "files", "name": "file:///{name}" },
        { "kind": "resource", "server": "notes", "name": "file:///today", "as": "notes://today" },
    ] }))
    .unwrap()
}

#[tokio::test]
async fn what_was_put_is_found_replaced_removed_and_outlives_the_actor() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (root, handle) = start(&store).await;
    let by = Principal::node();
    let mut changes = handle.subscribe();
    handle.put(name("desk"), of("now"), &by).await.unwrap();
    assert_eq!(changes.recv().await.unwrap(), name("desk"));
    handle.put(name("desk"), of("then"), &by).await.unwrap();
    root.shutdown().await;

    let (root, handle) = start(&store).await;
    let desk = handle.get("desk").unwrap();
    assert_eq!((desk.updated_by.as_str(), handle.view().len()), ("node", 1));
    assert!(desk.find(VirtualKind::Tool, "then").is_some() && desk.find(VirtualKind::Tool, "now").is_none());
    assert_eq!(desk.find_resource("notes://today").unwrap().server, name("notes"));
    assert_eq!(
        desk.find_resource("file:///today").unwrap().server,
        name("files"),
        "the other's address"
    );
    assert!(desk.find_resource("file:///a/b").is_none());
    assert_eq!(desk.summary().resources_count, 2);
    handle.remove(&name("desk")).await.unwrap();
    let gone = handle.remove(&name("desk")).await.unwrap_err();
    assert_eq!(gone, VirtualServerError::NotFound(name("desk")));
    assert!(handle.view().is_empty());
    root.shutdown().await;
}

#[tokio::test]
async fn a_wrong_definition_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (_root, handle) = start(&store).await;
    let wrong = troupe_protocol::virtual_server::VirtualDefinition::default();
    let refused = handle
        .put(name("desk"), wrong, &Principal::node())
        .await
        .unwrap_err();
    assert!(matches!(refused, VirtualServerError::Invalid { .. }), "{refused}");
    assert!(handle.view().is_empty());
}
