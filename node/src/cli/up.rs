//! `troupe up`: starts a node and stays until it is told to stop.

use std::{fs, io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};
use troupe_protocol::{error::Code, observe::ExitReason};

use super::{
    Target,
    client::{NODE_FILE, NodeFile},
    error::CliError,
};
use crate::{
    config::{self, Config, Flags, LogConfig, LogFormat},
    tree::{Node, REMOVED, StartError},
};

/// Libraries that tell of each election and session at the level `info`, or at `debug` of what servers answer to a login:
/// heard only when a filter names them.
const LIBRARIES_FILTER: &str = "openraft=error,ractor=warn,ractor_cluster=warn,rmcp=info";

#[derive(Debug, Default, Args)]
pub struct UpArgs {
    /// The settings; absent: ./cluster.toml if there is one.
    #[arg(long, env = "TROUPE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port for people and clients.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address and port for other nodes.
    #[arg(long, value_name = "ADDRESS")]
    cluster_listen: Option<SocketAddr>,
    /// What people call the node; absent: made from the machine's name at the first start.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What `troupe node invite` printed on a node of the cluster to join; @FILE reads it from a file. Needed once.
    #[arg(long, env = "TROUPE_JOIN", value_name = "STRING", hide_env_values = true)]
    join: Option<String>,
    /// Let callers without a key use /mcp… and /v0.1… as users. Only on a loopback address.
    #[arg(long)]
    open: bool,
    /// What is logged: a level, or module=level pairs.
    #[arg(long, env = "TROUPE_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How it is logged.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

pub fn run(target: &Target, args: UpArgs) -> Result<ExitCode, CliError> {
    let flags = Flags {
        config: args.config,
        data: target.data.clone(),
        listen: args.listen,
        cluster_listen: args.cluster_listen,
        name: args.name,
        open: args.open,
        log: args.log,
        log_format: args.log_format,
    };
    let config = config::load(&flags, config::environment())?;
    let join = args
        .join
        .filter(|join| !join.is_empty())
        .map(join_string)
        .transpose()?;
    start_logging(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(serve(config, join));
    // Blocking work that hangs (a wedged disk, say) must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// The join string itself, or what stands in the file that `@FILE` names.
fn join_string(given: String) -> Result<SecretString, CliError> {
    let Some(file) = given.strip_prefix('@') else {
        return Ok(SecretString::from(given.trim()));
    };
    let text = config::read_secret_file("--join", file)?;
    Ok(SecretString::from(text.expose_secret().trim()))
}

fn start_logging(config: &LogConfig) {
    // What a filter says of a module later counts more than what was said of it earlier.
    let filter = format!("{LIBRARIES_FILTER},{}", config.filter.as_str());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::registry().with(filter);
    let _ = match config.format {
        LogFormat::Human => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            lines
                .with(fmt::layer().with_writer(std::io::stderr).with_ansi(colour))
                .try_init()
        }
        LogFormat::Json => lines
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
}

async fn serve(config: Config, join: Option<SecretString>) -> Result<ExitCode, CliError> {
    // Listened to from the begin: whoever sees the node answer may tell it to stop.
    let mut stop = std::pin::pin!(stop_signal());
    let started = tokio::select! {
        started = Node::start(config, join) => started,
        signal = &mut stop => return Err(CliError::Failed(format!("stopped by {signal} while starting"))),
    };
    let mut node = started.map_err(|error| match error {
        StartError::Config(error) => CliError::from(error),
        other => CliError::Failed(other.to_string()),
    })?;
    let url = format!("http://{}", node.state.config.edge.listen);
    let node_file = NodeFileGuard::write(&node, &url)?;
    greet(&node, &url).await;
    let removed = node.removed();
    tokio::select! {
        reason = node.ended() => {
            drop(node_file);
            Ok(gave_up(&reason))
        }
        () = removed => {
            tracing::error!("stopping: {REMOVED}");
            finish(node).await?;
            drop(node_file);
            Err(CliError::Failed(format!("{}: {REMOVED}", Code::JoinRefused)))
        }
        signal = &mut stop => {
            tracing::info!(signal, "stopping: what is in hand finishes");
            let finished = finish(node).await;
            drop(node_file);
            finished
        }
    }
}

/// Says where the node is. The key of a first start is told here, once, and nowhere else.
async fn greet(node: &Node, url: &str) {
    println!("troupe {} is up at {url}", env!("CARGO_PKG_VERSION"));
    println!("data in {}", node.data.display());
    if node.has_joined {
        let members = node.state.cluster.membership().members.len();
        println!(
            "joined a cluster, now of {members} nodes, as {}",
            node.state.node_name
        );
    }
    let Some(first) = &node.first_start else {
        println!("sign a browser in: troupe key login-link");
        return;
    };
    println!(
        "\nadministrator key, told this once: {}",
        first.key.expose_secret()
    );
    println!("kept for this machine's commands in {}", first.path.display());
    match node.state.access.mint_login_code(&first.principal()).await {
        Ok(code) => println!(
            "open in a browser (works once, for 10 minutes): {}\n",
            node.state.login_url(code.expose_secret())
        ),
        Err(error) => println!("no login link: {error}; make one with `troupe key login-link`\n"),
    }
}

/// A second signal ends an orderly stop at once.
async fn finish(node: Node) -> Result<ExitCode, CliError> {
    tokio::select! {
        reason = node.shutdown() => {
            tracing::info!(%reason, "stopped");
            Ok(ExitCode::SUCCESS)
        }
        signal = stop_signal() => Err(CliError::Failed(format!("stopped at once by a second {signal}"))),
    }
}

fn gave_up(reason: &ExitReason) -> ExitCode {
    eprintln!("troupe: the node ended: {reason}");
    ExitCode::FAILURE
}

/// Ends with the first signal to stop that comes after this was called.
fn stop_signal() -> impl Future<Output = &'static str> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let listening = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        async move {
            let (Ok(mut interrupt), Ok(mut terminate)) = listening else {
                return std::future::pending().await;
            };
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        }
    }
    #[cfg(not(unix))]
    async {
        let _ = tokio::signal::ctrl_c().await;
        "Ctrl-C"
    }
}

/// `node.json` in the data folder: there while the node runs.
struct NodeFileGuard(PathBuf);

impl NodeFileGuard {
    fn write(node: &Node, url: &str) -> Result<Self, CliError> {
        let path = node.data.join(NODE_FILE);
        let content = NodeFile {
            url: url.to_owned(),
            pid: std::process::id(),
        };
        let text = serde_json::to_string(&content).map_err(|error| CliError::Failed(error.to_string()))?;
        fs::write(&path, text).map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for NodeFileGuard {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
