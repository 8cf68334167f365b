//! How a server can be reached, found out from its manifest.
//!
//! A remote that speaks streamable HTTP is preferred, then one that speaks server-sent events; else the first package
//! that can be run from here: npm through `npx`, PyPI through `uvx`, OCI images through `docker run`, NuGet through
//! `dnx`. Nothing is ever given to a shell.

use troupe_protocol::access::SecretTemplate;
use troupe_protocol::server::validate::{braced_names, fill_braces};
use troupe_protocol::server::{
    Argument, ArgumentKind, Input, KeyValueInput, Package, Remote, ServerJson, TransportKind,
};

use super::draft::{DraftTransport, DraftValue, DraftValues};

/// Values that a user gives beside a manifest.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub headers: DraftValues,
    pub env: DraftValues,
}

/// What a manifest says of how to reach its server.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Derived {
    /// How it is reached; inputs that are missing are left out of it.
    pub transport: Option<DraftTransport>,
    /// The required inputs without a value, in words.
    pub missing: Vec<String>,
    /// Why remotes and packages could not be used.
    pub notes: Vec<String>,
}

/// How to reach the server of a manifest. Of several ways the first that lacks no input is taken, else the first.
pub(crate) fn transport(manifest: &ServerJson, given: &Given) -> Derived {
    let mut ways = Vec::new();
    let mut notes = Vec::new();
    // The older transport is for servers that speak no other.
    let (older, current): (Vec<&Remote>, Vec<&Remote>) = manifest
        .remotes
        .iter()
        .partition(|remote| remote.kind == TransportKind::Sse);
    let remotes = current.into_iter().chain(older);
    let remotes = remotes.map(|remote| from_remote(remote, given));
    let packages = manifest
        .packages
        .iter()
        .map(|package| from_package(package, given));
    for way in remotes.chain(packages) {
        match way {
            Ok(way) => ways.push(way),
            Err(note) => notes.push(note),
        }
    }
    let best = ways.iter().position(|way| way.missing.is_empty()).unwrap_or(0);
    let chosen = ways.into_iter().nth(best).unwrap_or_default();
    Derived { notes, ..chosen }
}

fn from_remote(remote: &Remote, given: &Given) -> Result<Derived, String> {
    if remote.kind == TransportKind::Stdio {
        return Err(format!("the remote {} cannot be reached over stdio", remote.url));
    }
    let mut missing = Vec::new();
    for name in braced_names(&remote.url) {
        let has_value = remote.variables.get(name).and_then(value_of).is_some();
        if !has_value {
            missing.push(format!("the variable {name} of its address"));
        }
    }
    let url = fill_braces(&remote.url, |name| remote.variables.get(name).and_then(value_of));
    let mut headers = given.headers.clone();
    add_values("header", &remote.headers, &mut headers, &mut missing);
    let transport = match remote.kind {
        TransportKind::Sse => DraftTransport::Sse { url, headers },
        _ => DraftTransport::StreamableHttp { url, headers },
    };
    Ok(Derived {
        transport: Some(transport),
        missing,
        notes: Vec::new(),
    })
}

fn from_package(package: &Package, given: &Given) -> Result<Derived, String> {
    let identifier = &package.identifier;
    if package.transport.kind != TransportKind::Stdio {
        let kind: &str = package.transport.kind.into();
        return Err(format!(
            "the package {identifier} speaks {kind} once it runs; only stdio packages are started"
        ));
    }
    let mut missing = Vec::new();
    let runtime_args = command_line(&package.runtime_arguments, &mut missing);
    let package_args = command_line(&package.package_arguments, &mut missing);
    let mut env = given.env.clone();
    add_values("variable", &package.environment_variables, &mut env, &mut missing);
    let (command, args) = runner(package, runtime_args, package_args, &env)?;
    let transport = DraftTransport::Stdio {
        command: command.to_owned(),
        args,
        cwd: None,
        env,
    };
    Ok(Derived {
        transport: Some(transport),
        missing,
        notes: Vec::new(),
    })
}

/// The program that runs a package, and its whole command line.
fn runner(
    package: &Package,
    runtime_args: Vec<String>,
    package_args: Vec<String>,
    env: &DraftValues,
) -> Result<(&'static str, Vec<String>), String> {
    let identifier = &package.identifier;
    let versioned = match &package.version {
        Some(version) => format!("{identifier}@{version}"),
        None => identifier.clone(),
    };
    let hint = package.runtime_hint.as_deref();
    let mut args = runtime_args;
    let command = match (package.registry_type.as_str(), hint) {
        ("npm", None | Some("npx")) => {
            if !args.iter().any(|arg| arg == "-y" || arg == "--yes") {
                args.push("-y".to_owned());
            }
            args.push(versioned);
            "npx"
        }
        ("pypi", None | Some("uvx")) => {
            args.push(versioned);
            "uvx"
        }
        ("oci", None | Some("docker")) => {
            args = docker_run(args, env);
            args.push(identifier.clone());
            "docker"
        }
        ("nuget", None | Some("dnx")) => {
            args.insert(0, versioned);
            args.push("--yes".to_owned());
            if !package_args.is_empty() {
                args.push("--".to_owned());
            }
            "dnx"
        }
        (kind, None) => {
            return Err(format!(
                "the package {identifier} is of kind {kind}, which cannot be started"
            ));
        }
        (_, Some(hint)) => {
            return Err(format!(
                "the package {identifier} is run by {hint}, which cannot be done from here"
            ));
        }
    };
    args.extend(package_args);
    Ok((command, args))
}

/// `docker run` with what a server on standard input and output needs. Variables are passed by name, so that their
/// values do not stand on the command line.
fn docker_run(runtime_args: Vec<String>, env: &DraftValues) -> Vec<String> {
    let mut args = vec!["run".to_owned()];
    for needed in ["-i", "--rm"] {
        if !runtime_args.iter().any(|arg| arg == needed) {
            args.push(needed.to_owned());
        }
    }
    let is_passed = |name: &str| {
        let passes = |pair: &[String]| {
            matches!(pair[0].as_str(), "-e" | "--env") && pair[1].split('=').next() == Some(name)
        };
        runtime_args.windows(2).any(passes)
    };
    for name in env.keys().filter(|name| !is_passed(name)) {
        args.extend(["-e".to_owned(), name.clone()]);
    }
    args.extend(runtime_args.into_iter().skip_while(|arg| arg == "run"));
    args
}

/// What arguments put on the command line.
fn command_line(arguments: &[Argument], missing: &mut Vec<String>) -> Vec<String> {
    let mut line = Vec::new();
    for argument in arguments {
        let label = argument
            .name
            .as_deref()
            .or(argument.value_hint.as_deref())
            .unwrap_or("value");
        let is_required = argument.input.is_required == Some(true);
        match (argument.kind, value_of(&argument.input)) {
            (ArgumentKind::Positional, Some(value)) => line.push(value),
            (ArgumentKind::Named, Some(value)) if argument.input.format.as_deref() == Some("boolean") => {
                if value == "true" {
                    line.push(label.to_owned());
                }
            }
            (ArgumentKind::Named, Some(value)) => line.extend([label.to_owned(), value]),
            // A flag that takes no value has nothing that a value could be made of.
            (ArgumentKind::Named, None) if is_bare_flag(argument) => line.push(label.to_owned()),
            (_, None) if is_required => missing.push(format!("the argument {label}")),
            (_, None) => {}
        }
    }
    line
}

fn is_bare_flag(argument: &Argument) -> bool {
    let input = &argument.input;
    let is_about_a_value = input.value.is_some()
        || input.placeholder.is_some()
        || !input.choices.is_empty()
        || argument.value_hint.is_some();
    !is_about_a_value
        && input.is_required == Some(true)
        && matches!(input.format.as_deref(), None | Some("boolean"))
}

/// Adds the values that a manifest gives for headers or variables to those that the user gave.
fn add_values(what: &str, inputs: &[KeyValueInput], values: &mut DraftValues, missing: &mut Vec<String>) {
    for KeyValueInput { name, input } in inputs {
        if values.contains_key(name) {
            continue;
        }
        match value_of(input) {
            Some(value) => {
                values.insert(name.clone(), DraftValue::Keep(SecretTemplate::literal(&value)));
            }
            None if input.is_required == Some(true) => missing.push(format!("the {what} {name}")),
            None => {}
        }
    }
}

/// The value that a manifest itself gives for an input.
fn value_of(input: &Input) -> Option<String> {
    let Some(template) = &input.value else {
        return input.default.clone();
    };
    let filled = fill_braces(template, |name| input.variables.get(name).and_then(value_of));
    let lacks_value = braced_names(&filled)
        .iter()
        .any(|name| input.variables.contains_key(*name));
    if lacks_value { None } else { Some(filled) }
}

#[cfg(test)]
mod tests;
