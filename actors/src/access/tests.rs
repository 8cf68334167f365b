#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::ExposeSecret;
use troupe_protocol::error::{Code, Coded};

use super::*;
use crate::runtime::{Root, SystemConfig, testkit};
use troupe_protocol::access::Role;

async fn started(folder: &Path) -> (AccessHandle, Option<FirstStart>, Root, System) {
    let store = Store::open(folder).unwrap();
    let first = prepare(&store).await.unwrap();
    let system = System::new(SystemConfig::default());
    let (handle, spec) = actor(&system, ActorPath::new("node/access"), &store).unwrap();
    let root = testkit::start(&system, vec![spec]).await.unwrap();
    (handle, first, root, system)
}

#[tokio::test]
async fn the_first_start_makes_one_administrator_key_that_only_its_owner_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let (access, first, root, _) = started(folder.path()).await;
    let first = first.unwrap();
    let key = first.key.expose_secret();
    assert_eq!(access.authenticate(key), Some(first.principal()));
    assert_eq!(first.principal().role, Role::Admin);
    assert_eq!(fs::read_to_string(&first.path).unwrap(), format!("{key}\n"));
    assert_eq!(
        fs::metadata(&first.path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let _ = root.shutdown().await;
    drop(access);

    let (access, second, root, _) = started(folder.path()).await;
    assert!(second.is_none());
    assert_eq!(access.authenticate(key), Some(first.principal()));
    assert!(
        access.list()[0].last_used_at.is_some(),
        "the use before the restart was not written down"
    );
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_keeps_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = Token::generate(TokenKind::Key).unwrap().into_secret();
    crate::store::files::write_private(&folder.path().join("admin.key"), key.expose_secret().as_bytes())
        .unwrap();
    let (access, first, root, _) = started(folder.path()).await;
    assert!(first.is_some() && access.authenticate(key.expose_secret()).is_some());
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn a_node_that_takes_a_cluster_for_new_makes_no_key_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let names = store.replicated::<KeyId>("key_names", 1);
    names
        .put("admin", &KeyId::from_ulid(ulid::Ulid::generate()))
        .await
        .unwrap();
    assert!(prepare(&store).await.unwrap().is_none());
    assert!(!folder.path().join("admin.key").exists());
    let given = prepare_joined(&store, &"second".parse().unwrap()).await.unwrap();
    assert_eq!(given.unwrap().info.name, "admin@second");
}

#[tokio::test]
async fn keys_are_made_listed_revoked_and_never_kept_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (access, first, root, _) = started(folder.path()).await;
    let admin = first.unwrap().principal();
    let (info, key) = access
        .create_key(NewKey::new("laptop", Role::User), &admin)
        .await
        .unwrap();
    let key = key.expose_secret();
    assert!(info.hint.ends_with('…') && key.starts_with(info.hint.trim_end_matches('…')));
    let principal = access.authenticate(key).unwrap();
    assert_eq!(
        (principal.name.as_str(), principal.role, principal.key_id),
        ("laptop", Role::User, Some(info.id))
    );
    assert_eq!(
        access
            .create_key(NewKey::new("laptop", Role::User), &admin)
            .await
            .unwrap_err()
            .code(),
        Code::KeyExists
    );
    assert_eq!(access.list().len(), 2);
    assert_eq!(
        access.revoke(admin.key_id.unwrap()).await.unwrap_err().code(),
        Code::LastAdminKey
    );
    let database = fs::read(folder.path().join("store/db")).unwrap();
    assert!(database.windows(6).any(|window| window == b"laptop"));
    assert!(
        !database.windows(key.len()).any(|window| window == key.as_bytes()),
        "the key is in the database in clear"
    );

    access.revoke(info.id).await.unwrap();
    assert_eq!(access.authenticate(key), None);
    assert!(!access.has_key(info.id));
    assert_eq!(
        access.revoke(info.id).await.unwrap_err().code(),
        Code::KeyNotFound
    );
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn a_login_code_becomes_a_session_that_survives_restarts_until_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (access, first, root, system) = started(folder.path()).await;
    let admin = first.unwrap().principal();
    let code = access.mint_login_code(&admin).await.unwrap();
    let (principal, session) = access.redeem(code.expose_secret()).await.unwrap();
    let session = session.expose_secret();
    assert_eq!(principal, admin);
    assert_eq!(
        access.redeem(code.expose_secret()).await.unwrap_err().code(),
        Code::LoginCodeInvalid
    );
    assert_eq!(access.authenticate_session(session), Some(admin.clone()));
    assert_eq!(access.authenticate(session), None);
    let second = access.open_session(&admin).await.unwrap();

    let id = system.directory().find(&ActorPath::new("node/access")).unwrap();
    testkit::crash(&system, id, testkit::Crash::Panic).unwrap();
    assert_eq!(
        access.authenticate_session(session),
        Some(admin.clone()),
        "an actor that restarts locks nobody out"
    );
    let _ = root.shutdown().await;
    drop(access);

    let (access, _, root, _) = started(folder.path()).await;
    assert_eq!(access.authenticate_session(session), Some(admin.clone()));
    access.close_session(session).await.unwrap();
    access.close_session(session).await.unwrap();
    assert_eq!(access.authenticate_session(session), None);
    assert_eq!(access.authenticate_session(second.expose_secret()), Some(admin));
    let _ = root.shutdown().await;
}

/// Two nodes with what stands for a log between them, each with its access actor.
struct TwoNodes {
    nodes: Vec<(AccessHandle, Root)>,
    firsts: Vec<FirstStart>,
    stores: Vec<Store>,
    folders: [tempfile::TempDir; 2],
}

impl TwoNodes {
    async fn new() -> Self {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let stores: Vec<Store> = folders
            .iter()
            .map(|folder| Store::open(folder.path()).unwrap())
            .collect();
        crate::store::replicated::testkit::join(&stores);
        let mut firsts = vec![prepare(&stores[0]).await.unwrap().unwrap()];
        let name = "second".parse().unwrap();
        firsts.push(prepare_joined(&stores[1], &name).await.unwrap().unwrap());
        let mut nodes = Vec::new();
        for store in &stores {
            let system = System::new(SystemConfig::default());
            let (access, spec) = actor(&system, ActorPath::new("node/access"), store).unwrap();
            nodes.push((access, testkit::start(&system, vec![spec]).await.unwrap()));
        }
        Self {
            nodes,
            firsts,
            stores,
            folders,
        }
    }

    fn access(&self, node: usize) -> &AccessHandle {
        &self.nodes[node].0
    }

    async fn end(self) {
        for (_, root) in self.nodes {
            root.shutdown().await;
        }
        crate::store::replicated::testkit::part(&self.stores);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_node_goes_with_it_and_no_other() {
    let two = TwoNodes::new().await;
    let access = two.access(0);
    let admin = two.firsts[0].principal();
    // Made by a person, whatever they are called.
    for name in ["admin@second 2", "admin@secondary"] {
        access
            .create_key(NewKey::new(name, Role::Admin), &admin)
            .await
            .unwrap();
    }
    let node = "second".parse().unwrap();
    let gone = access.revoke_keys_of_node(node).await.unwrap();
    assert_eq!(
        gone.iter().map(|key| key.id).collect::<Vec<_>>(),
        [two.firsts[1].info.id]
    );
    let key = two.firsts[1].key.expose_secret();
    assert_eq!(access.authenticate(key), None);
    soon(|| two.access(1).authenticate(key).is_none()).await;
    let kept: BTreeSet<String> = access.list().into_iter().map(|key| key.name).collect();
    let others = ["admin", "admin@second 2", "admin@secondary"].map(str::to_owned);
    assert_eq!(kept, BTreeSet::from(others));
    let again = access
        .revoke_keys_of_node("second".parse().unwrap())
        .await
        .unwrap();
    assert!(again.is_empty());
    two.end().await;
}

async fn soon(condition: impl Fn() -> bool) {
    testkit::eventually(testkit::PATIENCE, condition).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_has_an_administrator_key_of_its_own_that_works_at_all() {
    let two = TwoNodes::new().await;
    assert_eq!(two.firsts[1].info.name, "admin@second");
    for first in &two.firsts {
        let key = first.key.expose_secret();
        assert_eq!(fs::read_to_string(&first.path).unwrap().trim(), key);
        for node in 0..2 {
            assert_eq!(two.access(node).authenticate(key), Some(first.principal()));
        }
    }
    // It is given once, also when it was revoked since.
    let second = two.firsts[1].info.id;
    two.access(0).revoke(second).await.unwrap();
    let name = "second".parse().unwrap();
    let file = two.folders[1].path().join("admin.key");
    assert!(prepare_joined(&two.stores[1], &name).await.unwrap().is_none());
    fs::remove_file(&file).unwrap();
    assert!(prepare_joined(&two.stores[1], &name).await.unwrap().is_none());
    // The node that made the cluster has one already.
    assert!(prepare_joined(&two.stores[0], &name).await.unwrap().is_none());
    fs::remove_file(two.folders[0].path().join("admin.key")).unwrap();
    assert!(prepare_joined(&two.stores[0], &name).await.unwrap().is_none());
    assert!(!file.exists());
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_makes_or_revokes_counts_at_the_other() {
    let two = TwoNodes::new().await;
    let admin = two.firsts[0].principal();
    let (info, key) = two
        .access(0)
        .create_key(NewKey::new("laptop", Role::User), &admin)
        .await
        .unwrap();
    let key = key.expose_secret();
    soon(|| two.access(1).authenticate(key).is_some()).await;
    let same_name = two
        .access(1)
        .create_key(NewKey::new("laptop", Role::User), &admin)
        .await;
    assert_eq!(same_name.unwrap_err().code(), Code::KeyExists);

    let user = two.access(1).authenticate(key).unwrap();
    let code = two.access(0).mint_login_code(&user).await.unwrap();
    let (_, session) = two.access(1).redeem(code.expose_secret()).await.unwrap();
    let session = session.expose_secret();
    let again = two.access(0).redeem(code.expose_secret()).await;
    assert_eq!(again.unwrap_err().code(), Code::LoginCodeInvalid);
    soon(|| two.access(0).authenticate_session(session).is_some()).await;

    two.access(1).revoke(info.id).await.unwrap();
    soon(|| two.access(0).authenticate(key).is_none()).await;
    assert_eq!(two.access(0).authenticate_session(session), None);
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_at_once_one_uses_the_code_and_one_admin_key_stays() {
    let two = TwoNodes::new().await;
    for _ in 0..10 {
        let admin = two.firsts[0].principal();
        let code = two.access(0).mint_login_code(&admin).await.unwrap();
        let code = code.expose_secret();
        let outcomes = tokio::join!(two.access(0).redeem(code), two.access(1).redeem(code));
        let worked = [outcomes.0.is_ok(), outcomes.1.is_ok()];
        assert_eq!(worked.iter().filter(|worked| **worked).count(), 1);
    }
    let (first, second) = (two.firsts[0].info.id, two.firsts[1].info.id);
    let outcomes = tokio::join!(two.access(0).revoke(first), two.access(1).revoke(second));
    let ((Ok(_), Err(error)) | (Err(error), Ok(_))) = outcomes else {
        panic!("one and only one may go: {outcomes:?}")
    };
    assert_eq!(error.code(), Code::LastAdminKey);
    two.end().await;
}

/// `cargo test --release -p troupe-actors --lib figures -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures, asserts nothing"]
async fn figures() {
    let folder = tempfile::tempdir().unwrap();
    let (access, first, root, _) = started(folder.path()).await;
    let key = first.unwrap().key;
    let began = std::time::Instant::now();
    let calls = 1_000_000;
    for _ in 0..calls {
        assert!(std::hint::black_box(access.authenticate(key.expose_secret())).is_some());
    }
    println!("authenticate: {:?} each", began.elapsed() / calls);
    let _ = root.shutdown().await;
}
