//! The invariants of ARCHITECTURE.md, as far as they can be read off the sources.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
        .to_owned()
}

/// The names of a crate's dependencies, those for tests left out.
fn dependencies(crate_folder: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(crate_folder).join("Cargo.toml")).expect("a manifest");
    let section = manifest
        .split("\n[dependencies]\n")
        .nth(1)
        .expect("a list of dependencies");
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Every source file below a folder with its text, tests left out.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if name == "tests" || name == "tests.rs" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                found.push((path, code));
            }
        }
    }
    assert!(
        found.len() > 5,
        "no sources below {folder}: the test would hold nothing"
    );
    found
}

fn without_comments(code: &str) -> String {
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn assert_absent(folder: &str, forbidden: &[&str], why: &str) {
    for (path, code) in sources(folder) {
        let code = without_comments(&code);
        for word in forbidden {
            assert!(!code.contains(word), "{} says {word}: {why}", path.display());
        }
    }
}

#[test]
fn the_protocol_does_no_io_and_knows_no_actor_library() {
    let dependencies = dependencies("protocol");
    for forbidden in [
        "tokio",
        "ractor",
        "reqwest",
        "axum",
        "sled",
        "hyper",
        "troupe-actors",
        "troupe",
    ] {
        assert!(
            !dependencies.iter().any(|name| name == forbidden),
            "protocol depends on {forbidden}"
        );
    }
    let io = [
        "std::fs",
        "std::net",
        "std::process",
        "std::env",
        "SystemTime::now",
        "Timestamp::now()",
    ];
    assert_absent(
        "protocol/src",
        &io,
        "the protocol does no I/O and looks at no clock",
    );
}

#[test]
fn the_actors_know_nothing_of_http_servers() {
    let dependencies = dependencies("actors");
    for forbidden in ["axum", "tower", "tower-http", "utoipa", "troupe", "troupe-web"] {
        assert!(
            !dependencies.iter().any(|name| name == forbidden),
            "actors depend on {forbidden}"
        );
    }
    assert_absent(
        "actors/src",
        &["axum::", "hyper::server", "hyper::service"],
        "HTTP servers are the business of node",
    );
}

#[test]
fn the_node_reaches_actors_only_through_their_handles() {
    let dependencies = dependencies("node");
    for forbidden in ["ractor", "sled", "fastembed", "ort"] {
        assert!(
            !dependencies.iter().any(|name| name == forbidden),
            "node depends on {forbidden}"
        );
    }
}

/// Its own actors go through the runtime. One file more: sessions between nodes are ractor_cluster's, whose actors are
/// ractor's and cannot be wrapped;
/// and the measurement that compares ours with them.
#[test]
fn only_the_runtime_and_the_sessions_between_nodes_speak_to_ractor() {
    for (path, code) in sources("actors/src") {
        let is_runtime = path.components().any(|part| part.as_os_str() == "runtime");
        let may_see_sessions =
            ["session.rs", "bench/library.rs"].map(|file| format!("actors/src/cluster/link/{file}"));
        if !is_runtime && !may_see_sessions.iter().any(|file| path.ends_with(file)) {
            let code = without_comments(&code);
            for library in ["ractor::", "ractor_cluster::"] {
                assert!(
                    !code.contains(library),
                    "{} uses {library} directly",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn no_task_is_without_an_owner() {
    for folder in ["actors/src", "node/src"] {
        for (path, code) in sources(folder) {
            let code = without_comments(&code);
            let lines: Vec<&str> = code.lines().collect();
            for (number, line) in lines
                .iter()
                .enumerate()
                .filter(|(_, line)| line.contains("tokio::spawn("))
            {
                let owned = line.contains("AbortOnDropHandle::new(");
                let excused = lines[number.saturating_sub(6)..number]
                    .iter()
                    .any(|line| line.contains("disallowed_methods"));
                assert!(
                    owned || excused,
                    "{}: {line:?} has no owner and gives no reason",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn nothing_speaks_bincode_but_the_wire() {
    for folder in ["protocol/src", "actors/src", "node/src"] {
        for (path, code) in sources(folder) {
            let is_wire = path.ends_with("protocol/src/wire.rs");
            assert!(
                is_wire || !without_comments(&code).contains("bincode::"),
                "{} uses bincode",
                path.display()
            );
        }
    }
}

/// Trees of one name would be one tree: records of two kinds in it, and neither kind's reader could read the other's.
#[test]
fn no_two_replicated_trees_have_one_name() {
    let mut named: Vec<(String, PathBuf)> = Vec::new();
    for (path, code) in sources("actors/src") {
        let declared = code.lines().filter_map(|line| {
            let (name, value) = line.split_once("const ")?.1.split_once(": &str = \"")?;
            name.ends_with("TREE").then(|| value.split('"').next())?
        });
        for name in declared {
            let other = named.iter().find(|(taken, _)| taken == name);
            assert!(
                other.is_none(),
                "{} and {other:?} have one name: {name}",
                path.display()
            );
            named.push((name.to_owned(), path.clone()));
        }
    }
    assert!(named.len() > 5, "{named:?}: the test would hold nothing");
}

#[test]
fn files_stay_readable() {
    for folder in ["protocol/src", "actors/src", "node/src"] {
        for (path, _) in sources(folder) {
            let lines = fs::read_to_string(&path)
                .expect("a readable file")
                .lines()
                .count();
            let is_table = path.ends_with("protocol/src/error.rs");
            assert!(
                is_table || lines <= 600,
                "{} has {lines} lines: split it",
                path.display()
            );
        }
    }
}
