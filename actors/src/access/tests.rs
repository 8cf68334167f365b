#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::ExposeSecret;
use troupe_protocol::error::{Code, Coded};

use super::*;
use crate::runtime::{Root, SystemConfig, testkit};

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
async fn keys_are_made_listed_revoked_and_never_kept_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (access, first, root, _) = started(folder.path()).await;
    let admin = first.unwrap().principal();
    let (info, key) = access.create_key("laptop", Role::User, &admin).await.unwrap();
    let key = key.expose_secret();
    assert!(info.hint.ends_with('…') && key.starts_with(info.hint.trim_end_matches('…')));
    let principal = access.authenticate(key).unwrap();
    assert_eq!(
        (principal.name.as_str(), principal.role, principal.key_id),
        ("laptop", Role::User, Some(info.id))
    );
    assert_eq!(
        access
            .create_key("laptop", Role::User, &admin)
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
