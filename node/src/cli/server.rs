//! `troupe server …`

use std::{collections::BTreeMap, fmt::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tokio::time::Instant;
use troupe_protocol::{
    health::{HealthReport, HealthStatus, TestReport},
    server::{
        ClearText, ImportReport, NewServer, OpenApiSource, ServerDetail, ServerPage, ServerSummary,
        TransportKind,
    },
    upstream::{LoginGrant, ServerLogin},
};

use super::{
    client::Client,
    error::CliError,
    output::{Output, Table, ago, or_dash, shortened},
};

const LOGIN_POLL: Duration = Duration::from_millis(500);
const PROBE_POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Register a server: `add NAME -- COMMAND ARGS…`, `add NAME --url URL`, or `add NAME --openapi FILE`.
    Add(AddArgs),
    /// List the registered servers.
    List(ListArgs),
    /// Everything about one server.
    Show {
        /// Its name.
        name: String,
    },
    /// Probe a registered server, or connect to one without registering it: as `add`.
    Test(AddArgs),
    /// De-register a server.
    Remove {
        /// Its name.
        name: String,
    },
    /// Let a server be used again.
    Enable {
        /// Its name.
        name: String,
    },
    /// Keep a server from being used.
    Disable {
        /// Its name.
        name: String,
    },
    /// Log in at a server that asks for OAuth.
    Login(LoginArgs),
    /// Register many servers from a file.
    Import {
        /// The file; `-` reads standard input.
        file: PathBuf,
        /// What the file is; guessed when absent.
        #[arg(long)]
        format: Option<Format>,
    },
}

/// What a file of servers is.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Format {
    /// `{"mcpServers": {…}}`, as desktop clients write it.
    McpServers,
    /// One `server.json`.
    ServerJson,
    /// The early registry's seed file.
    Seed,
    /// One entry a line.
    Catalog,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// The name: lower-case letters, digits, `.`, `_`, `-`.
    name: String,
    /// The server's URL (streamable HTTP; a server that refuses it is tried with server-sent events).
    #[arg(long, conflicts_with = "command")]
    url: Option<String>,
    /// URL speaks HTTP with server-sent events, the transport of MCP 2024-11-05.
    #[arg(long, requires = "url")]
    sse: bool,
    /// An OpenAPI document, file or URL: each operation of its service becomes a tool.
    #[arg(long, value_name = "FILE|URL", conflicts_with_all = ["command", "url"])]
    openapi: Option<String>,
    /// Where the service of the OpenAPI document is, when that is not what the document says.
    #[arg(long, value_name = "URL", requires = "openapi")]
    base_url: Option<String>,
    /// The credential of a security scheme of the OpenAPI document: a key, a token, or USER:PASSWORD. It is sealed; it may
    /// refer to secrets as ${secret:NAME}.
    #[arg(long = "secret", value_name = "SCHEME=V", value_parser = key_value, requires = "openapi")]
    secrets: Vec<(String, String)>,
    /// A header for requests to URL. The value is sealed; it may refer to secrets as ${secret:NAME}.
    #[arg(long = "header", value_name = "K=V", value_parser = key_value, conflicts_with = "command")]
    headers: Vec<(String, String)>,
    /// A variable for COMMAND. The value is sealed; it may refer to secrets as ${secret:NAME}.
    #[arg(long = "env", value_name = "K=V", value_parser = key_value)]
    env: Vec<(String, String)>,
    /// The folder COMMAND runs in.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// A word to group servers by.
    #[arg(long = "label", value_name = "WORD")]
    labels: Vec<String>,
    /// Longest call, in milliseconds.
    #[arg(long, value_name = "MS")]
    call_timeout_ms: Option<u64>,
    /// Register it without using it yet.
    #[arg(long)]
    disabled: bool,
    /// Longest wait for the first probe, in milliseconds; 0: do not wait.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    wait_ms: u64,
    /// The server's command line (stdio).
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The server's name.
    name: String,
    /// The client that its authorization server knows; without one Troupe registers itself.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// The client's secret, from the environment variable TROUPE_CLIENT_SECRET.
    #[arg(
        long,
        env = "TROUPE_CLIENT_SECRET",
        hide_env_values = true,
        value_name = "SECRET",
        requires = "client_id"
    )]
    client_secret: Option<String>,
    /// Log in as the client itself, without a person.
    #[arg(long, requires = "client_id")]
    client_credentials: bool,
    /// What to ask for.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Longest wait for the person, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 600_000)]
    wait_ms: u64,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Words that must occur.
    search: Option<String>,
    /// Only servers with this status.
    #[arg(long)]
    status: Option<String>,
    /// name, title, status, latency, uptime, last_active or updated; with - before it: descending.
    #[arg(long, allow_hyphen_values = true)]
    sort: Option<String>,
    /// Most servers to list.
    #[arg(long, default_value_t = 500)]
    limit: u32,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

pub async fn run(client: &Client, command: ServerCommand, output: Output) -> Result<ExitCode, CliError> {
    match command {
        ServerCommand::Add(args) => add(client, args, output).await,
        ServerCommand::Test(args) => test(client, args, output).await,
        ServerCommand::List(args) => list(client, args, output).await,
        ServerCommand::Show { name } => {
            output.show(client.get(&["servers", &name], &[]).await?, detail_in_words)?;
            Ok(ExitCode::SUCCESS)
        }
        ServerCommand::Remove { name } => {
            let answer = client.delete(&["servers", &name]).await?;
            output.show(answer, |_: Value| format!("removed {name}"))?;
            Ok(ExitCode::SUCCESS)
        }
        ServerCommand::Enable { name } => set_enabled(client, &name, true, output).await,
        ServerCommand::Disable { name } => set_enabled(client, &name, false, output).await,
        ServerCommand::Login(args) => login(client, args, output).await,
        ServerCommand::Import { file, format } => import(client, &file, format, output).await,
    }
}

impl AddArgs {
    fn into_server(self) -> Result<NewServer, CliError> {
        if self.url.is_none() && self.openapi.is_none() && self.command.is_empty() {
            return Err(CliError::Usage(format!(
                "how is {name} reached? write `server add {name} -- COMMAND ARGS…` or `server add {name} --url URL`, or \
                 `server add {name} --openapi FILE`",
                name = self.name
            )));
        }
        let openapi = self.openapi.map(|place| openapi_source(&place)).transpose()?;
        let mut words = self.command.into_iter();
        let templates = |pairs: Vec<(String, String)>| -> BTreeMap<_, _> {
            pairs
                .into_iter()
                .map(|(key, value)| (key, value.into()))
                .collect()
        };
        Ok(NewServer {
            name: Some(self.name),
            url: self.url,
            transport: self.sse.then_some(TransportKind::Sse),
            openapi: openapi.map(|source| OpenApiSource {
                base_url: self.base_url,
                security: templates(self.secrets),
                ..source
            }),
            headers: templates(self.headers),
            command: words.next(),
            args: words.collect(),
            cwd: self.cwd,
            env: templates(self.env),
            enabled: Some(!self.disabled),
            labels: self.labels,
            call_timeout_ms: self.call_timeout_ms,
            ..NewServer::default()
        })
    }
}

/// Begins a login, says where the person logs in, and waits until that is done.
async fn login(client: &Client, args: LoginArgs, output: Output) -> Result<ExitCode, CliError> {
    let name = args.name;
    let state_path = ["servers", name.as_str(), "oauth"];
    let before = client.get(&state_path, &[]).await?;
    let grant = if args.client_credentials {
        LoginGrant::ClientCredentials
    } else {
        LoginGrant::AuthorizationCode
    };
    let request = ServerLogin {
        grant,
        origin: client.base().to_string(),
        client_id: args.client_id,
        client_secret: args.client_secret.map(ClearText::from),
        scopes: args.scopes,
    };
    let started = client
        .post(&["servers", &name, "oauth", "start"], &request)
        .await?;
    let Some(url) = started["url"].as_str() else {
        output.show(started, |_: Value| format!("{name}: logged in"))?;
        return Ok(ExitCode::SUCCESS);
    };
    output.note(&format!("log in at {name} here:\n  {url}\nwaiting …"));
    let deadline = Instant::now() + Duration::from_millis(args.wait_ms);
    while Instant::now() < deadline {
        let state = client.get(&state_path, &[]).await?;
        if state != before {
            output.show(state, |_: Value| format!("{name}: logged in"))?;
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(LOGIN_POLL).await;
    }
    Err(CliError::Failed(format!(
        "nobody has logged in at {name} within {} ms",
        args.wait_ms
    )))
}

/// The document in a file, or the address from which the node is to fetch it.
fn openapi_source(place: &str) -> Result<OpenApiSource, CliError> {
    if place.starts_with("http://") || place.starts_with("https://") {
        return Ok(OpenApiSource {
            url: Some(place.to_owned()),
            ..OpenApiSource::default()
        });
    }
    let document = std::fs::read_to_string(place)
        .map_err(|error| CliError::Usage(format!("the OpenAPI document {place} cannot be read: {error}")))?;
    Ok(OpenApiSource {
        document: Some(document),
        ..OpenApiSource::default()
    })
}

async fn add(client: &Client, args: AddArgs, output: Output) -> Result<ExitCode, CliError> {
    let name = args.name.clone();
    let wait = Duration::from_millis(args.wait_ms);
    let mut detail = client.post(&["servers"], &args.into_server()?).await?;
    let deadline = Instant::now() + wait;
    if !wait.is_zero() && is_testing(&detail) {
        output.note(&format!("registered {name}; waiting for its first probe …"));
    }
    while is_testing(&detail) && Instant::now() < deadline {
        tokio::time::sleep(PROBE_POLL).await;
        detail = client.get(&["servers", &name], &[]).await?;
    }
    output.show(detail, |detail: ServerDetail| probed_in_words(&detail.summary))?;
    Ok(ExitCode::SUCCESS)
}

fn is_testing(detail: &Value) -> bool {
    detail["status"] == "testing"
}

fn probed_in_words(server: &ServerSummary) -> String {
    let name = &server.name;
    let status = status_name(server.status);
    match server.status {
        HealthStatus::Online | HealthStatus::Degraded => format!(
            "{name}: {status}, {} tools, {} ms",
            or_dash(server.tools_count),
            or_dash(server.latency_ms.map(f64::round))
        ),
        HealthStatus::Offline => format!(
            "{name}: {status}: {}\n`troupe server show {name}` says more",
            server.last_error.as_deref().unwrap_or("no answer")
        ),
        HealthStatus::Testing => format!("{name}: registered, no probe has ended yet"),
        HealthStatus::Disabled => format!("{name}: registered, disabled"),
    }
}

fn status_name(status: HealthStatus) -> &'static str {
    status.into()
}

async fn test(client: &Client, args: AddArgs, output: Output) -> Result<ExitCode, CliError> {
    let name = args.name.clone();
    if args.url.is_none() && args.openapi.is_none() && args.command.is_empty() {
        return probe(client, &name, output).await;
    }
    let report = client.post(&["servers", "test"], &args.into_server()?).await?;
    let ok = report["ok"] == true;
    output.show(report, |report: TestReport| test_in_words(&name, &report))?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A registered server is tested as it is registered.
async fn probe(client: &Client, name: &str, output: Output) -> Result<ExitCode, CliError> {
    let report = client.post(&["servers", name, "probe"], &json!({})).await?;
    let ok = matches!(report["status"].as_str(), Some("online" | "degraded"));
    output.show(report, |report: HealthReport| {
        let said = report.last_error.as_deref().unwrap_or("no answer");
        match ok {
            true => format!(
                "{name}: {}, {} ms",
                status_name(report.status),
                or_dash(report.latency_ms.map(f64::round))
            ),
            false => format!("{name}: {}: {said}", status_name(report.status)),
        }
    })?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn test_in_words(name: &str, report: &TestReport) -> String {
    if report.ok {
        return format!(
            "{name}: ok, {} ({}, {}), {} tools, {} ms",
            or_dash(report.server_info.as_ref()),
            or_dash(report.era.as_ref()),
            or_dash(report.protocol_version.as_ref()),
            or_dash(report.tools_count),
            or_dash(report.latency_ms.map(f64::round))
        );
    }
    let mut text = format!(
        "{name}: failed: {}\n",
        report.error.as_deref().unwrap_or("no answer")
    );
    for line in &report.log_tail {
        let _ = writeln!(text, "  {line}");
    }
    text
}

async fn list(client: &Client, args: ListArgs, output: Output) -> Result<ExitCode, CliError> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.search.map(|search| ("search", search)));
    query.extend(args.status.map(|status| ("status", status)));
    query.extend(args.sort.map(|sort| ("sort", sort)));
    let page = client.get(&["servers"], &query).await?;
    output.show(page, list_in_words)?;
    Ok(ExitCode::SUCCESS)
}

fn list_in_words(page: ServerPage) -> String {
    let mut table = Table::new(&["name", "status", "transport", "tools", "latency", "endpoint"]);
    let shown = page.items.len();
    for server in page.items {
        table.row([
            server.name.to_string(),
            status_name(server.status).to_owned(),
            or_dash(server.transport),
            or_dash(server.tools_count),
            server
                .latency_ms
                .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms")),
            shortened(&server.endpoint.unwrap_or_else(|| "-".to_owned()), 60),
        ]);
    }
    let text = table.or("no servers; add one with `troupe server add NAME -- COMMAND`");
    let more = page.total as usize - shown.min(page.total as usize);
    if more == 0 {
        text
    } else {
        format!("{text}… and {more} more (--limit, or search)")
    }
}

fn detail_in_words(detail: ServerDetail) -> String {
    let server = &detail.summary;
    let mut text = format!("{}: {}\n", server.name, status_name(server.status));
    let mut line = |label: &str, value: String| {
        if value != "-" && !value.is_empty() {
            let _ = writeln!(text, "  {label:<13} {value}");
        }
    };
    line("title", server.title.clone());
    line("description", server.description.clone());
    line("transport", or_dash(server.transport.as_ref()));
    line("endpoint", or_dash(server.endpoint.as_ref()));
    line("manifest", format!("{} {}", detail.manifest.name, server.version));
    line("era", or_dash(server.era.as_ref()));
    line("capabilities", server.capabilities.join(", "));
    line("tools", or_dash(server.tools_count));
    line(
        "latency",
        server
            .latency_ms
            .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
    );
    line(
        "uptime 24 h",
        server
            .uptime_24h
            .map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0)),
    );
    line("last active", or_dash(server.last_active.map(ago)));
    line("last error", or_dash(server.last_error.as_ref()));
    line("labels", server.labels.join(", "));
    line("owner", server.owner.clone());
    text
}

async fn set_enabled(
    client: &Client,
    name: &str,
    enabled: bool,
    output: Output,
) -> Result<ExitCode, CliError> {
    let detail = client
        .patch(&["servers", name], &json!({ "enabled": enabled }))
        .await?;
    let done = if enabled { "enabled" } else { "disabled" };
    output.show(detail, |_: Value| format!("{done} {name}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn import(
    client: &Client,
    file: &std::path::Path,
    format: Option<Format>,
    output: Output,
) -> Result<ExitCode, CliError> {
    let content = read_input(file)?;
    let format = format.unwrap_or_else(|| guess_format(&content));
    let format = match format {
        Format::McpServers => "mcp_servers",
        Format::ServerJson => "server_json",
        Format::Seed => "seed",
        Format::Catalog => "catalog",
    };
    let report = client
        .post(
            &["servers", "import"],
            &json!({ "format": format, "content": content }),
        )
        .await?;
    output.show(report, import_in_words)?;
    Ok(ExitCode::SUCCESS)
}

/// The text of a file, or of standard input (`-`).
pub(super) fn read_input(file: &std::path::Path) -> Result<String, CliError> {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    text.map_err(|error| CliError::Failed(format!("{}: {error}", file.display())))
}

/// A seed is a list, the clients' file names its one field, a catalogue has several documents.
fn guess_format(content: &str) -> Format {
    match serde_json::from_str::<Value>(content) {
        Ok(Value::Array(_)) => Format::Seed,
        Ok(Value::Object(fields)) if fields.contains_key("mcpServers") => Format::McpServers,
        Ok(_) => Format::ServerJson,
        Err(_) => Format::Catalog,
    }
}

fn import_in_words(report: ImportReport) -> String {
    const REJECTIONS_SHOWN: usize = 20;
    let rejected = report.rejected.len();
    let mut text = format!(
        "{} imported, {} skipped, {rejected} rejected\n",
        report.imported, report.skipped
    );
    for rejection in report.rejected.iter().take(REJECTIONS_SHOWN) {
        let _ = writeln!(
            text,
            "  {} {}: {}",
            rejection.index, rejection.name, rejection.reason
        );
    }
    if rejected > REJECTIONS_SHOWN {
        let _ = writeln!(
            text,
            "  … and {} more (--json shows all)",
            rejected - REJECTIONS_SHOWN
        );
    }
    text
}
