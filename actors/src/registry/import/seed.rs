//! The shape that the official registry had in May 2025, converted to that of 2025-12-11.
//!
//! The old entries were made from READMEs by a program, and it shows: flags stand in one text with their values, an
//! image's name among the arguments of `docker run`, examples where values should be. What is plainly so is put in its
//! right place; what would be a guess is left out, noted, and kept as it was under `_meta`.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use troupe_protocol::server::{
    Argument, ArgumentKind, Package, Remote, Repository, ServerJson, TransportKind,
};

use super::super::error::RegistryError;
use super::server_json::from_manifest;
use super::{Item, Read, parse_json};

mod inputs;

use inputs::{OldInput, argument, variable};

#[derive(Debug, Deserialize)]
struct OldServer {
    #[serde(default)]
    name: String,
    #[serde(default)]
    description: String,
    repository: Option<OldRepository>,
    version_detail: Option<OldVersion>,
    #[serde(default)]
    packages: Vec<Value>,
    #[serde(default)]
    remotes: Vec<OldRemote>,
}

#[derive(Debug, Deserialize)]
struct OldRepository {
    #[serde(default)]
    url: String,
    #[serde(default)]
    source: String,
    id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct OldVersion {
    #[serde(default)]
    version: String,
}

#[derive(Debug, Deserialize)]
struct OldRemote {
    #[serde(default)]
    transport_type: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    headers: Vec<OldInput>,
}

#[derive(Debug, Deserialize)]
struct OldPackage {
    #[serde(default)]
    registry_name: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
    runtime_hint: Option<String>,
    #[serde(default)]
    runtime_arguments: Vec<OldInput>,
    #[serde(default)]
    package_arguments: Vec<OldInput>,
    #[serde(default)]
    environment_variables: Vec<OldInput>,
}

pub(super) fn read(content: &str) -> Result<Read, RegistryError> {
    let entries = match parse_json(content)? {
        Value::Array(entries) => entries,
        Value::Object(mut page) => match page.remove("servers") {
            Some(Value::Array(entries)) => entries,
            _ => {
                return Err(RegistryError::import(
                    "expected a list of servers, or {\"servers\": […]}",
                ));
            }
        },
        _ => {
            return Err(RegistryError::import(
                "expected a list of servers, or {\"servers\": […]}",
            ));
        }
    };
    let mut read = Read::default();
    for (index, entry) in entries.into_iter().enumerate() {
        let name = entry["name"].as_str().unwrap_or_default().to_owned();
        read.take(index, &name, item(index, entry));
    }
    Ok(read)
}

fn item(index: usize, entry: Value) -> Result<Item, String> {
    let old: OldServer = serde_json::from_value(entry).map_err(|error| error.to_string())?;
    if old.name.is_empty() {
        return Err("it has no name: the entry is empty".to_owned());
    }
    let mut notes = Vec::new();
    let mut left_out = Vec::new();
    let mut packages = Vec::new();
    for old_package in old.packages {
        match package(&old_package, &mut notes) {
            Ok(package) => packages.push(package),
            Err(reason) => {
                notes.push(reason);
                left_out.push(old_package);
            }
        }
    }
    let mut remotes = Vec::new();
    for old_remote in old.remotes {
        match remote(&old_remote) {
            Ok(remote) => remotes.push(remote),
            Err(reason) => notes.push(reason),
        }
    }
    let manifest = ServerJson {
        name: old.name,
        description: old.description.trim().to_owned(),
        version: old
            .version_detail
            .map(|detail| detail.version)
            .unwrap_or_default(),
        repository: old
            .repository
            .filter(|repository| !repository.url.is_empty())
            .map(repository),
        packages,
        remotes,
        ..ServerJson::default()
    };
    let mut item = from_manifest(index, manifest, false);
    item.notes.splice(0..0, notes);
    if !left_out.is_empty() {
        item.originals = Map::from_iter([("packages".to_owned(), Value::Array(left_out))]);
    }
    Ok(item)
}

fn repository(old: OldRepository) -> Repository {
    Repository {
        url: old.url,
        source: old.source,
        id: old.id.filter(|id| !id.is_empty()),
        ..Repository::default()
    }
}

fn remote(old: &OldRemote) -> Result<Remote, String> {
    let kind = match old.transport_type.as_str() {
        "sse" => TransportKind::Sse,
        "streamable" | "streamable-http" | "http" => TransportKind::StreamableHttp,
        other => {
            return Err(format!(
                "the remote {} is left out: its transport {other:?} is unknown",
                old.url
            ));
        }
    };
    let headers = old.headers.iter().map(variable).collect();
    Ok(Remote {
        kind,
        url: old.url.clone(),
        headers,
        ..Remote::default()
    })
}

fn package(old: &Value, notes: &mut Vec<String>) -> Result<Package, String> {
    let old: OldPackage =
        serde_json::from_value(old.clone()).map_err(|error| format!("a package is left out: {error}"))?;
    let left_out = |why: &str| format!("the package {:?} is left out: {why}", old.name);
    let mut package = Package {
        identifier: old.name.clone(),
        version: Some(old.version.clone()).filter(|version| !version.is_empty()),
        runtime_hint: old.runtime_hint.clone(),
        runtime_arguments: old.runtime_arguments.iter().map(argument).collect(),
        environment_variables: old.environment_variables.iter().map(variable).collect(),
        ..Package::default()
    };
    match old.registry_name.as_str() {
        "npm" if !is_npm_name(&old.name) => return Err(left_out("this is not the name of an npm package")),
        "npm" => {
            package.registry_type = "npm".to_owned();
            package.package_arguments = own_arguments(&old);
        }
        "pypi" if old.name.contains('/') => return Err(left_out("this is not the name of a PyPI package")),
        "pypi" => {
            package.registry_type = "pypi".to_owned();
            if old.package_arguments.iter().any(is_for_uv) {
                package.runtime_hint = Some("uv".to_owned());
                package
                    .runtime_arguments
                    .extend(old.package_arguments.iter().map(argument));
            } else {
                package.package_arguments = own_arguments(&old);
            }
        }
        "docker" | "oci" => docker(&old, &mut package, notes)?,
        "unknown" | "" => return Err(left_out("which registry has it is unknown")),
        other => return Err(left_out(&format!("the kind of registry {other:?} is unknown"))),
    }
    Ok(package)
}

/// Whether a text is an npm package's name: `name` or `@scope/name`. Others are repositories' names.
fn is_npm_name(name: &str) -> bool {
    match name.strip_prefix('@') {
        Some(scoped) => scoped.split('/').filter(|part| !part.is_empty()).count() == 2,
        None => !name.is_empty() && !name.contains('/'),
    }
}

/// The arguments of the server itself: without those by which the runner is told what to run.
fn own_arguments(old: &OldPackage) -> Vec<Argument> {
    let is_for_runner = |input: &&OldInput| {
        let text = if input.kind == "named" {
            input.name.trim()
        } else {
            input.value.trim()
        };
        let names_package = text
            .strip_prefix(old.name.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('@'));
        names_package || matches!(text, "-y" | "--yes" | "npx" | "uvx")
    };
    old.package_arguments
        .iter()
        .filter(|input| !is_for_runner(input))
        .map(argument)
        .collect()
}

/// Whether an argument belongs to `uv run` and not to the server: such a server is run from a folder.
fn is_for_uv(input: &OldInput) -> bool {
    let text = if input.kind == "named" {
        &input.name
    } else {
        &input.value
    };
    let first = text.split_whitespace().next().unwrap_or_default();
    matches!(
        first,
        "--directory" | "--from" | "--with" | "--project" | "--python" | "-m" | "run"
    ) || first.ends_with(".py")
}

/// Finds the image among the arguments of `docker run`: the first that is neither a flag nor a flag's value.
fn docker(old: &OldPackage, package: &mut Package, notes: &mut Vec<String>) -> Result<(), String> {
    let mut image = None;
    let mut flag_wants_value = false;
    for input in &old.package_arguments {
        let converted = argument(input);
        if image.is_some() {
            package.package_arguments.push(converted);
            continue;
        }
        let is_flag = converted.kind == ArgumentKind::Named || input.value.starts_with('-');
        if !is_flag && !flag_wants_value && input.value != "run" {
            image = Some(input.value.trim().to_owned());
            continue;
        }
        let flag = converted.name.clone().unwrap_or_else(|| input.value.clone());
        let has_value = converted.kind == ArgumentKind::Named && !is_bare(&converted);
        flag_wants_value = is_flag
            && !has_value
            && matches!(
                flag.as_str(),
                "-e" | "--env" | "-v" | "--volume" | "-p" | "--publish" | "--name" | "--network"
            );
        package.runtime_arguments.push(converted);
    }
    let image = match image {
        Some(image) => image,
        None => {
            let guess = old.name.trim_start_matches('@').to_lowercase();
            notes.push(format!(
                "its image is not named; {guess:?} is taken from the package's name"
            ));
            guess
        }
    };
    if image.contains(char::is_whitespace) || image.is_empty() {
        return Err(format!(
            "the package {:?} is left out: {image:?} is not an image",
            old.name
        ));
    }
    package.registry_type = "oci".to_owned();
    package.runtime_hint = Some("docker".to_owned());
    package.identifier = image;
    // The old version is that of the source, not a tag of the image.
    if let Some(version) = package.version.take() {
        package.extra.insert("sourceVersion".to_owned(), json!(version));
    }
    Ok(())
}

fn is_bare(argument: &Argument) -> bool {
    let input = &argument.input;
    input.value.is_none() && input.default.is_none() && input.placeholder.is_none()
}
