//! What is wrong with a manifest, and in which field.
//!
//! Source: the schema 2025-12-11 and `official-registry-requirements.md` of `modelcontextprotocol/registry`. We ask
//! for what the schema asks for, and beyond it only that versions are no ranges; who owns a namespace or a package is
//! the official registry's concern.

use std::collections::BTreeMap;

use crate::error::{Code, Coded};

use super::manifest::{
    Argument, ArgumentKind, Input, Package, PackageTransport, Remote, ServerJson, TransportKind,
};

/// The most characters of a manifest's name.
pub const MANIFEST_NAME_CHARS_MAX: usize = 200;
/// The most characters of a title.
pub const TITLE_CHARS_MAX: usize = 100;
/// The most characters of a description.
pub const DESCRIPTION_CHARS_MAX: usize = 100;
/// The most characters of a version.
pub const VERSION_CHARS_MAX: usize = 255;
/// The most faults that are reported of one manifest.
const FAULTS_MAX: usize = 20;

/// What can be wrong with a field. Its kebab-case name is stable and stands in the error's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub enum Fault {
    /// It is missing, or of the wrong type, or has an unknown choice.
    Unreadable,
    /// It must not be empty.
    Empty,
    /// It has too many characters.
    TooLong,
    /// It has too few characters.
    TooShort,
    /// It is not in reverse-DNS form with one slash.
    NamePattern,
    /// It is a range of versions.
    VersionRange,
    /// It is the reserved word `latest`.
    VersionReserved,
    /// It is not an address.
    UrlInvalid,
    /// It is an address of a scheme that is not allowed here.
    UrlScheme,
    /// It uses `{name}` without saying what that stands for.
    UrlVariable,
    /// It is required for this transport, or not allowed for it.
    TransportUrl,
    /// It is a transport that cannot be used here.
    TransportKind,
    /// It has a flag's name with a value in it.
    ArgumentName,
    /// It has neither `value` nor `valueHint`.
    ArgumentValue,
    /// It is not one of the choices.
    Choice,
    /// It is not 64 lower-case hex digits.
    Sha256,
    /// It has a space.
    Space,
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail} ({fault})")]
pub struct FieldError {
    /// Which, as `packages[0].transport.url`.
    pub field: String,
    /// What kind of wrong.
    pub fault: Fault,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl FieldError {
    /// A field that is wrong.
    pub fn new(field: impl Into<String>, fault: Fault, detail: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            fault,
            detail: detail.into(),
        }
    }

    /// A field that could not be read.
    pub(super) fn unreadable(error: serde_path_to_error::Error<serde_json::Error>) -> Self {
        let path = error.path().to_string();
        let field = if path == "." { "manifest".to_owned() } else { path };
        Self::new(field, Fault::Unreadable, error.into_inner().to_string())
    }
}

impl Coded for FieldError {
    fn code(&self) -> Code {
        Code::InvalidManifest
    }
}

impl ServerJson {
    /// Checks what the fields hold.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn validate(&self) -> Result<(), FieldError> {
        self.faults().into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that is wrong, at most 20 faults.
    pub fn faults(&self) -> Vec<FieldError> {
        let mut faults = Faults(Vec::new());
        faults.check("name", manifest_name(&self.name));
        faults.check("version", version(&self.version));
        faults.check("description", text(&self.description, 1, DESCRIPTION_CHARS_MAX));
        if let Some(title) = &self.title {
            faults.check("title", text(title, 1, TITLE_CHARS_MAX));
        }
        if let Some(website) = &self.website_url {
            faults.check("websiteUrl", url(website, &["https", "http"]));
        }
        if let Some(repository) = &self.repository {
            faults.check("repository.url", url(&repository.url, &["https", "http"]));
            faults.check(
                "repository.source",
                text(&repository.source, 1, VERSION_CHARS_MAX),
            );
        }
        for (index, icon) in self.icons.iter().enumerate() {
            faults.check(format!("icons[{index}].src"), url(&icon.src, &["https"]));
        }
        for (index, package) in self.packages.iter().enumerate() {
            faults.package(&format!("packages[{index}]"), package);
        }
        for (index, remote) in self.remotes.iter().enumerate() {
            faults.remote(&format!("remotes[{index}]"), remote);
        }
        faults.0.truncate(FAULTS_MAX);
        faults.0
    }
}

type Verdict = Result<(), (Fault, String)>;

fn wrong(fault: Fault, detail: impl Into<String>) -> Verdict {
    Err((fault, detail.into()))
}

/// Collects what is wrong.
struct Faults(Vec<FieldError>);

impl Faults {
    fn check(&mut self, field: impl Into<String>, verdict: Verdict) {
        if let Err((fault, detail)) = verdict {
            self.0.push(FieldError::new(field, fault, detail));
        }
    }

    fn package(&mut self, at: &str, package: &Package) {
        self.check(
            format!("{at}.registryType"),
            text(&package.registry_type, 1, VERSION_CHARS_MAX),
        );
        self.check(format!("{at}.identifier"), identifier(&package.identifier));
        if let Some(package_version) = &package.version {
            self.check(format!("{at}.version"), version(package_version));
        }
        if let Some(base_url) = &package.registry_base_url {
            self.check(format!("{at}.registryBaseUrl"), url(base_url, &["https", "http"]));
        }
        self.check(format!("{at}.fileSha256"), sha256(package));
        self.package_transport(&format!("{at}.transport"), package, &package.transport);
        for (list, arguments) in [
            ("runtimeArguments", &package.runtime_arguments),
            ("packageArguments", &package.package_arguments),
        ] {
            for (index, argument) in arguments.iter().enumerate() {
                self.argument(&format!("{at}.{list}[{index}]"), argument);
            }
        }
        for (index, variable) in package.environment_variables.iter().enumerate() {
            let here = format!("{at}.environmentVariables[{index}]");
            self.check(format!("{here}.name"), text(&variable.name, 1, VERSION_CHARS_MAX));
            self.input(&here, &variable.input);
        }
    }

    fn package_transport(&mut self, at: &str, package: &Package, transport: &PackageTransport) {
        let verdict = match (transport.kind, &transport.url) {
            (TransportKind::Stdio, None) => Ok(()),
            (TransportKind::Stdio, Some(_)) => wrong(Fault::TransportUrl, "must be left out for stdio"),
            (_, None) => wrong(Fault::TransportUrl, "is required for streamable-http and sse"),
            (_, Some(template)) => url_template(template, |name| package_has_value(package, name)),
        };
        self.check(format!("{at}.url"), verdict);
    }

    fn remote(&mut self, at: &str, remote: &Remote) {
        if remote.kind == TransportKind::Stdio {
            let detail = "must be streamable-http or sse: a remote cannot be reached over stdio";
            self.check(format!("{at}.type"), wrong(Fault::TransportKind, detail));
        }
        self.check(
            format!("{at}.url"),
            url_template(&remote.url, |name| remote.variables.contains_key(name)),
        );
        for (index, header) in remote.headers.iter().enumerate() {
            let here = format!("{at}.headers[{index}]");
            self.check(format!("{here}.name"), text(&header.name, 1, VERSION_CHARS_MAX));
            self.input(&here, &header.input);
        }
    }

    fn argument(&mut self, at: &str, argument: &Argument) {
        match argument.kind {
            ArgumentKind::Named => {
                let name = argument.name.as_deref().unwrap_or_default();
                self.check(format!("{at}.name"), flag_name(name));
            }
            ArgumentKind::Positional if argument.input.value.is_none() && argument.value_hint.is_none() => {
                self.check(
                    at,
                    wrong(
                        Fault::ArgumentValue,
                        "a positional argument needs value or valueHint",
                    ),
                );
            }
            ArgumentKind::Positional => {}
        }
        self.input(at, &argument.input);
    }

    fn input(&mut self, at: &str, input: &Input) {
        if let Some(format) = &input.format
            && !["string", "number", "boolean", "filepath"].contains(&format.as_str())
        {
            let detail = format!("{format:?} is not string, number, boolean or filepath");
            self.check(format!("{at}.format"), wrong(Fault::Choice, detail));
        }
    }
}

fn text(value: &str, chars_min: usize, chars_max: usize) -> Verdict {
    let chars = value.chars().count();
    if value.trim().is_empty() {
        return wrong(Fault::Empty, "must not be empty");
    }
    if chars < chars_min {
        return wrong(
            Fault::TooShort,
            format!("has {chars} characters, must have at least {chars_min}"),
        );
    }
    if chars > chars_max {
        return wrong(
            Fault::TooLong,
            format!("has {chars} characters, may have at most {chars_max}"),
        );
    }
    Ok(())
}

fn manifest_name(name: &str) -> Verdict {
    text(name, 3, MANIFEST_NAME_CHARS_MAX)?;
    let fits = |part: &str, more: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".-".contains(c) || more.contains(c))
    };
    match name.split_once('/') {
        Some((namespace, server)) if fits(namespace, "") && fits(server, "_") => Ok(()),
        _ => wrong(
            Fault::NamePattern,
            format!(
                "{name:?} must be NAMESPACE/SERVER with one slash, of letters, digits, dots and hyphens, as io.github.user/weather"
            ),
        ),
    }
}

/// Checks that a version is one version. It need not be semantic, as the official registry allows.
fn version(version: &str) -> Verdict {
    text(version, 1, VERSION_CHARS_MAX)?;
    if version == super::official::LATEST {
        return wrong(
            Fault::VersionReserved,
            "\"latest\" is reserved: give one version, such as 1.2.3",
        );
    }
    if is_range(version) {
        return wrong(
            Fault::VersionRange,
            format!("{version:?} is a range: give one version, such as 1.2.3"),
        );
    }
    Ok(())
}

/// Whether a version names several: `^1.2`, `~1`, `>=1.0`, `1 - 2`, `1 || 2`, `1.x`, `1.*`.
fn is_range(version: &str) -> bool {
    let version = version.trim();
    let compares = version.starts_with(['^', '~', '>', '<', '=']);
    let joins = version.contains("||") || version.contains(" - ");
    let release = version.split(['-', '+']).next().unwrap_or(version);
    let has_wildcard = release.split('.').any(|part| matches!(part, "x" | "X" | "*"));
    compares || joins || has_wildcard
}

fn identifier(identifier: &str) -> Verdict {
    text(identifier, 1, 2_000)?;
    if identifier.contains(char::is_whitespace) {
        return wrong(Fault::Space, "must not contain spaces");
    }
    Ok(())
}

fn sha256(package: &Package) -> Verdict {
    match &package.file_sha256 {
        None if package.registry_type == "mcpb" => wrong(Fault::Empty, "is required for mcpb"),
        None => Ok(()),
        Some(hash) if hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
            Ok(())
        }
        Some(_) => wrong(Fault::Sha256, "must be 64 lower-case hex digits"),
    }
}

fn flag_name(name: &str) -> Verdict {
    text(name, 1, VERSION_CHARS_MAX)?;
    if name.contains(['<', '>', ' ', '$']) {
        return wrong(
            Fault::ArgumentName,
            format!("{name:?} must be the flag alone, without its value"),
        );
    }
    Ok(())
}

fn url(address: &str, schemes: &[&str]) -> Verdict {
    let Ok(parsed) = url::Url::parse(address) else {
        return wrong(
            Fault::UrlInvalid,
            format!("{address:?} is not an absolute address"),
        );
    };
    if !schemes.contains(&parsed.scheme()) {
        let allowed = schemes.join(" or ");
        return wrong(
            Fault::UrlScheme,
            format!("must begin with {allowed}, not {:?}", parsed.scheme()),
        );
    }
    Ok(())
}

/// Checks an address in which `{name}` stands for a value that is given elsewhere.
fn url_template(template: &str, is_known: impl Fn(&str) -> bool) -> Verdict {
    if template.contains(char::is_whitespace) {
        return wrong(Fault::UrlInvalid, "must not contain spaces");
    }
    for name in braced_names(template) {
        if !is_known(name) {
            return wrong(
                Fault::UrlVariable,
                format!("{{{name}}} stands for nothing that is declared"),
            );
        }
    }
    let example = fill_braces(template, |_| Some("1".to_owned()));
    url(&example, &["https", "http"])
}

fn package_has_value(package: &Package, name: &str) -> bool {
    let arguments = package.runtime_arguments.iter().chain(&package.package_arguments);
    let is_argument = |argument: &Argument| {
        argument.value_hint.as_deref() == Some(name)
            || argument
                .name
                .as_deref()
                .is_some_and(|flag| flag == name || flag.trim_start_matches('-') == name)
            || argument.input.variables.contains_key(name)
    };
    arguments.into_iter().any(is_argument)
        || package
            .environment_variables
            .iter()
            .any(|variable| variable.name == name)
}

/// The names in braces of a text.
pub fn braced_names(template: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = template;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((name, behind)) = after.split_once('}') else {
            break;
        };
        names.push(name);
        rest = behind;
    }
    names
}

/// The text with what stands for the names in braces; names without a value stay as they are.
pub fn fill_braces(template: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let names: BTreeMap<&str, String> = braced_names(template)
        .into_iter()
        .filter_map(|name| value_of(name).map(|value| (name, value)))
        .collect();
    names
        .into_iter()
        .fold(template.to_owned(), |text, (name, value)| {
            text.replace(&format!("{{{name}}}"), &value)
        })
}

#[cfg(test)]
mod tests;
