#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

fn name(text: &str) -> ServerName {
    ServerName::new(text).unwrap()
}

pub(crate) fn manifest(manifest_name: &str, version: &str) -> ServerJson {
    ServerJson {
        name: manifest_name.into(),
        description: "x".into(),
        version: version.into(),
        ..ServerJson::default()
    }
}

pub(crate) fn registration(server: &str, manifest_name: &str, version: &str) -> Registration {
    Registration {
        name: name(server),
        manifest: manifest(manifest_name, version),
        operation: Operation::default(),
    }
}

fn apply(state: &mut RegistryState, change: Result<Change, RegistryError>) {
    state.apply(change.unwrap());
}

#[test]
fn versions_are_immutable() {
    let mut state = RegistryState::default();
    let change = state.register(registration("x", "com.example/x", "1.0.0"), at(1));
    apply(&mut state, change);

    let same = state
        .publish(&name("x"), manifest("com.example/x", "1.0.0"), at(2))
        .unwrap();
    assert!(same.is_empty(), "publishing the same again is no change");

    let mut other = manifest("com.example/x", "1.0.0");
    other.description = "y".into();
    let error = state.publish(&name("x"), other, at(2)).unwrap_err();
    assert!(matches!(error, RegistryError::VersionExists { .. }), "{error}");

    let error = state
        .publish(&name("x"), manifest("com.example/y", "2.0.0"), at(2))
        .unwrap_err();
    assert!(matches!(error, RegistryError::OtherManifest { .. }), "{error}");

    let change = state.publish(&name("x"), manifest("com.example/x", "0.9.0"), at(3));
    apply(&mut state, change);
    let record = state.get(&name("x")).unwrap();
    assert_eq!(
        record.latest().unwrap().manifest.version,
        "1.0.0",
        "an older version does not become the latest"
    );
    assert_eq!((record.versions.len(), record.revision), (2, 2));
}

#[test]
fn names_are_unique_in_both_directions() {
    let mut state = RegistryState::default();
    let change = state.register(registration("x", "com.example/x", "1.0.0"), at(1));
    apply(&mut state, change);
    let same_name = state
        .register(registration("x", "com.example/y", "1.0.0"), at(1))
        .unwrap_err();
    assert!(matches!(same_name, RegistryError::Exists { .. }));
    let same_manifest = state
        .register(registration("y", "com.example/x", "1.0.0"), at(1))
        .unwrap_err();
    assert!(matches!(same_manifest, RegistryError::ManifestTaken { .. }));
    let builtin = state
        .register(registration("troupe", "a/b", "1"), at(1))
        .unwrap_err();
    assert!(matches!(builtin, RegistryError::BuiltIn));
}

#[test]
fn what_cannot_be_reached_cannot_be_enabled() {
    let mut state = RegistryState::default();
    let change = state.register(registration("x", "com.example/x", "1.0.0"), at(1));
    apply(&mut state, change);
    let enable = ServerPatch {
        enabled: Some(true),
        ..ServerPatch::default()
    };
    let error = state.update(&name("x"), &enable, None, at(2)).unwrap_err();
    assert!(matches!(error, RegistryError::NoTransport { .. }));
    let transport = Transport::StreamableHttp {
        url: "https://h/".into(),
        headers: Default::default(),
    };
    let change = state.update(&name("x"), &enable, Some(transport), at(2));
    apply(&mut state, change);
    assert!(state.get(&name("x")).unwrap().operation.enabled);
}

#[test]
fn texts_of_published_manifests_are_changed_by_publishing() {
    let mut state = RegistryState::default();
    let change = state.register(registration("x", "com.example/x", "1.0.0"), at(1));
    apply(&mut state, change);
    let change = state.register(registration("y", "local/y", "1.0.0"), at(1));
    apply(&mut state, change);
    let rename = ServerPatch {
        title: Some("New".into()),
        ..ServerPatch::default()
    };
    assert!(state.update(&name("x"), &rename, None, at(2)).is_err());
    let change = state.update(&name("y"), &rename, None, at(2));
    apply(&mut state, change);
    let latest = state.get(&name("y")).unwrap().latest().unwrap().manifest.clone();
    assert_eq!(
        (latest.version.as_str(), latest.title.as_deref()),
        ("1.0.1", Some("New"))
    );
}

#[test]
fn removed_servers_are_remembered_up_to_a_limit() {
    let mut state = RegistryState::default();
    for index in 0..=DELETED_MAX {
        let server = format!("s{index}");
        let change = state.register(registration(&server, &format!("a/{server}"), "1"), at(0));
        apply(&mut state, change);
        let change = state.remove(&name(&server), at(index as i64));
        apply(&mut state, change);
    }
    assert_eq!(state.deleted().len(), DELETED_MAX);
    assert!(!state.deleted().contains_key("a/s0"), "the oldest is forgotten");
}

/// What a user may do in any order.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    Register(u8),
    Publish(u8, u8),
    Remove(u8),
}

impl Deed {
    pub(crate) fn decide(&self, state: &RegistryState, now: Timestamp) -> Result<Change, RegistryError> {
        match self {
            Self::Register(server) => {
                let registration = registration(&format!("s{server}"), &format!("a/s{server}"), "1.0.0");
                state.register(registration, now)
            }
            Self::Publish(server, version) => {
                let manifest = manifest(&format!("a/s{server}"), &format!("1.{version}.0"));
                state.publish(&name(&format!("s{server}")), manifest, now)
            }
            Self::Remove(server) => state.remove(&name(&format!("s{server}")), now),
        }
    }
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        (0..4u8).prop_map(Deed::Register),
        (0..4u8, 0..6u8).prop_map(|(server, version)| Deed::Publish(server, version)),
        (0..4u8).prop_map(Deed::Remove),
    ];
    prop::collection::vec(deed, 0..40)
}

proptest! {
    #[test]
    fn one_version_is_the_latest_and_each_manifest_has_its_server(deeds in deeds()) {
        let mut state = RegistryState::default();
        for (step, deed) in deeds.into_iter().enumerate() {
            let Ok(change) = deed.decide(&state, at(step as i64)) else { continue };
            let before = state.clone();
            state.apply(change);
            let mut again = before.clone();
            again.apply(before.difference(&state));
            prop_assert_eq!(again.servers(), state.servers());
            prop_assert_eq!(again.deleted(), state.deleted());
            prop_assert_eq!(&again.by_manifest, &state.by_manifest);
        }
        prop_assert_eq!(state.by_manifest.len(), state.servers().len());
        for record in state.servers().values() {
            let latest = record.versions.iter().filter(|version| version.official.is_latest).count();
            prop_assert_eq!(latest, 1);
        }
    }
}
