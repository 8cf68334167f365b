#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

use base64::Engine as _;
use troupe_protocol::access::SecretTemplate;
use troupe_protocol::error::{Code, Coded};

use super::*;
use crate::runtime::{Deadline, Root, SystemConfig, testkit};

const PLANTED: &str = "hunter2-PLANTED-4f1c9b7e-do-not-leak";

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

async fn started(folder: &Path, source: KeySource) -> Result<(VaultHandle, Root, System), VaultError> {
    let store = Store::open(folder)?;
    let key = VaultKey::open(&store, source).await?;
    let system = System::new(SystemConfig::default());
    let (handle, spec) = actor(&system, ActorPath::new("node/vault"), &store, key)?;
    let root = testkit::start(&system, vec![spec]).await.unwrap();
    Ok((handle, root, system))
}

async fn resolve(vault: &VaultHandle, template: &str) -> Result<String, VaultError> {
    let template = SecretTemplate::new(template).unwrap();
    let clear = vault
        .resolve_for(
            &template,
            "server/github",
            Deadline::within(Duration::from_secs(5)),
        )
        .await?;
    Ok(clear.expose_secret().to_owned())
}

/// Every byte under a folder, file by file.
fn files_of(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_of(&entry.path()));
        } else {
            files.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    files
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_planted_secret_is_in_no_file_and_in_no_state_that_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (vault, root, system) = started(folder.path(), KeySource::File).await.unwrap();
    vault.put(name("planted"), PLANTED.into()).await.unwrap();
    vault.put(name("planted"), PLANTED.into()).await.unwrap();
    assert_eq!(
        resolve(&vault, "Bearer ${secret:planted}").await.unwrap(),
        format!("Bearer {PLANTED}")
    );
    let id = system.directory().find(&ActorPath::new("node/vault")).unwrap();
    let detail = system
        .directory()
        .detail(id, Deadline::within(Duration::from_secs(5)))
        .await
        .unwrap();
    let shown = serde_json::to_string(&(vault.list(), detail, system.traces().latest(100))).unwrap();
    assert!(
        shown.contains(r#""resolved":1"#) && !shown.contains(PLANTED),
        "{shown}"
    );
    let _ = root.shutdown().await;

    let base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(PLANTED);
    let forms = [PLANTED.to_owned(), base64, hex::encode(PLANTED)];
    let files = files_of(folder.path());
    assert!(
        files.iter().any(|(_, bytes)| holds(bytes, "secret/planted")),
        "the secret's record was not looked at"
    );
    for (path, bytes) in &files {
        for form in &forms {
            assert!(
                !holds(bytes, form),
                "{} holds the secret as {form}",
                path.display()
            );
        }
    }
}

#[tokio::test]
async fn secrets_and_their_use_survive_a_restart_of_the_node_and_of_the_actor() {
    let folder = tempfile::tempdir().unwrap();
    let (vault, root, _) = started(folder.path(), KeySource::File).await.unwrap();
    let info = vault.put(name("token"), "alpha".into()).await.unwrap();
    resolve(&vault, "${secret:token}").await.unwrap();
    let _ = root.shutdown().await;
    drop(vault);

    let (vault, root, system) = started(folder.path(), KeySource::File).await.unwrap();
    assert_eq!(resolve(&vault, "${secret:token}").await.unwrap(), "alpha");
    let listed = vault.list();
    assert_eq!(
        (listed[0].created_at, listed[0].used_by.clone()),
        (info.created_at, vec!["server/github".to_owned()])
    );
    assert!(
        listed[0].last_used_at.is_some() && vault.contains(&name("token")) && !vault.contains(&name("other"))
    );

    let id = system.directory().find(&ActorPath::new("node/vault")).unwrap();
    testkit::crash(&system, id, testkit::Crash::Panic).unwrap();
    assert_eq!(resolve(&vault, "${secret:token}").await.unwrap(), "alpha");
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn a_secret_takes_the_place_of_the_expected_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (vault, root, _) = started(folder.path(), KeySource::File).await.unwrap();
    vault.put(name("token"), "alpha".into()).await.unwrap();
    let replace = |expected: &str, value: &str| {
        let (vault, expected, value) = (vault.clone(), expected.into(), value.into());
        async move { vault.replace(name("token"), expected, value).await }
    };
    replace("alpha", "beta").await.unwrap();
    let changed = replace("alpha", "gamma").await.unwrap_err();
    assert_eq!(changed.code(), Code::WriteConflict, "{changed}");
    assert_eq!(resolve(&vault, "${secret:token}").await.unwrap(), "beta");
    vault.remove(&name("token")).await.unwrap();
    let removed = replace("beta", "gamma").await.unwrap_err();
    assert_eq!(removed.code(), Code::WriteConflict, "{removed}");
    assert!(!vault.contains(&name("token")));
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (vault, root, _) = started(folder.path(), KeySource::File).await.unwrap();
    vault.put(name("token"), "alpha".into()).await.unwrap();
    vault.remove(&name("token")).await.unwrap();
    let error = resolve(&vault, "x ${secret:token}").await.unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().contains("`token`")),
        (Code::SecretNotFound, true)
    );
    assert_eq!(
        vault.remove(&name("token")).await.unwrap_err().code(),
        Code::SecretNotFound
    );
    assert!(vault.list().is_empty());
    let _ = root.shutdown().await;
}

async fn open_error(folder: &Path, source: KeySource) -> VaultError {
    let store = Store::open(folder).unwrap();
    VaultKey::open(&store, source).await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn a_vault_without_its_key_file_says_so_and_makes_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("vault.key");
    VaultKey::open(&Store::open(folder.path()).unwrap(), KeySource::File)
        .await
        .unwrap();
    let text = fs::read_to_string(&key_file).unwrap();
    assert!(text.starts_with("troupe-vault-key-1:"));

    fs::remove_file(&key_file).unwrap();
    assert!(matches!(
        open_error(folder.path(), KeySource::File).await,
        VaultError::KeyMissing { .. }
    ));
    assert!(!key_file.exists());
    crate::store::files::write_private(
        &key_file,
        format!("troupe-vault-key-1:{}", "A".repeat(43)).as_bytes(),
    )
    .unwrap();
    assert!(matches!(
        open_error(folder.path(), KeySource::File).await,
        VaultError::KeyWrong { .. }
    ));
    crate::store::files::write_private(&key_file, b"something else").unwrap();
    let error = open_error(folder.path(), KeySource::File).await;
    assert_eq!(error.code(), Code::VaultSealed);
    assert!(!error.to_string().contains("something else"));
    crate::store::files::write_private(&key_file, text.as_bytes()).unwrap();
    VaultKey::open(&Store::open(folder.path()).unwrap(), KeySource::File)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_passphrase_opens_the_vault_again_and_another_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let right = || KeySource::Passphrase("correct horse battery".into());
    let (vault, root, _) = started(folder.path(), right()).await.unwrap();
    vault.put(name("token"), "alpha".into()).await.unwrap();
    let _ = root.shutdown().await;
    drop(vault);
    assert!(!folder.path().join("vault.key").exists());
    let wrong = KeySource::Passphrase("correct horse batteries".into());
    assert_eq!(
        open_error(folder.path(), wrong).await,
        VaultError::PassphraseWrong
    );
    assert_eq!(
        open_error(folder.path(), KeySource::Passphrase("short".into())).await,
        VaultError::PassphraseShort
    );
    assert_eq!(
        open_error(folder.path(), KeySource::File).await,
        VaultError::PassphraseNeeded
    );
    let (vault, root, _) = started(folder.path(), right()).await.unwrap();
    assert_eq!(resolve(&vault, "${secret:token}").await.unwrap(), "alpha");
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn the_clusters_key_opens_the_vault_and_anothers_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let right = || KeySource::Cluster(ClusterKey::new([7; 32]));
    let (vault, root, _) = started(folder.path(), right()).await.unwrap();
    vault.put(name("token"), "alpha".into()).await.unwrap();
    let _ = root.shutdown().await;
    drop(vault);
    let wrong = KeySource::Cluster(ClusterKey::new([8; 32]));
    assert_eq!(
        open_error(folder.path(), wrong).await,
        VaultError::ClusterKeyWrong
    );
    assert!(!folder.path().join("vault.key").exists());
    let (vault, root, _) = started(folder.path(), right()).await.unwrap();
    assert_eq!(resolve(&vault, "${secret:token}").await.unwrap(), "alpha");
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn a_vault_with_a_key_file_is_taken_into_the_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let (vault, root, _) = started(folder.path(), KeySource::File).await.unwrap();
    vault.put(name("token"), "alpha".into()).await.unwrap();
    let _ = root.shutdown().await;
    drop(vault);
    for _ in 0..2 {
        let source = KeySource::Cluster(ClusterKey::new([7; 32]));
        let (vault, root, _) = started(folder.path(), source).await.unwrap();
        assert_eq!(resolve(&vault, "${secret:token}").await.unwrap(), "alpha");
        let _ = root.shutdown().await;
        // Nodes that join have no such file.
        let _ = fs::remove_file(folder.path().join("vault.key"));
    }
}

/// Two nodes with what stands for a log between them.
#[tokio::test]
async fn a_secret_that_is_put_at_one_node_is_known_at_the_other() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = folders
        .each_ref()
        .map(|folder| Store::open(folder.path()).unwrap());
    crate::store::replicated::testkit::join(&stores);
    let source = || KeySource::Cluster(ClusterKey::new([7; 32]));
    let mut nodes = Vec::new();
    for store in &stores {
        let system = System::new(SystemConfig::default());
        let key = VaultKey::open(store, source()).await.unwrap();
        let (vault, spec) = actor(&system, ActorPath::new("node/vault"), store, key).unwrap();
        nodes.push((vault, testkit::start(&system, vec![spec]).await.unwrap()));
    }
    let (here, there) = (&nodes[0].0, &nodes[1].0);
    here.put(name("token"), "alpha".into()).await.unwrap();
    assert_eq!(resolve(there, "${secret:token}").await.unwrap(), "alpha");
    there.put(name("token"), "beta".into()).await.unwrap();
    assert_eq!(resolve(here, "${secret:token}").await.unwrap(), "beta");
    there.remove(&name("token")).await.unwrap();
    testkit::eventually(testkit::PATIENCE, || !here.contains(&name("token")))
        .await
        .unwrap();
    let error = resolve(here, "${secret:token}").await.unwrap_err();
    assert_eq!(error.code(), Code::SecretNotFound);
    for (_, root) in nodes {
        let _ = root.shutdown().await;
    }
}
