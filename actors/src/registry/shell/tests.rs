#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use troupe_protocol::access::Principal;
use troupe_protocol::error::Code;
use troupe_protocol::server::{ImportFormat, OfficialQuery, ServerQuery};

use super::*;
use crate::runtime::testkit::{self, Crash};
use crate::runtime::{Root, SystemConfig};

/// Keeps what it is given, in clear; refuses everything when told to.
#[derive(Default)]
struct OpenSealer {
    secrets: Mutex<BTreeMap<String, String>>,
    fails: bool,
}

impl SecretSealer for OpenSealer {
    fn seal(&self, name: SecretName, value: SecretString) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            if self.fails {
                return Err(RegistryError::Vault {
                    code: Code::VaultSealed,
                    detail: "sealed".into(),
                });
            }
            self.secrets
                .lock()
                .insert(name.to_string(), value.expose_secret().to_owned());
            Ok(())
        })
    }

    fn forget<'a>(&'a self, name: &'a SecretName) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(async move {
            self.secrets.lock().remove(name.as_str());
            Ok(())
        })
    }
}

struct Bed {
    folder: tempfile::TempDir,
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
        let system = System::new(SystemConfig::default());
        let (spec, registry) = child(&system, &store, Arc::clone(&sealer) as _).unwrap();
        let root = testkit::start(&system, vec![spec]).await.unwrap();
        testkit::eventually(Duration::from_secs(10), || system.directory().all_started())
            .await
            .unwrap();
        Self {
            folder,
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
            system,
            root,
            registry,
            sealer,
        } = self;
        drop(registry);
        root.shutdown().await;
        drop(system);
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
    let sealed = bed.sealer.secrets.lock().clone();
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
    let sealed: Vec<String> = bed.sealer.secrets.lock().keys().cloned().collect();
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
    assert!(bed.sealer.secrets.lock().is_empty());
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
    assert_eq!(bed.sealer.secrets.lock()["server/x/env/KEY"], "planted-secret");
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
    assert_eq!(bed.sealer.secrets.lock().len(), 1, "no secret was left behind");
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
