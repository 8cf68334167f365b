#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::{Config, ConfigError, Flags, error::nearest, load, load::parse, read_secret_file};

const SHIPPED: &str = include_str!("../../../cluster.toml");

fn wrong(text: &str) -> String {
    parse(Path::new("cluster.toml"), text).unwrap_err().to_string()
}

fn load_with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let flags = Flags {
        config: Some(file.path().to_owned()),
        ..Flags::default()
    };
    load(
        &flags,
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

#[test]
fn the_shipped_file_says_exactly_the_defaults() {
    assert_eq!(
        parse(Path::new("cluster.toml"), SHIPPED).unwrap(),
        Config::default()
    );
}

#[test]
fn the_shipped_file_documents_every_setting() {
    let settings = toml::Table::try_from(Config::default()).unwrap();
    let documented: toml::Table = SHIPPED.parse().unwrap();
    let names = |table: &toml::Table| -> Vec<String> {
        let mut names: Vec<String> = table
            .iter()
            .flat_map(|(section, keys)| {
                keys.as_table()
                    .unwrap()
                    .keys()
                    .map(move |key| format!("{section}.{key}"))
            })
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&settings), names(&documented));
    let lines: Vec<&str> = SHIPPED.lines().collect();
    for (above, line) in lines.iter().zip(lines.iter().skip(1)) {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(above.starts_with('#'), "no comment above `{line}`");
        }
    }
}

#[test]
fn an_unknown_setting_is_refused_with_its_place_and_what_is_allowed() {
    let message = wrong("[health]\nprobe_intervall_ms = 5\n");
    assert!(
        message.starts_with("cluster.toml:2:1: [health] probe_intervall_ms = 5: unknown setting"),
        "{message}"
    );
    assert!(message.contains("`probe_timeout_ms`"), "{message}");
    assert!(
        message.ends_with("did you mean `probe_interval_ms`?"),
        "{message}"
    );
}

#[test]
fn an_unknown_section_is_refused() {
    let message = wrong("[helth]\n");
    assert!(
        message.starts_with("cluster.toml:1:2: unknown setting `helth`"),
        "{message}"
    );
    assert!(message.ends_with("did you mean `health`?"), "{message}");
}

#[test]
fn a_number_out_of_range_is_refused_with_the_range() {
    let message = wrong("[edge]\nopen = true\n  body_bytes_max = 3\n");
    assert_eq!(
        message,
        "cluster.toml:3:20: [edge] body_bytes_max = 3: 3 is out of range; allowed: 1024 to 268435456"
    );
}

#[test]
fn wrong_types_and_forms_are_refused() {
    assert!(wrong("[edge]\nlisten = 7500\n").contains("[edge] listen = 7500: invalid type"));
    assert!(wrong("[edge]\nlisten = \"here\"\n").contains("allowed: an IP address and a port"));
    assert!(wrong("[log]\nfilter = \"troupe=loud\"\n").contains("allowed: a level"));
    assert!(wrong("[log]\nformat = \"xml\"\n").contains("`human`"));
    assert!(wrong("[router]\nplanner_url = \"ftp://x\"\n").contains("http://"));
    assert!(wrong("[edge\n").starts_with("cluster.toml:1:"));
}

#[test]
fn the_environment_overrides_the_file_and_is_checked_alike() {
    let config = load_with(&[
        ("TROUPE_EDGE_LISTEN", "127.0.0.1:1"),
        ("TROUPE_EDGE_HOSTS_ALLOWED", "a, b"),
        ("PATH", "/"),
    ])
    .unwrap();
    assert_eq!(config.edge.listen.port(), 1);
    assert_eq!(config.edge.hosts_allowed, ["a", "b"]);
    let unknown = load_with(&[("TROUPE_EDGE_LISTN", "x")]).unwrap_err().to_string();
    assert!(unknown.contains("did you mean TROUPE_EDGE_LISTEN?"), "{unknown}");
    let outside = load_with(&[("TROUPE_HEALTH_PROBE_INTERVAL_MS", "1")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        outside,
        "environment variable TROUPE_HEALTH_PROBE_INTERVAL_MS: 1 is out of range; allowed: 100 to 86400000"
    );
}

#[test]
fn flags_override_the_environment() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let flags = Flags {
        config: Some(file.path().to_owned()),
        listen: Some("127.0.0.1:2".parse().unwrap()),
        ..Flags::default()
    };
    let config = load(
        &flags,
        [("TROUPE_EDGE_LISTEN".to_owned(), "127.0.0.1:1".to_owned())].into_iter(),
    )
    .unwrap();
    assert_eq!(config.edge.listen.port(), 2);
}

#[test]
fn open_is_refused_off_loopback() {
    let refused = load_with(&[
        ("TROUPE_EDGE_OPEN", "true"),
        ("TROUPE_EDGE_LISTEN", "0.0.0.0:7500"),
    ])
    .unwrap_err();
    assert!(refused.to_string().contains("loopback"), "{refused}");
}

#[test]
fn a_missing_file_is_said_to_be_missing() {
    let flags = Flags {
        config: Some("/no/such/file.toml".into()),
        ..Flags::default()
    };
    let error = load(&flags, std::iter::empty()).unwrap_err().to_string();
    assert!(
        error.starts_with("/no/such/file.toml: cannot read the configuration"),
        "{error}"
    );
}

#[test]
fn suggestions_stay_silent_when_nothing_is_near() {
    assert_eq!(nearest("zzz", ["listen", "open"].into_iter()), None);
}

#[test]
fn settings_of_the_cluster_that_do_not_go_together_are_refused() {
    let refused = |name: &str, value: &str| load_with(&[(name, value)]).unwrap_err().to_string();
    assert!(refused("TROUPE_CLUSTER_VOTERS_MAX", "4").ends_with("allowed: 1, 3, 5"));
    assert!(refused("TROUPE_CLUSTER_LISTEN", "0.0.0.0:7501").contains("cluster.advertise"));
    assert!(refused("TROUPE_CLUSTER_ELECTION_TIMEOUT_MS", "150").contains("twice cluster.heartbeat_ms"));
    assert!(refused("TROUPE_CLUSTER_DETECTION_MS", "250").contains("at least half of cluster.lease_ms"));
    assert!(refused("TROUPE_CLUSTER_ADVERTISE", "here").contains("host:port"));
    assert!(refused("TROUPE_CLUSTER_ADVERTISE", "0.0.0.0:7501").contains("host:port"));
    assert!(refused("TROUPE_CLUSTER_ADVERTISE", "[::]:7501").contains("host:port"));
    assert!(refused("TROUPE_CLUSTER_LISTEN", "here").contains("allowed: an IP address and a port"));
    assert!(refused("TROUPE_NODE_NAME", "Node A").contains("a-z, 0-9 and -"));
}

#[test]
fn hosts_and_origins_that_no_request_could_have_are_refused() {
    let loaded = |name: &str, value: &str| load_with(&[(name, value)]);
    for host in ["https://troupe.example.org", "a@troupe.example.org"] {
        let refused = loaded("TROUPE_EDGE_HOSTS_ALLOWED", host).unwrap_err().to_string();
        assert!(refused.contains("such as troupe.example.org"), "{refused}");
    }
    for origin in ["troupe.example.org", "https://troupe.example.org/ui", "null"] {
        let refused = loaded("TROUPE_EDGE_ORIGINS_ALLOWED", origin)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("such as https://troupe.example.org"),
            "{refused}"
        );
    }
    loaded(
        "TROUPE_EDGE_HOSTS_ALLOWED",
        "troupe.example.org,a:7500,[::1]:7500",
    )
    .unwrap();
    loaded(
        "TROUPE_EDGE_ORIGINS_ALLOWED",
        "https://troupe.example.org/,vscode-webview://a:1",
    )
    .unwrap();
}

#[cfg(unix)]
#[test]
fn a_secret_that_everybody_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (mode, is_taken) in [(0o600, true), (0o640, true), (0o644, false)] {
        file.as_file()
            .set_permissions(PermissionsExt::from_mode(mode))
            .unwrap();
        let read = read_secret_file("vault.passphrase_file", path);
        assert_eq!(read.is_ok(), is_taken, "{mode:o}");
    }
}

#[test]
fn a_node_listens_everywhere_when_it_says_where_it_is_reached() {
    let config = load_with(&[
        ("TROUPE_CLUSTER_LISTEN", "0.0.0.0:7501"),
        ("TROUPE_CLUSTER_ADVERTISE", "a.example.org:7501"),
    ]);
    assert_eq!(
        config.unwrap().cluster.advertise.get(),
        Some("a.example.org:7501")
    );
}
