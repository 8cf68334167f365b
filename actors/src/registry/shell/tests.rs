#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use troupe_protocol::access::Principal;
use troupe_protocol::error::Code;
use troupe_protocol::error::Coded;
use troupe_protocol::server::{ImportFormat, OfficialQuery, ServerQuery};

use super::*;
use crate::runtime::testkit::{self, Crash};
use crate::runtime::{Root, SystemConfig};
use crate::store::{ReplicatedTree, replicated};

/// Keeps what it is given, spelt backwards; refuses everything when told to.
#[derive(Default)]
struct OpenSealer {
    tree: Mutex<Option<ReplicatedTree<String>>>,
    fails: bool,
}

impl OpenSealer {
    fn tree(&self) -> ReplicatedTree<String> {
        self.tree.lock().clone().unwrap()
    }

    fn secrets(&self) -> BTreeMap<String, String> {
        let secrets = self.tree().scan_prefix("").map(Result::unwrap);
        secrets
            .map(|(name, text)| (name, text.chars().rev().collect()))
            .collect()
    }
}

impl SecretSealer for OpenSealer {
    fn seal(
        &self,
        name: SecretName,
        value: SecretString,
    ) -> BoxFuture<'_, Result<RecordBatch, RegistryError>> {
        Box::pin(async move {
            if self.fails {
                return Err(RegistryError::Vault {
                    code: Code::VaultSealed,
                    detail: "sealed".into(),
                });
            }
            let backwards: String = value.expose_secret().chars().rev().collect();
            let mut batch = RecordBatch::default();
            let put = self.tree().put_into(&mut batch, name.as_str(), &backwards);
            put.map_err(|error| RegistryError::store(&error))?;
            Ok(batch)
        })
    }

    fn forget(&self, name: &SecretName) -> RecordBatch {
        let mut batch = RecordBatch::default();
        self.tree().remove_into(&mut batch, name.as_str());
        batch
    }
}

struct Bed {
    folder: tempfile::TempDir,
    store: Store,
    system: System,
    root: Root,
    registry: RegistryHandle,
    sealer: Arc<OpenSealer>,
}

impl Bed {
    async fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap(), Arc::default()).await
    }

    async fn with(folder: tempfile::TempDir, sealer: Arc<OpenSealer>) -> Self {
        let store = Store::open(folder.path()).unwrap();
        *sealer.tree.lock() = Some(store.replicated("secrets", 1));
        let system = System::new(SystemConfig::default());
        let (spec, registry) = child(&system, &store, Arc::clone(&sealer) as _).unwrap();
        let root = testkit::start(&system, vec![spec]).await.unwrap();
        testkit::eventually(testkit::PATIENCE, || system.directory().all_started())
            .await
            .unwrap();
        Self {
            folder,
            store,
            system,
            root,
            registry,
            sealer,
        }
    }

    /// Stops the node and starts another on the same folder.
    async fn restarted(self) -> Self {
        let Self {
            folder,
            store,
            system,
            root,
            registry,
            sealer,
        } = self;
        drop((registry, store));
        root.shutdown().await;
        drop(system);
        *sealer.tree.lock() = None;
        for _ in 0..500 {
            if Store::open(folder.path()).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self::with(folder, sealer).await
    }
}

fn admin() -> Principal {
    Principal::node()
}

fn name(text: &str) -> ServerName {
    ServerName::new(text).unwrap()
}

fn github() -> NewServer {
    serde_json::from_value(json!({
        "name": "github",
        "title": "GitHub",
        "description": "Issues and pull requests",
        "url": "https://api.example.com/mcp",
        "headers": {"Authorization": "Bearer planted-secret", "X-Shared": "${secret:shared}"},
        "labels": ["code"],
    }))
    .unwrap()
}

fn patch(value: serde_json::Value) -> ServerPatch {
    serde_json::from_value(value).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_lives_through_registration_change_restart_and_removal() {
    let bed = Bed::new().await;
    let mut events = bed.registry.subscribe();

    let entry = bed.registry.register(github(), &admin()).await.unwrap();
    assert!(entry.operation.enabled);
    assert_eq!(entry.operation.owner, "node");
    assert_eq!(
        events.recv().await.unwrap(),
        RegistryEvent::Registered { name: name("github") }
    );
    let sealed = bed.sealer.secrets();
    assert_eq!(
        sealed["server/github/header/Authorization"],
        "Bearer planted-secret"
    );
    assert!(!serde_json::to_string(&*entry).unwrap().contains("planted-secret"));

    let changes = json!({"headers": {"Authorization": null, "X-Key": "second"}, "description": "Issues", "enabled": false});
    let entry = bed
        .registry
        .update(&name("github"), patch(changes))
        .await
        .unwrap();
    assert_eq!((entry.revision, entry.manifest.version.as_str()), (2, "1.0.1"));
    assert_eq!(entry.manifest.description, "Issues");
    assert!(!entry.operation.enabled);
    let sealed: Vec<String> = bed.sealer.secrets().into_keys().collect();
    assert_eq!(
        sealed,
        ["server/github/header/X-Key.2"],
        "the replaced secret is gone"
    );

    let bed = bed.restarted().await;
    let again = bed.registry.view().get("github").unwrap();
    assert_eq!(*again, *entry);
    assert_eq!(
        bed.registry.view().version_names("github").unwrap(),
        ["1.0.1", "1.0.0"]
    );

    bed.registry.remove(&name("github")).await.unwrap();
    assert!(bed.registry.view().get("github").is_none());
    assert!(bed.sealer.secrets().is_empty());
    let bed = bed.restarted().await;
    assert!(bed.registry.view().is_empty());
    let followed = OfficialQuery {
        updated_since: Some("2020-01-01T00:00:00Z".into()),
        ..OfficialQuery::default()
    };
    assert_eq!(
        bed.registry
            .view()
            .official_list(&followed)
            .unwrap()
            .metadata
            .count,
        2
    );
    // A name that was removed is free again.
    bed.registry.register(github(), &admin()).await.unwrap();
    assert_eq!(
        bed.registry
            .view()
            .official_list(&followed)
            .unwrap()
            .metadata
            .count,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_planted_reaches_the_disk() {
    let bed = Bed::new().await;
    bed.registry.register(github(), &admin()).await.unwrap();
    let source = ImportSource {
        format: ImportFormat::McpServers,
        content: json!({"mcpServers": {"x": {"command": "y", "env": {"KEY": "planted-secret"}}}}).to_string(),
    };
    bed.registry.import(source, &admin()).await.unwrap();
    assert_eq!(bed.sealer.secrets()["server/x/env/KEY"], "planted-secret");
    let mut folders = vec![bed.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes
                .windows(b"planted-secret".len())
                .any(|window| window == b"planted-secret");
            assert!(!found, "{} holds the secret", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_changes_nothing() {
    let bed = Bed::new().await;
    bed.registry.register(github(), &admin()).await.unwrap();
    let before = bed.registry.view();
    let code = |result: Result<Arc<ServerEntry>, RegistryError>| result.unwrap_err().code();

    let registry = &bed.registry;
    assert_eq!(
        code(registry.register(github(), &admin()).await),
        Code::ServerExists
    );
    let named = |name: &str| NewServer {
        name: Some(name.into()),
        command: Some("x".into()),
        ..NewServer::default()
    };
    assert_eq!(
        code(registry.register(named("Not A Slug"), &admin()).await),
        Code::InvalidServerName
    );
    assert_eq!(
        code(registry.register(named("troupe"), &admin()).await),
        Code::ServerIsBuiltIn
    );
    let nowhere = NewServer {
        name: Some("x".into()),
        ..NewServer::default()
    };
    assert_eq!(
        code(registry.register(nowhere, &admin()).await),
        Code::InvalidField
    );
    let github = name("github");
    let wrong = [
        (json!({"env": {"A": "b"}}), Code::InvalidField),
        (json!({"url": "file:///etc/passwd"}), Code::InvalidField),
        (json!({"headers": {"X": "a\nb"}}), Code::InvalidField),
        (
            json!({"headers": {"X": "${secret:a b}"}}),
            Code::InvalidSecretTemplate,
        ),
        (json!({"labels": [""]}), Code::InvalidField),
        (
            json!({"headers": {"X-New": "planted"}, "description": ""}),
            Code::InvalidManifest,
        ),
    ];
    for (changes, expected) in wrong {
        assert_eq!(
            code(registry.update(&github, patch(changes.clone())).await),
            expected,
            "{changes}"
        );
    }
    assert_eq!(
        code(registry.update(&name("nobody"), patch(json!({}))).await),
        Code::ServerNotFound
    );
    assert_eq!(
        registry.remove(&name("troupe")).await.unwrap_err().code(),
        Code::ServerIsBuiltIn
    );
    assert!(Arc::ptr_eq(&before, &registry.view()));
    assert_eq!(bed.sealer.secrets().len(), 1, "no secret was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_fails_keeps_the_server_out() {
    let sealer = Arc::new(OpenSealer {
        fails: true,
        ..OpenSealer::default()
    });
    let bed = Bed::with(tempfile::tempdir().unwrap(), sealer).await;
    let error = bed.registry.register(github(), &admin()).await.unwrap_err();
    assert_eq!(error.code(), Code::VaultSealed);
    assert!(bed.registry.view().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_nothing_and_is_not_seen_by_readers() {
    let bed = Bed::new().await;
    bed.registry.register(github(), &admin()).await.unwrap();
    let id = bed
        .system
        .directory()
        .find(&ActorPath::new("node/registry"))
        .unwrap();
    testkit::crash(&bed.system, id, Crash::Panic).unwrap();
    assert!(bed.registry.view().get("github").is_some());
    let entry = bed.registry.set_enabled(&name("github"), false).await.unwrap();
    assert_eq!(entry.revision, 2);
    assert_eq!(bed.registry.view().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_is_imported_once_and_survives_a_restart() {
    let Some(content) = crate::registry::import::tests::catalogue() else {
        return;
    };
    let bed = Bed::new().await;
    let source = ImportSource {
        format: ImportFormat::Catalog,
        content,
    };
    let began = std::time::Instant::now();
    let report = bed.registry.import(source.clone(), &admin()).await.unwrap();
    println!("imported {} entries in {:?}", report.imported, began.elapsed());
    assert_eq!((report.imported, report.rejected.len()), (2_120, 0));
    let report = bed.registry.import(source, &admin()).await.unwrap();
    assert_eq!((report.imported, report.skipped), (0, 2_120));
    let began = std::time::Instant::now();
    let bed = bed.restarted().await;
    println!("started again with them in {:?}", began.elapsed());
    let page = bed
        .registry
        .view()
        .list(&ServerQuery::default(), &Default::default())
        .unwrap();
    assert_eq!(page.total, 2_120);
}

/// Two nodes with what stands for a log between them.
struct TwoNodes {
    nodes: Vec<(RegistryHandle, Root, System)>,
    sealer: Arc<OpenSealer>,
    stores: Vec<Store>,
    _folders: [tempfile::TempDir; 2],
}

impl TwoNodes {
    async fn new() -> Self {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let stores: Vec<Store> = folders
            .iter()
            .map(|folder| Store::open(folder.path()).unwrap())
            .collect();
        replicated::testkit::join(&stores);
        let sealer = Arc::new(OpenSealer::default());
        *sealer.tree.lock() = Some(stores[0].replicated("secrets", 1));
        let mut nodes = Vec::new();
        for store in &stores {
            let system = System::new(SystemConfig::default());
            let (spec, registry) = child(&system, store, Arc::clone(&sealer) as _).unwrap();
            let root = testkit::start(&system, vec![spec]).await.unwrap();
            testkit::eventually(testkit::PATIENCE, || system.directory().all_started())
                .await
                .unwrap();
            nodes.push((registry, root, system));
        }
        Self {
            nodes,
            sealer,
            stores,
            _folders: folders,
        }
    }

    fn registry(&self, node: usize) -> &RegistryHandle {
        &self.nodes[node].0
    }

    /// Both nodes show the same.
    async fn agree(&self) {
        let shown = |node: usize| {
            let view = self.registry(node).view();
            view.entries().map(|entry| (**entry).clone()).collect::<Vec<_>>()
        };
        testkit::eventually(testkit::PATIENCE, || shown(0) == shown(1))
            .await
            .unwrap();
    }

    async fn end(self) {
        for (_, root, _) in self.nodes {
            root.shutdown().await;
        }
        replicated::testkit::part(&self.stores);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_registers_the_other_shows_and_tells() {
    let two = TwoNodes::new().await;
    let mut events = two.registry(1).subscribe();
    two.registry(0).register(github(), &admin()).await.unwrap();
    let named = || name("github");
    assert_eq!(
        events.recv().await.unwrap(),
        RegistryEvent::Registered { name: named() }
    );
    two.agree().await;
    let entry = two.registry(1).set_enabled(&named(), false).await.unwrap();
    assert_eq!(entry.revision, 2);
    assert_eq!(
        events.recv().await.unwrap(),
        RegistryEvent::Updated { name: named() }
    );
    two.agree().await;
    two.registry(0).remove(&named()).await.unwrap();
    assert_eq!(
        events.recv().await.unwrap(),
        RegistryEvent::Removed { name: named() }
    );
    two.agree().await;
    assert!(two.registry(1).view().is_empty() && two.sealer.secrets().is_empty());
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_that_register_the_same_name_at_once_one_does() {
    let two = TwoNodes::new().await;
    for round in 0..20 {
        let server = |node: usize| NewServer {
            name: Some(format!("server-{round}")),
            url: Some("https://api.example.com/mcp".into()),
            headers: BTreeMap::from([("X-Key".to_owned(), format!("secret of {node}").as_str().into())]),
            ..NewServer::default()
        };
        let principal = admin();
        let outcomes = tokio::join!(
            two.registry(0).register(server(0), &principal),
            two.registry(1).register(server(1), &principal)
        );
        let winner = match (&outcomes.0, &outcomes.1) {
            (Ok(_), Err(error)) => {
                assert_eq!(error.code(), Code::ServerExists);
                0
            }
            (Err(error), Ok(_)) => {
                assert_eq!(error.code(), Code::ServerExists);
                1
            }
            both => panic!("one and only one may register it: {both:?}"),
        };
        let secret = format!("server/server-{round}/header/X-Key");
        assert_eq!(two.sealer.secrets()[&secret], format!("secret of {winner}"));
    }
    two.agree().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_one_server_at_two_nodes_all_happen() {
    let two = TwoNodes::new().await;
    two.registry(0).register(github(), &admin()).await.unwrap();
    two.agree().await;
    let changes = |node: usize| {
        let registry = two.registry(node).clone();
        async move {
            for round in 0..20 {
                let labels = json!({"labels": [format!("of-{node}-{round}")]});
                registry.update(&name("github"), patch(labels)).await.unwrap();
            }
        }
    };
    tokio::join!(changes(0), changes(1));
    two.agree().await;
    assert_eq!(two.registry(0).view().get("github").unwrap().revision, 41);
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_about_something_else_leaves_the_document_of_another_nodes_change() {
    let bed = Bed::new().await;
    let pets = json!({ "name": "pets", "openapi": { "document": "openapi: 3.0.3", "base_url": "https://a.example" } });
    bed.registry
        .register(serde_json::from_value(pets).unwrap(), &admin())
        .await
        .unwrap();
    let documents = Documents::new(&bed.store);
    let pets = name("pets");
    let (own, foreign) = (
        Documents::digest("openapi: 3.0.3"),
        Documents::digest("openapi: 3.1.0"),
    );
    // Another node is writing a document, to which an entry will refer.
    documents.put(&pets, "openapi: 3.1.0").await.unwrap();
    let disabled = patch(json!({ "enabled": false }));
    bed.registry.update(&pets, disabled).await.unwrap();
    let nobody = bed.registry.remove(&name("nobody")).await;
    assert_eq!(nobody.unwrap_err().code(), Code::ServerNotFound);
    assert!(documents.get(&pets, &foreign).is_ok() && documents.get(&pets, &own).is_ok());
    // One that nobody refers to any more is forgotten.
    let newer = patch(json!({ "openapi": { "document": "openapi: 3.1.1" } }));
    bed.registry.update(&pets, newer).await.unwrap();
    assert!(documents.get(&pets, &foreign).is_err() && documents.get(&pets, &own).is_err());
    assert!(documents.get(&pets, &Documents::digest("openapi: 3.1.1")).is_ok());
    bed.registry.remove(&pets).await.unwrap();
    assert!(
        documents
            .get(&pets, &Documents::digest("openapi: 3.1.1"))
            .is_err()
    );
}
